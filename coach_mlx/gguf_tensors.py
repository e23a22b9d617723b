"""A model folder's weights as the tensors of a GGUF file, read piece by piece.

Reads safetensors, 16 or 32 bits or MLX's quantized layout. What is in memory at once is a piece of
a tensor, or, of the queries and keys whose rows llama.cpp wants in another order, one tensor.
Fails: DataError that names every tensor that is missing, unknown, of another shape, or not finite.
"""

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from coach_mlx import mlx_runtime, model_facts
from coach_mlx.errors import DataError
from coach_mlx.gguf_architecture import architecture, rope_factors
from coach_mlx.model_facts import Model

PIECE = 2**22
"""Numbers a piece."""
READERS = 2
"""Pieces that are read and converted at once."""
FINITE = {"F16": 0x7C00, "BF16": 0x7F80}
NUMPY = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "U32": "<u4"}
BITS = {"F16": 16, "BF16": 16, "F32": 32}


@dataclasses.dataclass(frozen=True)
class Source:
    """One weight of the folder; `parts` are its tensors by their last name (weight, scales)."""

    name: str
    shape: tuple[int, ...]
    parts: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.parts[""].dtype) if "" in self.parts else "quantized"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What is written: llama.cpp's name, shape and type, and `read(first, last)` for some rows.

    It has what `gguf.GGUFWriter` asks of an array: `nbytes` and `tofile`. `step` is how many rows
    are read at once.
    """

    name: str
    shape: tuple[int, ...]
    type: Any
    step: int
    read: Callable[[int, int], Any]

    @property
    def nbytes(self) -> int:
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[self.type]
        return int(math.prod(self.shape) // block * size)

    def tofile(self, file: Any) -> None:
        """While one piece is written, the next ones are read."""
        starts = range(0, self.shape[0], self.step)
        with ThreadPoolExecutor(READERS) as readers:
            coming: deque[Future[Any]] = deque()
            for first in starts:
                last = min(first + self.step, self.shape[0])
                coming.append(readers.submit(self.read, first, last))
                if len(coming) > READERS:
                    coming.popleft().result().tofile(file)
            for piece in coming:
                piece.result().tofile(file)


def tensors(folder: Path, model: Model, type_: str) -> list[Tensor]:
    """Everything in `type_` (F16, BF16, Q8_0 or F32), but norms and vectors in 32 bits."""
    found = [_tensor(source, model, type_) for source in sources(folder, model)]
    factors = rope_factors(model)
    return found if factors is None else [*found, _factors(factors)]


def _factors(factors: list[float]) -> Tensor:
    import gguf
    import numpy as np

    kind = gguf.GGMLQuantizationType.F32
    array = np.asarray(factors, dtype=np.float32)
    return Tensor("rope_freqs.weight", array.shape, kind, len(factors), lambda a, b: array[a:b])


def _tensor(source: Source, model: Model, type_: str) -> Tensor:
    import gguf

    types = gguf.GGMLQuantizationType
    name = gguf_name(source.name, model)
    kind = types[type_]
    if len(source.shape) == 1 or name.endswith("_norm.weight"):
        kind = types.F32
    elif source.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = types.F16
    columns = math.prod(source.shape[1:])
    step = source.shape[0] if permuted_heads(name, model) else max(1, PIECE // columns)
    return Tensor(
        name, source.shape, kind, step, lambda a, b: _piece(source, name, model, kind, a, b)
    )


def gguf_name(name: str, model: Model) -> str:
    names = _names(architecture(model), int(model.num_hidden_layers))
    found = names.get_name(name.removeprefix(model.prefix), try_suffixes=(".weight", ".bias"))
    if found is None:
        raise DataError(f"GGUF has no name for the tensor {name} of this {model.family} model.")
    return str(found)


@functools.cache
def _names(architecture: str, blocks: int) -> Any:
    import gguf

    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    return gguf.get_tensor_name_map(kind, blocks)


def _piece(source: Source, name: str, model: Model, kind: Any, first: int, last: int) -> Any:
    """Rows of the tensor in llama.cpp's order, in `kind`."""
    heads = permuted_heads(name, model)
    if heads:
        array, type_ = _read(source, 0, source.shape[0])
        array = permute(array, heads)[first:last]
    else:
        array, type_ = _read(source, first, last)
    if architecture(model) == "gemma3" and name.endswith("_norm.weight"):
        # MLX adds the 1 when it computes, llama.cpp expects it in the file.
        array, type_ = _floats(array, type_) + 1.0, "F32"
    return _converted(array, type_, kind, source.name)


def permuted_heads(name: str, model: Model) -> int:
    """How many heads' rows stand in another order in GGUF; 0 for none."""
    if architecture(model) != "llama":
        return 0
    if ".attn_q." in name:
        return int(model.num_attention_heads)
    kv_heads = model.num_key_value_heads or model.num_attention_heads
    return int(kv_heads) if ".attn_k." in name else 0


def permute(array: Any, heads: int) -> Any:
    """The order of q and k rows that GGUF's Llama rotates: two halves -> pairs side by side.

    Shapes: (heads * head_dim, columns) or (heads * head_dim,), unchanged.
    """
    rows = array.shape[0]
    halves = array.reshape(heads, 2, rows // heads // 2, -1)  # (heads, 2, head_dim / 2, columns)
    return halves.swapaxes(1, 2).reshape(array.shape)


def _converted(array: Any, type_: str, kind: Any, name: str) -> Any:
    """Raises: DataError where a number is not finite, in the folder or after its conversion."""
    import gguf
    import numpy as np

    if type_ == "BF16" and kind.name == "F16":
        array = _halves()[array]
    elif type_ != kind.name:
        floats = _floats(array, type_)
        if kind.name in ("F16", "F32"):
            with np.errstate(over="ignore"):
                array = floats.astype(NUMPY[kind.name])
        else:
            array = gguf.quants.quantize(np.ascontiguousarray(floats), kind)
            _require_finite(floats, "F32", name)
            return array
    _require_finite(array, kind.name, name)
    return np.ascontiguousarray(array)


@functools.cache
def _halves() -> Any:
    """The F16 number for each of the 65,536 that BF16 has; a look-up is the fastest conversion."""
    import numpy as np

    with np.errstate(over="ignore"):
        return _floats(np.arange(2**16, dtype=np.uint16), "BF16").astype(NUMPY["F16"])


def _floats(array: Any, type_: str) -> Any:
    import numpy as np

    if type_ == "BF16":
        return np.left_shift(array, 16, dtype=np.uint32).view(np.float32)
    return array.astype(np.float32, copy=False)


def _require_finite(array: Any, type_: str, name: str) -> None:
    import numpy as np

    if type_ in FINITE:
        limit = FINITE[type_]
        whole = bool(((array.view(np.uint16) & limit) != limit).all())
    else:
        whole = bool(np.isfinite(array).all())
    if not whole:
        raise DataError(
            f"The tensor {name} holds a number that is not finite, or too large for {type_}. "
            "Where the fused weights are bfloat16, keep them so: --set fuse.dtype=bfloat16"
        )


def _read(source: Source, first: int, last: int) -> tuple[Any, str]:
    """Rows of a weight as they stand in the file, quantized ones as the numbers they stand for."""
    if "" in source.parts:
        return _rows(source.parts[""], first, last), source.type
    import mlx.core as mx
    import numpy as np

    def part(name: str) -> Any:
        local = source.parts[name]
        rows = _rows(local, first, last)
        floats = rows if local.dtype == "U32" else _floats(rows, local.dtype)
        return mx.array(floats)

    columns = source.shape[-1]
    weight, scales = part("weight"), part("scales")
    numbers = mx.dequantize(
        weight,
        scales,
        part("biases"),
        group_size=columns // scales.shape[-1],
        bits=weight.shape[-1] * 32 // columns,
    )
    return np.array(numbers), "F32"


def _rows(local: Any, first: int, last: int) -> Any:
    import numpy as np

    kind = np.dtype(NUMPY[local.dtype])
    columns = math.prod(local.shape[1:])
    place = local.data_range.offset + first * columns * kind.itemsize
    flat = np.fromfile(
        local.data_range.filename, kind, count=(last - first) * columns, offset=place
    )
    return flat.reshape(last - first, *local.shape[1:])


# --- what the folder holds, against what training's model has


def sources(folder: Path, model: Model) -> list[Source]:
    """Every weight that training's model has, each found once and in its shape."""
    parts = _parts(folder)
    wanted = _wanted(parts, model)
    found, wrong = [], []
    for name, shape in wanted.items():
        source = _source(name, shape, parts)
        if isinstance(source, Source):
            found.append(source)
        else:
            wrong.append(source)
    known = {f"{name}" for name in _used(found)}
    wrong += [f"{name} belongs to no such model" for name in sorted(parts) if name not in known]
    if wrong:
        shown = [*wrong[:12], *([f"… and {len(wrong) - 12} more"] if len(wrong) > 12 else [])]
        raise DataError(
            f"The weights in {folder} are not those of a {model.family} model as its config.json "
            "describes it:\n  " + "\n  ".join(shown)
        )
    return found


def _parts(folder: Path) -> dict[str, Any]:
    from gguf.utility import SafetensorsLocal

    mlx_runtime.require_whole_model(folder)
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, local in SafetensorsLocal(path).tensors.items():
            if name in found:
                raise DataError(f"The tensor {name} stands twice in {folder}.")
            found[name] = local
    return found


def _wanted(parts: dict[str, Any], model: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of each of the model's weights; what mlx-lm drops is dropped from `parts`."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    built = model_facts.build(model)
    inner = {name.removeprefix(model.prefix): name for name in parts}
    outside = [name for name in parts if not name.startswith(model.prefix)]
    kept = built.sanitize({name: mx.zeros(1) for name in inner})
    for name in [*outside, *(inner[name] for name in inner if name not in kept)]:
        parts.pop(name, None)
    return {
        f"{model.prefix}{name}": tuple(array.shape)
        for name, array in tree_flatten(built.parameters())
    }


def _source(name: str, shape: tuple[int, ...], parts: dict[str, Any]) -> Source | str:
    stem = name.removesuffix(".weight")
    if name not in parts:
        return f"{name} is missing"
    if f"{stem}.scales" in parts:
        return _quantized(name, stem, shape, parts)
    local = parts[name]
    if tuple(local.shape) != shape:
        return f"{name} is {_sizes(local.shape)}, not {_sizes(shape)}"
    if local.dtype not in BITS or local.data_range.size * 8 != math.prod(shape) * BITS[local.dtype]:
        return f"{name} is of the type {local.dtype}, which the export does not know"
    return Source(name, shape, {"": local})


def _quantized(name: str, stem: str, shape: tuple[int, ...], parts: dict[str, Any]) -> Source | str:
    found = {part: parts.get(f"{stem}.{part}") for part in ("weight", "scales", "biases")}
    if None in found.values():
        return f"{name} is quantized in a way that the export does not know"
    rows = {tuple(local.shape[:1]) for local in found.values() if local is not None}
    if rows != {shape[:1]} or shape[-1] % found["scales"].shape[-1]:  # type: ignore[union-attr]
        return f"{name} is quantized, and of another shape than {_sizes(shape)}"
    return Source(name, shape, found)


def _used(found: list[Source]) -> Iterator[str]:
    for source in found:
        stem = source.name.removesuffix(".weight")
        yield from (f"{stem}.{part}" if part else source.name for part in source.parts)


def _sizes(shape: Any) -> str:
    return " x ".join(map(str, shape))
