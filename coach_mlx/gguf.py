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
    chat_format,
    console,
    gguf_facts,
    gguf_file,
    gguf_tensors,
    llama_runtime,
    mlx_runtime,
    model_facts,
    parity,
    turn_shapes,
)
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.parity import DIRECT, Gate
from coach_mlx.workspace import (
    Plan,
    Workspace,
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
    read_system_prompt(workspace.find(config.dataset.system_prompt))
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
    modelfile = render_modelfile(config, tokenizer, prompt, f"./{workspace.gguf.name}")
    size = sum(file.stat().st_size for file in workspace.fused.glob("*.safetensors"))
    require_space(workspace.model, int(1.7 * size), "Exporting")
    partial = workspace.gguf.with_name(workspace.gguf.name + ".partial")
    try:
        with parity.half_file(config, workspace, tokenizer) as half:
            _write_served(config, workspace, tokenizer, half, partial)
            checks = parity.check(Gate(config, workspace, tokenizer, partial, half))
        parity.conclude(checks, workspace, workspace.gguf.name)
        partial.replace(workspace.gguf)
    finally:
        partial.unlink(missing_ok=True)
    write_whole(workspace.modelfile, modelfile)
    return {
        "gguf": workspace.shown(workspace.gguf),
        "modelfile": workspace.shown(workspace.modelfile),
        "size_bytes": workspace.gguf.stat().st_size,
        "checks": len(checks),
    }


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


def verify(config: Config, workspace: Workspace) -> dict[str, Any]:
    """`coach verify`: the gate alone, for the file that is there."""
    parity.require_inputs(workspace)
    if not workspace.gguf.is_file():
        raise ToolError(f"There is no {workspace.gguf}. Type: coach export")
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    with parity.half_file(config, workspace, tokenizer) as half:
        checks = parity.check(Gate(config, workspace, tokenizer, workspace.gguf, half))
    parity.conclude(checks, workspace, workspace.gguf.name)
    return {"gguf": workspace.shown(workspace.gguf), "passed": True, "checks": len(checks)}


# --- the Modelfile


def render_modelfile(config: Config, tokenizer: Any, system_prompt: str, gguf_path: str) -> str:
    """What `ollama create coach -f Modelfile` reads; `gguf_path` is relative to the Modelfile's own
    folder.
    """
    if '"""' in system_prompt:
        raise DataError('The system prompt holds """, which a Modelfile cannot. Take it out.')
    serve = config.serve
    template = turn_shapes.ollama_template(tokenizer)
    licence = f"{config.base.license}, of the base model {config.base.model}."
    blocks = [
        f"# {config.name}: a private self-care coach. It is not a therapist, and not for a crisis.",
        f"# Written by `coach export`. Serve it with: ollama create {config.name} -f Modelfile",
        f"FROM {gguf_path}",
        *([f'TEMPLATE """{template}"""'] if template else []),
        f'SYSTEM """{system_prompt}"""',
        f"PARAMETER num_ctx {serve.num_ctx}",
        f"PARAMETER num_predict {serve.max_reply_tokens}",
        f"PARAMETER temperature {serve.temperature:g}",
        f"PARAMETER top_p {serve.top_p:g}",
        f"PARAMETER repeat_penalty {serve.repeat_penalty:g}",
        f'PARAMETER stop "{chat_format.end_of_turn(tokenizer).text}"',
        f'LICENSE """{licence}"""',
    ]
    return "\n".join(blocks) + "\n"
