"""`coach export`: fused weights -> GGUF -> quantized GGUF, compared with training; the Modelfile.

Reads: models/NAME/fused/, the system prompt, and for the comparison the base, the adapter and the
held-out conversations. Writes: models/NAME/NAME-QUANTIZATION.gguf, which gets its name only when
the gate passes, parity.json and the Modelfile. `coach verify` opens the gate for a file that is
there already.
Fails: DataError, by name, for a model this cannot write, GateFailed where the file is not what was
trained, ToolError where the disk is full.
"""

from pathlib import Path
from typing import Any

from coach_mlx import (
    console,
    gguf_facts,
    gguf_file,
    gguf_tensors,
    llama_runtime,
    mlx_runtime,
    model_facts,
    modelfile,
    num_ctx,
    parity,
    parity_cases,
    parity_content,
    parity_served,
)
from coach_mlx.config import Config
from coach_mlx.errors import ToolError
from coach_mlx.parity import Gate
from coach_mlx.parity_content import DIRECT, Content
from coach_mlx.workspace import (
    Plan,
    Workspace,
    base_name,
    is_same,
    read_system_prompt,
    require_space,
    write_whole,
)


def plan(config: Config, workspace: Workspace) -> Plan:
    index = workspace.fused / "model.safetensors.index.json"
    inputs = (index, workspace.find(config.dataset.system_prompt))
    settings = {
        **config.export.model_dump(),
        **config.verify.model_dump(),
        **config.serve.model_dump(),
        "license": config.base.license,
    }
    return Plan(inputs, (workspace.gguf, workspace.parity, workspace.modelfile), settings)


def preflight(config: Config, workspace: Workspace) -> None:
    """Refuse before training what the export could not write after it."""
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    modelfile.require_writable("The system prompt", prompt)
    require_writable(workspace.base, config)


def require_writable(folder: Path, config: Config) -> None:
    """Raises: DataError, by name, for what a GGUF file could not hold."""
    tokenizer = mlx_runtime.open_tokenizer(folder)
    gguf_facts.describe(folder, tokenizer, config, "F16")
    gguf_tensors.tensors(folder, model_facts.read(folder), "F16")


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    parity.require_inputs(workspace)
    mlx_runtime.require_whole_model(workspace.fused)
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    modelfile.require_writable("The system prompt", prompt)
    size = sum(file.stat().st_size for file in workspace.fused.glob("*.safetensors"))
    require_space(workspace.model, int(1.7 * size), "Exporting")
    partial = workspace.gguf.with_name(workspace.gguf.name + ".partial")
    try:
        with parity.half_file(config, workspace, tokenizer) as half:
            _write_served(config, workspace, tokenizer, half, partial)
            checks = parity.check(Gate(config, workspace, tokenizer, partial, half))
        parity.conclude(checks, workspace, workspace.gguf.name, workspace.parity)
        partial.replace(workspace.gguf)
    finally:
        partial.unlink(missing_ok=True)
    context = num_ctx.compute(config, workspace, tokenizer)
    console.say(f"Context: {context.words}")
    _set_edits_aside(workspace)
    weights = f"./{workspace.gguf.name}"
    text = modelfile.render(config, tokenizer, prompt, weights, context.tokens)
    write_whole(workspace.modelfile, text)
    return {
        "gguf": workspace.shown(workspace.gguf),
        "modelfile": workspace.shown(workspace.modelfile),
        "size_bytes": workspace.gguf.stat().st_size,
        "num_ctx": context.tokens,
        "checks": len(checks),
    }


def _set_edits_aside(workspace: Workspace) -> None:
    """A Modelfile that its person changed is kept beside the new one."""
    manifest, path = workspace.manifest("export"), workspace.modelfile
    written = manifest and manifest.outputs.get(workspace.shown(path))
    if written and path.is_file() and not is_same(path, written):
        kept = path.with_name("Modelfile.yours")
        path.replace(kept)
        console.say(f"You changed {workspace.shown(path)}: yours is kept as {kept.name}.")


def _write_served(
    config: Config, workspace: Workspace, tokenizer: Any, half: Path | None, target: Path
) -> None:
    quantization = config.export.quantization
    with console.spinner(f"Making the file in {quantization}"):
        if half is None:
            kind = DIRECT[quantization]
            gguf_file.write_model(workspace.fused, tokenizer, config, kind, target)
        else:
            llama_runtime.quantize(half, target, quantization)


def convert(config: Config, folder: Path, target: Path) -> dict[str, Any]:
    """`coach export --model FOLDER --to FILE`: any model, compared as far as it can be without a
    training: facts, weights, template and tokens.
    """
    mlx_runtime.require_whole_model(folder)
    tokenizer = mlx_runtime.open_tokenizer(folder)
    config = _named_after(config, folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    require_space(target, int(1.7 * size), "Exporting")
    half, partial = (target.with_name(f"{target.name}.{end}") for end in ("half", "partial"))
    quantization = config.export.quantization
    kind = DIRECT.get(quantization)
    try:
        with console.spinner(f"Making {target} in {quantization}"):
            gguf_file.write_model(folder, tokenizer, config, kind or "F16", half)
            if kind is None:
                llama_runtime.quantize(half, partial, quantization)
            else:
                half.replace(partial)
        system = "Listen first, and never judge."
        content = Content(config, folder, tokenizer, partial, system, _talks(tokenizer, system))
        checks = parity_content.checks(content)
        console.show_checks(f"Does {target.name} hold {folder}?", checks)
        parity.require(checks, target.name)
        partial.replace(target)
    finally:
        for leftover in (half, partial):
            leftover.unlink(missing_ok=True)
    return {"gguf": str(target), "size_bytes": target.stat().st_size, "checks": len(checks)}


def _named_after(config: Config, folder: Path) -> Config:
    """The file must not carry the coach's name, nor its base's licence."""
    base = config.base.model_copy(update={"model": folder.resolve().name, "license": "unknown"})
    return config.model_copy(update={"name": base_name(base.model), "base": base})


def _talks(tokenizer: Any, system: str) -> list[list[dict[str, str]]]:
    """Some turns without typed markers, as they would be trained on."""
    reply = {"role": "assistant", "content": parity_cases.REPLIES[0]}
    return [[*one, reply] for one in parity_cases.conversations(tokenizer, system)[:3]]


def verify(config: Config, workspace: Workspace) -> dict[str, Any]:
    """`coach verify`: the gate alone, for the file that is there."""
    parity.require_inputs(workspace)
    if not workspace.gguf.is_file():
        raise ToolError(f"There is no {workspace.gguf}. Type: coach export")
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    with parity.half_file(config, workspace, tokenizer) as half:
        served = parity_served.checks(config, workspace, tokenizer)
        checks = parity.check(Gate(config, workspace, tokenizer, workspace.gguf, half), served)
    parity.conclude(checks, workspace, workspace.gguf.name, workspace.verified)
    return {"gguf": workspace.shown(workspace.gguf), "passed": True, "checks": len(checks)}
