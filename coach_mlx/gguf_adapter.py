"""`coach export --adapter-only`: the adapter alone as a GGUF file, for `ADAPTER` in a Modelfile.

Reads: adapters/NAME/ and the config and tokenizer of models/base/NAME/. Writes:
models/NAME/NAME-adapter.gguf and models/NAME/Modelfile.adapter, whose `FROM` is
`export.adapter_from`. Small, and quick to try; but it was trained on the base as it is quantized
here, and Ollama's documentation advises against another quantization under it: what `coach export`
writes is surer.
Fails: DataError for DoRA, whose lengths such a file cannot hold, and for a model family or a layer
that GGUF has no name for.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_mlx import console, gguf, lora, mlx_runtime
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.workspace import Workspace, read_system_prompt, write_whole

PACKAGED = {"smollm2": "smollm2:135m"}
"""Ollama's name of the base that comes with the install."""
UNNAMED = "THE-BASE-MODEL"


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if not workspace.adapter_weights.is_file():
        raise ToolError(f"There is no adapter in {workspace.adapter}. Type: coach train")
    if not (workspace.base / "config.json").is_file():
        raise ToolError(f"There is no base model in {workspace.base}. Type: coach import")
    facts = json.loads((workspace.base / "config.json").read_text(encoding="utf-8"))
    target = workspace.model / f"{config.name}-adapter.gguf"
    tensors = write(workspace.adapter, facts, target, config.name)
    modelfile = workspace.model / "Modelfile.adapter"
    base = config.export.adapter_from or PACKAGED.get(config.base.model, UNNAMED)
    write_whole(modelfile, _modelfile(config, workspace, base, target.name))
    _say_what_is_left(workspace.shown(modelfile), base)
    return {
        "adapter": workspace.shown(target),
        "modelfile": workspace.shown(modelfile),
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
    """The served model's own, with two lines in place of its FROM."""
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    lines = gguf.render_modelfile(config, tokenizer, prompt, base).splitlines(keepends=True)
    place = lines.index(f"FROM {base}\n")
    return "".join(
        [
            lines[0],
            "# Written by `coach export --adapter-only`. Serve it with: "
            f"ollama create {config.name} -f Modelfile.adapter\n",
            "# FROM must be the very model that was trained on; another one makes it erratic.\n",
            lines[place],
            f"ADAPTER ./{adapter}\n",
            *lines[place + 1 :],
        ]
    )


# --- the GGUF file


def write(adapter: Path, facts: dict[str, Any], target: Path, name: str) -> int:
    """An adapter in mlx-lm's format as a GGUF file for a base with these facts (its config.json);
    how many tensors. In F32, as trained: rank 16 on a 7B model is under 0.2 GB.
    """
    import gguf as package

    settings = _settings(adapter)
    architecture = _architecture(facts)
    tensors = list(_tensors(adapter, facts))
    writer = package.GGUFWriter(path=None, arch=architecture)
    writer.add_type(package.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(package.Keys.Adapter.TYPE, "lora")
    # llama.cpp multiplies by alpha / rank, mlx-lm by scale.
    scale, rank = float(settings["scale"]), tensors[0][1].shape[0]
    writer.add_float32(package.Keys.Adapter.LORA_ALPHA, scale * rank)
    for tensor_name, array in tensors:
        writer.add_tensor(tensor_name, array)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    writer.write_header_to_file(partial)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
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


def _architecture(facts: dict[str, Any]) -> str:
    family = facts.get("model_type")
    if family not in gguf.ARCHITECTURES:
        known = ", ".join(sorted(gguf.ARCHITECTURES))
        raise DataError(f"The base is of the family {family!r}; the export knows {known}.")
    return gguf.ARCHITECTURES[family]


def _tensors(adapter: Path, facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """GGUF name and float32 array of each half: `lora_a` (rank, in) and `lora_b` (out, rank)."""
    import gguf as package
    import mlx.core as mx
    import numpy as np

    architecture = _architecture(facts)
    kind = next(key for key, value in package.MODEL_ARCH_NAMES.items() if value == architecture)
    names = package.get_tensor_name_map(kind, int(facts["num_hidden_layers"]))
    weights: Any = mx.load(str(adapter / lora.WEIGHTS))
    layers = {name: name.rpartition(".")[::2] for name in sorted(weights)}
    found = {layer: names.get_name(layer) for layer, _ in layers.values()}
    unknown = [name for name, (layer, half) in layers.items() if not found[layer]]
    unknown += [name for name, (_, half) in layers.items() if half not in ("lora_a", "lora_b")]
    if unknown:
        raise DataError(
            f"{adapter} has tensors that a GGUF adapter has no name for: {', '.join(unknown[:10])}"
        )
    for name, (layer, half) in layers.items():
        array = weights[name].astype(mx.float32).T  # (rank, in) or (out, rank)
        if half == "lora_b" and architecture == "llama":
            array = _rotated(layer, array, facts)
        yield f"{found[layer]}.weight.{half}", np.ascontiguousarray(np.array(array))


def _rotated(layer: str, array: Any, facts: dict[str, Any]) -> Any:
    """Rows of q and k in the order that GGUF's Llama has them in."""
    heads = int(facts["num_attention_heads"])
    counts = {"q_proj": heads, "k_proj": int(facts.get("num_key_value_heads", heads))}
    part = layer.rpartition(".")[2]
    return gguf.permute(array, counts[part]) if part in counts else array
