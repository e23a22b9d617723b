"""The 16-bit model that a quantized base was made from, found on this machine and known again.

Nothing is downloaded. An adapter on another model than its own is garbage that no error tells of,
so what is found is compared with the base: its facts, every tensor that the base keeps in 16 bits,
and the weights of three blocks. A base whose norms were changed by its quantization (AWQ) is
refused with the others: its adapter expects other inputs than the original's layers get.
Fails: ToolError where a model that the config names is not here, DataError where it is another one.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_mlx import mlx_runtime
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.workspace import Workspace

ROUNDING = 2**-7
"""Relative: what a tensor may change on its way through float16 or bfloat16."""
OWN_ERROR = 1.5
"""A base may be so many times as far from its original as quantizing that again makes it."""
NEGLIGIBLE = 1e-3
"""A relative distance that is none: where the original's numbers stand on the grid already."""


def find(config: Config, workspace: Workspace) -> Path | None:
    """The folder of the original; `None` where the config names none and base.model is quantized
    itself, or not on this disk.

    Raises: ToolError where base.original is not there, DataError where it is quantized.
    """
    if config.base.original is None:
        folder = _folder(config.base.model, config.base.revision, workspace)
        return folder if folder and not _is_quantized(folder) else None
    folder = _folder(config.base.original, None, workspace)
    if folder is None:
        raise ToolError(f"base.original: {missing(config, workspace)}")
    if _is_quantized(folder):
        raise DataError(
            f"base.original: the model in {folder} is quantized itself. Name the one it was made "
            "from, or type: --set fuse.onto=quantized"
        )
    return folder


def missing(config: Config, workspace: Workspace) -> str:
    """Where was looked in vain, and what to type."""
    name = config.base.original or config.base.model
    return (
        f"There is no 16-bit model in {_local(name, workspace)}, nor as {name} in the hub's cache "
        "on this machine (nothing is downloaded here). Name one with --set base.original=FOLDER, "
        "or add the adapter to the quantized weights: --set fuse.onto=quantized"
    )


def files(folder: Path) -> tuple[Path, ...]:
    """What makes the model what it is: its config and its weights."""
    return (folder / "config.json", *sorted(folder.glob("model*.safetensors")))


def _folder(name: str, revision: str | None, workspace: Workspace) -> Path | None:
    here = _local(name, workspace)
    if not here.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        here = mlx_runtime.hub_folder(name, revision) or here
    whole = (here / "config.json").is_file() and any(here.glob("model*.safetensors"))
    return here if whole else None


def _local(name: str, workspace: Workspace) -> Path:
    return workspace.find(str(Path(name).expanduser()))


def _is_quantized(folder: Path) -> bool:
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any(key.startswith("quantization") for key in facts)


def require_same(base_folder: Path, folder: Path) -> None:
    """Raises: DataError, naming what differs, where `folder` holds another model than the base."""
    base, _ = mlx_runtime.open_weights(base_folder, as_stored=True)
    original, _ = mlx_runtime.open_weights(folder, as_stored=True)
    found = next((one for one in _differences(base, original)), None)
    if found:
        raise DataError(
            f"The model in {folder} is not the one that {base_folder} was made from: {found}. An "
            "adapter works on its own base only. Name the right one with --set "
            "base.original=FOLDER, or type: --set fuse.onto=quantized"
        )


def _differences(base: Any, original: Any) -> Iterator[str]:
    """What speaks against it, the cheapest question first."""
    theirs = dataclasses.asdict(original.args)
    for key, value in dataclasses.asdict(base.args).items():
        if key in theirs and None not in (value, theirs[key]) and value != theirs[key]:
            yield f"{key} is {value!r} there and {theirs[key]!r} here"
    kept, quantized = _tensors(base)
    weights = _all_tensors(original)
    ours = {*kept, *(f"{name}.weight" for name in quantized)}
    for name in sorted(ours ^ set(weights)):
        yield f"{name} is in one of them only"
    yield from _kept_differences(kept, weights)
    for name in _sample(original, quantized):
        yield from _distance(name, quantized[name], weights[f"{name}.weight"])


def _tensors(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors that are kept as they were, and the quantized layers, by name."""
    quantized = {name: layer for name, layer in model.named_modules() if "scales" in layer}
    packed = {f"{name}.{leaf}" for name in quantized for leaf in ("weight", "scales", "biases")}
    kept = {name: one for name, one in _all_tensors(model).items() if name not in packed}
    return kept, quantized


def _all_tensors(model: Any) -> dict[str, Any]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))


def _kept_differences(kept: dict[str, Any], weights: dict[str, Any]) -> Iterator[str]:
    """Norms and biases: the same numbers, and they tell a model from its sister that was trained on
    a little further, which quantized weights do not.
    """
    import mlx.core as mx

    for name, array in kept.items():
        other = weights[name]
        if array.shape != other.shape:
            yield f"{name} has the shape {array.shape} there and {other.shape} here"
            continue
        one, other = array.astype(mx.float32), other.astype(mx.float32)
        if not mx.allclose(one, other, rtol=ROUNDING, atol=1e-6).item():
            yield f"{name} has other numbers"


def _sample(model: Any, quantized: dict[str, Any]) -> list[str]:
    """The quantized layers of the first, the middle and the last block."""
    count = len(model.layers)
    blocks = {f".layers.{number}." for number in (0, count // 2, count - 1)}
    return [name for name in quantized if any(block in f".{name}" for block in blocks)]


def _distance(name: str, layer: Any, weight: Any) -> Iterator[str]:
    import mlx.core as mx

    grid: dict[str, Any] = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
    theirs = mx.dequantize(layer.weight, layer.scales, layer.get("biases"), **grid)
    if theirs.shape != weight.shape:
        yield f"{name}.weight has the shape {theirs.shape} there and {weight.shape} here"
        return
    weight = weight.astype(mx.float32)
    packed: Any = mx.quantize(weight, **grid)
    again = mx.dequantize(*packed, **grid)
    apart, own = (_relative(one - weight, weight) for one in (theirs, again))
    if apart > max(OWN_ERROR * own, NEGLIGIBLE):
        yield f"{name}.weight is {apart:.1%} away, where quantizing makes {own:.1%}"


def _relative(error: Any, weight: Any) -> float:
    import mlx.core as mx

    found: Any = mx.linalg.norm(error) / mx.linalg.norm(weight)
    return float(found.item())
