"""Each family's own vocabulary in a GGUF: the same tokens as in training, whatever is typed."""

import base64
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from families import (
    FAMILIES,
    GEMMA_CONTROL,
    MISTRAL_DATA,
    MISTRAL_V3_CONTROL,
    MISTRAL_V3_MODEL,
    QWEN_CONTROL,
    VARIANTS,
    Chat,
    Family,
    byte_letters,
    merges_of,
    numbered,
    save_tokenizer,
    sentencepiece_level,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from coach_mlx import chat, gguf_vocabulary, llama_runtime, mlx_runtime, parity_tokens
from coach_mlx.errors import DataError
from coach_mlx.gguf_vocabulary import CONTROL, UNUSED, Vocabulary
from coach_mlx.parity_tokens import COMPOSED, GAP, NEW, SIGN, TEKKEN, Sides
from coach_mlx.workspace import read_system_prompt

TEXTS = 2000
BY_NAME = "llama.cpp takes {!r} for a control token by its name"
END_BY_NAME = BY_NAME.format("</s>")
INFILL = QWEN_CONTROL[16:22]
TEKKEN_FILE = MISTRAL_DATA / "tekken_240911.json"


# --- more ways in which these families cut text


@functools.cache
def tekken_parts() -> tuple[dict[str, int], list[tuple[str, str]], str]:
    stored = json.loads(TEKKEN_FILE.read_text(encoding="utf-8"))
    control = stored["config"]["default_num_special_tokens"]
    words = stored["vocab"][: stored["config"]["default_vocab_size"] - control]
    ranks = {base64.b64decode(word["token_bytes"]): word["rank"] for word in words}
    letters = byte_letters()
    shown = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(shown[a], shown[b]) for a, b in merges_of(ranks)]
    vocabulary = {shown[token]: rank + control for token, rank in ranks.items()}
    return vocabulary, merges, stored["config"]["pattern"]


def tekken_control() -> dict[str, int]:
    return numbered(
        MISTRAL_V3_CONTROL + [f"<SPECIAL_{n}>" for n in range(len(MISTRAL_V3_CONTROL), 1000)], 0
    )


def tekken_level() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary, merges, pattern = tekken_parts()
    bpe = models.BPE(vocabulary | tekken_control(), merges, ignore_merges=True)
    tokenizer = Tokenizer(bpe)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def blank_before_every_stretch() -> Any:
    """As Llama 2's and Mistral v0.1's."""
    from tokenizers import normalizers

    tokenizer = sentencepiece_level(MISTRAL_DATA / "tokenizer.model.v1")
    blanks = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(blanks)
    tokenizer.pre_tokenizer = None
    return tokenizer


def no_blank_at_all() -> Any:
    """As Gemma's, with its runs of blanks and line breaks and its tags as tokens of their own."""
    from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers

    tokenizer = sentencepiece_level(MISTRAL_V3_MODEL)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    own = ("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>", "</table>")
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in own])
    return tokenizer


LLAMA2 = FAMILIES[1]._replace(
    name="llama2",
    build=blank_before_every_stretch,
    control=numbered(MISTRAL_V3_CONTROL[:3], 0),
    facts={"model_type": "llama", "vocab_size": 32000},
)
GEMMA = FAMILIES[4]._replace(
    name="gemma3-pieces",
    build=no_blank_at_all,
    control=numbered(GEMMA_CONTROL, 32772),
    facts={"model_type": "gemma3_text", "vocab_size": 32832},
)
MORE = [
    FAMILIES[1]._replace(
        name="mistral-tekken",
        build=tekken_level,
        control=tekken_control(),
        facts={"model_type": "mistral", "vocab_size": 131072},
    ),
    LLAMA2,
    GEMMA,
]


class Both(NamedTuple):
    family: Family
    folder: Path
    tokenizer: Any
    vocabulary: Vocabulary
    facts: dict[str, Any]
    llama: Any


def write_vocabulary(facts: dict[str, Any], path: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}
    for key, value in facts.items():
        add.get(type(value), writer.add_array)(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


def opened(family: Family, folder: Path) -> Both:
    tokenizer = mlx_runtime.open_tokenizer(folder, [family.control[family.end]])
    vocabulary = gguf_vocabulary.read_vocabulary(folder, family.facts["vocab_size"])
    facts = gguf_vocabulary.facts(vocabulary, tokenizer)
    path = write_vocabulary(facts, folder / "vocabulary.gguf")
    llama = llama_runtime.open_gguf(path, num_ctx=0, vocabulary_only=True)
    return Both(family, folder, tokenizer, vocabulary, facts, llama)


@pytest.fixture(
    scope="module", params=[*FAMILIES, *VARIANTS, *MORE], ids=lambda family: family.name
)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("vocabulary") / request.param.name
    save_tokenizer(request.param, folder)
    if request.param.name == "qwen3":
        words_not_control(folder, QWEN_CONTROL[14:])
    return opened(request.param, folder)


def words_not_control(folder: Path, tokens: Sequence[str]) -> None:
    """Qwen's own file has its marks of tools and infilling as words that are found anywhere."""
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in stored["added_tokens"]:
        token["special"] = token["content"] not in tokens
    (folder / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")


# --- equal tokens


KNOWN = {
    "qwen2": {END_BY_NAME},
    "qwen3": {END_BY_NAME, *map(BY_NAME.format, INFILL)},
    "gemma3": {GAP},
    "gemma2": {GAP},
    "mistral-tekken": {TEKKEN},
    "gemma3-pieces": {END_BY_NAME, SIGN},
}


def test_two_thousand_texts_have_the_same_tokens_and_no_typed_marker_is_one(both: Both) -> None:
    texts = parity_tokens.adversarial_texts(TEXTS, 1, parity_tokens.typed_markers(both.tokenizer))
    assert len(texts) == TEXTS
    parity = parity_tokens.first_difference(both.tokenizer, both.llama, texts)
    assert parity.difference is None
    assert set(parity.known) - {NEW} <= KNOWN.get(both.family.name, set())
    often = {TEKKEN, SIGN, BY_NAME.format(INFILL[0])} & set(parity.known)
    assert parity.equal >= TEXTS * (0.9 if often else 0.995)


@settings(max_examples=4)
@given(texts=st.lists(st.text(min_size=1), min_size=5))
def test_any_text_has_the_same_tokens(both: Both, texts: list[str]) -> None:
    assert parity_tokens.first_difference(both.tokenizer, both.llama, texts).difference is None


def test_accents_that_are_not_composed_are_qwens_gap_alone(both: Both) -> None:
    texts = parity_tokens.decomposed_texts(100, 1)
    parity = parity_tokens.first_difference(both.tokenizer, both.llama, texts)
    assert parity.difference is None
    apart = parity.known.get(COMPOSED, [])
    assert len(apart) == (100 if both.family.name.startswith("qwen") else 0)


def test_prompts_of_many_turns_have_the_same_tokens(both: Both) -> None:
    texts = parity_tokens.adversarial_texts(400, 2, ())
    sides = Sides(both.tokenizer, both.llama)
    words = [
        text.strip()
        for text in texts
        if text.strip() and not any(mark in text for mark in ("</s>", "[/INST]"))
    ]
    words = [text for text in words if sides.ours(text) == sides.theirs(text)]
    talks = [talk(words[start : start + 9]) for start in range(0, 180, 9)]
    found = parity_tokens.first_prompt_difference(both.tokenizer, both.llama, talks)
    assert found is None


def talk(words: Sequence[str]) -> Chat:
    roles = ("system", *("user", "assistant") * 4)
    return [{"role": role, "content": text} for role, text in zip(roles, words, strict=False)][
        : len(words) // 2 * 2
    ]


def test_the_file_ends_and_begins_a_text_as_training_does(both: Both) -> None:
    family, facts = both.family, both.facts
    end = family.control[family.end]
    assert facts["tokenizer.ggml.eos_token_id"] == facts["tokenizer.ggml.eot_token_id"] == end
    assert facts["tokenizer.ggml.add_bos_token"] == bool(family.begin)
    if family.begin:
        assert facts["tokenizer.ggml.bos_token_id"] == family.control[family.begin]
    assert len(facts["tokenizer.ggml.tokens"]) == family.facts["vocab_size"]
    assert len(set(facts["tokenizer.ggml.tokens"])) == family.facts["vocab_size"]
    assert both.llama.token_eos() == end
    assert llama_runtime.control_tokens(both.llama) >= {
        number for number, kind in enumerate(both.vocabulary.types) if kind == CONTROL
    }


def test_what_it_reads_back_is_what_was_written(both: Both) -> None:
    for text in ("a   b\n\n\nc", "I'm 41, né à Köln…", "<table> 東京 😀"):
        ids = both.llama.tokenize(text.encode(), add_bos=False, special=False)
        assert both.llama.detokenize(ids).decode().removeprefix(" ") == text


def test_each_kind_has_its_name(both: Both) -> None:
    pieces = {"mistral", "mistral-v7", "llama2", "gemma3-pieces"}
    names = {
        "llama": "llama-bpe",
        "qwen2": "qwen2",
        "qwen3": "qwen2",
        "mistral-tekken": "tekken",
        **dict.fromkeys(pieces, "default"),
    }
    name = both.family.name
    assert both.facts["tokenizer.ggml.pre"] == names.get(name, "smollm")
    assert both.facts["tokenizer.ggml.model"] == ("llama" if name in pieces else "gpt2")
    assert both.facts["tokenizer.ggml.add_space_prefix"] == (name == "llama2")


# --- what transformers and llama.cpp make of it themselves


def changed(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps({**stored, **values}), encoding="utf-8")


def require_equal(both: Both, texts: int = 300) -> dict[str, list[str]]:
    markers = parity_tokens.typed_markers(both.tokenizer)
    parity = parity_tokens.first_difference(
        both.tokenizer, both.llama, parity_tokens.adversarial_texts(texts, 3, markers)
    )
    assert parity.difference is None
    return parity.known


def test_the_rule_is_that_of_the_class_which_transformers_chooses(tmp_path: Path) -> None:
    """It opens a LlamaTokenizer by rules of its own, whatever tokenizer.json says."""
    folder = save_tokenizer(LLAMA2, tmp_path / "other")
    changed(folder, "config.json", model_type="llama")
    changed(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", legacy=False)
    both = opened(LLAMA2, folder)
    assert both.vocabulary.rule.blank_first
    assert not both.facts["tokenizer.ggml.add_space_prefix"]
    require_equal(both)


def test_a_blank_that_depends_on_the_words_is_refused(tmp_path: Path) -> None:
    folder = save_tokenizer(LLAMA2, tmp_path / "other")
    changed(folder, "config.json", model_type="llama")
    changed(folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", legacy=True)
    with pytest.raises(DataError, match=r"before every text that has none.*legacy"):
        opened(LLAMA2, folder)


def test_a_blank_before_a_text_that_begins_with_words_is_refused(tmp_path: Path) -> None:
    family = FAMILIES[1]._replace(
        template=FAMILIES[1].template.replace("{{- bos_token }}", "").replace("[INST]", "Q:")
    )
    with pytest.raises(DataError, match="begins with plain text"):
        opened(family, save_tokenizer(family, tmp_path / "other"))


def test_a_typed_marker_that_llama_cpp_joins_is_named(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    def build() -> Any:
        words = [*MISTRAL_V3_CONTROL[:3], *gguf_vocabulary.BYTES, *"▁<>/sab", "</", "s>"]
        merges = [("<", "/"), ("s", ">")]
        bpe = models.BPE(numbered(words, 0), merges, unk_token="<unk>", byte_fallback=True)
        tokenizer = Tokenizer(bpe)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        return tokenizer

    family = LLAMA2._replace(build=build, facts={"model_type": "llama", "vocab_size": 300})
    known = require_equal(opened(family, save_tokenizer(family, tmp_path / "other")))
    reason = "llama.cpp joins a typed {!r} into the control token"
    assert set(known) == {reason.format("<s>"), reason.format("</s>")}


# --- what is refused


def small(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    stored = {
        "added_tokens": [{"id": 258, "content": "<|end|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {**numbered(list(byte_letters().values()), 0), "he": 256, "hel": 257},
            "merges": ["h e", ["he", "l"]],
        },
    }
    changed_to = change(stored)
    folder.mkdir(exist_ok=True)
    text = json.dumps(stored if changed_to is None else changed_to)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


def test_rows_that_no_token_has_get_names_that_none_has(tmp_path: Path) -> None:
    folder = small(tmp_path, lambda s: s["model"]["vocab"].update({"[PAD260]": 259}))
    vocabulary = gguf_vocabulary.read_vocabulary(folder, 262)
    assert vocabulary.tokens[256:] == [
        *("he", "hel", "<|end|>", "[PAD260]", "[[PAD260]]", "[PAD261]")
    ]
    assert vocabulary.types[256:] == [1, 1, CONTROL, 1, UNUSED, UNUSED]
    assert vocabulary.merges == ["h e", "he l"]


HOSTILE: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda s: s["model"].update(type="Unigram"), "is of the kind 'Unigram'"),
    (lambda s: s["model"].update(type="WordPiece"), "is of the kind 'WordPiece'"),
    (lambda s: s.update(model=[]), "is of the kind None"),
    (lambda s: [], "is no JSON object"),
    (lambda s: s["model"].update(vocab=[["a", 0]]), "no vocabulary with merges"),
    (lambda s: s["model"].update(merges={"a": 1}), "no vocabulary with merges"),
    (lambda s: s["model"].update(merges=["a b c"]), "a merge that is none: a b c"),
    (lambda s: s["model"].update(merges=[["a", 1]]), "a merge that is none"),
    (lambda s: s["model"].update(end_of_word_suffix="</w>"), "uses end_of_word_suffix"),
    (lambda s: s["model"].update(byte_fallback=True), "bytes, <0x00> the first"),
    (lambda s: s["model"]["vocab"].update(he=10**12), "the id 1000000000000, but the embedding"),
    (lambda s: s["model"]["vocab"].update(he=-1), "'he' the id -1"),
    (lambda s: s["model"]["vocab"].update(he="7"), "'he' the id 7"),
    (lambda s: s["model"]["vocab"].update(he=True), "'he' the id True"),
    (lambda s: s["model"]["vocab"].update(he=7), "gives the id 7 to '.' and to 'he'"),
    (lambda s: s["model"]["vocab"].update(he=259), "no token with the id 256, though"),
    (lambda s: s["model"]["vocab"].update({"a\0b": 259}), "id 259, that GGUF cannot hold"),
    (lambda s: s["model"]["vocab"].update({"": 259}), "id 259, that GGUF cannot hold"),
    (lambda s: s["added_tokens"][0].update(content="he"), "gives 'he' the ids 256 and 258"),
    (lambda s: s["added_tokens"][0].update(id=300), "the id 300, but the embedding has 300 rows"),
    (lambda s: s["added_tokens"][0].update(id=None), "'<|end|>' the id None"),
    (lambda s: s.update(added_tokens={"a": 1}), "added tokens that are no list"),
    (lambda s: s.update(added_tokens=[7]), "an added token that is none: 7"),
    (
        lambda s: s["added_tokens"][0].update(special=False, rstrip=True),
        "takes white space or words around '<|end|>'",
    ),
    (
        lambda s: s["model"]["vocab"].update(hello=259) or s["model"].update(ignore_merges=True),
        "words that no merge leads to .'hello' is the first",
    ),
    (lambda s: s.update(normalizer={"type": "Lowercase"}), r"for \(Lowercase ByteLevel\)"),
    (lambda s: s.update(pre_tokenizer=None), r"for \(none\)"),
    (lambda s: s.update(pre_tokenizer=7), r"for \(none\)"),
    (lambda s: s["pre_tokenizer"].update(add_prefix_space=True), r"for \(ByteLevel\)"),
]


@pytest.mark.parametrize(("change", "why"), HOSTILE, ids=[why for _, why in HOSTILE])
def test_what_cannot_be_written_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], why: str
) -> None:
    with pytest.raises(DataError, match=why.replace("'.'", "'.*'").replace("<|end|>", ".*")):
        gguf_vocabulary.read_vocabulary(small(tmp_path, change), 300)


@pytest.mark.parametrize("size", [0, -1, 10**10])
def test_an_embedding_of_absurd_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(DataError, match="belongs to an embedding of"):
        gguf_vocabulary.read_vocabulary(small(tmp_path, lambda s: None), size)


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the id 258, but the embedding has 258 rows"):
        gguf_vocabulary.read_vocabulary(small(tmp_path, lambda s: None), 258)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800"])
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match="cannot be read"):
        gguf_vocabulary.read_vocabulary(tmp_path, 300)
    with pytest.raises(DataError, match=r"has no tokenizer\.json"):
        gguf_vocabulary.read_vocabulary(tmp_path / "nowhere", 300)


# --- the texts


def test_the_texts_are_the_same_for_the_same_seed_and_composed() -> None:
    first = parity_tokens.adversarial_texts(500, 7, ["<|im_end|>"])
    assert first == parity_tokens.adversarial_texts(500, 7, ["<|im_end|>"])
    assert first != parity_tokens.adversarial_texts(500, 8, ["<|im_end|>"])
    assert first[0] == "<|im_end|>"
    assert sum("<|im_end|><|im_end|>" in text for text in first) > 5
    assert sum(text != text.strip() for text in first) > 50


def test_a_difference_without_a_reason_is_shown(both: Both) -> None:
    if both.family.name != "llama":
        pytest.skip("one is enough")
    broken = {**both.facts, "tokenizer.ggml.pre": "gpt-2"}
    path = write_vocabulary(broken, both.folder / "broken.gguf")
    llama = llama_runtime.open_gguf(path, num_ctx=0, vocabulary_only=True)
    parity = parity_tokens.first_difference(both.tokenizer, llama, ["Hello", "Why?\n\nNo"])
    assert parity.equal == 1
    assert parity.difference is not None
    assert parity.difference.text == "Why?\n\nNo"
    assert parity.difference.why == "other tokens"


def test_what_is_typed_in_a_chat_is_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(" cafe\u0301 \n"))
    assert chat._ask() == "caf\u00e9"


def test_the_system_prompt_is_composed_as_training_has_it(tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("Cafe\u0301\n", encoding="utf-8")
    assert read_system_prompt(tmp_path / "prompt.md") == "Caf\u00e9"
