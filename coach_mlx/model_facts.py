"""What a model folder's config.json says, as mlx-lm builds the model from it.

Reads config.json. Fails: DataError for a family that the export does not know, and for facts that
are missing or hostile, all at once.
"""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx.errors import DataError

MODULES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3_text",
    "gemma3": "gemma3_text",
}
"""mlx-lm's module of each family."""
MOST = {"num_hidden_layers": 1000, "vocab_size": 10_000_000, "max_position_embeddings": 2**31}

KEPT_BYTES = 2
"""Keys and values are kept in 16 bits."""


class Model(NamedTuple):
    """`facts`: every argument of mlx-lm's model, defaults filled in; `prefix`: what stands before
    each tensor's name; `tied`: the output head is the embedding.
    """

    family: str
    facts: dict[str, Any]
    prefix: str

    def __getattr__(self, name: str) -> Any:
        return self.facts[name]

    @property
    def head_size(self) -> int:
        own = self.facts.get("head_dim")
        return int(own or self.facts["hidden_size"] // self.facts["num_attention_heads"])


def read_settings(folder: Path) -> dict[str, Any]:
    """config.json as it stands. Raises: DataError where it is no JSON object."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{path} holds no JSON object, so it is no model's config.")
    return settings


def read(folder: Path) -> Model:
    settings = read_settings(folder)
    family = settings.get("model_type")
    if not isinstance(family, str) or family not in MODULES:
        raise DataError(
            f"The model in {folder} is of the family {family!r}; the export knows "
            f"{', '.join(sorted(MODULES))}. Choose another base: --set base.model=NAME"
        )
    inner = settings.get("text_config") if family == "gemma3" else settings
    if not isinstance(inner, dict):
        raise DataError(f"{folder}/config.json: text_config is not an object.")
    given = {**inner, "model_type": family}
    if family == "gemma3":
        given |= {"vocab_size": settings.get("vocab_size", inner.get("vocab_size", 262_208))}
        given = {"num_attention_heads": 8, "num_key_value_heads": 4, **given}
    facts = _filled(folder, family, plain_rope(given))
    return Model(family, facts, "language_model." if family == "gemma3" else "")


def plain_rope(settings: dict[str, Any]) -> dict[str, Any]:
    """rope_theta and rope_scaling where mlx-lm looks for them; newer files have rope_parameters,
    which mlx-lm's Llama, Qwen2 and Gemma do not read.
    """
    nested = settings.get("rope_parameters")
    if not isinstance(nested, dict):
        return settings
    whole = nested.get("full_attention", nested)
    found = dict(settings)
    if found.get("rope_theta") is None and "rope_theta" in whole:
        found["rope_theta"] = whole["rope_theta"]
    if found.get("rope_scaling") is None and whole.get("rope_type", "default") != "default":
        found["rope_scaling"] = whole
    local = nested.get("sliding_attention")
    if isinstance(local, dict) and "rope_theta" in local:
        found.setdefault("rope_local_base_freq", local["rope_theta"])
    return found


def _filled(folder: Path, family: str, given: dict[str, Any]) -> dict[str, Any]:
    module = importlib.import_module(f"mlx_lm.models.{MODULES[family]}")
    known = dataclasses.fields(module.ModelArgs)
    missing = [
        field.name
        for field in known
        if field.default is dataclasses.MISSING and field.name not in given
    ]
    wrong = [*(f"{name} is missing" for name in missing), *_out_of_bounds(given)]
    if not wrong:
        try:
            return dataclasses.asdict(module.ModelArgs.from_dict(given))
        except (TypeError, ValueError, AttributeError, AssertionError) as error:
            wrong = [str(error)]
    raise DataError(f"{folder}/config.json: {'; '.join(wrong)}.")


def _out_of_bounds(given: dict[str, Any]) -> list[str]:
    counts = [
        key
        for key in given
        if key.startswith("num_") or key.endswith(("_size", "position_embeddings", "head_dim"))
    ]
    return [
        f"{key} is {given[key]!r}"
        for key in counts
        if given[key] is not None
        and (
            type(given[key]) is not int
            or not (0 if key.startswith("num_") else 1) <= given[key] <= MOST.get(key, 2**31)
        )
    ]


def build(model: Model) -> Any:
    """mlx-lm's model with no weights yet: the names and shapes that training knows."""
    module = importlib.import_module(f"mlx_lm.models.{MODULES[model.family]}")
    return module.Model(module.ModelArgs.from_dict(model.facts))


def cache_bytes_per_token(facts: dict[str, Any]) -> int:
    """A key and a value in every layer: 2 * layers * key-value heads * width of a head."""
    heads = int(facts["num_attention_heads"])
    width = int(facts.get("head_dim") or int(facts["hidden_size"]) // heads)
    kv_heads = int(facts.get("num_key_value_heads") or heads)
    return 2 * int(facts["num_hidden_layers"]) * kv_heads * width * KEPT_BYTES
