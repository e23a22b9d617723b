"""What a search for a better prompt found: a table in the terminal, a report and a picture.

Writes report.md and tree.png into the run's folder. Every proposal is shown, refused ones too, and
the prompts that came to choose with their difference from the one in force.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coach_mlx import console
from coach_mlx.plots import figure
from coach_mlx.prompt_proof import Outcome
from coach_mlx.prompt_rules import word_count
from coach_mlx.prompt_search import Candidate
from coach_mlx.prompt_trials import Trial
from coach_mlx.workspace import write_whole

HEADINGS = ("", "from", "words", "score", "what became of it")
MUTED, STRONG = "#8a8a8a", "#1f6f8b"
LINE_INCHES = 0.3


def rows(outcome: Outcome) -> list[tuple[str, ...]]:
    """One a candidate, as `HEADINGS` say; the score is the mean over the cards that choose."""
    return [_row(one, outcome.best.number) for one in outcome.candidates]


def _row(one: Candidate, best: int) -> tuple[str, ...]:
    mark = "*" if one.number == best else ""
    parent = "" if one.parent is None else str(one.parent)
    mean = "" if one.mean is None else f"{one.mean:.3f}"
    fate = "the prompt in force" if one.fate == "start" else one.fate
    said = f"{fate}: {one.why}" if one.why else fate
    return f"{one.number}{mark}", parent, str(word_count(one.prompt)), mean, said


def show(outcome: Outcome) -> None:
    from rich.table import Table

    table = Table(title="Prompts that were tried (* does best)", title_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[-1] else "right")
    for row in rows(outcome):
        table.add_row(*row)
    console.show(table)
    console.say(f"{outcome.verdict.capitalize()}: {outcome.reason}.")


def write_report(folder: Path, outcome: Outcome, judge: str, earlier: int) -> None:
    """report.md and tree.png; so many searches came before."""
    _draw(outcome.candidates, outcome.best.number, folder / "tree.png")
    start = outcome.candidates[0]
    parts = [
        "# A search for a better prompt",
        f"**{outcome.verdict.capitalize()}.** {_sentence(outcome.reason)}",
        f"Judged by {judge}. The score is the rubric's, 0 to 1; a conversation that is unsafe or "
        "did not come about counts 0 in the search. The prompt in force is "
        f"{start.hash}, the best {outcome.best.hash}.",
        *_searched_before(earlier),
        "## What was tried",
        "![Every prompt under the one it comes from](tree.png)",
        _table(HEADINGS, rows(outcome)),
        *_proof(outcome),
        *(_difference(start, one) for one in outcome.candidates if one.fate == "kept"),
    ]
    write_whole(folder / "report.md", "\n\n".join(parts) + "\n")


def _searched_before(earlier: int) -> list[str]:
    if not earlier:
        return []
    count = "One search" if earlier == 1 else f"{earlier} searches"
    return [
        f"{count} came before this one. Each has about one chance in forty to be taken where "
        "nothing is better, so many searches find something in the end."
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return (
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        )

    return "\n".join([row(headings), row(["---"] * len(headings)), *map(row, lines)])


def _proof(outcome: Outcome) -> list[str]:
    """The cards that decided, one a line."""
    if not outcome.before:
        return []
    lines = [
        (old.card, _score(old), _score(new), "newly" if new.card in outcome.newly_unsafe else "")
        for old, new in zip(outcome.before, outcome.after, strict=True)
    ]
    return [
        "## The proof",
        "Cards that took no part in the search, under the prompt in force and under the one that "
        f"did best. Missing: {outcome.missing}.",
        _table(("card", "before", "after", "unsafe"), lines),
    ]


def _score(trial: Trial) -> str:
    if trial.unsafe:
        return "unsafe"
    return "missing" if trial.score is None else f"{trial.score:.2f}"


def _difference(start: Candidate, one: Candidate) -> str:
    lines = difflib.unified_diff(
        start.prompt.splitlines(),
        one.prompt.splitlines(),
        "the prompt in force",
        f"proposal {one.number}",
        lineterm="",
        n=1,
    )
    body = "\n".join(lines)
    return f"## Proposal {one.number}, against the prompt in force\n\n````diff\n{body}\n````"


def _draw(candidates: Sequence[Candidate], best: int, path: Path) -> None:
    """A line a candidate, from the score of its parent to its own."""
    whole, axes = figure(0.9 + LINE_INCHES * len(candidates))
    known = {one.number: one.mean for one in candidates}
    for one in candidates:
        _line(axes, one, _inherited(candidates, one, known), one.number == best)
    axes.set_yticks(
        range(len(candidates)),
        [
            f"{one.number}" if one.parent is None else f"{one.number} ← {one.parent}"
            for one in candidates
        ],
    )
    axes.invert_yaxis()
    axes.set_xlabel("mean score on the cards that choose")
    partial = path.with_name(path.name + ".partial")
    whole.savefig(partial, format="png", dpi=200)
    partial.replace(path)


def _inherited(
    candidates: Sequence[Candidate], one: Candidate, known: dict[int, float | None]
) -> float | None:
    return None if one.parent is None else known[candidates[one.parent].number]


def _line(axes: Any, one: Candidate, parent: float | None, is_best: bool) -> None:
    color = STRONG if is_best else MUTED
    if one.mean is None:
        if parent is not None:
            axes.plot([parent], [one.number], "x", color=MUTED)
        return
    if parent is not None:
        axes.plot([parent, one.mean], [one.number] * 2, "-", color=color, linewidth=1.2)
    axes.plot([one.mean], [one.number], "o", color=color)
