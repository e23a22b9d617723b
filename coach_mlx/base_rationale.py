"""Why this base model: the question, the machine, the table, the pilot, and what none of it shows.

Reads and writes reports/NAME/base_model.json, which is the record, and base_model.md, which is made
from it alone. So `--choose` adds to what a pilot found, and a pilot to nothing else.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from coach_mlx.base_fit import Fit
from coach_mlx.base_models import Candidate
from coach_mlx.base_ranking import BASIS_WORDS, Ranked, Ranking, in_words, interval
from coach_mlx.base_table import HEADINGS, LEGEND, cells
from coach_mlx.records import Record
from coach_mlx.workspace import Workspace, write_whole

UNSHOWN = (
    "A pilot asks for first turns only. What a model does in turn twelve, it does not show.",
    "It compares models as they are. After a training the order may be another: the loss says how "
    "near a model is to the coach's words, not how well it learns them.",
    "The best was picked by the same numbers that its lead is read from, so a small lead is a "
    "little smaller than it looks.",
    "Detectors are a floor: a talk without a finding may still harm.",
    "Speed was measured on this machine, in MLX with several talks side by side, one model after "
    "the other: other work at the time slows the one that was being asked. On a CPU, MLX computes "
    "4 and 8 bits alike in 32.",
)


class Pilot(Record):
    """What was asked, by whom, and how it ended."""

    made: str
    machine: str
    scenarios: dict[str, int]
    turns: int
    """Of each scenario at most."""
    decoding: str
    judge: str | None
    judge_words: str
    ranking: Ranking


class Choice(Record):
    made: str
    name: str
    base_model: str
    before: str
    """What `base.model` was."""
    config: str
    """The file that says so."""
    warnings: tuple[str, ...] = ()


class Rationale(Record):
    """All that is known about the choice."""

    made: str
    machine: str
    place: str
    training: str
    """What the memory was computed for."""
    candidates: tuple[Candidate, ...]
    fits: tuple[Fit, ...]
    pilot: Pilot | None = None
    choice: Choice | None = None


def read_rationale(workspace: Workspace) -> Rationale | None:
    """`None` where there is none, or one of another version of this program."""
    path = workspace.base_report.with_suffix(".json")
    try:
        return Rationale.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_rationale(found: Rationale, workspace: Workspace) -> None:
    path = workspace.base_report
    write_whole(path.with_suffix(".json"), found.model_dump_json(indent=2) + "\n")
    write_whole(path, "\n".join(to_markdown(found)) + "\n")


def to_markdown(found: Rationale) -> Iterator[str]:
    yield "# The base model"
    yield ""
    yield "Which model the coach is made from, and why."
    yield ""
    yield from _chosen(found)
    yield f"Made {found.made} on {found.machine}."
    yield ""
    yield "## What fits"
    yield ""
    yield f"{found.training} For {found.place}. {LEGEND}"
    yield ""
    pairs = zip(found.candidates, found.fits, strict=True)
    yield from _table(HEADINGS, [cells(one, fit, None) for one, fit in pairs])
    yield ""
    yield "## Who answered best"
    yield ""
    yield from _pilot(found.pilot) if found.pilot else ("No pilot was run.",)
    yield ""
    yield "## What this does not show"
    yield ""
    yield from (f"* {line}" for line in UNSHOWN)
    yield ""
    yield "## Sources"
    yield ""
    yield from _sources(found.candidates)


def _chosen(found: Rationale) -> Iterator[str]:
    choice = found.choice
    if choice is None:
        yield "Nothing was chosen yet. `coach select --choose NAME` does it."
        yield ""
        return
    yield f"**Chosen: {choice.name}** (`base.model: {choice.base_model}`), {choice.made}."
    yield f"Before it was `{choice.before}`; it stands in `{choice.config}`."
    yield from (f"Against it: {warning}" for warning in choice.warnings)
    if found.pilot:
        rows = {one.name: one.standing for one in found.pilot.ranking.rows}
        yield f"In the pilot: {rows.get(choice.name, 'it was not asked')}."
    yield ""


def _pilot(pilot: Pilot) -> Iterator[str]:
    counts = " and ".join(f"{n} {kind} scenarios" for kind, n in pilot.scenarios.items() if n)
    yield (
        f"{counts}, at most {pilot.turns} turns of each, answered by {pilot.decoding}. "
        f"{pilot.judge_words} Ranked by {BASIS_WORDS[pilot.ranking.basis]}; a model that harms "
        "more often goes last."
    )
    yield f"Measured {pilot.made} on {pilot.machine}."
    yield ""
    headings = (
        "model", "standing", "score", "nats a byte", "against the best (95 %)", "harm", "broken",
        "tokens/s", "served by",
    )  # fmt: skip
    yield from _table(headings, [ranked_cells(one) for one in pilot.ranking.rows])
    yield ""
    yield from (f"{place}. {line}" for place, line in enumerate(in_words(pilot.ranking), start=1))


def ranked_cells(one: Ranked) -> tuple[str, ...]:
    return (
        one.name,
        one.standing,
        "-" if one.score is None else f"{one.score:.2f}",
        "-" if one.loss is None else f"{one.loss:.3f}",
        interval(one.against) if one.against else "",
        f"{one.harm.found} of {one.harm.n}",
        f"{one.broken.found} of {one.broken.n}",
        "-" if one.tokens_per_second is None else f"{one.tokens_per_second:.1f}",
        one.served_by,
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    yield from (f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)


def _sources(candidates: Sequence[Candidate]) -> Iterator[str]:
    for one in candidates:
        unsure = f"; not verified: {', '.join(one.unverified)}" if one.unverified else ""
        when = f"read {one.verified}" if one.verified else "not read"
        yield f"* {one.name}: {'; '.join(one.sources)} ({when}{unsure})"
