"""Numbers as a person reads them, and the one kind of table that Markdown and the page both show.

Reads and writes nothing. A cell is made from a path into the `Comparison`, never from a number:
what is shown, its exact value and where it stands in the JSON cannot part.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coach_mlx.comparison import Comparison, Estimate, Share

NOTHING = "—"
Show = Callable[[Any], str]


class Piece(NamedTuple):
    """Some text; where it is a value of the JSON, its place and its exact value too."""

    text: str
    key: str = ""
    value: str = ""


class Cell(NamedTuple):
    pieces: tuple[Piece, ...]
    why: str = ""
    """Why there is nothing."""
    mark: str = ""
    """A class of its own on the page, such as `yes` or `no`."""

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def numeric(self) -> bool:
        return any(piece.value[:1] in "-0123456789" for piece in self.pieces if piece.value)


class Line(NamedTuple):
    label: Cell
    cells: tuple[Cell, ...]
    hint: str = ""
    """The label once more, in plain words."""
    main: bool = False
    """What to look at first."""


class Table(NamedTuple):
    key: str
    title: str
    head: tuple[str, ...]
    lines: tuple[Line, ...]
    lead: str = ""
    how: str = ""
    """How to read it, for somebody who never met such a number."""

    @property
    def whys(self) -> tuple[str, ...]:
        """Why cells are empty, each reason once."""
        cells = (cell for line in self.lines for cell in (line.label, *line.cells))
        return tuple(dict.fromkeys(cell.why for cell in cells if cell.why))


class Measure(NamedTuple):
    """A row that is the same for every column: one field of a record (or of a field of it:
    `passed.low`), or two that are an interval.
    """

    label: str
    hint: str
    fields: tuple[str, ...]
    show: Show
    main: bool = False


# --- numbers


def count(value: float) -> str:
    return f"{value:,}"


def score(value: float) -> str:
    return f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}"


def one_digit(value: float) -> str:
    return f"{value:.1f}"


def two_digits(value: float) -> str:
    return f"{value:.2f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def signed_percent(value: float) -> str:
    return f"{value:+.1%}"


def points(value: float) -> str:
    """A difference of two shares."""
    return f"{100 * value:+.1f} points"


def probability(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def words(value: Any) -> str:
    return str(value)


def dollars(value: float) -> str:
    return f"${value:,.2f}"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def short(digest: str) -> str:
    return digest[:12]


# --- cells


def look(found: Any, *path: str | int) -> Any:
    """What stands in the record at this place."""
    for step in path:
        inside = isinstance(found, Mapping | Sequence)
        found = found[step] if inside else getattr(found, str(step))
    return found


def said(text: str) -> Cell:
    """Words that are no value of the JSON."""
    return Cell((Piece(text),))


def piece(found: Comparison, show: Show, *path: str | int) -> Piece:
    value = look(found, *path)
    return Piece(
        NOTHING if value is None else show(value), ".".join(map(str, path)), json.dumps(value)
    )


def cell(found: Comparison, show: Show, *path: str | int, why: str = "") -> Cell:
    empty = look(found, *path) is None
    return Cell((piece(found, show, *path),), why if empty else "")


def interval(
    found: Comparison, show: Show, low: Sequence[str | int], high: Sequence[str | int], why: str
) -> Cell:
    if look(found, *low) is None and look(found, *high) is None:
        return cell(found, show, *low, why=why)
    pieces = (piece(found, show, *low), Piece(" to "), piece(found, show, *high))
    return Cell(pieces)


def share(found: Comparison, *path: str | int, why: str = "") -> Cell:
    """So many of n, as a percentage, with the interval."""
    value: Share = look(found, *path)
    if value.share is None:
        return Cell((piece(found, percent, *path, "share"),), why or "there is none to count")
    counted = (
        piece(found, count, *path, "found"),
        Piece(" of "),
        piece(found, count, *path, "n"),
        Piece(" ("),
        piece(found, percent, *path, "share"),
        Piece(")"),
    )
    return Cell(counted)


def estimate(found: Comparison, show: Show, *path: str | int, why: str = "") -> Cell:
    value: Estimate = look(found, *path)
    first = piece(found, show, *path, "value")
    if value.value is None or value.low is None:
        return Cell((first,), (value.why or why) if value.value is None else "")
    low, high = (piece(found, bare(show), *path, end) for end in ("low", "high"))
    return Cell((first, Piece(" ("), low, Piece(" to "), high, Piece(")")))


def bare(show: Show) -> Show:
    """A unit is named once."""
    return lambda value: show(value).removesuffix(" points")


def measured(found: Comparison, measure: Measure, *path: str | int, why: str = "") -> Cell:
    """The cell of a measure, whatever kind of value the record has there."""
    if len(measure.fields) == 2:
        low, high = ((*path, *field.split(".")) for field in measure.fields)
        return interval(found, measure.show, low, high, why)
    place = (*path, *measure.fields[0].split("."))
    value = look(found, *place)
    if isinstance(value, Share):
        return share(found, *place, why=why)
    if isinstance(value, Estimate):
        return estimate(found, measure.show, *place, why=why)
    return cell(found, measure.show, *place, why=why)


def measures(
    found: Comparison,
    asked: Sequence[Measure],
    columns: Sequence[Sequence[str | int]],
    whys: Sequence[str],
) -> tuple[Line, ...]:
    """A row a measure, a column a record; no row where there is no record."""
    if not columns:
        return ()
    return tuple(
        Line(
            said(measure.label),
            tuple(
                measured(found, measure, *path, why=why)
                for path, why in zip(columns, whys, strict=True)
            ),
            measure.hint,
            measure.main,
        )
        for measure in asked
    )
