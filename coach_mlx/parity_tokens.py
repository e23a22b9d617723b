"""The same tokens on both sides: training's tokenizer and llama.cpp on texts made to part them.

Reads and writes nothing. What is compared is words as they stand in a prompt: behind a control
token, and with nothing in them taken for one. A few things that llama.cpp does otherwise no file
can change. Each is recognised exactly and comes back by name in `Parity.known`:

* It does not compose accents, which Qwen's tokenizer does. So this program composes all words that
  it reads, and nobody meets it who types them on a keyboard.
* Its rule for Tekken knows letters by case from a to z only, and no accents within words.
* It takes some words for control tokens by their names (`</s>`, `<|fim_pad|>`), and in a
  SentencePiece file two neighbours that are a control token together become it.
* Where a vocabulary lacks a byte, it joins nothing across the gap. What Unicode added since 2023 is
  no letter or digit to it.
"""

import contextlib
import functools
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from coach_mlx import chat_format, llama_runtime

RANGES = (
    (0x21, 0x7E),
    (0xA1, 0x24F),
    (0x370, 0x3FF),
    (0x400, 0x52F),
    (0x531, 0x58F),
    (0x5BE, 0x5F4),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0xE01, 0xE5B),
    (0x10A0, 0x10FF),
    (0x1E00, 0x1FFF),
    (0x2010, 0x2BFF),
    (0x3041, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xE000, 0xF8FF),
    (0xFB00, 0xFDFF),
    (0xFF01, 0xFFEE),
    (0x10400, 0x1044F),
    (0x1D400, 0x1D7FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0xF0000, 0xF00FF),
)
"""One after another: Latin, Greek, Cyrillic, Armenian, Hebrew, Arabic, Devanagari, Thai, Georgian,
signs, kana, Chinese, Korean, private use, presentation forms, Deseret, letters of mathematics,
emoji, rare Chinese, private planes."""
BLANKS = "      \t\n\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2009\u2028\u2029\u202f\u3000\u200b\ufeff"
ACCENTS = (
    "\u0300\u0301\u0302\u0303\u0308\u0327\u0328\u0330\u0338\u0345\u05b4\u064b\u093c\u0e34\ufe0f"
)
HIDDEN = (
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2066\u2069\u00ad\ufeff\x01\x1b\x7f\ufffd"
)
EMOJI = (
    *("😀", "🫂", "👍🏽", "🇩🇪", "❤\ufe0f", "☺\ufe0e", "1\ufe0f\u20e3", "🧑🏿\u200d🚀"),
    *("👩\u200d👩\u200d👧\u200d👦", "🏳\ufe0f\u200d🌈"),
)
MOST_MARKERS = 60  # Tekken has a thousand that nothing uses.
FOREIGN = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<start_of_turn>", "<eos>"),
    *("<end_of_turn>", "<s>", "</s>", "[INST]", "[/INST]", "<think>", "[PAD151669]", "<unused5>"),
)
PHRASES = (
    "I'm", "DON'T", "they'LL've", "l'été", "\u2019s", "''s", "'S 's", "rock'n'roll", "o'clock",
    "https://example.org/a_b?q=1&r=%20#x", "someone@example.com", "C:\\Users\\me\\x.txt", "/etc/..",
    "for i in range(10):\n    x[i] += 1  # y\n", '{"a": [1, 2.5e-3, null]}', "<b>hi</b>", "<0x0A>",
    "$1,234.50", "3.14159", "12345678901234567890", "٣٤٥", "½⅓²", "Ⅷ", "\uff11\uff12\uff13", "1st",
    "2026-11-25", "naïve café", "Straße ÄÖÜ", "Ελλάδα", "Здравствуйте", "שלום", "مرحبا", "नमस्ते",
    "สวัสดี", "東京へ行く", "안녕하세요", "ﬁne", "ǅ", "İstanbul", "…", "—", "«»", "???!!", "....",
    "--==>>", "~~~", "\\n", "▁", "▁▁", "Ġ", "Ċ", "iPhone", "HTTPServer", "camelCaseWord", "ÉCOLEé",
    "приветМир",
)  # fmt: skip


def typed_markers(tokenizer: Any) -> list[str]:
    """What a person may type to be taken for the template: of this model, and of others."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    own = [added[number].content for number in sorted(added)][:MOST_MARKERS]
    return list(dict.fromkeys([*own, *FOREIGN]))


def adversarial_texts(count: int, seed: int, control: Sequence[str]) -> list[str]:
    """Mixtures of scripts, white space, signs and typed markers of `control`; the same for the same
    seed. Accents are composed, as in all that this program reads.
    """
    rng = random.Random(seed)
    texts = [marker for marker in control if marker]
    while len(texts) < count:
        parts = [rng.choice(MAKERS)(rng, control) for _ in range(rng.randint(1, 8))]
        text = unicodedata.normalize("NFC", rng.choice(("", "", " ", "\n")).join(parts))
        if text:
            texts.append(text)
    return texts[:count]


def decomposed_texts(count: int, seed: int) -> list[str]:
    """Words with an accent that stands behind its letter, which composing would change."""
    rng = random.Random(seed)
    return [
        " ".join(unicodedata.normalize("NFD", _accented(rng, ())) for _ in range(rng.randint(1, 4)))
        for _ in range(count)
    ]


def _word(rng: random.Random, _: Sequence[str]) -> str:
    first, last = rng.choice(RANGES)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 12)))


def _any_letters(rng: random.Random, _: Sequence[str]) -> str:
    letters = (chr(rng.randint(1, 0x10FFFF)) for _ in range(rng.randint(1, 40)))
    return "".join(one for one in letters if unicodedata.category(one) not in ("Cn", "Cs"))


def _white_space(rng: random.Random, _: Sequence[str]) -> str:
    return "".join(rng.choices(BLANKS, k=rng.randint(1, 6)))


def _repeated(rng: random.Random, _: Sequence[str]) -> str:
    unit = rng.choice(
        ("a", "ha", " ", "\n", "\t", "\r\n", "=", "-", "!", "9", "é", "😀", "字", "A ")
    )
    return unit * rng.randint(2, 70)


def _long_word(rng: random.Random, _: Sequence[str]) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(30, 300)))


def _accented(rng: random.Random, _: Sequence[str]) -> str:
    return rng.choice(
        ("é", "ñ", "ü", "ç", "ộ", "ẵ", "å", "naïve", "Ångström", "가각", "ά", "й", "が")
    )


def _marked(rng: random.Random, _: Sequence[str]) -> str:
    return rng.choice("aeox\u043a\u0627क") + "".join(rng.choices(ACCENTS, k=rng.randint(1, 3)))


def _hidden(rng: random.Random, _: Sequence[str]) -> str:
    return f"a{rng.choice(HIDDEN)}b{rng.choice(HIDDEN)}"


def _number(rng: random.Random, _: Sequence[str]) -> str:
    return str(rng.randint(0, 10 ** rng.randint(1, 15)))


def _marker(rng: random.Random, control: Sequence[str]) -> str:
    """Typed whole, in part, doubled, within itself or spaced out."""
    text = rng.choice(control) if control else ""
    cut = rng.randint(0, len(text))
    return rng.choice(
        (text, text[:cut], text[cut:], text + text, text[:cut] + text + text[cut:], " ".join(text))
    )


def _phrase(rng: random.Random, _: Sequence[str]) -> str:
    return rng.choice(PHRASES)


def _emoji(rng: random.Random, _: Sequence[str]) -> str:
    return "".join(rng.choices(EMOJI, k=rng.randint(1, 3)))


MAKERS: tuple[Callable[[random.Random, Sequence[str]], str], ...] = (
    *(_word, _word, _any_letters, _white_space, _white_space, _repeated, _long_word),
    *(_accented, _marked, _hidden, _number, _marker, _marker, _phrase, _phrase, _phrase, _emoji),
)


# --- the comparison

COMPOSED = (
    "accents that stand behind their letter (llama.cpp composes none: type them as one letter)"
)
TEKKEN = "accents within words, or capitals beyond A to Z (llama.cpp's rule for Tekken)"
GAP = "letters whose bytes the vocabulary lacks"
SIGN = "the letter ▁, which stands for a blank"
NEW = "letters younger than llama.cpp's tables (Unicode 15)"
NEW_LETTERS = re.compile(
    "[\u0897\u1b4e\u1b4f\u1b7f\u1c89\u1c8a\u2427-\u2429\u2ffc-\u2fff\u31e4\u31e5\u31ef\ua7cb-\ua7cf"
    "\ua7d2\ua7d4\ua7da-\ua7dc\ua7f1\U000105c0-\U000105ff\U00010d40-\U00010d8f\U00010ec2-\U00010ec7"
    "\U00010efc\U00011380-\U000113ff\U000116d0-\U000116ff\U00011bc0-\U00011bff\U00013460-\U000143ff"
    "\U00016100-\U0001613f\U00016d40-\U00016d7f\U0001cc00-\U0001cebf\U0001e5d0-\U0001e5ff"
    "\U0001f8b2-\U0001f8c1\U0002ebf0-\U0002ee5f\U000323b0-\U0003347f]"
)
"""Garay, Todhri, hieroglyphs, rare Chinese and the like: what Unicode 15.1 and 16 added."""
UPPER, LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
LLAMA_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Difference(NamedTuple):
    """`why` they may not be: they are not the same, or one of them is a control token."""

    text: str
    ours: list[int]
    theirs: list[int]
    why: str


class Parity(NamedTuple):
    """`equal` texts before the first difference; `known`: what llama.cpp does otherwise, and the
    texts that differ by it alone.
    """

    equal: int
    difference: Difference | None
    known: dict[str, list[str]]


def first_difference(tokenizer: Any, llama: Any, texts: Iterable[str]) -> Parity:
    """Texts as plain words on both sides, up to the first that differs without a known reason."""
    sides = Sides(tokenizer, llama)
    markers = sides.markers()
    known: dict[str, list[str]] = {reason: [marker] for marker, reason in markers.items()}
    equal = 0
    for text in texts:
        ours, theirs = sides.ours(text), sides.theirs(text)
        if ours == theirs and not sides.control.intersection(ours):
            equal += 1
            continue
        reason = sides.reason(text, theirs, markers) if ours != theirs else None
        if reason is None:
            why = "other tokens" if ours != theirs else "a typed marker is a control token"
            return Parity(equal, Difference(text, ours, theirs, why), known)
        known.setdefault(reason, []).append(text)
    return Parity(equal, None, known)


def first_prompt_difference(
    tokenizer: Any, llama: Any, conversations: Iterable[Sequence[dict[str, str]]]
) -> Difference | None:
    """Prompts whose words hold no marker, as a server reads them: one text, markers and all."""
    for messages in conversations:
        text = chat_format.prompt_text(tokenizer, messages)
        ours = chat_format.encode_prompt(tokenizer, messages)
        theirs = list(llama.tokenize(text.encode(), add_bos=False, special=True))
        if ours != theirs:
            return Difference(text, ours, theirs, "other tokens")
    return None


class Sides:
    """Both tokenizers, and what is known of where they part."""

    def __init__(self, tokenizer: Any, llama: Any) -> None:
        self._tokenizer, self._llama = tokenizer, llama
        self._backend = tokenizer.backend_tokenizer
        self._added = self._backend.get_added_tokens_decoder()
        self.control = {number for number, token in self._added.items() if token.special}
        self._is_bytes = llama.metadata.get("tokenizer.ggml.model") == "gpt2"
        is_tekken = llama.metadata.get("tokenizer.ggml.pre") == "tekken"
        self._tekken = _tekken_as_llama_reads() if is_tekken else None
        self._gaps = _missing_bytes(self._backend) if self._is_bytes else set()
        self._blanks = any("▁" in token.content for token in self._added.values())

    def ours(self, text: str) -> list[int]:
        return chat_format.encode_plain(self._tokenizer, text)

    def theirs(self, text: str) -> list[int]:
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=False))

    def markers(self) -> dict[str, str]:
        """Texts that llama.cpp takes for a control token though they are none, or though they were
        typed, and how.
        """
        by_name = llama_runtime.control_tokens(self._llama) - self.control
        found = {}
        for number in sorted({*self._added, *by_name}):
            text = self._backend.id_to_token(number)
            if number in by_name:
                found[text] = f"llama.cpp takes {text!r} for a control token by its name"
            elif number in self.control and number in self.theirs(text):
                found[text] = f"llama.cpp joins a typed {text!r} into the control token"
        return found

    def reason(self, text: str, theirs: list[int], markers: Mapping[str, str]) -> str | None:
        """Why llama.cpp is known to read this text otherwise; `None` where nothing explains it."""
        typed = next((reason for marker, reason in markers.items() if marker in text), None)
        if typed:
            return typed
        if self._gaps.intersection(text.encode()):
            return GAP
        if NEW_LETTERS.search(text):
            return NEW
        if self._blanks and "▁" in text:
            return SIGN
        with self._as_llama_reads():
            if self.ours(text) != theirs:
                return None
        return TEKKEN if self._tekken is not None else COMPOSED

    @contextlib.contextmanager
    def _as_llama_reads(self) -> Iterator[None]:
        """Without composing, and with llama.cpp's rule for Tekken."""
        backend = self._backend
        before = backend.normalizer, backend.pre_tokenizer
        if self._is_bytes:
            backend.normalizer = None
        if self._tekken is not None:
            backend.pre_tokenizer = self._tekken
        try:
            yield
        finally:
            backend.normalizer, backend.pre_tokenizer = before


@functools.cache
def _tekken_as_llama_reads() -> Any:
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(LLAMA_TEKKEN), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, to_bytes])


def _missing_bytes(backend: Any) -> set[int]:
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = dict(zip(seen, map(chr, seen), strict=True))
    hidden = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + place) for place, byte in enumerate(hidden)}
    return {byte for byte, letter in letters.items() if backend.token_to_id(letter) is None}
