import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, coach
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import dataset, importer, lora, memory_fit, memory_plan, mlx_runtime, trainer
from coach_mlx import training_loop as loop
from coach_mlx.batches import Batches, Row, make_batches
from coach_mlx.chat_format import Encoded
from coach_mlx.config import TrainSection
from coach_mlx.errors import ToolError
from coach_mlx.memory_plan import Block, Facts, Linear, Load, Part, facts_of, need
from coach_mlx.records import Conversation

SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "intermediate_size": 768,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def a_model(family: str = "llama", **changes: Any) -> Any:
    module = importlib.import_module(f"mlx_lm.models.{family}")
    return module.Model(module.ModelArgs.from_dict({"model_type": family, **SHAPE, **changes}))


def a_row(tokens: int) -> Row:
    return Row(Encoded([5] * tokens, [place >= tokens // 2 for place in range(tokens)]), 1, None)


def measured_peak(model: Any, settings: TrainSection, rows: list[Row]) -> int:
    """Of one step as the loop makes it."""
    import mlx.core as mx
    import mlx.optimizers as optim

    before = mx.get_active_memory()
    lora.attach(model, settings)
    model.train()
    optimizer = optim.AdamW(learning_rate=1e-4)
    optimizer.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimizer.state)
    mx.reset_peak_memory()
    _, gradients = loop.gradients_of(model, [rows], sum(sum(row.encoded.is_target) for row in rows))
    optimizer.update(model, gradients)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return int(mx.get_peak_memory() - before)


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_plan_is_within_a_quarter_of_what_the_demos_model_takes(
    smollm2: Path, recomputed: bool
) -> None:
    if mlx_runtime.device() != "cpu":
        pytest.skip("the formula's constants were measured on a CPU")
    model = mlx_runtime.open_model(smollm2).model
    settings = TrainSection(layers=8, rank=8, grad_checkpoint=recomputed)
    rows = [a_row(256)]
    computed = need(facts_of(model, "cpu"), settings, Load.of(rows)).peak
    assert computed == pytest.approx(measured_peak(model, settings, rows), rel=0.25)


@pytest.mark.parametrize("family", ["llama", "qwen2", "phi3", "gemma2"])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_plan_is_within_a_quarter_in_other_families(family: str, rows: int) -> None:
    if mlx_runtime.device() != "cpu":
        pytest.skip("the formula's constants were measured on a CPU")
    model = a_model(family)
    settings = TrainSection(layers=4, rank=8, grad_checkpoint=False)
    batch = [a_row(200)] * rows
    computed = need(facts_of(model, "cpu"), settings, Load.of(batch)).peak
    assert computed == pytest.approx(measured_peak(model, settings, batch), rel=0.25)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3", "gemma2", "mixtral"])
@pytest.mark.parametrize("dora", [False, True])
def test_the_adapters_are_counted_to_the_byte(family: str, dora: bool) -> None:
    from mlx.utils import tree_flatten

    if family == "mixtral" and dora:
        pytest.skip("mlx-lm has no DoRA for experts")
    model = a_model(family, num_local_experts=4, num_experts_per_tok=2)
    settings = TrainSection(layers=3, rank=5, dora=dora)
    computed = need(facts_of(model, "cpu"), settings, Load(1, 100, 50)).update.adapters
    lora.attach(model, settings)
    trained = tree_flatten(model.trainable_parameters())
    assert computed == sum(array.nbytes for _, array in trained)


def test_the_weights_are_counted_as_they_will_lie(smollm2: Path) -> None:
    from mlx.utils import tree_flatten

    stored = mlx_runtime.open_model(smollm2, as_stored=True).model
    file_bytes = sum(array.nbytes for _, array in tree_flatten(stored.parameters()))
    assert facts_of(stored, "metal").base_bytes == file_bytes
    full = facts_of(stored, "cpu")
    mlx_runtime.dequantize(stored)
    assert full.base_bytes == sum(array.nbytes for _, array in tree_flatten(stored.parameters()))
    assert facts_of(stored, "cpu") == full


def test_a_plan_computes_no_weight() -> None:
    import mlx.core as mx
    import mlx.nn as nn

    before = mx.get_active_memory()
    model = a_model(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32)
    nn.quantize(model, group_size=64, bits=4)
    assert facts_of(model, "metal").base_bytes > 3e9
    assert mx.get_active_memory() - before < 1e6


@st.composite
def some_facts(draw: st.DrawFn) -> Facts:
    width, heads = draw(st.integers(8, 512)), draw(st.integers(1, 16))
    values = heads * draw(st.integers(1, 64))
    attention = Part(
        (Linear("q", width, values), Linear("k", width, values), Linear("v", width, values)),
        Linear("o", values, width),
        heads,
    )
    wide = draw(st.integers(8, 2048))
    feed = Part(
        (Linear("gate", width, wide), Linear("up", width, wide)), Linear("down", wide, width), 0
    )
    blocks = (Block((attention, feed), 2),) * draw(st.integers(2, 12))
    size = draw(st.sampled_from([2, 4]))
    return Facts(draw(st.integers(0, 10**9)), width, draw(st.integers(100, 200_000)), blocks, size)


@given(some_facts(), st.data())
def test_more_of_anything_never_needs_less(facts: Facts, data: st.DataObject) -> None:
    rows, tokens = data.draw(st.integers(1, 4)), data.draw(st.integers(64, 4096))
    load = Load(rows, tokens, data.draw(st.integers(1, rows * tokens // 2)))
    settings = TrainSection(
        layers=data.draw(st.integers(1, 12)),
        rank=data.draw(st.integers(1, 64)),
        grad_checkpoint=data.draw(st.booleans()),
        dora=data.draw(st.booleans()),
        dropout=data.draw(st.sampled_from([0.0, 0.1])),
    )
    needed = need(facts, settings, load).peak
    larger = [load._replace(rows=rows + 1), load._replace(tokens=tokens + 1)]
    larger.append(load._replace(targets=load.targets + 1))
    assert all(need(facts, settings, one).peak >= needed for one in larger)
    for key in ("layers", "rank"):
        more = settings.model_copy(update={key: getattr(settings, key) + 1})
        assert need(facts, more, load).peak >= needed
    everywhere = settings.model_copy(update={"layers": -1})
    assert need(facts, everywhere, load).peak >= needed


@given(some_facts(), st.integers(64, 4096), st.integers(1, 12))
def test_recomputing_never_needs_more(facts: Facts, tokens: int, layers: int) -> None:
    facts = facts._replace(blocks=facts.blocks[:1] * 12)
    kept = TrainSection(layers=layers, grad_checkpoint=False)
    recomputed = kept.model_copy(update={"grad_checkpoint": True})
    load = Load(1, tokens, tokens // 2)
    assert need(facts, recomputed, load).peak <= need(facts, kept, load).peak


@given(some_facts(), st.integers(64, 4096), st.booleans(), st.floats(0.1, 1.0))
def test_what_is_said_to_fit_fits(
    facts: Facts, tokens: int, recomputed: bool, share: float
) -> None:
    settings = TrainSection(layers=-1, rank=64, batch_size=2, grad_checkpoint=recomputed)
    load = Load(2, tokens, tokens)
    limit = int(need(facts, settings, load).peak * share)
    for way in memory_fit.ways_to_fit(facts, settings, [load], limit):
        assert way.peak <= limit
        assert way.settings
        changed = settings.model_copy(update=way.settings)
        rows, longest = changed.batch_size, min(tokens, changed.max_seq_length)
        again = need(facts, changed, Load(rows, longest, min(tokens, rows * longest)))
        assert again.peak == way.peak


def test_the_busiest_batch_is_found(tokenizer: Any, starters: list[Conversation]) -> None:
    settings = TrainSection(max_seq_length=500, batch_size=3)
    facts = facts_of(a_model(), "cpu")
    batches = make_batches(tokenizer, starters[:20], settings, seed=1)
    load = memory_fit.busiest(facts, settings, memory_fit.loads_of(batches))
    longest = max(row.length for batch in batches.training for row in batch)
    assert load.tokens <= longest <= 500
    alone = need(facts, settings, Load.of([a_row(longest)])).peak
    assert need(facts, settings, load).peak >= alone * 0.9


def test_several_macs_share_a_batch() -> None:
    batches = Batches([[a_row(100)] * 4], [], 0)
    assert memory_fit.loads_of(batches, ranks=1) == [Load(4, 100, 200)]
    assert memory_fit.loads_of(batches, ranks=2) == [Load(2, 100, 100)]


def test_smaller_batches_still_hold_the_longest_conversation() -> None:
    facts, settings = facts_of(a_model(), "cpu"), TrainSection(batch_size=8, layers=4, rank=8)
    loads = [Load(8, 200, 800), Load(1, 700, 350)]
    alone = need(facts, settings, loads[1]).peak
    ways = memory_fit.ways_to_fit(facts, settings, loads, limit=2 * alone)
    assert [way.peak for way in ways if "batch_size" in way.settings] == [alone]


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    limits = memory_fit._control_group_limits
    assert list(limits(tmp_path)) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert list(limits(tmp_path)) == []
    (tmp_path / "memory.max").write_text("4294967296\n")
    assert list(limits(tmp_path)) == [4294967296]


@pytest.fixture
def prepared(tiny_project: Callable[..., TinyRun]) -> TinyRun:
    found = tiny_project()
    dataset.run(found[0], found[1])
    importer.run(found[0], found[1])
    return found


def test_the_plan_is_shown_and_trains_nothing(prepared: TinyRun) -> None:
    _, workspace, options = prepared
    done = coach("train", "--plan", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"]
    assert found["computed"]
    moments = found["bytes"].values()
    assert found["peak_bytes"] == max(sum(moment.values()) for moment in moments)
    for label in (*memory_fit.LABELS.values(), "computed, not measured", "It fits"):
        assert label in done.stderr
    assert not workspace.adapter.exists()


def test_a_mac_that_is_too_small_is_told_what_would_fit(prepared: TinyRun) -> None:
    """With an adapter so wide that no Mac of 8 GB holds it."""
    _, _, options = prepared
    wide = ["--set", "train.rank=200000", "--set", "train.layers=-1"]
    done = coach("train", "--plan", "--mac", "8", *options, *wide)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["fits"]
    assert found["device"] == "metal"
    assert "It does not fit" in done.stderr
    assert "--set train.rank=8" in done.stderr


def test_a_training_that_cannot_fit_is_refused_unless_forced(
    prepared: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace, _ = prepared
    full = memory_fit.here()
    monkeypatch.setattr(memory_fit, "here", lambda: full._replace(limit=1_000_000))
    with pytest.raises(ToolError, match="coach train --force") as error:
        trainer.run(config, workspace)
    assert "coach train --plan" in str(error.value)
    assert trainer.run(config, workspace, force=True)["steps"] == 4


def test_a_training_that_has_begun_is_not_refused(
    prepared: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace, _ = prepared
    trainer.run(config, workspace)
    workspace.adapter_weights.unlink()
    full = memory_fit.here()
    monkeypatch.setattr(memory_fit, "here", lambda: full._replace(limit=1_000_000))
    assert trainer.run(config, workspace)["steps"] == 4


def test_what_was_refused_leaves_no_training_to_set_aside(
    prepared: TinyRun, monkeypatch: pytest.MonkeyPatch, tiny_project: Callable[..., TinyRun]
) -> None:
    config, workspace, _ = prepared
    full = memory_fit.here()
    with monkeypatch.context() as small:
        small.setattr(memory_fit, "here", lambda: full._replace(limit=1_000_000))
        with pytest.raises(ToolError):
            trainer.run(config, workspace)
    other, _, _ = tiny_project("train.rank=3")
    trainer.run(other, workspace)
    assert list(workspace.adapter.parent.iterdir()) == [workspace.adapter]


def test_a_plan_without_data_fails_like_a_training(tiny_project: Callable[..., TinyRun]) -> None:
    config, workspace, _ = tiny_project()
    with pytest.raises(ToolError, match="coach import"):
        trainer.show_plan(config, workspace, None)


def test_the_rows_of_a_moment_are_all_labelled() -> None:
    assert tuple(memory_fit.LABELS) == memory_plan.Moment._fields
    assert len(memory_fit.MOMENTS) == len(memory_plan.Need._fields)
