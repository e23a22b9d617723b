"""Is it worth writing thousands: the decision after a pilot, from what a judge made of it.

Reads and writes nothing. The limits are the specification's: of the conversations, 40 % or more
pass: proceed; 25 to 40 %: revise the prompts; fewer: revisit taxonomy or rubric. A card that did
not become a conversation has not passed: hard themes that are refused are no success. The rate
comes with its 95 % interval (Wilson), and an interval that crosses a limit is said.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from coach_mlx.rates import wilson_interval
from coach_mlx.records import Conversation
from coach_mlx.verdicts import Standing

PROCEED, REVISE = 0.40, 0.25
EXAMPLES = 2
Decision = Literal["proceed", "revise prompts", "revisit taxonomy or rubric", "not judged"]


class Failing(NamedTuple):
    """A criterion, how many conversations fail it, and what the judge said of some."""

    criterion: str
    conversations: int
    examples: tuple[str, ...]


class Pilot(NamedTuple):
    decision: Decision
    wanted: int
    """Conversations of a whole pilot."""
    written: int
    unwritten: int
    """Cards that were tried and failed."""
    judged: int
    passed: int
    rate: float | None
    low: float | None
    high: float | None
    failing: tuple[Failing, ...]

    @property
    def reason(self) -> str:
        if self.rate is None or self.low is None or self.high is None:
            return (
                f"{self.judged} of {self.written} written conversations are judged, and "
                f"{self.wanted - self.written - self.unwritten} of {self.wanted} cards not tried"
            )
        limits = [limit for limit in (PROCEED, REVISE) if self.low < limit <= self.high]
        unsure = f"; the interval crosses {limits[0]:.0%}" if limits else ""
        lost = f" ({self.unwritten} were not written)" if self.unwritten else ""
        return (
            f"{self.passed} of {self.wanted} pass{lost}: {self.rate:.0%}, 95 % interval "
            f"{self.low:.0%} to {self.high:.0%}{unsure}"
        )


def decide(
    conversations: Sequence[Conversation],
    judged_so_far: Mapping[str, Standing],
    unwritten: int,
    wanted: int,
) -> Pilot:
    """By what the judges made of each conversation. Until every card was tried, and every
    conversation judged, nothing is decided.
    """
    ids = {one.id for one in conversations}
    found = [standing for name, standing in judged_so_far.items() if name in ids]
    passed = sum(standing.passed for standing in found)
    judged, written = len(found), len(ids)
    failing = commonest_failures(found)
    counts = (wanted, written, unwritten, judged, passed)
    if judged < written or written + unwritten < wanted:
        return Pilot("not judged", *counts, None, None, None, failing)
    rate = passed / wanted
    low, high = wilson_interval(passed, wanted)
    decision: Decision = "revisit taxonomy or rubric"
    if rate >= PROCEED:
        decision = "proceed"
    elif rate >= REVISE:
        decision = "revise prompts"
    return Pilot(decision, *counts, rate, low, high, failing)


def commonest_failures(found: Sequence[Standing]) -> tuple[Failing, ...]:
    counts = Counter(check for standing in found for check in standing.failed_checks)
    return tuple(
        Failing(criterion, count, tuple(filter(None, _reasons(found, criterion)))[:EXAMPLES])
        for criterion, count in counts.most_common()
    )


def _reasons(found: Sequence[Standing], criterion: str) -> Iterator[str | None]:
    return (standing.reasoning(criterion) for standing in found)
