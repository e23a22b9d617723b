import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, make_tiny

from coach_mlx import (
    chat_format,
    dataset,
    fuse,
    gguf,
    importer,
    llama_runtime,
    losses,
    mlx_runtime,
    trainer,
)
from coach_mlx.config import Config, load_config
from coach_mlx.errors import DataError, GateFailed, ToolError
from coach_mlx.records import Conversation
from coach_mlx.workspace import PROJECT, Workspace, read_system_prompt

CHATML = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if not (loop.first and message.role == 'system') %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def mlx_losses(folder: Path, parts: list[chat_format.Encoded]) -> list[float]:
    model = mlx_runtime.open_model(folder).model
    return [losses.target_losses(model, [part]).mean().item() for part in parts]


def gguf_losses(path: Path, parts: list[chat_format.Encoded]) -> list[float]:
    llama = llama_runtime.open_gguf(path, num_ctx=1024)
    return [float(llama_runtime.token_losses(llama, *part).mean()) for part in parts]


def encoded(tokenizer: Any, starters: list[Conversation]) -> list[chat_format.Encoded]:
    return [chat_format.encode_conversation(tokenizer, one.chat()[:6]) for one in starters[:3]]


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen3", {"head_dim": 32}),
    ],
)
def test_llama_cpp_computes_what_mlx_computes(
    tmp_path: Path,
    smollm2: Path,
    tokenizer: Any,
    starters: list[Conversation],
    family: str,
    facts: dict[str, Any],
) -> None:
    folder = make_tiny(tmp_path / "model", smollm2, family, **facts)
    target = tmp_path / "model.gguf"
    gguf.require_writable(folder)
    gguf.write_gguf(folder, target, tokenizer, "tiny", "Apache License 2.0")
    parts = encoded(tokenizer, starters)
    assert gguf_losses(target, parts) == pytest.approx(mlx_losses(folder, parts), abs=2e-3)


@pytest.mark.parametrize("quantization", ["q8_0", "q6_k", "q5_k_m", "q4_k_m"])
def test_every_quantization_makes_a_file_that_opens(
    tmp_path: Path, tiny: Path, tokenizer: Any, starters: list[Conversation], quantization: str
) -> None:
    half, target = tmp_path / "half.gguf", tmp_path / "small.gguf"
    gguf.write_gguf(tiny, half, tokenizer, "tiny", "none")
    llama_runtime.quantize(half, target, quantization)
    assert target.stat().st_size < half.stat().st_size
    parts = encoded(tokenizer, starters)
    assert gguf_losses(target, parts) == pytest.approx(gguf_losses(half, parts), abs=0.2)


def test_a_quantizer_that_cannot_write_says_so(tmp_path: Path, tiny: Path, tokenizer: Any) -> None:
    half = tmp_path / "half.gguf"
    gguf.write_gguf(tiny, half, tokenizer, "tiny", "none")
    with pytest.raises(ToolError, match="could not write"):
        llama_runtime.quantize(half, tmp_path / "no" / "folder.gguf", "q8_0")


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"model_type": "gemma3"}, "of the family 'gemma3'; the export knows llama, mistral"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            r"scales its positions \(llama3\)",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(
    tmp_path: Path, tiny: Path, facts: dict[str, Any], why: str
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **facts}))
    with pytest.raises(DataError, match=why):
        gguf.require_writable(folder)


def test_a_rule_of_splitting_without_a_name_is_refused(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny, folder)
    facts = json.loads((folder / "tokenizer.json").read_text())
    facts["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Whitespace"})
    (folder / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match=r"no llama\.cpp name"):
        gguf.require_writable(folder)


def test_other_tokens_than_trainings_close_the_gate(
    tmp_path: Path, tiny: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path, Config())
    right = gguf.read_vocabulary(tiny, 49152)
    broken = right._replace(merges=right.merges[:20_000])
    monkeypatch.setattr(gguf, "read_vocabulary", lambda *_: broken)
    wrong = tmp_path / "wrong.gguf"
    gguf.write_gguf(tiny, wrong, tokenizer, "tiny", "none")
    with pytest.raises(GateFailed, match="other tokens than training"):
        gguf.compare_tokens(tokenizer, wrong, workspace)


@pytest.fixture
def trained(tiny_project: Callable[..., TinyRun]) -> tuple[Config, Workspace]:
    config, workspace, _ = tiny_project("train.steps=6", "fuse.onto=quantized")
    for stage in (dataset, importer, trainer, fuse):
        stage.run(config, workspace)
    return config, workspace


def test_the_fused_model_is_the_adapter(
    trained: tuple[Config, Workspace], tokenizer: Any, starters: list[Conversation]
) -> None:
    import mlx_lm

    config, workspace = trained
    parts = encoded(tokenizer, starters)
    adapted = mlx_runtime.open_model(workspace.base, workspace.adapter).model
    expected = [losses.target_losses(adapted, [part]).mean().item() for part in parts]
    assert mlx_losses(workspace.fused, parts) == pytest.approx(expected, abs=2e-3)
    assert mlx_losses(workspace.base, parts) != pytest.approx(expected, abs=2e-2)
    _, fused_tokenizer = mlx_lm.load(str(workspace.fused))
    assert fused_tokenizer.chat_template == tokenizer.chat_template
    facts = json.loads((workspace.fused / "config.json").read_text())
    assert "quantization" not in facts

    result = gguf.run(config, workspace)
    assert workspace.gguf.stat().st_size == result["size_bytes"]
    assert gguf_losses(workspace.gguf, parts) == pytest.approx(expected, abs=0.2)
    assert sorted(path.name for path in workspace.model.iterdir()) == [
        "Modelfile",
        "fused",
        "tiny-q4_k_m.gguf",
    ]


def test_a_truncated_fused_file_is_refused(trained: tuple[Config, Workspace]) -> None:
    config, workspace = trained
    weights = workspace.fused / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="is not whole"):
        gguf.run(config, workspace)
    assert not workspace.gguf.exists()


def test_missing_inputs_name_the_stage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Config())
    with pytest.raises(ToolError, match="coach train"):
        fuse.run(Config(), workspace)
    with pytest.raises(ToolError, match="coach fuse"):
        gguf.run(Config(), workspace)


def test_the_root_modelfile_is_what_the_default_config_exports(
    tmp_path: Path, smollm2: Path
) -> None:
    """The default base is not on every machine: its template's shape, ChatML, stands in."""
    folder = make_tiny(tmp_path / "model", smollm2, "qwen2")
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**facts, "chat_template": CHATML}))
    tokenizer = mlx_runtime.open_tokenizer(folder)
    config = load_config(PROJECT / "config" / "coach.yaml")
    prompt = read_system_prompt(PROJECT / config.dataset.system_prompt)
    gguf_path = f"./models/{config.name}/{Workspace(tmp_path, config).gguf.name}"
    rendered = gguf.render_modelfile(config, tokenizer, prompt, gguf_path)
    assert (PROJECT / "Modelfile").read_text(encoding="utf-8") == rendered


def test_the_modelfile_holds_what_serving_needs(tokenizer: Any) -> None:
    config = load_config(PROJECT / "config" / "demo.yaml")
    text = gguf.render_modelfile(config, tokenizer, "Listen.", "./demo.gguf")
    for line in (
        "FROM ./demo.gguf",
        'SYSTEM """Listen."""',
        "PARAMETER num_ctx 8192",
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.7",
    ):
        assert line in text.splitlines()
    assert 'TEMPLATE """{{ range .Messages }}' in text
    assert 'LICENSE """Apache License 2.0' in text
    with pytest.raises(DataError, match="Modelfile"):
        gguf.render_modelfile(config, tokenizer, 'a """ b', "./demo.gguf")
