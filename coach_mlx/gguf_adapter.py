"""`coach export --adapter-only`: the adapter alone as a GGUF file, for `ADAPTER` in a Modelfile.

Reads: adapters/NAME/ and the config and tokenizer of models/base/NAME/. Writes:
models/NAME/NAME-adapter.gguf and models/NAME/Modelfile.adapter, whose `FROM` is
`export.adapter_from`. Small, and quick to try; but it was trained on the base as it is quantized
here, and Ollama's documentation advises against another quantization under it: what `coach export`
writes is surer.
Fails: DataError for DoRA, whose lengths such a file cannot hold, and for a model family or a layer
that GGUF has no name for.
"""

import functools
import json
from pathlib import Path
from typing import Any

from coach_mlx import (
    console,
    gguf_file,
    gguf_tensors,
    lora,
    mlx_runtime,
    model_facts,
    modelfile,
    num_ctx,
)
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.gguf_architecture import architecture
from coach_mlx.gguf_tensors import Tensor
from coach_mlx.model_facts import Model
from coach_mlx.workspace import Workspace, read_system_prompt, write_whole

PACKAGED = {"smollm2": "smollm2:135m"}
"""Ollama's name of the base that comes with the install."""
UNNAMED = "THE-BASE-MODEL"


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if not workspace.adapter_weights.is_file():
        raise ToolError(f"There is no adapter in {workspace.adapter}. Type: coach train")
    if not (workspace.base / "config.json").is_file():
        raise ToolError(f"There is no base model in {workspace.base}. Type: coach import")
    model = model_facts.read(workspace.base)
    target = workspace.model / f"{config.name}-adapter.gguf"
    tensors = write(workspace.adapter, model, target, config.name)
    path = workspace.model / "Modelfile.adapter"
    base = config.export.adapter_from or PACKAGED.get(config.base.model, UNNAMED)
    write_whole(path, _modelfile(config, workspace, base, target.name))
    _say_what_is_left(workspace.shown(path), base)
    return {
        "adapter": workspace.shown(target),
        "modelfile": workspace.shown(path),
        "from": None if base == UNNAMED else base,
        "size_bytes": target.stat().st_size,
        "tensors": tensors,
    }


def _say_what_is_left(modelfile: str, base: str) -> None:
    if base == UNNAMED:
        console.say(
            f"{modelfile}: put Ollama's name of the base model behind FROM, or its GGUF file, or "
            "type: coach export --adapter-only --set export.adapter_from=NAME"
        )
    console.say(
        "The adapter was trained on the base as it is quantized here. On another quantization the "
        "coach may speak otherwise than in the evaluation."
    )


def _modelfile(config: Config, workspace: Workspace, base: str, adapter: str) -> str:
    """The served model's own, with FROM and ADAPTER in place of its FROM."""
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    context = num_ctx.compute(config, workspace, tokenizer)
    text = modelfile.render(config, tokenizer, prompt, base, context.tokens)
    return (
        f"# {config.name}: the adapter alone. Written by `coach export --adapter-only`. Serve it "
        f"with: ollama create {config.name} -f Modelfile.adapter\n"
        "# FROM must be the very model that was trained on; another one makes it erratic.\n"
        + modelfile.to_text(modelfile.parse(text)._replace(adapter=f"./{adapter}"))
    )


# --- the GGUF file


def write(adapter: Path, model: Model, target: Path, name: str) -> int:
    """An adapter in mlx-lm's format as a GGUF file for such a base; how many tensors. In F32, as
    trained: rank 16 on a 7B model is under 0.2 GB.
    """
    settings = _settings(adapter)
    tensors = _tensors(adapter, model)
    facts = {
        gguf_file.ARCHITECTURE: architecture(model),
        "general.type": "adapter",
        "general.name": name,
        "adapter.type": "lora",
        # llama.cpp multiplies by alpha / rank, mlx-lm by scale.
        "adapter.lora.alpha": float(settings["scale"]) * tensors[0].shape[0],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    gguf_file.write(partial, facts, tensors)
    partial.replace(target)
    return len(tensors)


def _settings(adapter: Path) -> dict[str, Any]:
    """Raises: DataError for another kind of adapter than LoRA."""
    mlx_runtime.require_whole_safetensors(adapter / lora.WEIGHTS)
    config = json.loads((adapter / lora.CONFIG).read_text(encoding="utf-8"))
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise DataError(
            f"The adapter in {adapter} is {kind!r}, and a GGUF adapter holds LoRA only. Put it "
            "into the weights: coach fuse, then coach export"
        )
    settings: dict[str, Any] = config["lora_parameters"]
    return settings


def _tensors(adapter: Path, model: Model) -> list[Tensor]:
    """Each half in F32: `lora_a` (rank, in) and `lora_b` (out, rank)."""
    import mlx.core as mx

    weights: Any = mx.load(str(adapter / lora.WEIGHTS))
    found, unknown = [], []
    for name in sorted(weights):
        layer, _, half = name.rpartition(".")
        try:
            base = gguf_tensors.gguf_name(f"{layer}.weight", model)
        except DataError:
            base = None
        if base is None or half not in ("lora_a", "lora_b"):
            unknown.append(name)
            continue
        array = weights[name].astype(mx.float32).T  # (rank, in) or (out, rank)
        heads = gguf_tensors.permuted_heads(base, model)
        if heads and half == "lora_b":
            array = gguf_tensors.permute(array, heads)
        found.append(_tensor(f"{base}.{half}", array))
    if unknown:
        raise DataError(
            f"{adapter} has tensors that a GGUF adapter has no name for: {', '.join(unknown[:10])}"
        )
    return found


def _tensor(name: str, array: Any) -> Tensor:
    import gguf
    import numpy as np

    kind, rows = gguf.GGMLQuantizationType.F32, np.ascontiguousarray(np.array(array))
    read = functools.partial(_rows, rows)
    return Tensor(name, rows.shape, kind, rows.shape[0], read)


def _rows(array: Any, first: int, last: int) -> Any:
    return array[first:last]
