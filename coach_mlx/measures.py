"""Every number of the comparison report, from the evidence.

Reads and writes nothing. The primary comparison is the rubric's score of the served coach against
the base's on the held-out scenarios; all others are there to explain it. Categories are corrected
by Holm; criteria are exploratory.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean, median, quantiles
from typing import Any

from coach_mlx.comparison import (
    ArmScores,
    ArmStyle,
    CriterionRow,
    Depth,
    Difference,
    Estimate,
    GroupRow,
    Row,
    Share,
    ShownVerdict,
    SideBySide,
    Threshold,
    share,
)
from coach_mlx.evidence import Evidence, Seen, mean_of, most_of
from coach_mlx.judgements import Judged
from coach_mlx.passport import Rate
from coach_mlx.rates import Counted, corrected_prevalence, holm
from coach_mlx.records import Mark
from coach_mlx.replay import Script
from coach_mlx.rubric import Criterion
from coach_mlx.rules_form import BULLET, HEADING
from coach_mlx.stats import mean_interval
from coach_mlx.talk import Speech

THRESHOLDS = (0.75, 0.80, 0.85)
DEPTHS = ((1, 5), (6, 10), (11, 15), (16, 20), (21, 30))
SHORT_WORDS = 8
UNJUDGED = "nobody judged the replies"
LEAST_GROUP = 2
"""Scenarios of a topic that can be compared."""


def measure(evidence: Evidence) -> dict[str, Any]:
    """The fields of `Comparison` that are numbers, but for safety."""
    pairs = list(_pairs(evidence.arms))
    return {
        "scores": {arm: _arm_scores(evidence, arm) for arm in evidence.arms},
        "score": tuple(score_difference(evidence, *pair) for pair in pairs),
        "simulated": _free_talks(evidence),
        "loss": tuple(_loss_difference(evidence, *pair) for pair in pairs),
        "pass_rates": tuple(
            evidence.rates(*pair, evidence.holdout, evidence.passed) for pair in pairs
        ),
        "thresholds": tuple(_threshold(evidence, limit) for limit in THRESHOLDS),
        "categories": _categories(evidence),
        "criteria": _criteria(evidence),
        "topics": _topics(evidence),
        "probes": _probe_families(evidence),
        "style": {arm: _style(evidence, arm) for arm in evidence.arms},
        "depth": tuple(_depths(evidence)),
        "rows": tuple(_row(evidence, script) for script in evidence.scripts),
        "transcripts": tuple(_side_by_side(evidence, script) for script in evidence.scripts),
    }


def _pairs(arms: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The primary first: what is served against the base."""
    base, *middle, served = arms
    yield base, served
    for arm in middle:
        yield base, arm
        yield arm, served


# --- scores


def score_difference(evidence: Evidence, before: str, after: str) -> Difference:
    if not evidence.is_judged:
        return Difference(before=before, after=after, n=0, why=UNJUDGED)
    found = evidence.difference(before, after, evidence.holdout, evidence.score, "score")
    if not found.missing:
        return found
    return found.model_copy(
        update={
            "worst": _settled(evidence, before, after, "YES", "NO"),
            "best": _settled(evidence, before, after, "NO", "YES"),
        }
    )


def _settled(evidence: Evidence, before: str, after: str, one: Mark, other: Mark) -> float | None:
    """The mean difference were every missing answer of `before` one thing, of `after` another."""
    values = [
        (evidence.score(before, script, one), evidence.score(after, script, other))
        for script in evidence.holdout
    ]
    return mean_of(b - a for a, b in values if a is not None and b is not None)


def _free_talks(evidence: Evidence) -> Difference | None:
    if not evidence.free:
        return None
    return evidence.difference(
        evidence.base, evidence.served, evidence.free, evidence.score, "free talks"
    )


def _loss_difference(evidence: Evidence, before: str, after: str) -> Difference:
    return evidence.difference(before, after, evidence.holdout, evidence.loss, "loss")


def _arm_scores(evidence: Evidence, arm: str) -> ArmScores:
    seen = [one for one in evidence.all_of(arm, evidence.holdout) if one.judged is not None]
    judged = [one.judged for one in seen if one.judged is not None]
    scores = [evidence.score(arm, script) for script in evidence.holdout]
    known = [one for one in scores if one is not None]
    interval = mean_interval(known, evidence.rng(f"mean{arm}"), evidence.settings.resamples)
    passed = [evidence.passed(arm, script) for script in evidence.holdout]
    rate = share(passed.count(True), len(passed) - passed.count(None))
    answers = [mark for one in judged for mark in one.answers.values()]
    flips = [one.flips for one in judged]
    return ArmScores(
        judged=len(judged),
        mean_score=fmean(known) if known else None,
        score_low=interval.low,
        score_high=interval.high,
        passed=rate,
        corrected=_corrected(evidence, rate),
        errors=share(answers.count("ERROR"), len(answers)),
        flips=share(sum(moved for moved, _ in flips), sum(n for _, n in flips)),
        mean_loss=mean_of(evidence.loss(arm, script) for script in evidence.holdout),
    )


def _corrected(evidence: Evidence, rate: Share) -> Estimate:
    """The share that passes, corrected for what the judge lets through and turns away."""
    passport = evidence.passport
    if not evidence.is_judged:
        return Estimate(why=UNJUDGED)
    if passport is None:
        return Estimate(why="the judge has no passport that holds")
    return corrected(rate, passport.failing, passport.passing)


def corrected(rate: Share, sensitivity: Rate | None, specificity: Rate | None) -> Estimate:
    """Sensitivity and specificity are the judge's for failures; the estimate is of passes."""
    if sensitivity is None or specificity is None:
        return Estimate(why="the passport does not say how often whole conversations are misjudged")
    found = corrected_prevalence(
        Counted(rate.n - rate.found, rate.n),
        Counted(sensitivity.found, sensitivity.n),
        Counted(specificity.found, specificity.n),
    )
    if found.value is None or found.low is None or found.high is None:
        return Estimate(why=found.why)
    return Estimate(value=1 - found.value, low=1 - found.high, high=1 - found.low, why=found.why)


def _threshold(evidence: Evidence, limit: float) -> Threshold:
    arms = {}
    for arm in evidence.arms:
        passed = [evidence.passed(arm, script, limit) for script in evidence.holdout]
        arms[arm] = share(passed.count(True), len(passed) - passed.count(None))
    return Threshold(threshold=limit, arms=arms)


# --- what it is made of


def _categories(evidence: Evidence) -> tuple[GroupRow, ...]:
    rows = [
        GroupRow(
            name=category,
            difference=evidence.difference(
                evidence.base,
                evidence.served,
                evidence.holdout,
                _category_value(evidence, category),
                f"category {category}",
            ),
        )
        for category in evidence.rubric.categories
    ]
    return _with_holm(rows)


def _category_value(evidence: Evidence, category: str) -> Callable[[str, Script], float | None]:
    names = [one.id for one in evidence.rubric.criteria if one.category == category]

    def value(arm: str, script: Script) -> float | None:
        judged = [one.judged for one in evidence.of(arm, script) if one.judged is not None]
        return mean_of(_share_of(one, names) for one in judged)

    return value


def _share_of(judged: Judged, names: Sequence[str]) -> float | None:
    """Of these criteria, those that pass; `None` where one has no usable answer."""
    marks = [judged.answers.get(name, "ERROR") for name in names]
    return None if "ERROR" in marks else fmean(mark in ("YES", "NA") for mark in marks)


def _with_holm(rows: Sequence[GroupRow]) -> tuple[GroupRow, ...]:
    adjusted = holm([one.difference.p_t for one in rows])
    return tuple(
        row.model_copy(update={"difference": row.difference.model_copy(update={"p_holm": p})})
        for row, p in zip(rows, adjusted, strict=True)
    )


def _criteria(evidence: Evidence) -> tuple[CriterionRow, ...]:
    rows = [_criterion(evidence, one) for one in evidence.rubric.criteria]
    adjusted = holm([one.rates.p_mcnemar for one in rows])
    return tuple(
        row.model_copy(update={"p_holm": p}) for row, p in zip(rows, adjusted, strict=True)
    )


def _criterion(evidence: Evidence, criterion: Criterion) -> CriterionRow:
    def passes(arm: str, script: Script) -> bool | None:
        judged = [one.judged for one in evidence.of(arm, script) if one.judged is not None]
        marks = [one.answers.get(criterion.id, "ERROR") for one in judged]
        return most_of({"YES": True, "NO": False}.get(mark) for mark in marks)

    passport = evidence.passport
    arms = {}
    for arm in evidence.arms:
        found = [passes(arm, script) for script in evidence.holdout]
        arms[arm] = share(found.count(True), len(found) - found.count(None))
    return CriterionRow(
        criterion=criterion.id,
        name=criterion.name,
        category=criterion.category,
        advisory=passport is None or criterion.id in passport.advisory,
        arms=arms,
        rates=evidence.rates(evidence.base, evidence.served, evidence.holdout, passes),
        p_holm=None,
    )


def _topics(evidence: Evidence) -> tuple[GroupRow, ...]:
    groups = sorted({one.group for one in evidence.holdout if one.group})
    rows = []
    for group in groups:
        scripts = [one for one in evidence.holdout if one.group == group]
        if len(scripts) >= LEAST_GROUP:
            found = evidence.difference(
                evidence.base, evidence.served, scripts, evidence.score, f"topic {group}"
            )
            rows.append(GroupRow(name=group, difference=found))
    return _with_holm(rows)


def _probe_families(evidence: Evidence) -> tuple[GroupRow, ...]:
    if not evidence.is_judged:
        return ()
    families = sorted({one.group for one in evidence.probes})
    rows = []
    for family in families:
        scripts = [one for one in evidence.probes if one.group == family]
        found = evidence.difference(
            evidence.base,
            evidence.served,
            scripts,
            lambda arm, script: held(evidence, arm, script),
            f"family {family}",
        )
        rows.append(GroupRow(name=family, difference=found))
    return tuple(rows)


def held(evidence: Evidence, arm: str, script: Script) -> float | None:
    """Of a probe's musts and must-nots, the share that held, of those answered."""
    judged = [one.judged for one in evidence.of(arm, script) if one.judged is not None]
    marks = [mark for one in judged for mark in one.requirements.values() if mark != "ERROR"]
    return fmean(mark == "YES" for mark in marks) if marks else None


# --- how it speaks


def _style(evidence: Evidence, arm: str) -> ArmStyle:
    seen = evidence.all_of(arm, evidence.scripted)
    replies = [
        (record, speech)
        for one in seen
        for record, speech in zip(one.told.replies, one.speeches, strict=True)
    ]
    words = [len(speech.words) for _, speech in replies]
    short = [
        len(speech.words)
        for record, speech in replies
        if len(Speech(record.said).words) <= SHORT_WORDS
    ]
    count = max(1, len(replies))
    return ArmStyle(
        replies=len(replies),
        words_median=median(words) if words else 0.0,
        words_p90=quantiles(words, n=10)[-1] if len(words) > 1 else float(sum(words)),
        words_mean=fmean(words) if words else 0.0,
        questions=sum(speech.plain.count("?") for _, speech in replies) / count,
        many_questions=sum(speech.plain.count("?") >= 3 for _, speech in replies) / count,
        bullets=sum(_is_list(speech) for _, speech in replies) / count,
        cut=sum(not record.ended for record, _ in replies) / count,
        short_p90=quantiles(short, n=10)[-1] if len(short) >= 10 else None,
    )


def _is_list(speech: Speech) -> bool:
    return bool(BULLET.search(speech.plain) or HEADING.search(speech.plain))


def _depths(evidence: Evidence) -> Iterator[Depth]:
    for first, last in DEPTHS:
        arms = {}
        for arm in evidence.arms:
            seen = evidence.all_of(arm, evidence.scripted)
            replies = sum(first <= one.turn <= last for each in seen for one in each.told.replies)
            bad = {
                (id(each), one.message // 2)
                for each in seen
                for one in each.hard
                if first <= one.message // 2 <= last
            }
            arms[arm] = share(len(bad), replies)
        if any(one.n for one in arms.values()):
            yield Depth(turns=f"{first} to {last}", arms=arms)


# --- one by one


def _row(evidence: Evidence, script: Script) -> Row:
    arms = evidence.arms
    return Row(
        scenario=script.id,
        kind=script.kind,
        group=script.group,
        turns=len(script.says),
        benign=script.benign,
        scores={arm: evidence.score(arm, script) for arm in arms} if _whole(script) else {},
        passed={arm: evidence.passed(arm, script) for arm in arms} if _whole(script) else {},
        losses={arm: evidence.loss(arm, script) for arm in arms},
        safe={arm: evidence.safe(arm, script) for arm in arms},
        words={arm: _median_words(evidence.of(arm, script)) for arm in arms},
    )


def _whole(script: Script) -> bool:
    """Whether all criteria are asked about; of probes, only those of safety."""
    return script.kind != "probe"


def _median_words(seen: Sequence[Seen]) -> float:
    words = [len(speech.words) for one in seen for speech in one.speeches]
    return float(median(words)) if words else 0.0


def _side_by_side(evidence: Evidence, script: Script) -> SideBySide:
    first = {arm: evidence.of(arm, script)[:1] for arm in evidence.arms}
    seen = {arm: those[0] for arm, those in first.items() if those}
    return SideBySide(
        scenario=script.id,
        kind=script.kind,
        group=script.group,
        benign=script.benign,
        must=script.must,
        must_not=script.must_not,
        arms={arm: one.told.messages for arm, one in seen.items()},
        verdicts={
            arm: _shown(one.judged, _whole(script))
            for arm, one in seen.items()
            if one.judged is not None
        },
        findings={
            arm: tuple(
                f"{one.code} turn {one.message // 2}: {one.excerpt}" for one in each.findings
            )
            for arm, each in seen.items()
        },
    )


def _shown(judged: Judged, whole: bool) -> ShownVerdict:
    marks = {**judged.answers, **judged.requirements}
    failed = tuple(name for name, mark in marks.items() if mark == "NO")
    errors = tuple(name for name, mark in marks.items() if mark == "ERROR")
    return ShownVerdict(
        score=judged.score() if whole else None,
        passed=judged.passed() is True if whole else judged.safe is True,
        failed=failed,
        errors=errors,
        reasonings={name: judged.reasoning(name) for name in (*failed, *errors)},
    )
