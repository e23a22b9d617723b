"""What people said of the talks they read blinded, and how far the judge agrees with them.

Reads and writes output/evaluation/spot_checks.jsonl, a line an answer; a line that a kill tore is
cut off. Fails: DataError naming every wrong line. An answer counts for the models and the very
words it was given on: another model, or other replies of the same one, and it is set aside.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from coach_mlx.comparison import Agreement, Estimate, SideBySide, share
from coach_mlx.rates import cohens_kappa
from coach_mlx.records import SAFETY, Record, words_id
from coach_mlx.workspace import Workspace, append_line, read_appended

Side = Literal["before", "after", "tie"]


class SpotCheck(Record):
    """One person's answer on one pair."""

    plan: str
    """Hash of the evaluation's plan."""
    scenario: str
    digests: dict[str, str]
    """Of the two arms."""
    talks: dict[str, str]
    """The ids of the two arms' words."""
    person: str
    first: str
    """The arm that was shown as 1."""
    preferred: str | None = None
    """An arm; `None` for no difference, and where the pair was skipped."""
    skipped: bool = False
    flagged: tuple[str, ...] = ()
    """The arms that said what they should not have said."""
    remark: str = ""
    at: str


def read_checks(workspace: Workspace) -> list[SpotCheck]:
    """Every answer, the last one last."""
    return read_appended(workspace.spot_checks, SpotCheck)


def keep(workspace: Workspace, record: SpotCheck) -> None:
    append_line(workspace.spot_checks, record.model_dump_json(exclude_defaults=True))


def counting(
    records: Iterable[SpotCheck],
    digests: Mapping[str, str],
    transcripts: Sequence[SideBySide] | None = None,
) -> list[SpotCheck]:
    """The answers on these models and, where the transcripts are given, on these words; the last
    one of each person on each scenario.
    """
    sides = None if transcripts is None else {one.scenario: one for one in transcripts}
    fitting = [
        one
        for one in records
        if all(digests.get(arm) == digest for arm, digest in one.digests.items())
        and (sides is None or one.talks == talk_ids(sides.get(one.scenario), one.digests))
    ]
    return list({(one.person, one.scenario): one for one in fitting}.values())


def talk_ids(side: SideBySide | None, arms: Iterable[str]) -> dict[str, str]:
    """Of the words that these arms' talks consist of."""
    if side is None:
        return {}
    return {arm: words_id(side.arms[arm]) for arm in arms if arm in side.arms}


def flags(
    records: Iterable[SpotCheck],
    digests: Mapping[str, str],
    transcripts: Sequence[SideBySide] | None = None,
) -> dict[tuple[str, str], tuple[str, ...]]:
    """By scenario and arm, who said that it should not have said something."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in counting(records, digests, transcripts):
        for arm in one.flagged:
            found.setdefault((one.scenario, arm), []).append(one.person)
    return {key: tuple(sorted(people)) for key, people in found.items()}


def agreements(
    records: Iterable[SpotCheck],
    transcripts: Sequence[SideBySide],
    before: str,
    after: str,
    digests: Mapping[str, str],
) -> tuple[Agreement, ...]:
    """Each person's choices between the two arms against the judge's, by the person's name."""
    chosen: dict[str, list[SpotCheck]] = {}
    for one in counting(records, digests, transcripts):
        if one.digests.keys() == {before, after} and not one.skipped:
            chosen.setdefault(one.person, []).append(one)
    sides = {one.scenario: one for one in transcripts}
    return tuple(
        _agreement(person, its, sides, before, after) for person, its in sorted(chosen.items())
    )


def judges_side(side: SideBySide, before: str, after: str) -> Side | None:
    """The arm that the judge's verdicts favour: the one that alone is free of a failure of safety,
    otherwise the one with the higher score. `None` where a score is missing.
    """
    one, other = side.verdicts.get(before), side.verdicts.get(after)
    if one is None or other is None or one.score is None or other.score is None:
        return None
    marks = [(not set(SAFETY) & set(found.failed), found.score) for found in (one, other)]
    if marks[0] == marks[1]:
        return "tie"
    if marks[0][0] != marks[1][0]:
        return "before" if marks[0][0] else "after"
    return "before" if one.score > other.score else "after"


def _agreement(
    person: str,
    records: Sequence[SpotCheck],
    sides: Mapping[str, SideBySide],
    before: str,
    after: str,
) -> Agreement:
    names: dict[str | None, Side] = {before: "before", after: "after", None: "tie"}
    own = [names[one.preferred] for one in records]
    judged = [judges_side(sides[one.scenario], before, after) for one in records]
    both = [(one, other) for one, other in zip(own, judged, strict=True) if other is not None]
    return Agreement(
        person=person,
        pairs=len(own),
        preferred_after=own.count("after"),
        preferred_before=own.count("before"),
        ties=own.count("tie"),
        compared=len(both),
        agreed=share(sum(one == other for one, other in both), len(both)),
        kappa=_kappa([one for one in both if "tie" not in one]),
        remarks=tuple(_remarks(records, before, after)),
    )


def _kappa(decided: Sequence[tuple[Side, Side]]) -> Estimate:
    """Of the pairs in which both preferred one."""
    found = cohens_kappa(
        [one == "after" for one, _ in decided], [other == "after" for _, other in decided]
    )
    n = f"{found.n} pair{'' if found.n == 1 else 's'} in which both preferred one"
    if found.kappa is None:
        why = "both prefer the same arm always" if found.n else "nothing to compare"
        return Estimate(why=f"{n}: {why}")
    return Estimate(value=found.kappa, low=found.low, high=found.high, why=n)


def _remarks(records: Sequence[SpotCheck], before: str, after: str) -> Iterator[str]:
    """Each with what its 1 and its 2 stood for."""
    for one in records:
        if one.remark:
            second = after if one.first == before else before
            yield f"{one.scenario} (1 is {one.first}, 2 is {second}): {one.remark}"
