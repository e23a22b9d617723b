"""How much memory a training needs at its busiest moment, computed from shapes alone.

Reads a model that was opened lazily (no weight is loaded for it) and the shape of the longest
batch; writes nothing. Checked against the measured peak by `benchmarks/memory.py`, on a CPU only.

B rows, T tokens, K targets, H hidden size, F width of the feed-forward part, n heads of D, k of
them with keys and values of their own, r rank, V vocabulary.

What one adapted block keeps for its backward pass, in numbers a token:
  2 H (the input of each norm) + n D + 2 k D (queries, keys, values) + 4 F (gate, its sigmoid, their
  product, up) + r for each adapter, n T for the softmax, and what each adapter reads. That is 2 H +
  n D + F where it is the layer's own input (float32 on a CPU). On a GPU the activations have 16
  bits and the adapters 32, so MLX keeps a float32 copy for each adapter.
The scores are there in full on a GPU too: MLX takes no fused attention while it traces gradients.
On top comes one block at work. Its gradients are as large as what it kept, and softmax's backward
pass needs one more T x T for each head. MLX allocates some 50 operations ahead of the computation:
where blocks are recomputed, the recomputation runs into the backward pass, and a third such set is
alive.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from coach_mlx.batches import Row, target_count
from coach_mlx.config import TrainSection
from coach_mlx.errors import DataError
from coach_mlx.losses import CHUNK_BYTES, trunk

FULL = 4
"""Bytes of a float32, which adapters, their gradients and the optimizer have everywhere."""
LOGITS_ALIVE, LOGITS_MOST = 3, 10
"""Arrays of a chunk's logits alive at once: for each chunk, and at most."""


class Linear(NamedTuple):
    """A layer that may carry an adapter; of several experts where `experts` is more than 1."""

    name: str
    inputs: int
    outputs: int
    experts: int = 1
    uses: int = 1
    """Experts that a token passes."""


class Part(NamedTuple):
    """The attention or the feed-forward half of a block."""

    entries: tuple[Linear, ...]
    """Layers that read the block's hidden state."""
    exit: Linear
    """The one that writes into it."""
    heads: int
    """0 where it is no attention."""

    @property
    def linears(self) -> tuple[Linear, ...]:
        return (*self.entries, self.exit)


class Block(NamedTuple):
    parts: tuple[Part, ...]
    norms: int
    """Over the whole hidden state."""


class Facts(NamedTuple):
    """All that the plan needs to know of a model on a kind of device."""

    base_bytes: int
    """Frozen weights as they lie in memory."""
    hidden: int
    vocabulary: int
    blocks: tuple[Block, ...]
    activation_bytes: int
    """Of one number between layers: 4 on a CPU, elsewhere as the weights are."""


class Load(NamedTuple):
    """The shape of what is computed at once."""

    rows: int
    tokens: int
    """Of the longest row; the others are padded to it."""
    targets: int
    """Of all rows together."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Load":
        return cls(len(rows), max(row.length for row in rows), target_count(rows))


class Moment(NamedTuple):
    """Bytes that are there at once, by what they are for."""

    base: int
    adapters: int
    optimizer: int
    gradients: int
    activations: int
    keys_and_values: int
    attention_scores: int
    loss_layer: int

    @property
    def total(self) -> int:
        return sum(self)


class Need(NamedTuple):
    """The three moments of a step of which one is the busiest."""

    loss: Moment
    """All blocks have kept what they keep, and the output head is at work."""
    backward: Moment
    """The first block is at work backwards."""
    update: Moment
    """The optimizer steps."""

    @property
    def peak(self) -> int:
        return max(moment.total for moment in self)


def need(facts: Facts, settings: TrainSection, load: Load) -> Need:
    """Computed, never measured: within 25 % of what was measured on a CPU."""
    adapted = facts.blocks if settings.layers < 1 else facts.blocks[-settings.layers :]
    adapters = sum(_adapter_bytes(block, settings) for block in adapted)
    kept = [_kept_bytes(facts, block, settings, load) for block in adapted]
    held, working = _recomputed(facts, kept, load)
    if not settings.grad_checkpoint:
        held = _Kept(*map(sum, zip(*kept, strict=True)))
        working = _Kept(*map(sum, zip(held, _at_work(kept, 1), strict=True)))
    hidden, dora = _hidden_bytes(facts, load), _dora_work(adapted, settings)
    always = (facts.base_bytes, adapters, 2 * adapters, adapters)
    return Need(
        Moment(*always, held[0] + hidden, *held[1:], _logits_bytes(facts, load)),
        Moment(*always, working[0] + hidden + dora, *working[1:], 0),
        Moment(*always[:3], 2 * adapters, 0, 0, 0, 0),
    )


class _Kept(NamedTuple):
    """By one block for its backward pass."""

    activations: int
    keys_and_values: int
    scores: int


def _at_work(kept: Sequence[_Kept], sets: int) -> _Kept:
    """So many sets of what a block keeps, and softmax's second T x T."""
    largest = max(kept, key=sum)
    scores = max(sets, 2) * largest.scores
    return _Kept(sets * largest.activations, sets * largest.keys_and_values, scores)


def _recomputed(facts: Facts, kept: Sequence[_Kept], load: Load) -> tuple[_Kept, _Kept]:
    """The inputs of all blocks; then one is recomputed, and its gradients and (where there is one)
    the next are under way, with the inputs of the others.
    """
    inputs = load.rows * load.tokens * facts.hidden * facts.activation_bytes
    sets = min(3, len(kept) + 1)
    working = _at_work(kept, sets)
    others = (len(kept) - sets + 1) * inputs
    held = _Kept(len(kept) * inputs, 0, 0)
    return held, working._replace(activations=working.activations + others)


def _kept_bytes(facts: Facts, block: Block, settings: TrainSection, load: Load) -> _Kept:
    places, size = load.rows * load.tokens, facts.activation_bytes
    keys = sum(_keys_width(part) for part in block.parts)
    plain = block.norms * facts.hidden + sum(map(_values_width, block.parts)) - keys
    read = sum(_read_bytes(facts, part, settings) for part in block.parts)
    heads = sum(part.heads for part in block.parts)
    square = load.tokens * load.tokens
    return _Kept(
        places * (plain * size + read) + _dora_kept(facts, block, settings, places),
        places * keys * size,
        load.rows * heads * square * size + (square if heads else 0),  # and the causal mask
    )


def _values_width(part: Part) -> int:
    """Numbers a token: what the entries give, and the sigmoid and its product with the gate."""
    given = sum(one.outputs * one.uses for one in part.entries)
    return given if part.heads else given + 2 * part.exit.inputs * part.exit.uses


def _keys_width(part: Part) -> int:
    """What an attention's entries give beyond the queries, which are as wide as its exit reads."""
    if not part.heads:
        return 0
    return max(sum(one.outputs for one in part.entries) - part.exit.inputs, 0)


def _read_bytes(facts: Facts, part: Part, settings: TrainSection) -> int:
    """Bytes a token that the adapters of a part read, and their r numbers."""
    adapted = _adapted(part, settings)
    low = sum(settings.rank * one.uses for one in adapted) * FULL
    if settings.dropout:  # a mask and a masked input for each
        return low + 2 * FULL * sum(one.inputs * one.uses for one in adapted)
    if facts.activation_bytes != FULL:
        return low + FULL * sum(one.inputs * one.uses for one in adapted)
    shared = {one.inputs * one.uses for one in adapted if one != part.exit}
    own = part.exit.inputs * part.exit.uses if part.exit in adapted else 0
    return low + FULL * (sum(shared) + own)


def _dora_kept(facts: Facts, block: Block, settings: TrainSection, places: int) -> int:
    """DoRA keeps each layer's output, and on a GPU its weights in 16 bits."""
    if not settings.dora:
        return 0
    adapted = [one for part in block.parts for one in _adapted(part, settings)]
    outputs = places * facts.activation_bytes * sum(one.outputs for one in adapted)
    if facts.activation_bytes == FULL:
        return outputs
    return outputs + facts.activation_bytes * sum(one.inputs * one.outputs for one in adapted)


def _dora_work(blocks: Sequence[Block], settings: TrainSection) -> int:
    """DoRA's adapted weights, made to take their length: the largest layer's, and the change."""
    if not settings.dora:
        return 0
    adapted = [one for block in blocks for part in block.parts for one in _adapted(part, settings)]
    return 2 * FULL * max((one.inputs * one.outputs for one in adapted), default=0)


def _adapter_bytes(block: Block, settings: TrainSection) -> int:
    adapted = [one for part in block.parts for one in _adapted(part, settings)]
    numbers = sum(one.experts * settings.rank * (one.inputs + one.outputs) for one in adapted)
    return FULL * (numbers + (sum(one.outputs for one in adapted) if settings.dora else 0))


def _adapted(part: Part, settings: TrainSection) -> list[Linear]:
    return [one for one in part.linears if settings.keys is None or one.name in settings.keys]


def _hidden_bytes(facts: Facts, load: Load) -> int:
    """Hidden states between the last block and the loss: before and after the last norm, their
    gradient, (B T, H); the targets' own, their gradients and those put together, (K, H).
    """
    places = 3 * load.rows * load.tokens * facts.activation_bytes
    return facts.hidden * (places + load.targets * (facts.activation_bytes + 2 * FULL))


def _logits_bytes(facts: Facts, load: Load) -> int:
    """Three arrays for each target, and of so many chunks as MLX begins before one is done."""
    rows = max(CHUNK_BYTES // (FULL * facts.vocabulary), 16)
    most = min(LOGITS_ALIVE * load.targets, LOGITS_MOST * rows)
    return most * FULL * facts.vocabulary


def facts_of(model: Any, kind: str) -> Facts:
    """Of a model without adapters, opened lazily or not, on `cpu`, `metal` or `cuda`.

    Raises: DataError for a family that is built in another way.
    """
    try:
        found: Any = trunk(model)
        embedding = found.embed_tokens
        hidden = _width(embedding)
    except AttributeError:
        raise DataError(
            "This base model is built in a way that the plan of its memory does not know. "
            "Choose another base: --set base.model=NAME"
        ) from None
    return Facts(
        base_bytes=_base_bytes(model, kind),
        hidden=hidden,
        vocabulary=int(embedding.weight.shape[0]),
        blocks=tuple(_block(layer, hidden, model) for layer in model.layers),
        activation_bytes=FULL if kind == "cpu" else _activation_bytes(found),
    )


def _activation_bytes(found: Any) -> int:
    """What flows between layers has the widest type of the embedding's numbers and the norms'."""
    embedding, norm = found.embed_tokens, getattr(found, "norm", found.embed_tokens)
    numbers = [
        module.scales if "scales" in module else module.weight for module in (embedding, norm)
    ]
    return max(int(array.dtype.size) for array in numbers)


def _base_bytes(model: Any, kind: str) -> int:
    """A CPU gets every weight in float32, a GPU as the file has it."""
    from mlx.utils import tree_flatten

    arrays = [array for _, array in tree_flatten(model.parameters())]
    if kind != "cpu":
        return sum(int(array.nbytes) for array in arrays)
    packed = [module for module in model.modules() if "scales" in module]
    more: int = sum(
        module.weight.size * (32 // module.bits - 1)
        - sum(module[key].size for key in ("scales", "biases") if key in module)
        for module in packed
    )
    return FULL * (sum(int(array.size) for array in arrays) + more)


def _width(module: Any) -> int:
    """Numbers in a row of its weights, quantized or not."""
    width = int(module.weight.shape[-1])
    return width * 32 // int(module.bits) if "scales" in module else width


def _block(layer: Any, hidden: int, model: Any) -> Block:
    modules = dict(layer.named_modules())
    parents = sorted({name.rpartition(".")[0] for name, one in modules.items() if _is_linear(one)})
    parts = tuple(_parts(modules, parents, hidden, model))
    norms = sum(
        "Norm" in type(one).__name__ and "weight" in one and one.weight.shape == (hidden,)
        for one in modules.values()
    )
    return Block(parts, norms)


def _parts(
    modules: dict[str, Any], parents: Sequence[str], hidden: int, model: Any
) -> Iterator[Part]:
    for parent in parents:
        linears = [
            _linear(name, one, model)
            for name, one in modules.items()
            if _is_linear(one) and name.rpartition(".")[0] == parent
        ]
        # Among layers of the same shape it makes no difference which is called the exit.
        exit_ = max(linears, key=lambda one: (one.outputs == hidden, one.inputs != hidden))
        entries = tuple(one for one in linears if one is not exit_)
        yield Part(entries, exit_, _heads(modules[parent], parent))


def _is_linear(module: Any) -> bool:
    import mlx.nn as nn

    is_plain = isinstance(module, (nn.Linear, nn.QuantizedLinear))
    return is_plain or type(module).__name__ in ("SwitchLinear", "QuantizedSwitchLinear")


def _linear(name: str, module: Any, model: Any) -> Linear:
    inputs, outputs = _width(module), int(module.weight.shape[-2])
    if module.weight.ndim == 2:
        return Linear(name, inputs, outputs)
    uses = getattr(getattr(model, "args", None), "num_experts_per_tok", 1)
    return Linear(name, inputs, outputs, int(module.weight.shape[0]), int(uses))


def _heads(module: Any, name: str) -> int:
    names = ("n_heads", "num_heads", "num_attention_heads", "n_head")
    found = next((getattr(module, one) for one in names if hasattr(module, one)), 0)
    return int(found) if "attn" in name or "attention" in name else 0
