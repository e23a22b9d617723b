import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, make_tiny
from test_gguf_file import encoded, gguf_losses, mlx_losses

from coach_mlx import (
    dataset,
    fuse,
    gguf,
    gguf_file,
    importer,
    losses,
    mlx_runtime,
    modelfile,
    trainer,
)
from coach_mlx.config import Config, load_config
from coach_mlx.errors import DataError, GateFailed, ToolError
from coach_mlx.records import Conversation
from coach_mlx.workspace import PROJECT, Workspace, read_system_prompt

CHATML = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if not (loop.first and message.role == 'system') %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


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
        "parity.json",
        "tiny-q4_k_m.gguf",
    ]


def test_a_file_that_fails_the_gate_does_not_get_its_name(
    trained: tuple[Config, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = trained
    strict = config.verify.model_copy(update={"kl_half": 1e-15})
    with pytest.raises(GateFailed, match="is not what it was made from") as failed:
        gguf.run(config.model_copy(update={"verify": strict}), workspace)
    assert "numbers, adapter to fused: KL" in str(failed.value)
    assert not workspace.gguf.exists()
    assert not list(workspace.model.glob("*.partial"))
    assert not json.loads(workspace.parity.read_text())["passed"]


def test_a_modelfile_that_its_person_changed_is_kept(trained: tuple[Config, Workspace]) -> None:
    config, workspace = trained
    workspace.record("export", gguf.plan(config, workspace), 1, 1.0, gguf.run(config, workspace))
    mine = workspace.modelfile.read_text() + "PARAMETER top_k 20\n"
    workspace.modelfile.write_text(mine)
    for _ in range(2):
        result = gguf.run(config, workspace)
        workspace.record("export", gguf.plan(config, workspace), 1, 1.0, result)
    assert (workspace.model / "Modelfile.yours").read_text() == mine
    assert modelfile.parse(workspace.modelfile.read_text()).options()["num_ctx"] == 1024


def test_a_truncated_fused_file_is_refused(trained: tuple[Config, Workspace]) -> None:
    config, workspace = trained
    weights = workspace.fused / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DataError, match="is not whole"):
        gguf.run(config, workspace)
    assert not workspace.gguf.exists()


@pytest.mark.parametrize("quantization", ["q4_k_m", "q8_0"])
def test_any_folder_becomes_a_file_that_was_compared(
    tmp_path: Path, tiny: Path, quantization: str
) -> None:
    config = load_config(None, [f"export.quantization={quantization}"])
    target = tmp_path / "tiny.gguf"
    done = gguf.convert(config, tiny, target)
    assert target.stat().st_size == done["size_bytes"]
    assert done["checks"] == 5
    facts = gguf_file.read_facts(gguf_file.read(target))
    assert (facts["general.name"], facts["general.license"]) == ("tiny", "unknown")
    assert list(tmp_path.iterdir()) == [target]


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
    rendered = modelfile.render(config, tokenizer, prompt, gguf_path, 16384)
    assert (PROJECT / "Modelfile").read_text(encoding="utf-8") == rendered


def test_the_modelfile_holds_what_serving_needs(tokenizer: Any) -> None:
    config = load_config(PROJECT / "config" / "demo.yaml")
    text = modelfile.render(config, tokenizer, "Listen.", "./demo.gguf", 8192)
    for line in (
        "FROM ./demo.gguf",
        'SYSTEM """Listen."""',
        "PARAMETER num_ctx 8192",
        'PARAMETER stop "<|im_end|>"',
        "PARAMETER temperature 0.7",
    ):
        assert line in text.splitlines()
    assert 'TEMPLATE """{{ range $number, $_ := .Messages }}' in text
    assert 'LICENSE """Apache License 2.0' in text
    with pytest.raises(DataError, match="Modelfile"):
        modelfile.render(config, tokenizer, 'a """ b', "./demo.gguf", 8192)
