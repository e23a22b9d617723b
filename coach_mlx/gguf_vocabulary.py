"""The tokenizer of a model folder as GGUF has it: every `tokenizer.ggml.*` key but the template.

Reads tokenizer.json. `read_vocabulary` numbers the tokens; `facts` adds what the tokenizer that
training uses says, because transformers opens some classes (LlamaTokenizer, GemmaTokenizer, every
Qwen2) by rules of its own and not by those of the file.

llama.cpp knows two kinds. Byte-level BPE ("gpt2") has merges and the name of a rule that splits
text first. SentencePiece ("llama") has scores: it joins the two neighbours whose token scores best,
so the score here is the place in the merges where a token first appears.
Fails: DataError, by name, for any other kind and for a file that numbers its tokens wrongly.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from coach_mlx import chat_format, chat_template
from coach_mlx.errors import DataError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MOST_ROWS = 1 << 20  # Gemma's, the largest, are a quarter of this.
BLANK = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

# How llama.cpp names the rule that splits text before the byte-pair merges, by the regular
# expression in it.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    QWEN2_SPLIT: "qwen2",
    QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|"): "llama-bpe",
    TEKKEN_SPLIT: "tekken",
}
WHOLE_WORDS = ("llama-bpe", "tekken")  # where a word that is a token is taken before any merge
TO_BLANKS = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
PREPEND = {"type": "Prepend", "prepend": BLANK}
SPLIT_AT_BLANKS = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


class Rule(NamedTuple):
    """How text is cut before tokens are looked for: llama.cpp's name, whether a blank is put before
    text that follows a control token, and whether one is put only before a whole text.
    """

    split: str
    blank_first: bool = False
    blank_at_start: bool = False


class Vocabulary(NamedTuple):
    """`model` is "gpt2", with merges, or "llama", with scores."""

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    rule: Rule


# --- what the file says


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The vocabulary of tokenizer.json, padded to the `size` rows of the embedding.

    Raises: DataError for another kind of tokenizer, a rule that llama.cpp has no name for, and ids
    that are not one token each.
    """
    stored = _read_json(folder)
    model = _model(stored, folder)
    kind = "llama" if model.get("byte_fallback") else "gpt2"
    added = _added_tokens(stored, folder)
    tokens = _numbered(model["vocab"], added, size, folder)
    types = _types(tokens, added, model, kind)
    pairs = [_pair(merge, folder) for merge in model["merges"]]
    if kind == "llama":
        _require_bytes(tokens, folder)
    rule = _rule(kind, stored.get("normalizer"), stored.get("pre_tokenizer"), folder)
    if kind == "gpt2" and bool(model.get("ignore_merges")) != (rule.split in WHOLE_WORDS):
        _require_merges(tokens, types, pairs, folder)
    return Vocabulary(
        kind,
        [*tokens, *_padding(tokens, size)],
        types + [UNUSED] * (size - len(tokens)),
        [f"{left} {right}" for left, right in pairs] if kind == "gpt2" else [],
        _scores(tokens, pairs, size) if kind == "llama" else [],
        rule,
    )


def _refuse(folder: Path | None, why: str) -> NoReturn:
    where = f" in {folder}" if folder else ""
    raise DataError(
        f"The tokenizer{where} {why}. Repair tokenizer.json, or choose another base model: "
        "--set base.model=NAME"
    )


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        _refuse(folder, "has no tokenizer.json")
    except (ValueError, RecursionError) as error:
        _refuse(folder, f"cannot be read ({str(error)[:100]})")
    if not isinstance(stored, dict):
        _refuse(folder, "is no JSON object")
    return stored


def _model(stored: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Its BPE model. Raises: DataError for any other kind, and for what llama.cpp's does not do."""
    model = stored.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        _refuse(
            folder, f"is of the kind {kind!r}; the export knows BPE, byte-level or SentencePiece's"
        )
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        _refuse(folder, "has no vocabulary with merges")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            _refuse(folder, f"uses {option}, which llama.cpp does not have")
    return model


class Added(NamedTuple):
    text: str
    number: int
    special: bool


def _added_tokens(stored: dict[str, Any], folder: Path) -> list[Added]:
    entries = stored.get("added_tokens") or []
    if not isinstance(entries, list):
        _refuse(folder, "has added tokens that are no list")
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            _refuse(folder, f"has an added token that is none: {str(entry)[:80]}")
        special = bool(entry.get("special"))
        if not special and any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            _refuse(
                folder, f"takes white space or words around {entry['content']!r}; llama.cpp cannot"
            )
        found.append(Added(entry["content"], entry.get("id", -1), special))
    return found


def _numbered(
    vocab: Mapping[str, Any], added: Iterable[Added], size: int, folder: Path
) -> list[str]:
    """Every token at its id. Raises: DataError unless each id from 0 on has one token and each
    token one id, all within the embedding.
    """
    if not 0 < size <= MOST_ROWS:
        _refuse(
            folder, f"belongs to an embedding of {size} rows, and the export knows 1 to {MOST_ROWS}"
        )
    by_id: dict[int, str] = {}
    by_text: dict[str, int] = {}
    for text, number in [*vocab.items(), *((one.text, one.number) for one in added)]:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            _refuse(folder, f"gives the token {text[:80]!r} the id {str(number)[:40]}")
        if number >= size:
            _refuse(
                folder,
                f"gives the token {text[:80]!r} the id {number}, but the embedding has {size} rows",
            )
        if by_id.setdefault(number, text) != text:
            _refuse(folder, f"gives the id {number} to {by_id[number]!r} and to {text[:80]!r}")
        if by_text.setdefault(text, number) != number:
            _refuse(folder, f"gives {text[:80]!r} the ids {by_text[text]} and {number}")
    _require_texts(by_id, folder)
    return [by_id[number] for number in range(len(by_id))]


def _require_texts(by_id: Mapping[int, str], folder: Path) -> None:
    missing = next((number for number in range(len(by_id)) if number not in by_id), None)
    if missing is not None:
        _refuse(folder, f"has no token with the id {missing}, though others have higher ones")
    for number, text in by_id.items():
        if not text or "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            _refuse(folder, f"has a token, id {number}, that GGUF cannot hold: {text[:80]!r}")


def _padding(tokens: Sequence[str], size: int) -> Iterator[str]:
    """Names for rows that no token has; llama.cpp ends the process where two are the same."""
    known = set(tokens)
    for number in range(len(tokens), size):
        name = f"[PAD{number}]"
        while name in known:
            name = f"[{name}]"
        yield name


def _types(
    tokens: Sequence[str], added: Iterable[Added], model: Mapping[str, Any], kind: str
) -> list[int]:
    """What llama.cpp does with a token: look for it in text, write it out, hide it."""
    types = [NORMAL] * len(tokens)
    for token in added:
        types[token.number] = CONTROL if token.special else USER_DEFINED
    if kind == "llama":
        for number, text in enumerate(tokens):
            if text in BYTES:
                types[number] = BYTE
            elif text == model.get("unk_token"):
                types[number] = UNKNOWN
            elif types[number] == USER_DEFINED and BLANK in text:
                # llama.cpp would write out the sign that stands for a blank.
                types[number] = NORMAL
    return types


def _require_bytes(tokens: Sequence[str], folder: Path) -> None:
    """llama.cpp ends the process at a letter it cannot write in bytes."""
    known = set(tokens)
    missing = [
        name
        for byte, name in enumerate(BYTES)
        if name not in known and not (byte < 128 and chr(byte) in known)
    ]
    if missing:
        _refuse(folder, f"has no token for {len(missing)} bytes, {missing[0]} the first")


def _require_merges(
    tokens: Sequence[str], types: Sequence[int], pairs: Iterable[tuple[str, str]], folder: Path
) -> None:
    """Where only one side takes a word that is a token whole (`ignore_merges`), merges must lead to
    every token.
    """
    made = set(map("".join, pairs))
    for text, kind in zip(tokens, types, strict=True):
        if kind == NORMAL and len(text) > 1 and text not in made:
            _refuse(
                folder,
                f"has words that no merge leads to ({text[:80]!r} is the first), and by its "
                "`ignore_merges` finds them where llama.cpp does not, or the other way round",
            )


def _pair(merge: Any, folder: Path) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or [type(part) for part in parts] != [str, str]:
        _refuse(folder, f"has a merge that is none: {str(merge)[:80]}")
    return parts[0], parts[1]


def _scores(tokens: Sequence[str], pairs: Iterable[tuple[str, str]], size: int) -> list[float]:
    """The sooner the merges make a token, the higher; what they never make, control tokens among
    it, comes last. Whole numbers, which 32 bits hold exactly.
    """
    rank = {text: place for place, text in enumerate(dict.fromkeys(map("".join, pairs)))}
    return [float(-rank.get(text, len(rank))) for text in tokens] + [float(-len(rank))] * (
        size - len(tokens)
    )


# --- the rule by which text is cut


def _rule(kind: str, normalizer: Any, pre_tokenizer: Any, folder: Path | None) -> Rule:
    before, cuts = _steps(normalizer, "normalizers"), _steps(pre_tokenizer, "pretokenizers")
    found = _bytes_rule(before, cuts) if kind == "gpt2" else _pieces_rule(before, cuts)
    if found is None and any(step.get("prepend_scheme") == "always" for step in cuts):
        _refuse(
            folder,
            "puts a blank before every text that has none, which llama.cpp cannot "
            '(`"legacy": false` in tokenizer_config.json makes it another rule)',
        )
    if found is None:
        _refuse(
            folder,
            "prepares or splits text by a rule that the export has no llama.cpp name for "
            f"({' '.join(str(step.get('type')) for step in [*before, *cuts]) or 'none'})",
        )
    return found


def _steps(part: Any, inside: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as a flat list."""
    if not isinstance(part, dict):
        return []
    if part.get("type") != "Sequence" or not isinstance(part.get(inside), list):
        return [part]
    return [step for one in part[inside] for step in _steps(one, inside)]


def _bytes_rule(before: Sequence[dict[str, Any]], cuts: Sequence[dict[str, Any]]) -> Rule | None:
    """Byte-level BPE; composing accents (NFC) is left to who writes the text."""
    if any(step != {"type": "NFC"} for step in before) or not cuts:
        return None
    *first, last = cuts
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    by_itself = last.get("use_regex", True)
    if by_itself and not first:
        return Rule("gpt-2")
    if by_itself and first == [{"type": "Digits", "individual_digits": True}]:
        return Rule("smollm")
    if by_itself or len(first) != 1:
        return None
    expression = (first[0].get("pattern") or {}).get("Regex")
    plain = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    if expression not in SPLITS or first[0] != {**plain, "invert": False}:
        return None
    return Rule(SPLITS[expression])


def _pieces_rule(before: Sequence[dict[str, Any]], cuts: Sequence[dict[str, Any]]) -> Rule | None:
    """SentencePiece: blanks become a letter, and one is put before the text or not."""
    if before in ([TO_BLANKS], [PREPEND, TO_BLANKS]) and cuts in ([], [SPLIT_AT_BLANKS]):
        return Rule("default", blank_first=before[0] == PREPEND)
    if before or len(cuts) != 1:
        return None
    scheme = cuts[0].get("prepend_scheme")
    plain = {"type": "Metaspace", "replacement": BLANK, "split": False}
    if scheme not in ("first", "never") or cuts[0] != {**plain, "prepend_scheme": scheme}:
        return None
    return Rule("default", blank_at_start=scheme == "first")


# --- what training's tokenizer says


def facts(vocabulary: Vocabulary, tokenizer: Any) -> dict[str, Any]:
    """The keys and values of the file, all `tokenizer.ggml.*` but for the chat template.

    Raises: DataError where transformers opens the tokenizer by a rule that llama.cpp has no name
    for, or a prompt begins with no control token though the tokenizer writes a blank there.
    """
    backend = tokenizer.backend_tokenizer
    rule = _rule(vocabulary.model, _state(backend.normalizer), _state(backend.pre_tokenizer), None)
    if rule.blank_at_start:
        _require_control_first(vocabulary, tokenizer)
    numbers = {"merges": vocabulary.merges} if vocabulary.merges else {"scores": vocabulary.scores}
    found = {
        "model": vocabulary.model,
        "pre": rule.split,
        "tokens": vocabulary.tokens,
        "token_type": vocabulary.types,
        **numbers,
        **_special_ids(vocabulary, tokenizer),
        # Not merely where the tokenizer would add it: training has what the chat template writes.
        "add_bos_token": bool(chat_template.begin_of_text(tokenizer)),
        "add_eos_token": False,
        "add_space_prefix": rule.blank_first,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def _state(part: Any) -> Any:
    """A normalizer or pre-tokenizer as tokenizer.json would have it."""
    return None if part is None else json.loads(part.__getstate__())


def _special_ids(vocabulary: Vocabulary, tokenizer: Any) -> dict[str, int]:
    """llama.cpp takes ids of its own where none are named (11 for the first of a text)."""
    end = chat_format.end_of_turn(tokenizer).token_id
    named = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "unk", "pad")}
    if UNKNOWN in vocabulary.types:
        named["unk"] = vocabulary.types.index(UNKNOWN)
    padding = end if named["pad"] is None else named["pad"]
    begin = padding if named["bos"] is None else named["bos"]
    unknown = {} if named["unk"] is None else {"unknown_token_id": named["unk"]}
    return {
        "bos_token_id": begin,
        "eos_token_id": end,
        "eot_token_id": end,
        **unknown,
        "padding_token_id": padding,
    }


def _require_control_first(vocabulary: Vocabulary, tokenizer: Any) -> None:
    """This blank stands before a whole text only. llama.cpp writes none or one behind every control
    token; none is right where every text begins with one.
    """
    text = chat_template.render(tokenizer, [{"role": "user", "content": "Hi"}])[0].text
    control = [
        token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
        if kind in (CONTROL, UNKNOWN)
    ]
    if not text.startswith(tuple(control)):
        _refuse(None, "puts a blank before a text, but its chat template begins with plain text")
