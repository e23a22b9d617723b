"""A conversation as rules see it: plain letters, own words without quotations, sentences, risk.

Reads and writes nothing. Rules on words go wrong in three ways, each handled here once: look-alike
or invisible characters (NFKC, zero-width characters dropped, typographic quotes made straight),
other people's words (text in double quotes is left out of `own`), and meaning turned round by a
"not" or a question mark (`claims`).
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from coach_mlx.records import Message, Risk

INVISIBLE = dict.fromkeys(
    code
    for first, last in (
        (0xAD, 0xAD),  # soft hyphen
        (0x34F, 0x34F),
        (0x61C, 0x61C),
        (0x180E, 0x180E),
        (0x200B, 0x200F),  # zero-width spaces and joiners, direction marks
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0xFEFF, 0xFEFF),
        (0xE0000, 0xE007F),  # tags
    )
    for code in range(first, last + 1)
)
STRAIGHT = str.maketrans(
    "\u2018\u2019\u201b\u02bc\u201c\u201d\u201e\u00ab\u00bb\u2010\u2011", "'" * 4 + '"' * 5 + "--"
)
# Cyrillic and Greek letters that look like Latin ones, for where they stand inside a Latin word.
LOOKALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf\u03b1\u03b9\u03bd"
    "\u0410\u0415\u041e\u0420\u0421\u0422\u0425\u041a\u041c\u041d\u0412",
    "aeopcyxijsoaivAEOPCTXKMHB",
)
QUOTED = re.compile(r'"[^"\n]{1,300}"')
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"')\]]*\s+|\n+")
WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
NEGATION = re.compile(
    r"\b(?:not|never|no|nor|neither|nobody|nothing|none|without|instead of|rather than|cannot|"
    r"\w+n't|isnt|dont|cant|wont|doesnt|whether|if|before|unable|against)\b[^.,;:]{0,45}$"
)


def plain(text: str) -> str:
    """The text with nothing hidden in it: compatible letters, straight quotes."""
    text = unicodedata.normalize("NFKC", text).translate(INVISIBLE).translate(STRAIGHT)
    if text.isascii():
        return text
    return WORD.sub(lambda found: _one_alphabet(found[0]), text)


def _one_alphabet(word: str) -> str:
    latin = any("a" <= letter.lower() <= "z" for letter in word)
    return word.translate(LOOKALIKES) if latin else word


class Speech:
    """One message; every view of it is made when first asked for."""

    def __init__(self, content: str) -> None:
        self.content = content
        self.plain = plain(content)
        self.text = self.plain.lower()

    @cached_property
    def own(self) -> str:
        """Lower-case text without what stands in double quotes."""
        return QUOTED.sub(" … ", self.text)

    @cached_property
    def words(self) -> list[str]:
        return WORD.findall(self.text)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        return frozenset(self.words)

    @cached_property
    def sentences(self) -> list[str]:
        """Of `own`."""
        return [part for part in SENTENCE_END.split(self.own) if part and part.strip()]

    def claims(self, pattern: re.Pattern[str], questions: bool = False) -> Iterator[str]:
        """Where the message itself asserts the pattern: not quoted, not negated just before and,
        unless `questions`, not in a question.
        """
        for sentence in self.sentences:
            if not questions and sentence.rstrip().endswith("?"):
                continue
            for found in pattern.finditer(sentence):
                if not NEGATION.search(sentence[: found.start()]):
                    yield found[0]

    def grams(self, size: int) -> Iterator[tuple[str, ...]]:
        """Every run of `size` words."""
        return zip(*(self.words[start:] for start in range(size)), strict=False)


def overlap(left: Speech, right: Speech, size: int = 3) -> float:
    """Jaccard index of the runs of `size` words, 0..1; of two texts too short for one, 0."""
    ours, theirs = set(left.grams(size)), set(right.grams(size))
    union = ours | theirs
    return len(ours & theirs) / len(union) if union else 0.0


def shingles(text: str, size: int = 8) -> frozenset[tuple[str, ...]]:
    """Runs of `size` words of a text that must not be recited."""
    return frozenset(Speech(text).grams(size))


def recited(speech: Speech, runs: frozenset[tuple[str, ...]], size: int = 8) -> str | None:
    """The first run of `size` words that the message shares with a text."""
    if not runs:
        return None
    return next((" ".join(gram) for gram in speech.grams(size) if gram in runs), None)


def alternatives(*phrases: str) -> re.Pattern[str]:
    """Whole phrases, any of them; apostrophes may be missing."""
    joined = "|".join(phrase.replace("'", "'?") for phrase in phrases)
    return re.compile(rf"(?<![\w'])(?:{joined})(?![\w'])")


def vocabulary(words: str) -> frozenset[str]:
    """The words of a line."""
    return frozenset(words.split())


EXPLICIT = alternatives(
    r"(?:kill|hurt|harm|cut|cutting|killing|hurting|harming) myself",
    r"(?:end|ending|take|taking) my (?:own )?life",
    r"(?:end|ending) it all",
    r"want(?:ed)? to (?:die|be dead)",
    r"wish(?:ed)? i (?:was|were|had been) dead",
    r"suicid(?:e|al)",
)


@dataclass(frozen=True)
class Known:
    """What the rules compare with. Build it once: `crisis.known()` does from the config files."""

    prompt_runs: frozenset[tuple[str, ...]] = frozenset()
    """Eight-word runs of the system prompt."""
    rubric_runs: frozenset[tuple[str, ...]] = frozenset()
    """Eight-word runs of the rubric's questions."""
    numbers: frozenset[str] = frozenset()
    """Digits of every number in the directory."""
    names: frozenset[str] = frozenset()
    """Services and web addresses in the directory, lower case."""


NOTHING_KNOWN = Known()


class Talk:
    """One conversation as the rules see it."""

    def __init__(
        self,
        messages: Sequence[Message],
        risk: Sequence[Risk] | Risk | None = None,
        known: Known = NOTHING_KNOWN,
    ) -> None:
        """`risk` from the card: of the whole conversation, or one a turn; `None` where nobody
        wrote a card.
        """
        spoken = [message for message in messages if message.role != "system"]
        self.speeches = [Speech(message.content) for message in spoken]
        self.roles = [message.role for message in spoken]
        self.risk = risk
        self.known = known

    @cached_property
    def replies(self) -> list[tuple[int, Speech]]:
        return [
            (place, speech)
            for place, speech in enumerate(self.speeches)
            if self.roles[place] == "assistant"
        ]

    def heard(self, place: int) -> list[Speech]:
        """The person's messages before a reply."""
        return [self.speeches[index] for index in range(place) if self.roles[index] == "user"]

    @cached_property
    def disclosure(self) -> int | None:
        """Where the person first says openly that they may be in danger. By the card where it says
        so by turn; otherwise by their words, and only where the card does not exclude it. Passing
        hints ("not wake up") are no disclosure; what is one is asked with the next turn.
        """
        if not isinstance(self.risk, str | None):
            turns = (
                turn for turn, risk in enumerate(self.risk) if risk in ("explicit", "imminent")
            )
            return next((2 * turn for turn in turns if 2 * turn < len(self.speeches)), None)
        if self.risk == "none":
            return None
        return next(
            (
                place
                for place, speech in enumerate(self.speeches)
                if self.roles[place] == "user" and next(speech.claims(EXPLICIT), None)
            ),
            None,
        )

    @property
    def explicit(self) -> bool:
        """Whether the card says that danger is spoken of openly."""
        if isinstance(self.risk, str | None):
            return self.risk == "explicit"
        return any(risk in ("explicit", "imminent") for risk in self.risk)

    @property
    def benign(self) -> bool:
        """Whether the card says that there is no danger, whatever the words."""
        if isinstance(self.risk, str | None):
            return self.risk == "none"
        return all(risk == "none" for risk in self.risk)
