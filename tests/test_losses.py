from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny

from coach_mlx import chat_format, lora, losses, mlx_runtime, training_loop
from coach_mlx.batches import Row
from coach_mlx.config import TrainSection
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.records import Conversation


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_target_losses_are_those_of_the_whole_logits(
    tmp_path: Path, smollm2: Path, tokenizer: Any, family: str
) -> None:
    import mlx.core as mx
    import mlx.nn as nn

    folder = make_tiny(tmp_path / family, smollm2, family, tie_word_embeddings=family != "qwen2")
    model = mlx_runtime.open_model(folder).model
    chats = [
        [{"role": "user", "content": "hi " * n}, {"role": "assistant", "content": "yes " * n}]
        for n in (3, 9)
    ]
    batch = [chat_format.encode_conversation(tokenizer, chat) for chat in chats]
    expected = []
    for part in batch:
        logits = model(mx.array([part.token_ids[:-1]]))[0].astype(mx.float32)
        each = nn.losses.cross_entropy(logits, mx.array(part.token_ids[1:])).tolist()
        expected += [loss for loss, t in zip(each, part.is_target[1:], strict=True) if t]
    found = losses.target_losses(model, batch).tolist()
    assert found == pytest.approx(expected, rel=1e-4)


def test_scoring_in_pieces_is_scoring_at_once(
    tmp_path: Path, smollm2: Path, tokenizer: Any, starters: list[Conversation]
) -> None:
    model = mlx_runtime.open_model(make_tiny(tmp_path / "tiny", smollm2)).model
    for one in starters[:3]:
        part = chat_format.encode_conversation(tokenizer, one.chat())
        at_once = losses.target_losses(model, [part]).sum().item()
        assert losses.score(model, part) == pytest.approx(at_once, rel=1e-4)
    nothing = part._replace(is_target=[False] * len(part.token_ids))
    assert losses.score(model, nothing) == 0.0


def summed_naively(head: Any, hidden: Any, wanted: Any) -> Any:
    import mlx.core as mx
    import mlx.nn as nn

    return nn.losses.cross_entropy(head(hidden).astype(mx.float32), wanted, reduction="sum")


@pytest.mark.parametrize("kind", ["plain", "quantized", "capped"])
@pytest.mark.parametrize("rows", [1, 16, 61])
def test_the_gradient_is_that_of_the_whole_logits(
    kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.core as mx
    import mlx.nn as nn

    monkeypatch.setattr(losses, "CHUNK_BYTES", 16 * 4 * 999)  # chunks of 16 rows
    mx.random.seed(1)
    linear = nn.Linear(64, 999)
    if kind == "quantized":
        linear = linear.to_quantized(32, 4)
    head = (lambda x: 30 * mx.tanh(linear(x) / 30)) if kind == "capped" else linear
    hidden, wanted = mx.random.normal((rows, 64)), mx.random.randint(0, 999, (rows,))
    found = [
        mx.value_and_grad(lambda h, f=f: 0.25 * f(head, h, wanted))(hidden)
        for f in (summed_naively, losses.summed_loss)
    ]
    assert found[1][0].item() == pytest.approx(found[0][0].item(), rel=1e-5)
    apart = mx.linalg.norm(found[1][1] - found[0][1]) / mx.linalg.norm(found[0][1])
    assert apart.item() < 1e-4


def test_the_logits_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a vocabulary, in chunks of a quarter; benchmarks/train.py takes the whole."""
    import mlx.core as mx

    monkeypatch.setattr(losses, "CHUNK_BYTES", losses.CHUNK_BYTES // 4)
    mx.random.seed(1)
    weight = mx.random.normal((151_936 // 4, 32))
    hidden, wanted = mx.random.normal((4096, 32)), mx.random.randint(0, 151_936 // 4, (4096,))
    mx.eval(weight, hidden, wanted)
    peaks = []
    for loss in (summed_naively, losses.summed_loss):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.value_and_grad(lambda h, f=loss: f(lambda x: x @ weight.T, h, wanted))(hidden))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[0] > 4096 * 151_936 // 4 * 4 * 2
    assert peaks[1] < 0.1 * peaks[0]


def test_a_model_trains_as_by_its_whole_logits(tiny: Path, starters: list[Conversation]) -> None:
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    loaded = mlx_runtime.open_model(tiny)
    batch = [
        chat_format.encode_conversation(loaded.tokenizer, one.chat()[:length])
        for one, length in zip(starters[:3], (2, 6, 4), strict=True)
    ]
    mx.random.seed(1)
    lora.attach(loaded.model, TrainSection(rank=4, grad_checkpoint=False))
    loaded.model.apply_to_modules(
        lambda name, module: (
            module.update({"lora_b": mx.random.normal(module.lora_b.shape) * 0.05})
            if "lora_b" in module
            else None
        )
    )

    def naive(model: Any) -> Any:
        total = mx.array(0.0)
        for part in batch:
            logits = model(mx.array([part.token_ids[:-1]]))[0]
            each = nn.losses.cross_entropy(logits, mx.array(part.token_ids[1:]))
            total = total + (each * mx.array(part.is_target[1:])).sum()
        return total

    by_whole, by_chunks = (
        dict(tree_flatten(nn.value_and_grad(loaded.model, f)(loaded.model)[1]))
        for f in (naive, lambda model: losses.loss_sum(model, batch))
    )
    assert by_whole.keys() == by_chunks.keys() and len(by_whole) == 2 * 7 * 2
    for name, wanted in by_whole.items():
        apart = mx.linalg.norm(by_chunks[name] - wanted) / mx.linalg.norm(wanted)
        assert apart.item() < 1e-4, name


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        (
            "gpt2",
            {
                "n_ctx": 512,
                "n_embd": 64,
                "n_head": 4,
                "n_layer": 2,
                "n_positions": 512,
                "layer_norm_epsilon": 1e-5,
            },
        ),
        ("cohere", {"layer_norm_eps": 1e-5, "logit_scale": 0.0625}),
        ("gemma2", {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16}),
        (
            "granite",
            {
                "logits_scaling": 8.0,
                "attention_multiplier": 1.0,
                "embedding_multiplier": 2.0,
                "residual_multiplier": 1.0,
                "attention_bias": False,
                "mlp_bias": False,
            },
        ),
    ],
)
def test_what_a_family_does_to_its_logits_is_done_here_too(
    tmp_path: Path, smollm2: Path, tokenizer: Any, family: str, facts: dict[str, Any]
) -> None:
    import mlx.core as mx
    import mlx.nn as nn

    model = mlx_runtime.open_model(make_tiny(tmp_path / family, smollm2, family, **facts)).model
    losses.require_known_head(model)
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes, go on"}]
    part = chat_format.encode_conversation(tokenizer, chat)
    logits = model(mx.array([part.token_ids[:-1]]))[0].astype(mx.float32)
    each = nn.losses.cross_entropy(logits, mx.array(part.token_ids[1:]))
    wanted = (each * mx.array(part.is_target[1:])).sum().item()
    assert losses.loss_sum(model, [part]).item() == pytest.approx(wanted, rel=1e-5)


def test_a_head_nobody_knows_is_refused_by_name(tmp_path: Path, smollm2: Path) -> None:
    facts = {
        "state_size": 4,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    }
    folder = make_tiny(tmp_path / "mamba", smollm2, "mamba", **facts)
    with pytest.raises(DataError, match="family mamba"):
        losses.require_known_head(mlx_runtime.open_model(folder).model)


def test_a_known_head_is_let_through(tiny: Path) -> None:
    losses.require_known_head(mlx_runtime.open_model(tiny).model)


def test_a_base_in_sixteen_bits_learns_the_same_however_large_the_step(
    tiny: Path, starters: list[Conversation]
) -> None:
    """The division by the targets of a large step must not make the gradients vanish."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    loaded = mlx_runtime.open_model(tiny)
    encoded = chat_format.encode_conversation(loaded.tokenizer, starters[0].chat()[:2])
    mx.random.seed(1)
    loaded.model.set_dtype(mx.float16)
    lora.attach(loaded.model, TrainSection(rank=4, grad_checkpoint=False))
    rows = [[Row(encoded, 1, None)]]
    small, large = (
        dict(tree_flatten(training_loop.gradients_of(loaded.model, rows, targets)[1]))
        for targets in (1, 100_000)
    )
    moved = [name for name in small if mx.abs(small[name]).max().item() > 0]
    assert len(moved) == len(small) / 2  # B begins at zero, so A has no gradient yet
    for name in moved:
        apart = mx.linalg.norm(large[name] * 100_000 - small[name]) / mx.linalg.norm(small[name])
        assert apart.item() < 1e-4, name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_layer_that_recomputes_has_the_gradient_of_its_own_forward_pass(
    tiny: Path, tokenizer: Any, starters: list[Conversation], dropout: float
) -> None:
    """By differences along a direction: with another dropout mask the second time it would fail."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map

    model = mlx_runtime.open_model(tiny).model
    batch = [chat_format.encode_conversation(tokenizer, starters[0].chat()[:2])]
    mx.random.seed(1)
    lora.attach(model, TrainSection(rank=4, dropout=dropout, grad_checkpoint=True))
    model.train()
    start = tree_map(lambda one: mx.random.normal(one.shape) * 0.1, model.trainable_parameters())
    way = tree_map(lambda one: 0.3 * mx.random.normal(one.shape), start)

    def loss(model: Any) -> Any:
        mx.random.seed(5)
        return losses.loss_sum(model, batch)

    def at(distance: float) -> float:
        model.update(tree_map(lambda one, step: one + distance * step, start, way))
        return float(loss(model).item())

    by_differences = (at(2e-3) - at(-2e-3)) / 4e-3
    model.update(start)
    slopes = nn.value_and_grad(model, loss)(model)[1]
    products = tree_map(lambda one, other: (one * other).sum().item(), slopes, way)
    assert total(products) == pytest.approx(by_differences, rel=2e-2)


def total(tree: Any) -> float:
    from mlx.utils import tree_flatten

    return sum(leaf for _, leaf in tree_flatten(tree))


def test_recomputing_leaves_other_models_of_the_process_alone(tiny: Path) -> None:
    one, other = (mlx_runtime.open_model(tiny).model for _ in range(2))
    lora.attach(one, TrainSection(grad_checkpoint=True, layers=1))
    kinds = [type(layer) for layer in (*one.layers, *other.layers)]
    assert kinds[1] is not kinds[0]
    assert kinds[0] is kinds[2] is kinds[3]


def test_a_wrong_layer_name_is_answered_with_the_known_ones(tiny: Path) -> None:
    model = mlx_runtime.open_model(tiny).model
    with pytest.raises(ConfigError, match=r"self_attn\.q_prj \(did you mean self_attn\.q_proj\?\)"):
        lora.attach(model, TrainSection(keys=["self_attn.q_prj", "mlp.up_proj"]))
