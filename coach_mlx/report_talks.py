"""Conversations side by side: turns of several arms put in line, and what a reader may look for.

Reads and writes nothing. Texts are whatever a model wrote; whoever shows them escapes them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from coach_mlx.comparison import Comparison, ShownVerdict, SideBySide
from coach_mlx.records import Message

Pair = tuple[str | None, str | None]
"""What the person said, and the reply."""


class Reply(NamedTuple):
    arm: str
    person: str | None
    """Only where the person did not say the same to every arm."""
    text: str | None


class Turn(NamedTuple):
    number: int
    person: str | None
    """What the person said to every arm."""
    replies: tuple[Reply, ...]


class Side(NamedTuple):
    """An arm of one conversation."""

    arm: str
    digest: str
    verdict: ShownVerdict | None
    findings: tuple[str, ...]

    @property
    def state(self) -> str:
        if self.verdict is None:
            return "not judged"
        return "passed" if self.verdict.passed else "failed"


class Talk(NamedTuple):
    number: int
    """Its place in the JSON."""
    facts: SideBySide
    sides: tuple[Side, ...]
    turns: tuple[Turn, ...]
    gain: float | None
    """The score of the served coach less the base's."""
    outcome: tuple[str, ...]
    failed_on: tuple[str, ...]

    @property
    def anchor(self) -> str:
        return f"talk-{self.number}"


OUTCOMES = {
    "regressed": "base passed, tuned failed",
    "gained": "base failed, tuned passed",
    "failed": "any arm failed",
    "passed": "every arm passed",
    "unjudged": "not judged",
    "found": "with findings of detectors",
}


def talks(found: Comparison) -> list[Talk]:
    return [_talk(found, number, one) for number, one in enumerate(found.transcripts)]


def _talk(found: Comparison, number: int, one: SideBySide) -> Talk:
    sides = tuple(
        Side(
            arm,
            found.arms[arm].digest if arm in found.arms else "",
            one.verdicts.get(arm),
            one.findings.get(arm, ()),
        )
        for arm in one.arms
    )
    primary = found.score[0] if found.score else None
    before = one.verdicts.get(primary.before) if primary else None
    after = one.verdicts.get(primary.after) if primary else None
    return Talk(
        number,
        one,
        sides,
        _turns(one),
        _gain(before, after),
        tuple(_outcome(sides, before, after)),
        _failed_on(sides),
    )


def _gain(before: ShownVerdict | None, after: ShownVerdict | None) -> float | None:
    if before is None or after is None or before.score is None or after.score is None:
        return None
    return after.score - before.score


def _outcome(
    sides: Sequence[Side], before: ShownVerdict | None, after: ShownVerdict | None
) -> Iterable[str]:
    if before and after and before.passed != after.passed:
        yield "gained" if after.passed else "regressed"
    verdicts = [side.verdict for side in sides if side.verdict]
    if any(not verdict.passed for verdict in verdicts):
        yield "failed"
    elif verdicts:
        yield "passed"
    else:
        yield "unjudged"
    if any(side.findings for side in sides):
        yield "found"


def _failed_on(sides: Sequence[Side]) -> tuple[str, ...]:
    """Criteria and detectors, each once."""
    criteria = [one for side in sides if side.verdict for one in side.verdict.failed]
    detectors = [one.split()[0].rstrip(":") for side in sides for one in side.findings if one]
    return tuple(dict.fromkeys([*criteria, *detectors]))


def _pairs(messages: Sequence[Message]) -> list[Pair]:
    """The turns of a talk, without what stood before the first."""
    pairs: list[Pair] = []
    for message in messages:
        if message.role == "user":
            pairs.append((message.content, None))
        elif message.role == "assistant":
            if pairs and pairs[-1][1] is None:
                pairs[-1] = (pairs[-1][0], message.content)
            else:
                pairs.append((None, message.content))
    return pairs


def _turns(one: SideBySide) -> tuple[Turn, ...]:
    arms = list(one.arms)
    columns = zip_longest(*map(_pairs, one.arms.values()), fillvalue=(None, None))
    return tuple(_turn(number, arms, list(pairs)) for number, pairs in enumerate(columns, 1))


def _turn(number: int, arms: Sequence[str], pairs: Sequence[Pair]) -> Turn:
    spoken = {person for person, _ in pairs if person is not None}
    same = next(iter(spoken)) if len(spoken) == 1 else None
    replies = tuple(
        Reply(arm, None if same is not None else person, text)
        for arm, (person, text) in zip(arms, pairs, strict=True)
    )
    return Turn(number, same, replies)


# --- what to look for


class Choices(NamedTuple):
    """What the talks can be filtered by, with how many there are."""

    kinds: dict[str, int]
    outcomes: dict[str, int]
    failed_on: dict[str, int]


def choices(shown: Sequence[Talk]) -> Choices:
    kinds = Counter[str](talk.facts.kind for talk in shown)
    outcomes = Counter(one for talk in shown for one in talk.outcome)
    failed_on = Counter(one for talk in shown for one in talk.failed_on)
    return Choices(
        dict(kinds),
        {key: outcomes[key] for key in OUTCOMES if outcomes[key]},
        dict(sorted(failed_on.items(), key=lambda one: (-one[1], one[0]))),
    )


def telling(shown: Sequence[Talk], most: int) -> list[Talk]:
    """The worst regressions and the best gains; where nobody judged, the first ones."""
    scored = [talk for talk in shown if talk.gain]
    if not scored:
        return list(shown[:most])
    by_gain = sorted(scored, key=lambda talk: talk.gain or 0)
    worst = [talk for talk in by_gain[:most] if (talk.gain or 0) < 0]
    best = [talk for talk in reversed(by_gain[-most:]) if (talk.gain or 0) > 0]
    return worst + best
