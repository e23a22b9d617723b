"""A tokenizer as a GGUF file holds it. (Stands in until the whole one is merged.)"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import chat_format, chat_template
from coach_mlx.errors import DataError

CONTROL, NORMAL, UNUSED, USER_DEFINED = 3, 1, 5, 4

# How llama.cpp names the rule that splits text before the byte-pair merges, by the regular
# expression in it.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {QWEN2_SPLIT: "qwen2", QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe"}


class Vocabulary(NamedTuple):
    tokens: list[str]
    types: list[int]
    merges: list[str]
    split: str


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The byte-level BPE vocabulary of tokenizer.json, padded to the `size` rows of the embedding.

    Raises: DataError for another kind of tokenizer, or a rule of splitting that llama.cpp has no
    name for.
    """
    facts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = facts["model"]
    if model.get("type") != "BPE" or "ByteLevel" not in json.dumps(facts.get("pre_tokenizer")):
        raise DataError(
            f"The tokenizer in {folder} is no byte-level BPE, and the export knows no other kind "
            "yet."
        )
    tokens, types = [f"[PAD{number}]" for number in range(size)], [UNUSED] * size
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, NORMAL
    for added in facts["added_tokens"]:
        number = added["id"]
        tokens[number], types[number] = (
            added["content"],
            CONTROL if added["special"] else USER_DEFINED,
        )
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Vocabulary(tokens, types, merges, _split_name(facts["pre_tokenizer"], folder))


def _split_name(pre_tokenizer: dict[str, Any], folder: Path) -> str:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") in SPLITS:
        return SPLITS[steps[0]["pattern"]["Regex"]]
    raise DataError(
        f"The tokenizer in {folder} splits text by a rule that the export has no llama.cpp name "
        "for."
    )


def facts(vocabulary: Vocabulary, tokenizer: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": vocabulary.split,
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.token_type": vocabulary.types,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.eos_token_id": chat_format.end_of_turn(tokenizer).token_id,
        "tokenizer.ggml.add_bos_token": bool(chat_template.begin_of_text(tokenizer)),
        "tokenizer.ggml.add_space_prefix": False,
    }
    for role, key in (("bos", "bos"), ("unk", "unknown"), ("pad", "padding")):
        token = getattr(tokenizer, f"{role}_token_id", None)
        if token is not None:
            found[f"tokenizer.ggml.{key}_token_id"] = token
    return found
