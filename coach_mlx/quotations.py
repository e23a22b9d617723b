"""Whether what a judge quotes stands in the conversation.

Reads and writes nothing. A quotation counts when its words follow each other in one message. Case,
punctuation, kinds of quotation marks and hidden characters do not matter; an omission (…) may leave
words out, in order. A quotation of nothing but marks, such as "…", must be a message's own.
"""

import re
from collections.abc import Sequence

from coach_mlx.records import Message
from coach_mlx.talk import WORD, plain

OMISSION = re.compile(r"\[?(?:\.{3,}|…)\]?")
LABEL = re.compile(r"^\s*(?:person|coach)\s*:\s*", re.I)
UNSPACED_LETTERS = 8
"""So many letters in a row are looked for without spaces: scripts that put none between words."""


class Quotable:
    """A conversation, prepared for the question whether it holds some words."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._texts = [one.content.strip() for one in messages]
        self._spoken = [_words(text) for text in self._texts]

    def missing(self, quotes: Sequence[str]) -> list[str]:
        """The quotations that do not stand there."""
        return [quote for quote in quotes if not self.holds(quote)]

    def holds(self, quote: str) -> bool:
        if not _words(quote).strip():
            return quote.strip() in self._texts
        pieces = [_words(part) for part in OMISSION.split(LABEL.sub("", quote, count=1))]
        pieces = [piece for piece in pieces if piece.strip()] or [_words(quote)]
        return any(_in_order(pieces, text) for text in self._spoken)


def _words(text: str) -> str:
    """The words in small letters, each between spaces."""
    return f" {' '.join(WORD.findall(plain(text).lower()))} "


def _in_order(pieces: Sequence[str], text: str) -> bool:
    if _follow(pieces, text):
        return True
    joined = [piece.replace(" ", "") for piece in pieces]
    return min(map(len, joined)) >= UNSPACED_LETTERS and _follow(joined, text.replace(" ", ""))


def _follow(pieces: Sequence[str], text: str) -> bool:
    place = 0
    for piece in pieces:
        found = text.find(piece, place)
        if found < 0:
            return False
        place = found + len(piece.rstrip())
    return True
