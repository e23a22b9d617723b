"""Whether what a judge quotes stands in the conversation.

Reads and writes nothing. A quotation counts when its words follow each other in one message. Case,
punctuation, kinds of quotation marks, links and hidden characters do not matter; signs that say
something (emoji) must be there. An omission (…) may leave words out, in order, between pieces of
three words. Where a quotation is not found as it is, a judge's habits are taken off it: a speaker's
label, escapes of the JSON it was shown.
"""

import re
import unicodedata
from collections.abc import Sequence

from coach_mlx.records import Message
from coach_mlx.talk import HIDDEN, STRAIGHT

OMISSION = re.compile(r"\s*\[?(?:\.{3,}|…)\]?\s*")
MOST_OMISSIONS, LEAST_PIECE = 2, 3
TELLING_WORDS, TELLING_LETTERS = 3, 4
"""A quotation that answers can rest on has so many words, or letters of a script without spaces;
or it is all of a message.
"""
SPEAKERS = {"person": "user", "user": "user", "coach": "assistant", "assistant": "assistant"}
NAMES = "|".join(SPEAKERS)
LABEL = re.compile(
    r"^\s*(?:message\s+\d+\s*[,:]\s*|\[\d+\]\s*|\d+[:)]\s+)?"
    rf"(?:\[({NAMES})\]\s*:?|({NAMES})\s*:)?\s*",
    re.I,
)
ESCAPE = re.compile(r"\\[ntr]")
LINK = re.compile(r"\[([^\]\n]*)\]\([^)\n]*\)")
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff]"
)
"""Thai, Lao, Burmese, Khmer, Japanese, Chinese: no spaces between words."""


class Quotable:
    """A conversation, prepared for the question whether it holds some words."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._roles = [one.role for one in messages]
        self._texts = [_bare(one.content) for one in messages]
        self._spoken = [_words(text) for text in self._texts]

    def missing(self, quotes: Sequence[str]) -> list[str]:
        """The quotations that do not stand there."""
        return [quote for quote in quotes if not self.holds(quote)]

    def holds(self, quote: str) -> bool:
        return self._found(quote) is not None

    def is_telling(self, quote: str) -> bool:
        """Whether an answer can rest on it: `you` alone stands everywhere."""
        found = self._found(quote)
        if found is None:
            return False
        words = _words(found)
        if words in self._spoken or _bare(found) in self._texts:
            return True
        letters = len(words.replace(" ", "")) if UNSPACED.search(words) else 0
        return len(words.split()) >= TELLING_WORDS or letters >= TELLING_LETTERS

    def _found(self, quote: str) -> str | None:
        """The quotation as it was found, without what a judge put round it."""
        plainer = ESCAPE.sub(" ", quote).replace('\\"', '"')
        for text in (quote, plainer):
            if self._holds(text):
                return text
        label = LABEL.match(plainer)
        speaker = (label[1] or label[2]) if label else None
        bare = plainer[label.end() :] if label else plainer
        return bare if self._holds(bare, SPEAKERS[speaker.lower()] if speaker else None) else None

    def _holds(self, quote: str, role: str | None = None) -> bool:
        """In a message of this role, or of any."""
        bare = _bare(quote)
        pieces = [_words(part) for part in OMISSION.split(bare)]
        pieces = [piece for piece in pieces if piece.strip()]
        whole = [_words(bare)]
        signs = set(_signs(bare))
        return any(
            signs <= set(text)
            and (
                _in_order(whole, words)
                or (len(pieces) > 1 and _is_fair(pieces) and _in_order(pieces, words))
                if pieces
                else bool(bare) and bare == text
            )
            for text, words, its in zip(self._texts, self._spoken, self._roles, strict=True)
            if role is None or role == its
        )


def _bare(text: str) -> str:
    """Without what cannot be seen, and of a link only what is read."""
    return LINK.sub(r"\1", unicodedata.normalize("NFKC", text.translate(HIDDEN))).strip()


def _words(text: str) -> str:
    """The words in small letters, each between spaces; marks on letters are part of them, and so is
    what stands inside a number.
    """
    text = re.sub(r"(?<=\d)[.,](?=\d)", "\u0001", text.translate(STRAIGHT).casefold())
    kept = "".join(_kept(letter) for letter in text)
    return f" {' '.join(kept.split())} "


def _kept(letter: str) -> str:
    if letter.isalnum() or letter == "\u0001" or unicodedata.category(letter)[0] == "M":
        return letter
    return "" if letter == "'" else " "


def _signs(text: str) -> list[str]:
    return [letter for letter in text if unicodedata.category(letter) == "So"]


def _is_fair(pieces: Sequence[str]) -> bool:
    """Omissions must not make a new sentence out of scattered words."""
    long = all(len(piece.split()) >= LEAST_PIECE or UNSPACED.search(piece) for piece in pieces)
    return long and len(pieces) - 1 <= MOST_OMISSIONS


def _in_order(pieces: Sequence[str], text: str) -> bool:
    if _follow(pieces, text):
        return True
    if not all(UNSPACED.search(piece) for piece in pieces):
        return False
    return _follow([piece.replace(" ", "") for piece in pieces], text.replace(" ", ""))


def _follow(pieces: Sequence[str], text: str) -> bool:
    place = 0
    for piece in pieces:
        found = text.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece.rstrip())
    return True
