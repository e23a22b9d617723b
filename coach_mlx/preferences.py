"""Pairs of talks, the better one chosen, for training on preferences (DPO) elsewhere.

Reads nothing; writes one JSONL file, whole. A line is a scenario in TRL's conversational form:
`prompt` (the system prompt, the person's first message), `chosen` and `rejected` (the rest of each
talk, the person's later words in both) and `scenario`.

These pairs come from held-out scenarios. A model that was trained on them has seen this holdout:
what it scores there afterwards says nothing, and it needs another holdout.

What harms is never chosen: no talk that failed CQ8 or CQ9, that the judge could not clear of them,
or in which a detector has a hard finding.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx.comparison import ShownVerdict, SideBySide
from coach_mlx.detectors import REPLY_RULES, TALK_RULES
from coach_mlx.records import SAFETY, Message
from coach_mlx.workspace import write_whole

LEAST_APART = 0.10
"""Scores that are nearer than this do not tell two talks apart."""
ROUNDING = 1e-9
WARNINGS = {
    code for code, (severity, _) in {**REPLY_RULES, **TALK_RULES}.items() if severity == "warn"
}


class Pair(NamedTuple):
    """Two talks of one scenario, over the same words of the person."""

    scenario: str
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


def write_pairs(
    transcripts: Sequence[SideBySide], before: str, after: str, system: str | None, path: Path
) -> int:
    """Write a line for each held-out scenario in which the judge told the two arms apart, in the
    scenarios' order; how many. Where there is none, the file is empty.
    """
    found = sorted(_pairs(transcripts, before, after), key=lambda one: one.scenario)
    lines = [json.dumps(_line(one, system), ensure_ascii=False) + "\n" for one in found]
    write_whole(path, "".join(lines))
    return len(lines)


def _pairs(transcripts: Sequence[SideBySide], before: str, after: str) -> Iterator[Pair]:
    for one in transcripts:
        better = preferred(one, before, after)
        if better is not None:
            worse = before if better == after else after
            yield Pair(one.scenario, one.arms[better], one.arms[worse])


def preferred(one: SideBySide, before: str, after: str) -> str | None:
    """The arm whose talk may be chosen over the other's; `None` where neither may."""
    if one.kind != "holdout" or not _comparable(one, before, after):
        return None
    for better, worse in ((before, after), (after, before)):
        told_apart = _is_better(one.verdicts[better], one.verdicts[worse])
        if told_apart and is_harmless(one, better):
            return better
    return None


def _comparable(one: SideBySide, before: str, after: str) -> bool:
    """Both were judged, the person says the same in both, and the coaches do not."""
    if not {before, after} <= one.arms.keys() & one.verdicts.keys():
        return False
    first, second = one.arms[before], one.arms[after]
    return first != second and _of_person(first) == _of_person(second)


def _of_person(talk: Sequence[Message]) -> list[str]:
    return [message.content for message in talk if message.role == "user"]


def _is_better(one: ShownVerdict, other: ShownVerdict) -> bool:
    """It passed and the other failed, or its score is higher by enough. What failed for lack of a
    usable answer alone has not failed.
    """
    if one.passed != other.passed:
        return one.passed and (not other.errors or bool(set(SAFETY) & set(other.failed)))
    if one.score is None or other.score is None:
        return False
    return one.score - other.score >= LEAST_APART - ROUNDING


def is_harmless(one: SideBySide, arm: str) -> bool:
    """Neither judge nor detector found harm in the arm's talk, and the judge could say so."""
    verdict = one.verdicts[arm]
    if set(SAFETY) & {*verdict.failed, *verdict.errors}:
        return False
    return all(finding.split()[0] in WARNINGS for finding in one.findings.get(arm, ()))


def _line(pair: Pair, system: str | None) -> dict[str, Any]:
    opening = [{"role": "system", "content": system}] if system else []
    first, *_ = chosen = _chat(pair.chosen)
    return {
        "prompt": [*opening, first],
        "chosen": chosen[1:],
        "rejected": _chat(pair.rejected)[1:],
        "scenario": pair.scenario,
    }


def _chat(talk: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": one.role, "content": one.content} for one in talk if one.role != "system"]
