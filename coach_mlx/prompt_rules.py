"""What a rewritten prompt may not do, whoever wrote it.

Reads and writes nothing. Sections that are kept stand in every proposal as they stood in the prompt
it began from, with what is below them, and where they stood: after everything but what followed
them. A proposal is refused that is empty or too long, that holds eight words in a row of the
conversations it was shown, another section under the name of a kept one, text that is hidden, or a
number or address that a person could take for a place of help. What is said in plain words against
a kept section no rule can see: that is what the proof is for, and a reader.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coach_mlx.errors import ConfigError
from coach_mlx.talk import Speech, plain, shingles

HEADING = re.compile(r"^(?=#{1,6} )", re.M)
NUMBER = re.compile(r"\d{3,}|(?<!\d)\d(?:[ .\-]\d){2,}(?!\d)")
ADDRESS = re.compile(r"https?://\S+|\b[a-z0-9-]+\.(?:com|net|org|info|uk|us|help|chat)\b", re.I)
HIDING = ("<!--", "```", "~~~")
SHOWN_RUNS = 3
TITLE_WORDS = 4
"""A line of no more words may be a heading, however it is written."""


class Part(NamedTuple):
    """A section of a prompt; `title` is empty for what stands before the first heading."""

    title: str
    text: str
    level: int


def parts(prompt: str) -> list[Part]:
    """The prompt at its headings, of whatever depth."""
    found = [text.strip() for text in HEADING.split(prompt)]
    return [_part(text) for text in found if text]


def _part(text: str) -> Part:
    first = text.splitlines()[0]
    level = len(first) - len(first.lstrip("#"))
    return Part(_letters(first) if level else "", text, level)


def _letters(line: str) -> str:
    """What tells a heading from another: lower-case letters of one alphabet."""
    return re.sub(r"[\W\d_]", "", plain(line).casefold())


def _with_below(found: Sequence[Part], titles: Iterable[str]) -> list[list[Part]]:
    """The sections of these titles, each with the deeper ones that follow it."""
    wanted, groups, level = set(titles), [], 0
    for part in found:
        if part.title in wanted:
            groups.append([part])
            level = part.level
        elif level and part.level > level:
            groups[-1].append(part)
        else:
            level = 0
    return groups


def require_sections(prompt: str, keep: Sequence[str], where: str) -> None:
    """Raises: ConfigError where a section to be kept is not there."""
    known = {part.title: part.text.splitlines()[0].lstrip("# ") for part in parts(prompt)}
    missing = [name for name in keep if _letters(name) not in known]
    if missing:
        near = difflib.get_close_matches(_letters(missing[0]), known, n=1)
        hint = f" Did you mean {known[near[0]]!r}?" if near and near[0] else ""
        raise ConfigError(
            f"{where} has no section {', '.join(map(repr, missing))}, which optimize.keep names."
            f"{hint}"
        )


def with_kept(proposed: str, original: str, keep: Sequence[str]) -> str:
    """The proposal, its kept sections word for word those of the original, and in their place: only
    what followed them there may follow them.
    """
    titles = {_letters(name) for name in keep}
    theirs = parts(original)
    kept = [part for group in _with_below(theirs, titles) for part in group]
    own = _without(parts(proposed), titles)
    last = max((at for at, part in enumerate(theirs) if part in kept), default=len(theirs))
    may_follow = {part.title for part in theirs[last + 1 :]}
    at = len(own)
    while at and own[at - 1].title in may_follow:
        at -= 1
    return "\n\n".join(part.text for part in [*own[:at], *kept, *own[at:]])


def _without(found: Sequence[Part], titles: Iterable[str]) -> list[Part]:
    gone = [id(part) for group in _with_below(found, titles) for part in group]
    return [part for part in found if id(part) not in gone]


def word_count(text: str) -> int:
    return len(text.split())


def problems(
    proposed: str,
    original: str,
    most_words: int,
    examples: Iterable[str],
    keep: Sequence[str] = (),
) -> list[str]:
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
    brought = sorted(_places(proposed) - _places(original))
    if brought:
        found.append(f"it brings numbers or addresses of its own: {', '.join(brought)}")
    hidden = [mark for mark in HIDING if mark in proposed and mark not in original]
    if hidden:
        found.append(f"it hides text from a reader: {', '.join(hidden)}")
    doubles = _doubles(proposed, keep)
    if doubles:
        found.append(f"it has a section of its own beside one that is kept: {', '.join(doubles)}")
    return found


def _doubles(proposed: str, keep: Sequence[str]) -> list[str]:
    """Lines outside the kept sections that read like the heading of one."""
    titles = [_letters(name) for name in keep]
    own = (part.text for part in _without(parts(proposed), titles))
    short = (line for text in own for line in text.splitlines() if word_count(line) <= TITLE_WORDS)
    return [line.strip() for line in short if _letters(line).startswith(tuple(titles))]


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


def _places(text: str) -> set[str]:
    """What a person could call or open."""
    told = plain(text)
    numbers = {re.sub(r"\D", "", found) for found in NUMBER.findall(told)}
    return numbers | {found.lower() for found in ADDRESS.findall(told)}
