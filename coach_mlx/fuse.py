"""`coach fuse`: the adapter put into the weights.

Reads: models/base/NAME/ and adapters/NAME/. Writes: models/NAME/fused/, a plain 16-bit folder that
`mlx_lm.load` opens, tokenizer and chat template included; it takes its place only when it is whole.
Fails: ToolError where the base or the adapter is not there, or the disk has too little room.
"""

import json
import shutil
from typing import Any

from coach_mlx import console, mlx_runtime
from coach_mlx.config import Config
from coach_mlx.errors import ToolError
from coach_mlx.workspace import Plan, Workspace, require_space, whole_folder, write_whole


def plan(config: Config, workspace: Workspace) -> Plan:
    inputs = (workspace.base_marker, workspace.adapter_weights)
    return Plan(
        inputs, (workspace.fused / "model.safetensors.index.json",), config.fuse.model_dump()
    )


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if not workspace.adapter_weights.is_file():
        raise ToolError(f"There is no adapter in {workspace.adapter}. Type: coach train")
    weights = sum(file.stat().st_size for file in workspace.base.glob("*.safetensors"))
    require_space(workspace.fused, 5 * weights, "Fusing")
    with console.spinner("Fusing the adapter into the weights"):
        loaded = mlx_runtime.open_model(workspace.base, workspace.adapter)
        merge_adapter(loaded.model)
        with mlx_runtime.writing(workspace.fused), whole_folder(workspace.fused) as partial:
            _save(loaded, config.fuse.dtype, partial)
            for file in workspace.base.iterdir():
                kept = file.suffix in (".json", ".jinja", ".txt") and file != workspace.base_marker
                if kept and not (partial / file.name).exists():
                    shutil.copyfile(file, partial / file.name)
    return {"fused": workspace.shown(workspace.fused), "dtype": config.fuse.dtype}


def merge_adapter(model: Any) -> None:
    """Replace every LoRA layer by a plain one, W + scale * (A B)^T, and every quantized layer by
    its numbers.
    """
    from mlx.utils import tree_unflatten
    from mlx_lm.utils import dequantize_model

    merged = [
        (name, layer.fuse(dequantize=True))
        for name, layer in model.named_modules()
        if hasattr(layer, "fuse")
    ]
    model.update_modules(tree_unflatten(merged))
    dequantize_model(model)


def _save(loaded: mlx_runtime.LoadedModel, dtype: str, folder: Any) -> None:
    import mlx.core as mx
    from mlx_lm import utils

    loaded.model.set_dtype(getattr(mx, dtype))
    utils.save_model(folder, loaded.model, donate_model=True)
    facts = {
        key: value for key, value in loaded.config.items() if not key.startswith("quantization")
    }
    write_whole(
        folder / "config.json", json.dumps({**facts, "torch_dtype": dtype}, indent=2) + "\n"
    )
