import hashlib
import json
import os
import random
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coach_mlx import chat_format, gguf_tensors, importer, llama_runtime, mlx_runtime
from coach_mlx.config import load_config
from coach_mlx.errors import BackendError, ConfigError, DataError, ToolError
from coach_mlx.records import Conversation
from coach_mlx.workspace import Workspace

FRAGMENTS = [
    "I'm", "we'll", "don't", "they'd've", "it\u2019s", "2026", "007", "3.14159", "1,234,567", "½",
    "x²", "\n", "\n\n", "\r\n", "\t", "   ", " \n ", "…", "—", "«oui»", "naïve", "Straße",
    "İstanbul", "東京", "こんにちは", "안녕하세요", "Привет", "مرحبا", "שלום", "नमस्ते", "สวัสดี", "😀",
    "👩🏽‍⚕️", "🇳🇴", "e\u0301", "\u200b", "\ufeff", "<|im_start|>", "<|im_end|>", "<|endoftext|>",
    "<|im_start|>user\n", "{{ messages }}", "</s>", "[INST]", "<jupyter_code>",
    "http://a.b/c?d=e&f=1", "a@b.co", "C++", "#!", "'", '"', "''", "`code`", "snake_case",
    "CamelCase", "ALLCAPS", "ok", " word", "word ", ".", "?!",
]  # fmt: skip


def varied_texts(count: int) -> list[str]:
    draw = random.Random(20261122)
    return [
        draw.choice(("", " ")).join(draw.choices(FRAGMENTS, k=draw.randint(1, 12)))
        for _ in range(count)
    ]


def test_the_imported_tokenizer_splits_text_as_llama_cpp_does(
    tokenizer: Any, starters: list[Conversation]
) -> None:
    llama = llama_runtime.open_gguf(importer.packaged_gguf(), 0, vocabulary_only=True)
    texts = varied_texts(1200) + [message.content for one in starters for message in one.messages]
    assert len(set(texts)) >= 1000
    different = [
        text
        for text in texts
        if tokenizer.encode(text, add_special_tokens=False)
        != llama.tokenize(text.encode(), add_bos=False, special=True)
    ]
    assert different == []


def test_the_imported_model_predicts_what_llama_cpp_predicts(
    smollm2: Path, starters: list[Conversation]
) -> None:
    """Top-1 agreement on openings of all topics; the whole set is benchmarks/import_parity.py."""
    import mlx.core as mx

    loaded = mlx_runtime.open_model(smollm2)
    llama = llama_runtime.open_gguf(importer.packaged_gguf(), num_ctx=512)
    same = total = 0
    for one in starters[::5]:
        token_ids = chat_format.encode_conversation(loaded.tokenizer, one.chat()[:6]).token_ids[
            :180
        ]
        ours = np.array(mx.argmax(loaded.model(mx.array([token_ids])), axis=-1)[0])
        same += int((ours == llama_runtime.likeliest_tokens(llama, token_ids)).sum())
        total += len(token_ids)
    assert total > 700
    assert same / total >= 0.95


def test_plain_mlx_lm_opens_the_imported_folder(smollm2: Path) -> None:
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(smollm2))
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "bits")}
    assert layers["model.layers.0.self_attn.q_proj"].bits == 4
    assert layers["model.embed_tokens"].bits == 8
    assert tokenizer.chat_template
    assert tokenizer.eos_token == "<|im_end|>"


def test_gguf_row_order_is_undone_on_packed_rows_as_well() -> None:
    import mlx.core as mx

    for shape, heads in (((12, 5), 3), ((16, 1), 2), ((8, 3), 1)):
        array = mx.arange(shape[0] * shape[1]).reshape(shape)
        assert mx.array_equal(importer.unpermute(gguf_tensors.permute(array, heads), heads), array)
    # One head of four rows, pairs (0, 2) and (1, 3) side by side in GGUF.
    assert importer.unpermute(mx.array([[0], [2], [1], [3]]), 1).flatten().tolist() == [0, 1, 2, 3]


def run_import(tmp_path: Path, model: str, *overrides: str) -> Workspace:
    config = load_config(None, [f"base.model={model}", "base.group_size=32", *overrides])
    workspace = Workspace(tmp_path, config)
    importer.run(config, workspace)
    return workspace


def test_a_16_bit_folder_is_quantized_on_import(tmp_path: Path, tiny: Path) -> None:
    workspace = run_import(tmp_path, str(tiny), "base.bits=8")
    settings = json.loads((workspace.base / "config.json").read_text())
    assert settings["quantization"]["bits"] == 8
    assert mlx_runtime.open_model(workspace.base).config["hidden_size"] == 64
    facts = json.loads(workspace.base_marker.read_text())
    assert (
        facts["files"]["model.safetensors"] == (workspace.base / "model.safetensors").stat().st_size
    )


def test_a_quantized_folder_keeps_its_numbers(tmp_path: Path, smollm2: Path) -> None:
    workspace = run_import(tmp_path, str(smollm2))
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (workspace.base / name).read_bytes() == (smollm2 / name).read_bytes()


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    whole = importer.packaged_gguf().read_bytes()
    for share in (0.0, 0.00001, 0.5, 0.999):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match="cut short"):
            run_import(tmp_path, str(cut))
    assert list((tmp_path / "models" / "base").glob("*")) == []


def test_truncated_safetensors_are_refused(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 4, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"not (a )?whole"):
            run_import(tmp_path, str(folder))


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no .*nowhere.*base\.model=smollm2"):
        run_import(tmp_path, "./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToolError, match="no model in"):
        run_import(tmp_path, str(tmp_path / "empty"))


def test_a_hub_that_does_not_answer_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(BackendError, match="did not give nobody/nothing"):
        run_import(tmp_path, "nobody/nothing")


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, `someone/tiny`, on this machine."""

    folder: Path
    commit = "a" * 40

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/someone/tiny"):
            files = sorted(self.folder.iterdir())
            tree: Any = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "b" * 40}
                for file in files
            ]
            facts = {"id": "someone/tiny", "sha": self.commit}
            siblings = [{"rfilename": file.name} for file in files]
            body = tree if "/tree/" in self.path else {**facts, "siblings": siblings}
            self.answer(json.dumps(body).encode())
            return
        found = self.folder / self.path.rsplit("/", 1)[1].split("?")[0]
        if "/resolve/" in self.path and found.is_file():
            self.answer(found.read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


def test_a_model_on_the_hub_is_downloaded_once(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneModel", (Hub,), {"folder": tiny}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    try:
        workspace = run_import(tmp_path, "someone/tiny")
    finally:
        server.shutdown()
        server.server_close()
    assert workspace.base.name == "tiny"
    assert mlx_runtime.open_model(workspace.base).config["quantization"]["bits"] == 4
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    run_import(tmp_path, "someone/tiny")  # the hub is gone; the download is not


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "base-model"
    shutil.copytree(tiny, folder)
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    del facts["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=rf"tokenizer in {folder} has no chat template"):
        run_import(tmp_path, str(folder))
