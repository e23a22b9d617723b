"""Negative log-likelihood of the coach's words, in nats, without an array of all logits.

Reads and writes nothing. The trunk runs over whole conversations; the output head only over the
positions that predict a target, some at a time. Where a gradient is wanted it is taken in the same
pass: of a chunk's logits (n, V) only n losses and an (n, hidden) gradient are kept. (The idea of
Liger Kernel's fused linear cross entropy, arXiv:2410.10989; unlike there, the head is frozen, so it
gets no gradient and may be quantized.)

B conversations, T tokens, K targets, V vocabulary.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from coach_mlx.chat_format import Encoded
from coach_mlx.errors import DataError
from coach_mlx.mlx_runtime import device

CHUNK_BYTES = 64 * 2**20
"""One chunk's logits in float32. Enough rows for a fast matmul; some ten such arrays are alive at
once.
"""

TRUNKS = ("model", "transformer", "backbone")
"""What mlx-lm's families call everything below the output head."""


class Targets(NamedTuple):
    """A batch as arrays, with the places of what is predicted; of K targets, row after row."""

    inputs: Any
    """(B, T - 1)"""
    places: Any
    """(K,) into (B * (T - 1)): position t predicts token t + 1."""
    wanted: Any
    """(K,) token ids."""


def targets_of(batch: Sequence[Encoded]) -> Targets:
    """The first token of a conversation cannot be a target: nothing predicts it."""
    import mlx.core as mx

    width = max(len(part.token_ids) for part in batch)
    rows = [part.token_ids + [0] * (width - len(part.token_ids)) for part in batch]
    found = [
        [place for place in range(1, len(part.token_ids)) if part.is_target[place]]
        for part in batch
    ]
    places = [row * (width - 1) + place - 1 for row, inside in enumerate(found) for place in inside]
    wanted = [rows[row][place] for row, inside in enumerate(found) for place in inside]
    inputs = mx.array(rows)[:, :-1]
    return Targets(inputs, mx.array(places, dtype=mx.int32), mx.array(wanted, dtype=mx.int32))


def loss_sum(model: Any, batch: Sequence[Encoded]) -> Any:
    """Sum over all targets; differentiable in everything but the output head."""
    targets = targets_of(batch)
    hidden = _hidden_of_targets(model, targets)  # (K, hidden)
    return summed_loss(output_head(model), hidden, targets.wanted)


def summed_loss(head: Callable[[Any], Any], hidden: Any, wanted: Any) -> Any:
    """The loss layer alone: (K, hidden) and (K,) to a number, differentiable in `hidden`."""
    import mlx.core as mx

    @mx.custom_function
    def summed(hidden: Any) -> tuple[Any, Any]:
        return _loss_and_gradient(head, hidden, wanted)

    @summed.vjp
    def _(_: Any, cotangents: tuple[Any, Any], outputs: tuple[Any, Any]) -> Any:
        return (cotangents[0] * outputs[1]).astype(hidden.dtype)

    found: Any = summed(hidden)
    return found[0]


def target_losses(model: Any, batch: Sequence[Encoded]) -> Any:
    """Each target's own loss, row after row, (K,); for reading, not for training."""
    import mlx.core as mx

    targets = targets_of(batch)
    hidden = _hidden_of_targets(model, targets)
    if not hidden.shape[0]:
        return mx.zeros((0,))
    return mx.concatenate(list(_losses(output_head(model), hidden, targets.wanted)))


def score(model: Any, part: Encoded) -> float:
    """Summed loss of one conversation.

    The tokens pass in pieces over a key-value cache, as they do when a reply is read, so memory and
    time grow with the length and not with its square.
    """
    total = 0.0
    for hidden, wanted in _target_states(model, part):
        total += sum(found.sum().item() for found in _losses(output_head(model), hidden, wanted))
    return total


def target_logits(model: Any, part: Encoded) -> Iterator[Any]:
    """What the model says at each target, read the same way: (rows, V) at a time, 32 bits."""
    import mlx.core as mx

    for hidden, _ in _target_states(model, part):
        yield output_head(model)(hidden).astype(mx.float32)


def _target_states(model: Any, part: Encoded) -> Iterator[tuple[Any, Any]]:
    """Hidden states before targets (rows, hidden), and the targets (rows,), a piece at a time."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    piece = 256 if device() == "cpu" else 2048
    for start in range(0, len(part.token_ids) - 1, piece):
        end = min(start + piece, len(part.token_ids) - 1)
        hidden = trunk(model)(mx.array([part.token_ids[start:end]]), cache)[0]  # (piece, hidden)
        rows = [row for row in range(end - start) if part.is_target[start + row + 1]]
        if rows:
            wanted = [part.token_ids[start + row + 1] for row in rows]
            yield hidden[mx.array(rows)], mx.array(wanted, dtype=mx.int32)
        else:
            mx.eval(hidden)


def trunk(model: Any) -> Callable[..., Any]:
    """Tokens to the hidden states that the output head reads, (B, T) -> (B, T, hidden)."""
    text = _text_model(model)
    found: Callable[..., Any] = getattr(text, _trunk_name(text))
    return found


class _Given:
    """Stands in for a trunk whose hidden states are known already."""

    def __init__(self, trunk: Any, hidden: Any) -> None:
        self._trunk, self._hidden = trunk, hidden

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trunk, name)


def output_head(model: Any) -> Callable[[Any], Any]:
    """Hidden states to logits, (n, hidden) -> (n, V): the model's own code, with the trunk's work
    done, so that what a family does to its logits (a cap, a scale) is done here too.
    """
    text = _text_model(model)
    name = _trunk_name(text)

    def head(hidden: Any) -> Any:
        shell = copy.copy(text)
        given = _Given(shell.pop(name), hidden)
        object.__setattr__(shell, name, given)
        return shell(None)

    return head


def _trunk_name(text: Any) -> str:
    """Raises: AttributeError where mlx-lm calls it otherwise."""
    found = next((name for name in TRUNKS if name in text), None)
    if found is None:
        raise AttributeError(f"{type(text).__name__} has none of {', '.join(TRUNKS)}")
    return found


def _text_model(model: Any) -> Any:
    """What speaks, in a model that can see as well."""
    return model.language_model if "language_model" in model else model


def require_known_head(model: Any) -> None:
    """Compare our path with the model's own logits on a few tokens.

    Raises: DataError where they are not the same: the loss would be of another model.
    """
    import mlx.core as mx

    tokens = mx.arange(3, 11)[None]
    whole = model(tokens).astype(mx.float32)
    try:
        ours = output_head(model)(trunk(model)(tokens)).astype(mx.float32)
        apart = mx.abs(ours - whole).max() <= 1e-5 * mx.abs(whole).max()
        same = ours.shape == whole.shape and apart.item()
    except (AttributeError, TypeError, ValueError):
        same = False
    if not same:
        family = type(model).__module__.rsplit(".", 1)[-1]
        raise DataError(
            f"Models of the family {family} make their logits in a way that training here does "
            "not know. Choose another base: --set base.model=NAME"
        )


def _hidden_of_targets(model: Any, targets: Targets) -> Any:
    hidden = trunk(model)(targets.inputs)  # (B, T - 1, hidden)
    return hidden.reshape(-1, hidden.shape[-1])[targets.places]  # (K, hidden)


def _chunks(head: Callable[[Any], Any], hidden: Any, wanted: Any) -> Iterator[tuple[Any, Any]]:
    """Rows for which the logits take about CHUNK_BYTES, and their targets."""
    vocabulary = head(hidden[:1]).shape[-1]  # a shape only: nothing is computed
    rows = max(CHUNK_BYTES // (4 * vocabulary), 16)
    for start in range(0, hidden.shape[0], rows):
        yield hidden[start : start + rows], wanted[start : start + rows]


def _losses(head: Callable[[Any], Any], hidden: Any, wanted: Any) -> Iterator[Any]:
    import mlx.core as mx
    import mlx.nn as nn

    done: list[Any] = []
    for rows, ids in _chunks(head, hidden, wanted):
        rows = mx.depends([rows], done)[0] if done else rows
        done = [nn.losses.cross_entropy(head(rows).astype(mx.float32), ids)]  # (n,)
        yield done[0]


def _loss_and_gradient(head: Callable[[Any], Any], hidden: Any, wanted: Any) -> tuple[Any, Any]:
    """The summed loss, and its gradient by `hidden`.

    With p = softmax(z): loss = log sum exp z - z[wanted], and d loss / d z = p - onehot(wanted).
    """
    import mlx.core as mx

    total, gradients = mx.array(0.0), []
    done: list[Any] = []
    for rows, ids in _chunks(head, hidden, wanted):
        # Wait for the chunk before, or all of them are in memory at once.
        rows = mx.depends([rows], done)[0] if done else rows
        logits = head(rows)  # (n, V)
        exact = logits.astype(mx.float32)
        top = exact.max(axis=-1, keepdims=True)
        powers = mx.exp(exact - top)
        sums = powers.sum(axis=-1, keepdims=True)
        chosen = mx.take_along_axis(exact, ids[:, None], axis=-1)
        loss = (mx.log(sums) + top - chosen).sum()
        slope = (powers / sums).at[mx.arange(ids.size), ids].add(-1.0)
        _, (gradient,) = mx.vjp(head, [rows], [slope.astype(logits.dtype)])
        total, done = total + loss, [loss, gradient]
        gradients.append(gradient.astype(mx.float32))
    return total, mx.concatenate(gradients) if gradients else mx.zeros(hidden.shape)
