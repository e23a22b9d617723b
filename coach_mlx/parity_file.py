"""A GGUF file against the folder it should hold: its facts, and samples of its weights.

Reads both; writes nothing. What is wrong is named: the key, the entry, the tensor, and whether a
tensor's rows merely stand in the other order.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coach_mlx.gguf_tensors import Tensor, permute

ROWS = 24
"""Rows compared at each of four places of a tensor."""
LIMITS = {"F32": 1e-6, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 0.02}
LIMIT = 0.25
"""Root mean square of the difference over that of the weights; 4-bit rounding makes 0.1."""


def different_facts(
    expected: Mapping[str, Any], found: Mapping[str, Any], ignored: Sequence[str]
) -> list[str]:
    """Each key that is missing, other than expected, or not expected of a model's own keys."""
    own = (f"{expected['general.architecture']}.", "tokenizer.")
    different = [
        f"{key}: {why}"
        for key, value in expected.items()
        if key not in ignored and (why := _difference(value, found.get(key)))
    ]
    unknown = [key for key in found if key.startswith(own) and key not in expected]
    return [
        *different,
        *(f"{key}: {_short(found[key])}, which is not the model's" for key in unknown),
    ]


def _difference(expected: Any, found: Any) -> str | None:
    if found is None:
        return f"missing; it should be {_short(expected)}"
    if isinstance(expected, list):
        return _list_difference(expected, found if isinstance(found, list) else [found])
    same = (
        math.isclose(expected, found, rel_tol=1e-6)
        if isinstance(expected, float) and isinstance(found, (int, float))
        else expected == found
    )
    return None if same else f"{_short(found)} in the file, {_short(expected)} in the model"


def _list_difference(expected: list[Any], found: list[Any]) -> str | None:
    if len(expected) != len(found):
        return f"{len(found):,} entries in the file, {len(expected):,} in the model"
    for place, (one, other) in enumerate(zip(expected, found, strict=True)):
        same = math.isclose(one, other, rel_tol=1e-6) if isinstance(one, float) else one == other
        if not same:
            return f"entry {place:,} is {_short(other)} in the file, {_short(one)} in the model"
    return None


def _short(value: Any) -> str:
    text = f"{len(value):,} entries" if isinstance(value, list) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def different_tensors(expected: Sequence[Tensor], reader: Any) -> list[str]:
    """`expected` in 32 bits; the file's may be quantized."""
    found = {tensor.name: tensor for tensor in reader.tensors}
    names = {tensor.name for tensor in expected}
    return [
        *(
            why
            for tensor in expected
            if (why := _tensor_difference(tensor, found.get(tensor.name)))
        ),
        *(f"{name} belongs to no such model" for name in found if name not in names),
    ]


def _tensor_difference(expected: Tensor, found: Any) -> str | None:
    if found is None:
        return f"{expected.name} is missing"
    shape = tuple(int(size) for size in reversed(found.shape))
    if shape != expected.shape:
        return f"{expected.name} is {shape} in the file, {expected.shape} in the model"
    distance = _distance(expected, found)
    limit = LIMITS.get(found.tensor_type.name, LIMIT)
    if distance <= limit:
        return None
    off = f"{distance:.1%} off, allowed {limit:.1%}{_reason(expected, found, limit)}"
    return f"{expected.name} ({found.tensor_type.name}) is {off}"


def _distance(expected: Tensor, found: Any) -> float:
    import numpy as np

    off, size = 0.0, 0.0
    for first, last in _places(expected.shape[0]):
        ours = expected.read(first, last).astype(np.float64)
        theirs = _values(found, first, last)
        off += float(((ours - theirs) ** 2).sum())
        size += float((ours**2).sum())
    if not math.isfinite(off):
        return math.inf
    return math.sqrt(off / size) if size else math.sqrt(off)


def _places(rows: int) -> Iterator[tuple[int, int]]:
    starts = {round(share * max(0, rows - ROWS)) for share in (0, 1 / 3, 2 / 3, 1)}
    return ((start, min(start + ROWS, rows)) for start in sorted(starts))


def _values(found: Any, first: int, last: int) -> Any:
    """Rows of a tensor in a file as numbers; vectors have one number a row."""
    import gguf

    return gguf.quants.dequantize(found.data[first:last], found.tensor_type)


def _reason(expected: Tensor, found: Any, limit: float) -> str:
    """What is known of a tensor whose rows llama.cpp wants in an order of its own."""
    import numpy as np

    if expected.step < expected.shape[0] or ".attn_" not in expected.name:
        return ""
    ours = expected.read(0, expected.shape[0])
    theirs = _values(found, 0, expected.shape[0])
    size = float(np.linalg.norm(ours))
    for heads in range(1, min(257, ours.shape[0] // 2 + 1)):
        if ours.shape[0] % (2 * heads):
            continue
        for one, other in ((permute(theirs, heads), ours), (theirs, permute(ours, heads))):
            if float(np.linalg.norm(one - other)) <= limit * size:
                return ": the same rows in another order (the q/k permutation of the rope)"
    return ""
