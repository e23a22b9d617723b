import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TinyRun, make_adapter, make_tiny, prepare_tiny

from coach_mlx import (
    chat_format,
    gguf_adapter,
    gguf_file,
    gguf_tensors,
    llama_runtime,
    losses,
    mlx_runtime,
    model_facts,
    trainer,
)
from coach_mlx.chat_format import Encoded
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.records import Conversation
from coach_mlx.workspace import Workspace

FAMILIES = [
    ("llama", {}),
    ("llama", {"num_key_value_heads": 4, "head_dim": 32}),
    ("qwen2", {}),
    ("qwen3", {"head_dim": 32}),
]


SAME = 2e-3
"""Nats a token: what the 16 bits of the base alone put between the two."""


def write(base: Path, adapter: Path, target: Path) -> Path:
    gguf_adapter.write(adapter, model_facts.read(base), target, "tiny")
    return target


def in_mlx(base: Path, adapter: Path | None, parts: Sequence[Encoded]) -> Any:
    model, _ = mlx_runtime.open_weights(base, adapter)
    return np.concatenate([np.array(losses.target_losses(model, [part])) for part in parts])


def in_llama_cpp(base: Path, adapter: Path | None, parts: Sequence[Encoded]) -> Any:
    path = str(adapter) if adapter else None
    llama = llama_runtime.library().Llama(str(base), lora_path=path, n_ctx=1024, verbose=False)
    found = np.concatenate([llama_runtime.token_losses(llama, *part) for part in parts])
    llama.close()
    return found


def apart(one: Any, other: Any) -> float:
    """Mean distance of two losses of a token."""
    return float(np.abs(one - other).mean())


@pytest.fixture(scope="module")
def parts(tokenizer: Any, starters: list[Conversation]) -> list[Encoded]:
    return [chat_format.encode_conversation(tokenizer, one.chat()[:4]) for one in starters[:2]]


@pytest.mark.parametrize(("family", "facts"), FAMILIES)
@pytest.mark.parametrize("keys", [None, ["self_attn.k_proj", "mlp.down_proj"]])
def test_llama_cpp_adds_to_each_token_what_mlx_adds(
    tmp_path: Path,
    smollm2: Path,
    tokenizer: Any,
    parts: list[Encoded],
    family: str,
    facts: dict[str, Any],
    keys: list[str] | None,
) -> None:
    base, half = make_tiny(tmp_path / "base", smollm2, family, **facts), tmp_path / "base.gguf"
    gguf_file.write_model(base, tokenizer, Config(), "F16", half)
    adapter = make_adapter(base, tmp_path / "adapter", keys=keys)
    written = write(base, adapter, tmp_path / "adapter.gguf")
    expected = in_mlx(base, adapter, parts)
    assert apart(in_llama_cpp(half, written, parts), expected) < SAME
    assert apart(in_llama_cpp(half, None, parts), expected) > 0.1


def test_llamas_order_of_rows_matters(
    tmp_path: Path,
    tiny: Path,
    tokenizer: Any,
    parts: list[Encoded],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = tmp_path / "base.gguf"
    gguf_file.write_model(tiny, tokenizer, Config(), "F16", half)
    keys = ["self_attn.q_proj", "self_attn.k_proj"]
    adapter = make_adapter(tiny, tmp_path / "adapter", keys=keys, scale=10.0)
    expected = in_mlx(tiny, adapter, parts)
    right = write(tiny, adapter, tmp_path / "right.gguf")
    monkeypatch.setattr(gguf_tensors, "permuted_heads", lambda name, model: 0)
    wrong = write(tiny, adapter, tmp_path / "wrong.gguf")
    assert apart(in_llama_cpp(half, right, parts), expected) < 2 * SAME
    assert apart(in_llama_cpp(half, wrong, parts), expected) > 20 * SAME


def test_dora_and_unknown_families_are_refused_by_name(tmp_path: Path, tiny: Path) -> None:
    adapter = make_adapter(tiny, tmp_path / "dora", dora=True)
    with pytest.raises(DataError, match=r"'dora', and a GGUF adapter holds LoRA.*coach export"):
        write(tiny, adapter, tmp_path / "adapter.gguf")
    adapter = make_adapter(tiny, tmp_path / "lora")
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    facts = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**facts, "model_type": "phi3"}))
    with pytest.raises(DataError, match="family 'phi3'; the export knows"):
        write(other, adapter, tmp_path / "adapter.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_trained_adapter_stands_beside_a_modelfile_for_it(
    tiny_project: Callable[..., TinyRun], parts: list[Encoded]
) -> None:
    config, workspace, _ = prepare_tiny(tiny_project("export.adapter_from=qwen2.5:7b"))
    trainer.run(config, workspace)
    result = gguf_adapter.run(config, workspace)
    assert result["from"] == "qwen2.5:7b"
    assert (workspace.root / result["adapter"]).stat().st_size == result["size_bytes"]
    lines = (workspace.root / result["modelfile"]).read_text().splitlines()
    place = lines.index("FROM qwen2.5:7b")
    assert lines[place + 1] == "ADAPTER ./tiny-adapter.gguf"
    assert "PARAMETER num_ctx 1024" in lines
    assert not [line for line in lines if line.endswith("-f Modelfile")]


def test_a_base_that_nobody_named_is_asked_for(
    tiny_project: Callable[..., TinyRun], capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    make_adapter(workspace.base, workspace.adapter)
    assert gguf_adapter.run(config, workspace)["from"] is None
    assert "--set export.adapter_from=NAME" in capsys.readouterr().err


def test_missing_inputs_name_the_stage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Config())
    with pytest.raises(ToolError, match="coach train"):
        gguf_adapter.run(Config(), workspace)
