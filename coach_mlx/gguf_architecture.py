"""A model's own facts under llama.cpp's names: sizes, attention, rope.

Reads and writes no file. Fails: DataError, by name, for what llama.cpp cannot be told.
"""

import math
from typing import Any

from coach_mlx.errors import DataError
from coach_mlx.model_facts import Model

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
    "gemma3": "gemma3",
}
GEMMA_PATTERN = 6
"""Of so many blocks the last sees everything; llama.cpp's default."""


def architecture(model: Model) -> str:
    return ARCHITECTURES[model.family]


def describe(model: Model) -> dict[str, Any]:
    """GGUF key and value of everything about the model but its name and its tokenizer."""
    sizes = {
        "context_length": int(model.max_position_embeddings),
        "embedding_length": int(model.hidden_size),
        "block_count": int(model.num_hidden_layers),
        "feed_forward_length": int(model.intermediate_size),
        "attention.head_count": int(model.num_attention_heads),
        "attention.head_count_kv": int(model.num_key_value_heads or model.num_attention_heads),
        "attention.key_length": model.head_size,
        "attention.value_length": model.head_size,
        "attention.layer_norm_rms_epsilon": float(model.rms_norm_eps),
        "rope.dimension_count": model.head_size,
        "rope.freq_base": float(model.rope_theta),
        "vocab_size": int(model.vocab_size),
        **_rope_scaling(model),
        **_gemma(model),
    }
    return {f"{architecture(model)}.{key}": value for key, value in sizes.items()}


def _rope_scaling(model: Model) -> dict[str, Any]:
    """Llama 3's factors are a tensor (`rope_factors`); the others are keys."""
    scaling: dict[str, Any] = model.facts.get("rope_scaling") or {}
    kind = scaling.get("type") or scaling.get("rope_type") or "default"
    if kind in ("default", "llama3"):
        return {}
    if kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    if kind == "yarn" and not {"mscale", "mscale_all_dim"} & set(scaling):
        original = scaling.get("original_max_position_embeddings", 4096)
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": float(scaling["factor"]),
            "rope.scaling.original_context_length": int(original),
            "rope.scaling.yarn_beta_fast": float(scaling.get("beta_fast", 32)),
            "rope.scaling.yarn_beta_slow": float(scaling.get("beta_slow", 1)),
        }
    raise DataError(
        f"This model scales its positions ({kind}) in a way that the export cannot write. Choose "
        "another base model: --set base.model=NAME"
    )


def _gemma(model: Model) -> dict[str, Any]:
    if architecture(model) != "gemma3":
        return {}
    if model.query_pre_attn_scalar != model.head_size:
        raise DataError(
            "This Gemma scales its attention by query_pre_attn_scalar "
            f"{model.query_pre_attn_scalar}, and llama.cpp by the head's size, {model.head_size}."
        )
    pattern = int(model.sliding_window_pattern)
    if pattern < 2 or model.sliding_window < 1:
        raise DataError(
            "This Gemma has no sliding window, and llama.cpp ends with a crash at such a file."
        )
    return {
        "attention.sliding_window": int(model.sliding_window),
        "rope.freq_base_swa": float(model.rope_local_base_freq),
        **({"attention.sliding_window_pattern": pattern} if pattern != GEMMA_PATTERN else {}),
    }


def rope_factors(model: Model) -> list[float] | None:
    """What llama.cpp divides each frequency by, (head_size / 2,); `None` where it is by nothing.

    Llama 3.1 leaves short waves as they are, slows long ones down by `factor`, and goes over from
    the one to the other in between.
    """
    scaling = model.facts.get("rope_scaling") or {}
    if (scaling.get("type") or scaling.get("rope_type")) != "llama3":
        return None
    factor = float(scaling["factor"])
    low, high = scaling.get("low_freq_factor", 1.0), scaling.get("high_freq_factor", 4.0)
    context = scaling.get("original_max_position_embeddings", 8192)
    found = []
    for place in range(0, model.head_size, 2):
        wave = 2 * math.pi * float(model.rope_theta) ** (place / model.head_size)
        share = min(max((context / wave - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - share) / factor + share))
    return found
