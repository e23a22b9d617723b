import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, coach, coach_command, prepare_tiny
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import checkpoints, importer, mlx_runtime, trainer, training_loop
from coach_mlx.config import TrainSection
from coach_mlx.errors import ConfigError, DataError, ToolError
from coach_mlx.workspace import read_jsonl


@given(st.integers(1, 500), st.floats(0, 0.9))
def test_the_learning_rate_rises_and_falls(total: int, warmup: float) -> None:
    settings = TrainSection(learning_rate=1e-3, warmup_fraction=warmup)
    rates = [training_loop.learning_rate_at(step, total, settings) for step in range(total)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < rate <= 1e-3 for rate in rates)


@pytest.fixture
def prepared(tiny_project: Callable[..., TinyRun]) -> Callable[..., TinyRun]:
    """Dataset and base in place, ready to train."""

    def make(*overrides: str, **options: Any) -> TinyRun:
        return prepare_tiny(tiny_project(*overrides, **options))

    return make


def losses(path: Path) -> list[tuple[int, float | None, float | None]]:
    return [(line["step"], line["loss"], line["validation_loss"]) for line in read_jsonl(path)]


def test_training_lowers_the_loss_and_mlx_lm_opens_the_adapter(
    prepared: Callable[..., TinyRun],
) -> None:
    import mlx_lm

    config, workspace, _ = prepared("train.steps=12", "train.validation_fraction=0.2")
    result = trainer.run(config, workspace)
    assert result["validation_loss_after"] < result["validation_loss_before"]
    assert workspace.loss_plot.read_bytes().startswith(b"\x89PNG")
    lines = read_jsonl(workspace.metrics)
    assert set(lines[-1]) == {
        "step",
        "epoch",
        "loss",
        "smoothed_loss",
        "validation_loss",
        "validation_by_topic",
        "learning_rate",
        "gradient_norm",
        "tokens",
        "targets",
        "tokens_per_second",
        "targets_per_second",
        "peak_memory_gb",
    }
    model, _ = mlx_lm.load(str(workspace.base), adapter_path=str(workspace.adapter))
    assert "lora_a" in model.layers[0].self_attn.q_proj
    assert abs(model.layers[0].self_attn.q_proj.lora_b).max().item() > 0


def test_only_the_adapter_is_trained(prepared: Callable[..., TinyRun]) -> None:
    import mlx.core as mx

    config, workspace, _ = prepared()
    trainer.run(config, workspace)
    weights: Any = mx.load(str(workspace.adapter_weights))
    assert {name.rsplit(".", 1)[1] for name in weights} == {"lora_a", "lora_b"}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(12000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("it took too long")


@pytest.mark.parametrize(
    ("how", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)],
    ids=["kill", "ctrl-c"],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    prepared: Callable[..., TinyRun], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    settings = ("train.steps=16", "train.dropout=0.1", "train.validation_fraction=0.1")
    config, straight, _ = prepared(*settings, root=tmp_path / "straight")
    trainer.run(config, straight)
    _, stopped, options = prepared(*settings, root=tmp_path / "stopped")
    stopped.training_data.write_bytes(straight.training_data.read_bytes())
    command = ["train", *options]
    process = subprocess.Popen(
        coach_command(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = stopped.adapter / "checkpoints" / "step-000004"
    wait_for(first.is_dir, process)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert not stopped.adapter_weights.exists()
    done = coach(*command)
    assert done.returncode == 0, done.stderr
    assert "Going on after step" in done.stderr
    assert losses(stopped.metrics) == losses(straight.metrics)
    assert stopped.adapter_weights.read_bytes() == straight.adapter_weights.read_bytes()


def test_recomputed_layers_train_the_same(prepared: Callable[..., TinyRun], tmp_path: Path) -> None:
    found = []
    for value in ("true", "false"):
        config, workspace, _ = prepared(f"train.grad_checkpoint={value}", root=tmp_path / value)
        trainer.run(config, workspace)
        found.append([loss for _, loss, _ in losses(workspace.metrics) if loss is not None])
    assert len(found[0]) == 4
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_an_unfinished_training_is_not_mixed_with_another(prepared: Callable[..., TinyRun]) -> None:
    config, workspace, _ = prepared()
    trainer.run(config, workspace)
    workspace.adapter_weights.unlink()  # as if it had been killed before its end
    other, _, _ = prepared("train.rank=6")
    with pytest.raises(ConfigError, match=r"train\.rank: 4 then, 6 now"):
        trainer.run(other, workspace)
    assert trainer.run(other, workspace, force=True)["steps"] == 4
    kept = [path for path in workspace.adapter.parent.iterdir() if path != workspace.adapter]
    assert len(kept) == 1
    assert (kept[0] / "checkpoints" / "step-000004").is_dir()


def test_a_finished_training_of_something_else_is_kept_aside(
    prepared: Callable[..., TinyRun],
) -> None:
    config, workspace, _ = prepared()
    trainer.run(config, workspace)
    before = workspace.adapter_weights.read_bytes()
    other, _, _ = prepared("train.rank=6")
    trainer.run(other, workspace)
    kept = [path for path in workspace.adapter.parent.iterdir() if path != workspace.adapter]
    assert [(path / "adapters.safetensors").read_bytes() for path in kept] == [before]


def test_a_half_written_checkpoint_is_left_out(
    prepared: Callable[..., TinyRun], capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace, _ = prepared()
    trainer.run(config, workspace)
    half = workspace.adapter / "checkpoints" / "step-000099.partial"
    half.mkdir()
    fingerprint = json.loads((workspace.adapter / "training.json").read_text())
    found = checkpoints.look(workspace.adapter, fingerprint)
    assert found == (checkpoints.step_folder(workspace.adapter, 4), False)
    checkpoints.begin(workspace.adapter, fingerprint, found)
    assert not half.exists()
    assert "is left out" in capsys.readouterr().err


def test_what_is_missing_names_the_stage_that_makes_it(
    tiny_project: Callable[..., TinyRun],
) -> None:
    config, workspace, _ = tiny_project()
    with pytest.raises(ToolError, match="coach import"):
        trainer.run(config, workspace)
    importer.run(config, workspace)
    with pytest.raises(DataError, match="coach dataset"):
        trainer.run(config, workspace)


def test_more_tokens_than_the_model_has_positions_are_refused(
    prepared: Callable[..., TinyRun], tiny: Path
) -> None:
    config, workspace, _ = prepared()
    facts = json.loads((workspace.base / "config.json").read_text())
    (workspace.base / "config.json").write_text(
        json.dumps({**facts, "max_position_embeddings": 50})
    )
    with pytest.raises(DataError, match=r"train\.max_seq_length=50"):
        trainer.run(config, workspace)


def test_the_mask_is_shown_in_colour(prepared: Callable[..., TinyRun]) -> None:
    _, _, options = prepared()
    shown = coach("train", "--show-mask", *options)
    assert shown.returncode == 0, shown.stderr
    facts = json.loads(shown.stdout)
    assert 0 < facts["targets"] < facts["tokens"]
    assert "<|im_start|>assistant" in shown.stderr


def test_the_base_on_a_cpu_is_the_quantized_one_in_other_clothes(smollm2: Path) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    if mlx_runtime.device() != "cpu":
        pytest.skip("only a CPU dequantizes")
    quantized, _ = load_model(smollm2)
    opened = mlx_runtime.open_model(smollm2).model
    layer = quantized.layers[3].mlp.up_proj
    numbers = mx.dequantize(
        layer.weight,
        layer.scales.astype(mx.float32),
        layer.biases.astype(mx.float32),
        layer.group_size,
        layer.bits,
    )
    assert mx.array_equal(opened.layers[3].mlp.up_proj.weight, numbers)
