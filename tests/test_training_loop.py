import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, coach, prepare_tiny

from coach_mlx import batches, checkpoints, fuse, lora, mlx_runtime, trainer, training_loop
from coach_mlx.config import TrainSection
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.records import Conversation
from coach_mlx.workspace import read_jsonl

Project = Callable[..., TinyRun]


def test_passes_together_learn_what_one_batch_would(
    tiny: Path, starters: list[Conversation]
) -> None:
    """Weighted by targets: rows of very different length must not count alike."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    loaded = mlx_runtime.open_model(tiny)
    settings = TrainSection(validation_fraction=0, batch_size=4, rank=4)
    made = batches.make_batches(loaded.tokenizer, starters[:4], settings, seed=1)
    rows = [row for batch in made.training for row in batch]
    targets = batches.target_count(rows)
    mx.random.seed(1)
    lora.attach(loaded.model, settings)
    assert rows[0].length < 0.6 * rows[-1].length
    whole = training_loop.gradients_of(loaded.model, [rows], targets)
    parted = training_loop.gradients_of(loaded.model, [rows[:1], rows[1:3], rows[3:]], targets)
    assert parted[0].item() == pytest.approx(whole[0].item(), rel=1e-5)
    one, other = (dict(tree_flatten(found[1])) for found in (whole, parted))
    for name in one:
        scale = max(mx.abs(one[name]).max().item(), 1e-6)
        assert mx.abs(one[name] - other[name]).max().item() < 1e-4 * scale, name


def test_accumulated_steps_see_every_batch(tiny_project: Project) -> None:
    """The tokens of the lines of one epoch are those of all the data."""
    run = prepare_tiny(tiny_project("train.steps=null", "train.epochs=1", "train.accumulate=3"))
    result = trainer.run(run[0], run[1])
    lines = read_jsonl(run[1].metrics)
    loaded = mlx_runtime.open_tokenizer(run[1].base)
    conversations = trainer._conversations(run[1])
    made = batches.make_batches(loaded, conversations, run[0].train, run[0].seed)
    assert result["steps"] == math.ceil(len(made.training) / 3)
    assert sum(line["tokens"] for line in lines) == sum(map(batches.token_count, made.training))
    assert lines[-1]["epoch"] == 1


def test_the_best_adapter_is_kept_and_the_last_beside_it(tiny_project: Project) -> None:
    """A learning rate that soon does harm; patience ends it."""
    run = prepare_tiny(
        tiny_project(
            "train.steps=60",
            "train.learning_rate=0.3",
            "train.warmup_fraction=0",
            "train.validate_every=2",
            "train.patience=3",
            "train.validation_fraction=0.2",
            "train.keep_checkpoints=2",
        )
    )
    config, workspace, _ = run
    result = trainer.run(config, workspace)
    tried = {
        line["step"]: line["validation_loss"]
        for line in read_jsonl(workspace.metrics)
        if line["step"] and line["validation_loss"] is not None
    }
    best = min(tried, key=lambda step: tried[step])
    assert result["best_step"] == best
    assert result["validation_loss_after"] == tried[best] < result["validation_loss_last"]
    assert result["steps"] == best + 3 * 2 < 60
    kept = checkpoints.step_folder(workspace.adapter, best) / lora.WEIGHTS
    assert workspace.adapter_weights.read_bytes() == kept.read_bytes()
    last = workspace.adapter / "last" / lora.WEIGHTS
    newest = checkpoints.step_folder(workspace.adapter, result["steps"]) / lora.WEIGHTS
    assert last.read_bytes() == newest.read_bytes() != kept.read_bytes()
    assert (last.parent / lora.CONFIG).is_file()


def test_without_a_validation_set_the_last_adapter_is_the_one(tiny_project: Project) -> None:
    config, workspace, _ = prepare_tiny(tiny_project("train.validation_fraction=0"))
    result = trainer.run(config, workspace)
    assert (result["best_step"], result["validation_loss_after"]) == (None, None)
    last = workspace.adapter / "last" / lora.WEIGHTS
    assert workspace.adapter_weights.read_bytes() == last.read_bytes()


def test_losses_by_topic_add_up_to_the_whole(tiny_project: Project) -> None:
    config, workspace, _ = prepare_tiny(
        tiny_project("train.validation_fraction=0.5", "train.steps=1")
    )
    trainer.run(config, workspace)
    line = read_jsonl(workspace.metrics)[-1]
    topics = trainer._topics(config, workspace)
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    conversations = trainer._conversations(workspace)
    made = batches.make_batches(tokenizer, conversations, config.train, config.seed, topics)
    rows = [row for batch in made.validation for row in batch]
    weights = {
        topic: batches.target_count([row for row in rows if row.topic == topic])
        for topic in line["validation_by_topic"]
    }
    assert len(weights) > 1
    whole = sum(line["validation_by_topic"][topic] * weights[topic] for topic in weights)
    assert line["validation_loss"] == pytest.approx(whole / sum(weights.values()))


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(
    tiny_project: Project,
) -> None:
    import mlx.core as mx

    config, workspace, _ = prepare_tiny(
        tiny_project(
            "train.learning_rate=1e25", "train.checkpoint_every=1", "train.warmup_fraction=0"
        )
    )
    with pytest.raises(DataError, match=r"at step 2, in the batch of conversation \d+") as error:
        trainer.run(config, workspace)
    assert "--set train.learning_rate=1e+24" in str(error.value)
    kept: Any = mx.load(str(checkpoints.step_folder(workspace.adapter, 1) / lora.WEIGHTS))
    assert all(mx.isfinite(weight).all().item() for weight in kept.values())
    assert not workspace.adapter_weights.exists()


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(
    tiny_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace, _ = prepare_tiny(tiny_project("train.dropout=0.2"))
    trainer.run(config, workspace)
    whole = workspace.adapter_weights.read_bytes()
    lines = [line["loss"] for line in read_jsonl(workspace.metrics)]
    workspace.adapter_weights.unlink()
    damaged = checkpoints.step_folder(workspace.adapter, 4) / checkpoints.OPTIMIZER
    damaged.write_bytes(damaged.read_bytes()[:-9] + bytes(9))
    trainer.run(config, workspace)
    said = capsys.readouterr().err
    assert f"{damaged.parent} is damaged" in said
    assert (damaged.parent.parent / f"damaged-{damaged.parent.name}" / damaged.name).is_file()
    assert "Going on after step 2." in said
    assert workspace.adapter_weights.read_bytes() == whole
    assert [line["loss"] for line in read_jsonl(workspace.metrics)] == lines


def test_where_no_checkpoint_is_whole_it_starts_anew_and_says_so(
    tiny_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left of the old steps must not pass for newer ones than those of the new start."""
    config, workspace, _ = prepare_tiny(tiny_project("train.steps=12"))
    trainer.run(config, workspace)
    whole = workspace.adapter_weights.read_bytes()
    workspace.adapter_weights.unlink()
    for path in workspace.adapter.glob(f"checkpoints/step-*/{checkpoints.OPTIMIZER}"):
        path.write_bytes(b"")
    (checkpoints.step_folder(workspace.adapter, 8) / checkpoints.STATE).unlink()
    trainer.run(config, workspace)
    said = capsys.readouterr().err
    assert said.count("left out, and kept as") == config.train.keep_checkpoints
    assert workspace.adapter_weights.read_bytes() == whole
    resumable = sorted(workspace.adapter.glob(f"checkpoints/step-??????/{checkpoints.OPTIMIZER}"))
    assert [path.parent.name for path in resumable] == ["step-000010", "step-000012"]


def test_a_wrong_setting_leaves_the_finished_training_where_it_is(tiny_project: Project) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    trainer.run(config, workspace)
    before = workspace.adapter_weights.read_bytes()
    wrong, _, _ = tiny_project("train.keys=[self_attn.nothing]")
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"train\.keys"):
            trainer.run(wrong, workspace, force=force)
    assert workspace.adapter_weights.read_bytes() == before
    assert len(list(workspace.adapter.parent.iterdir())) == 1


def test_a_training_whose_record_is_lost_is_known_by_its_checkpoints(tiny_project: Project) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    trainer.run(config, workspace)
    workspace.adapter_weights.unlink()
    (workspace.adapter / checkpoints.RECORD).unlink()
    other, _, _ = tiny_project("train.rank=6")
    with pytest.raises(ConfigError, match=r"train\.rank: 4 then, 6 now"):
        trainer.run(other, workspace)


def test_a_step_that_ruined_the_weights_never_becomes_the_best(tiny_project: Project) -> None:
    """Its own loss was taken before it; the validation after it is what shows."""
    config, workspace, _ = prepare_tiny(
        tiny_project(
            "train.learning_rate=1e25",
            "train.warmup_fraction=0",
            "train.validate_every=1",
            "train.validation_fraction=0.2",
            "train.steps=1",
        )
    )
    with pytest.raises(DataError, match="validation loss is nan after step 1"):
        trainer.run(config, workspace)
    assert not workspace.adapter_weights.exists()
    assert not list(workspace.adapter.glob("checkpoints/step-*"))


def test_words_for_a_report_keep_no_training_from_starting(tiny_project: Project) -> None:
    config, workspace, _ = prepare_tiny(tiny_project("train.validation_fraction=0.2"))
    Path(str(config.dataset.conversations)).write_text("{")
    trainer.run(config, workspace)
    assert read_jsonl(workspace.metrics)[-1]["validation_by_topic"] == {}


def test_a_checkpoint_of_another_schedule_is_refused(tiny_project: Project) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    trainer.run(config, workspace)
    workspace.adapter_weights.unlink()
    path = checkpoints.step_folder(workspace.adapter, 4) / checkpoints.STATE
    state = json.loads(path.read_text())
    state["ahead"]["learning_rate"] *= 2
    path.write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"go on otherwise:\n  learning_rate: .* then, .* now"):
        trainer.run(config, workspace)


def test_dora_on_chosen_layers_opens_in_mlx_lm_and_fuses(tiny_project: Project) -> None:
    import mlx.core as mx
    import mlx_lm

    config, workspace, _ = prepare_tiny(
        tiny_project(
            "train.dora=true",
            "train.keys=[self_attn.q_proj,mlp.up_proj]",
            "fuse.onto=quantized",
        )
    )
    trainer.run(config, workspace)
    weights: Any = mx.load(str(workspace.adapter_weights))
    assert {name.split(".", 3)[3] for name in weights} == {
        f"{layer}.{leaf}"
        for layer in ("self_attn.q_proj", "mlp.up_proj")
        for leaf in ("lora_a", "lora_b", "m")
    }
    tuned, _ = mlx_lm.load(str(workspace.base), adapter_path=str(workspace.adapter))
    fuse.run(config, workspace)
    fused, _ = mlx_lm.load(str(workspace.fused))
    tokens = mx.array([[1, 5, 9, 22]])
    apart = mx.abs(tuned(tokens) - fused(tokens)).max().item()
    assert apart < 0.02 * mx.abs(tuned(tokens)).max().item()


def test_the_curve_marks_the_best_step(tmp_path: Path) -> None:
    from coach_mlx import plots

    values = [(0, 9.0), (2, 3.0), (4, 2.5), (6, 2.75)]
    lines = [{"step": step, "loss": None, "validation_loss": loss} for step, loss in values]
    figure = plots.loss_figure(lines, 3.5)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "best: 2.500 at step 4" in labels


def test_progress_says_where_a_training_stands(tiny_project: Project) -> None:
    _, _, options = prepare_tiny(
        tiny_project("train.validate_every=1", "train.validation_fraction=0.2")
    )
    done = coach("train", *options)
    assert done.returncode == 0, done.stderr
    last = done.stderr.split("step 4/4")[1]
    for words in ("epoch 0.", "loss ", "validation ", "best ", "tokens/s", "supervised", "GB"):
        assert words in last
