"""`coach export`: fused weights -> F16 GGUF -> quantized GGUF, and the Modelfile beside it.

Reads: models/NAME/fused/ and the system prompt. Writes: models/NAME/NAME-QUANTIZATION.gguf and
models/NAME/Modelfile. Tensors stream one by one, so memory stays near the largest of them.
Fails: DataError for a model family this cannot write (by name), GateFailed where llama.cpp splits
text into other tokens than training did, ToolError where the disk is full.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_mlx import (
    chat_format,
    console,
    gguf_vocabulary,
    llama_runtime,
    mlx_runtime,
    turn_shapes,
)
from coach_mlx.config import Config
from coach_mlx.errors import DataError, GateFailed, ToolError
from coach_mlx.gguf_vocabulary import Vocabulary, read_vocabulary
from coach_mlx.workspace import (
    Plan,
    Workspace,
    read_conversations,
    read_system_prompt,
    require_space,
    write_whole,
)

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def plan(config: Config, workspace: Workspace) -> Plan:
    index = workspace.fused / "model.safetensors.index.json"
    inputs = (index, workspace.find(config.dataset.system_prompt))
    settings = {
        **config.export.model_dump(),
        **config.serve.model_dump(),
        "license": config.base.license,
    }
    return Plan(inputs, (workspace.gguf, workspace.modelfile), settings)


def preflight(config: Config, workspace: Workspace) -> None:
    """Refuse before training what the export could not write after it."""
    read_system_prompt(workspace.find(config.dataset.system_prompt))
    require_writable(workspace.base)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    if not workspace.fused.is_dir():
        raise ToolError(f"There is no fused model in {workspace.fused}. Type: coach fuse")
    mlx_runtime.require_whole_model(workspace.fused)
    require_writable(workspace.fused)
    size = sum(file.stat().st_size for file in workspace.fused.glob("*.safetensors"))
    require_space(workspace.model, int(1.7 * size), "Exporting")
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    quantization = config.export.quantization
    half, partial = (
        workspace.gguf.with_name(workspace.gguf.name + end) for end in (".f16.partial", ".partial")
    )
    try:
        with console.spinner("Writing GGUF (f16)"):
            write_gguf(workspace.fused, half, tokenizer, config.name, config.base.license)
        if quantization == "f16":
            half.replace(partial)
        else:
            with console.spinner(f"Quantizing to {quantization}"):
                llama_runtime.quantize(half, partial, quantization)
        with console.spinner("Comparing tokens with training's"):
            compared = compare_tokens(tokenizer, partial, workspace)
        partial.replace(workspace.gguf)
    finally:
        half.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    write_whole(
        workspace.modelfile, render_modelfile(config, tokenizer, prompt, f"./{workspace.gguf.name}")
    )
    return {
        "gguf": workspace.shown(workspace.gguf),
        "modelfile": workspace.shown(workspace.modelfile),
        "size_bytes": workspace.gguf.stat().st_size,
        "texts_with_equal_tokens": compared,
    }


# --- the GGUF file


def require_writable(folder: Path) -> None:
    """Raises: DataError, by name, for what `write_gguf` does not know."""
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = facts.get("model_type")
    known = ", ".join(sorted(ARCHITECTURES))
    if family not in ARCHITECTURES:
        raise DataError(
            f"The model in {folder} is of the family {family!r}; the export knows {known}."
        )
    scaling = facts.get("rope_scaling")
    kind = scaling and (scaling.get("rope_type") or scaling.get("type"))
    if kind not in (None, "default"):
        raise DataError(
            f"The model in {folder} scales its positions ({kind}), which the export cannot write "
            "yet."
        )
    read_vocabulary(folder, int(facts["vocab_size"]))


def write_gguf(folder: Path, target: Path, tokenizer: Any, name: str, licence: str) -> None:
    """An MLX or Hugging Face folder as one F16 GGUF file; vectors (norms, biases) in F32."""
    import gguf
    import numpy as np

    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(path=None, arch=ARCHITECTURES[facts["model_type"]])
    _add_model_facts(writer, facts, name, licence)
    _add_tokenizer(writer, read_vocabulary(folder, int(facts["vocab_size"])), tokenizer)
    tensors = list(_tensors(folder, facts))
    for tensor_name, array in tensors:
        dtype = np.dtype(np.float32 if array.ndim == 1 else np.float16)
        writer.add_tensor_info(tensor_name, array.shape, dtype, array.size * dtype.itemsize)
    writer.write_header_to_file(target)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    while tensors:
        _, array = tensors.pop(0)
        writer.write_tensor_data(_numpy(array))
    writer.close()


def _numpy(array: Any) -> Any:
    import mlx.core as mx
    import numpy as np

    return np.array(array.astype(mx.float32 if array.ndim == 1 else mx.float16))


def _tensors(folder: Path, facts: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """GGUF name and lazily read array of every weight, Llama's q and k rows in GGUF's order."""
    import gguf
    import mlx.core as mx

    architecture = ARCHITECTURES[facts["model_type"]]
    kind = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(kind, int(facts["num_hidden_layers"]))
    heads = int(facts["num_attention_heads"])
    kv_heads = int(facts.get("num_key_value_heads", heads))
    unknown = []
    for file in sorted(folder.glob("model*.safetensors")):
        weights: Any = mx.load(str(file))
        for name, array in weights.items():
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if found is None:
                unknown.append(name)
                continue
            if architecture == "llama" and ".self_attn.q_proj." in name:
                array = permute(array, heads)
            elif architecture == "llama" and ".self_attn.k_proj." in name:
                array = permute(array, kv_heads)
            yield found, array
    if unknown:
        raise DataError(
            f"{folder} has tensors that GGUF has no name for: {', '.join(unknown[:10])}"
        )


def permute(array: Any, heads: int) -> Any:
    """The order of q and k rows that GGUF's Llama rotates: two halves -> pairs side by side.

    Shapes: (heads * head_dim, columns) or (heads * head_dim,), unchanged.
    """
    rows = array.shape[0]
    halves = array.reshape(heads, 2, rows // heads // 2, -1)  # (heads, 2, head_dim / 2, columns)
    return halves.swapaxes(1, 2).reshape(array.shape)


def _add_model_facts(writer: Any, facts: dict[str, Any], name: str, licence: str) -> None:
    import gguf

    heads, hidden = int(facts["num_attention_heads"]), int(facts["hidden_size"])
    head_size = int(facts.get("head_dim") or hidden // heads)
    writer.add_name(name)
    writer.add_license(licence)
    writer.add_context_length(int(facts["max_position_embeddings"]))
    writer.add_embedding_length(hidden)
    writer.add_block_count(int(facts["num_hidden_layers"]))
    writer.add_feed_forward_length(int(facts["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(facts.get("num_key_value_heads", heads)))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(
        float((facts.get("rope_parameters") or facts).get("rope_theta", 10000.0))
    )
    writer.add_layer_norm_rms_eps(float(facts["rms_norm_eps"]))
    writer.add_vocab_size(int(facts["vocab_size"]))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def _add_tokenizer(writer: Any, vocabulary: Vocabulary, tokenizer: Any) -> None:
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}
    for key, value in gguf_vocabulary.facts(vocabulary, tokenizer).items():
        add.get(type(value), writer.add_array)(key, value)
    writer.add_chat_template(tokenizer.chat_template)


def compare_tokens(tokenizer: Any, path: Path, workspace: Workspace) -> int:
    """How many texts llama.cpp splits into the same tokens as training did. Raises: GateFailed at
    the first it does not.
    """
    texts = [
        "It's 2026, she's 41; they'll pay $1,234.50!\n\n\tNo?  Où, 東京, здесь, 😀 ",
        "<|im_end|> typed\r\n",
    ]
    for path_of in (workspace.holdout, workspace.training_data):
        if path_of.is_file():
            texts += [
                message.content
                for one in read_conversations(path_of)[:20]
                for message in one.messages
            ]
    llama = llama_runtime.open_gguf(path, num_ctx=0, vocabulary_only=True)
    for text in texts:
        ours = tokenizer.encode(text, add_special_tokens=False)
        theirs = llama.tokenize(text.encode(), add_bos=False, special=True)
        if ours != theirs:
            raise GateFailed(
                f"llama.cpp splits this text into other tokens than training did: {text[:200]!r}"
            )
    llama.close()
    return len(texts)


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
