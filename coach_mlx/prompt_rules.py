"""What a rewritten prompt may not do, whoever wrote it.

Reads and writes nothing. Sections that are kept stand in every proposal as they stood in the prompt
it began from: they are put back, whatever was written in their place. A proposal is refused that is
empty or too long, that holds eight words in a row of the conversations it was shown, or a number of
three digits and more that the prompt did not hold (a line to call would be invented).
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coach_mlx.errors import ConfigError
from coach_mlx.talk import Speech, plain, shingles

HEADING = re.compile(r"^(?=#{1,6} )", re.M)
NUMBER = re.compile(r"\d[\d ()/.-]*\d\d")
SHOWN_RUNS = 3


class Part(NamedTuple):
    """A section of a prompt; `title` is empty for what stands before the first heading."""

    title: str
    text: str


def parts(prompt: str) -> list[Part]:
    """The prompt at its headings, of whatever depth."""
    found = [text.strip() for text in HEADING.split(prompt)]
    return [Part(_title(text), text) for text in found if text]


def _title(text: str) -> str:
    first = text.splitlines()[0]
    return " ".join(first.lstrip("# ").split()).casefold() if first.startswith("#") else ""


def require_sections(prompt: str, keep: Sequence[str], where: str) -> None:
    """Raises: ConfigError where a section to be kept is not there."""
    known = {part.title: part.text.splitlines()[0].lstrip("# ") for part in parts(prompt)}
    missing = [name for name in keep if name.casefold() not in known]
    if missing:
        near = difflib.get_close_matches(missing[0].casefold(), known, n=1)
        hint = f" Did you mean {known[near[0]]!r}?" if near and known[near[0]] else ""
        raise ConfigError(
            f"{where} has no section {', '.join(map(repr, missing))}, which optimize.keep names."
            f"{hint}"
        )


def with_kept(proposed: str, original: str, keep: Sequence[str]) -> str:
    """The proposal, its kept sections word for word those of the original: in the place of the
    first of that title; or, where it has none, before the last section.
    """
    kept = {
        part.title: part.text
        for part in parts(original)
        if part.title in {one.casefold() for one in keep}
    }
    found: list[str] = []
    left = dict(kept)
    for part in parts(proposed):
        if part.title not in kept:
            found.append(part.text)
        elif part.title in left:
            found.append(left.pop(part.title))
    at = max(len(found) - 1, min(len(found), 1))
    return "\n\n".join([*found[:at], *left.values(), *found[at:]])


def word_count(text: str) -> int:
    return len(text.split())


def problems(proposed: str, original: str, most_words: int, examples: Iterable[str]) -> list[str]:
    """What is wrong with a proposal, in words for whoever wrote it."""
    if not proposed.strip():
        return ["it is empty"]
    found = []
    words = word_count(proposed)
    if words > most_words:
        found.append(f"it has {words} words, and {most_words} are allowed")
    copied = copied_runs(proposed, original, examples)
    if copied:
        shown = "; ".join(f'"{run}"' for run in copied[:SHOWN_RUNS])
        found.append(f"it repeats what the conversations say, word for word: {shown}")
    numbers = sorted(_numbers(proposed) - _numbers(original))
    if numbers:
        found.append(f"it brings numbers that were not in the prompt: {', '.join(numbers)}")
    return found


def copied_runs(proposed: str, original: str, examples: Iterable[str]) -> list[str]:
    """Eight words in a row that stand in an example, and not in the original; of runs that overlap
    the first.
    """
    theirs = frozenset[tuple[str, ...]]().union(*map(shingles, examples)) - shingles(original)
    found, free_from = [], 0
    for place, gram in enumerate(Speech(proposed).grams(8)):
        if gram in theirs and place >= free_from:
            found.append(" ".join(gram))
            free_from = place + len(gram)
    return found


def _numbers(text: str) -> set[str]:
    return {re.sub(r"\D", "", found) for found in NUMBER.findall(plain(text))}
