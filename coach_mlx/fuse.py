"""`coach fuse`: the adapter put into the weights.

Reads: models/base/NAME/, adapters/NAME/ and, where it is on disk and wanted, the 16-bit original of
the base. Writes: models/NAME/fused/, a plain 16-bit folder that `mlx_lm.load` opens, tokenizer and
chat template included; it takes its place only when it is whole. Sums are taken in float32 and
rounded once. Weights stream: the memory it takes is `SHARD_GB` and some tensors in float32, however
large the model is.
Fails: ToolError where the base, the adapter or the original is not there, or the disk has too
little room; DataError where the original is another model than the base.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from coach_mlx import console, mlx_runtime, original
from coach_mlx.config import Config
from coach_mlx.errors import ToolError
from coach_mlx.workspace import Plan, Workspace, require_space, whole_folder, write_whole

INDEX = "model.safetensors.index.json"
SHARD_GB = 1


def plan(config: Config, workspace: Workspace) -> Plan:
    onto = find_original(config, workspace)
    added = original.files(onto) if onto is not None else ()
    inputs = (workspace.base_marker, workspace.adapter_weights, *added)
    return Plan(inputs, (workspace.fused / INDEX,), config.fuse.model_dump())


def preflight(config: Config, workspace: Workspace) -> None:
    """Refuse before training what could not be fused after it."""
    onto = find_original(config, workspace)
    if onto is not None:
        original.require_same(workspace.base, onto)


def find_original(config: Config, workspace: Workspace) -> Path | None:
    """What the adapter is added to instead of the base. Raises: ToolError where it must be there
    and is not.
    """
    if config.fuse.onto == "quantized":
        return None
    found = original.find(config, workspace)
    if found is None and config.fuse.onto == "original":
        raise ToolError(f"fuse.onto: {original.missing(config, workspace)}")
    return found


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if not workspace.adapter_weights.is_file():
        raise ToolError(f"There is no adapter in {workspace.adapter}. Type: coach train")
    weights = sum(file.stat().st_size for file in workspace.base.glob("*.safetensors"))
    require_space(workspace.fused, 5 * weights, "Fusing")
    onto = find_original(config, workspace)
    if onto is not None:
        original.require_same(workspace.base, onto)
    with console.spinner(f"Fusing the adapter into the weights of {onto or workspace.base}"):
        mlx_runtime.open_tokenizer(workspace.base)
        with mlx_runtime.writing(workspace.fused), whole_folder(workspace.fused) as partial:
            model, facts = merge(workspace.base, workspace.adapter, onto)
            route = "quantized" if onto is None else "original"
            _save(model, facts, config.fuse.dtype, partial, route)
            for file in workspace.base.iterdir():
                kept = file.suffix in (".json", ".jinja", ".txt") and file != workspace.base_marker
                if kept and not (partial / file.name).exists():
                    shutil.copyfile(file, partial / file.name)
    return {
        "fused": workspace.shown(workspace.fused),
        "dtype": config.fuse.dtype,
        "onto": workspace.shown(onto or workspace.base),
    }


def merge(base: Path, adapter: Path, onto: Path | None = None) -> tuple[Any, dict[str, Any]]:
    """A base and its adapter as one model of plain float32 layers, and the base's config; on the
    weights in `onto` where that is given. Nothing is computed yet.
    """
    tuned, facts = mlx_runtime.open_weights(base, adapter)
    mlx_runtime.dequantize(tuned)
    if onto is None:
        return merge_adapter(tuned), facts
    model, _ = mlx_runtime.open_weights(onto, adapter)
    mlx_runtime.dequantize(model)
    carry_gains(tuned, model)
    return merge_adapter(model), facts


def carry_gains(tuned: Any, model: Any) -> None:
    """Let every DoRA layer multiply its rows by what it multiplied them by in training.

    DoRA computes g * (W + D) x, where D = scale * (A B)^T and g = m / |W + D| by rows. The
    magnitudes m began as those of the base's rows: the same m over the original's would put
    the base's rounding back in. The same g does not, and without any training it is 1.
    """
    import mlx.core as mx

    trained = dict(tuned.named_modules())
    for name, layer in model.named_modules():
        if "m" in layer and "lora_a" in layer:
            lengths = (mx.linalg.norm(_adapted(one), axis=1) for one in (layer, trained[name]))
            layer.m = trained[name].m * next(lengths) / next(lengths)


def _adapted(layer: Any) -> Any:
    return layer.linear.weight + (layer.scale * layer.lora_b.T) @ layer.lora_a.T  # (out, in)


def merge_adapter(model: Any) -> Any:
    """Replace every LoRA layer by a plain one: W + scale * (A B)^T, with DoRA's gains."""
    from mlx.utils import tree_unflatten

    merged = [
        (name, layer.fuse()) for name, layer in model.named_modules() if hasattr(layer, "fuse")
    ]
    return model.update_modules(tree_unflatten(merged))


def _save(model: Any, facts: dict[str, Any], dtype: str, folder: Path, onto: str) -> None:
    """Shard by shard. The index holds their hashes, so that whoever hashes it has hashed the
    weights, and what the adapter was added to.
    """
    import mlx.core as mx
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm import utils

    model.set_dtype(getattr(mx, dtype))
    shards = utils.make_shards(dict(tree_flatten(model.parameters())), SHARD_GB)
    model.update(tree_map(lambda _: mx.array([]), model.parameters()))  # only shards hold them now
    size = sum(array.nbytes for shard in shards for array in shard.values())
    count, hashes, places = len(shards), {}, {}
    for number in range(1, count + 1):
        shard = shards.pop(0)
        file = (
            f"model-{number:05d}-of-{count:05d}.safetensors" if count > 1 else "model.safetensors"
        )
        for array in shard.values():  # one by one: together they would all be in float32 at once
            mx.eval(array)
        mx.save_safetensors(str(folder / file), shard, metadata={"format": "mlx"})
        places.update(dict.fromkeys(shard, file))
        with (folder / file).open("rb") as handle:
            hashes[file] = hashlib.file_digest(handle, "sha256").hexdigest()
    index = {"metadata": {"total_size": size, "onto": onto, "sha256": hashes}, "weight_map": places}
    write_whole(folder / INDEX, json.dumps(index, indent=2) + "\n")
    kept = {key: value for key, value in facts.items() if not key.startswith("quantization")}
    write_whole(folder / "config.json", json.dumps({**kept, "torch_dtype": dtype}, indent=2) + "\n")
