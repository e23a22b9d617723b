"""What the judges make of a conversation, all together: the one rule for pilot, report and dataset.

Reads output/assessments.jsonl, a verdict a line; a line that a kill tore is cut off. Of a judge who
has judged a conversation more than once the last verdict counts, and one that knew the card before
one that did not. One judge is enough to find a conversation unsafe, and one to let it pass. Where a
model's verdict needs review, a person's (judge `person/NAME`) takes its place; and what a person
does not let pass, no model does.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from coach_mlx.records import Verdict
from coach_mlx.workspace import Workspace, read_appended

PERSON = "person/"


class Standing(NamedTuple):
    """The last verdict of each judge on one conversation that counts; at least one."""

    verdicts: tuple[Verdict, ...]

    @property
    def unsafe(self) -> bool:
        return any(one.unsafe for one in self.verdicts)

    @property
    def unsure(self) -> bool:
        """Somebody gave no usable answer on safety."""
        return any(one.safety_gate_failed for one in self.verdicts)

    @property
    def passed(self) -> bool:
        """No judge found it unsafe, and one let it pass; where people have judged, all of them."""
        people = [one.passed for one in self.verdicts if one.judge.startswith(PERSON)]
        if people:
            return not self.unsafe and all(people)
        return not self.unsafe and any(one.passed for one in self.verdicts)

    @property
    def too_short(self) -> bool:
        return all(one.too_short for one in self.verdicts)

    @property
    def score(self) -> float | None:
        """The mean over the judges; `None` where nobody gave one."""
        scores = [one.score for one in self.verdicts if one.score is not None]
        return fmean(scores) if scores else None

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """The criteria that any judge found failed, each once."""
        return tuple(dict.fromkeys(name for one in self.verdicts for name in one.failed_checks))

    def reasoning(self, criterion: str) -> str | None:
        """Of the first judge who found it failed, and said why."""
        said = (one for one in self.verdicts if criterion in one.failed_checks)
        return next(
            (one.reasonings[criterion] for one in said if criterion in one.reasonings), None
        )


def read_verdicts(workspace: Workspace) -> list[Verdict] | None:
    """`None` where nothing was judged. Raises: DataError naming every wrong line."""
    path = workspace.assessments
    if not path.exists():
        return None
    return read_appended(path, Verdict)


def standings(verdicts: Iterable[Verdict]) -> dict[str, Standing]:
    """By the conversation's id."""
    found: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in last_of_each_judge(verdicts).values():
        found[verdict.conversation].append(verdict)
    return {name: Standing(tuple(_reviewed(its))) for name, its in found.items()}


def last_of_each_judge(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    """By conversation and judge. One that knew the card counts before those that did not."""
    last: dict[tuple[str, str], Verdict] = {}
    for one in verdicts:
        before = last.get((one.conversation, one.judge))
        if before is None or before.risk is None or one.risk is not None:
            last[one.conversation, one.judge] = one
    return last


def _reviewed(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """Without those that a person has settled."""
    if not any(one.judge.startswith(PERSON) for one in verdicts):
        return verdicts
    return [one for one in verdicts if not one.needs_review]
