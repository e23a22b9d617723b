"""What an evaluation found: every number of the report, as one record.

Reads and writes nothing. `measures` fills it, `decision` reads it, `report` shows it, and
comparison_report.json is it. Shares and scores are 0..1, losses nats a token. What nobody could say
is `None`, and `why` says why.
"""

from typing import Literal

from coach_mlx.rates import wilson_interval
from coach_mlx.records import Message, Record

Word = Literal["deploy", "iterate", "try DPO", "unsafe", "inconclusive"]
Kind = Literal["holdout", "probe", "simulated"]


class Share(Record):
    """So many of n, with Wilson's 95 % interval."""

    found: int
    n: int
    share: float | None = None
    low: float | None = None
    high: float | None = None


def share(found: int, n: int) -> Share:
    if not n:
        return Share(found=0, n=0)
    low, high = wilson_interval(found, n)
    return Share(found=found, n=n, share=found / n, low=low, high=high)


class Estimate(Record):
    value: float | None = None
    low: float | None = None
    high: float | None = None
    why: str = ""


class Difference(Record):
    """`after - before`, paired by scenario; repeats of a scenario are averaged first."""

    before: str
    after: str
    n: int
    """Pairs."""
    missing: int = 0
    """Pairs left out because a judgement is missing."""
    mean_before: float | None = None
    mean_after: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the difference: BCa bootstrap over scenarios."""
    relative: float | None = None
    """The difference as a share of `mean_before`."""
    t: float | None = None
    p_t: float | None = None
    """Paired t-test, two-sided."""
    p_sign_flip: float | None = None
    p_wilcoxon: float | None = None
    p_holm: float | None = None
    """Corrected for the number of tests of its table."""
    d_z: float | None = None
    superiority: float | None = None
    """P(after > before), ties half."""
    worst: float | None = None
    best: float | None = None
    """The difference were every missing judgement against, and for, `after`."""
    why: str = ""


class PairedRates(Record):
    """Two arms' shares on the same scenarios."""

    before: str
    after: str
    n: int
    both: int
    only_before: int
    only_after: int
    neither: int
    difference: Estimate
    """Newcombe's interval."""
    p_mcnemar: float | None = None


class ArmFacts(Record):
    meaning: str
    digest: str
    """SHA-256 of what answered."""
    served_by: str


class ArmScores(Record):
    """One arm on the held-out scenarios."""

    judged: int
    """Conversations with a verdict."""
    mean_score: float | None
    score_low: float | None
    score_high: float | None
    passed: Share
    corrected: Estimate
    """The pass rate, corrected for what the judge misses (Rogan-Gladen)."""
    errors: Share
    """Of all answers, those that could not be used."""
    flips: Share
    """Of the criteria with several votes, those whose votes differ."""
    mean_loss: float | None


class ArmStyle(Record):
    """How one arm speaks, over all its replies."""

    replies: int
    words_median: float
    words_p90: float
    words_mean: float
    questions: float
    """Question marks a reply."""
    many_questions: float
    """Share of replies with three or more."""
    bullets: float
    """Share of replies with a list or a heading."""
    cut: float
    """Share of replies that the length cap ended."""
    short_p90: float | None
    """The 90th percentile of words in reply to 8 words or fewer; `None` for fewer than ten."""


class ArmSafety(Record):
    conversations: int
    failed: Share
    upper: float | None
    """Exact one-sided 95 % bound of the failure rate."""
    detector_hard: int
    """Hard findings of the detectors, all replies together."""
    judge_no: int | None
    """Conversations failed on CQ8 or CQ9; `None` where nobody judged."""
    missing: int
    """Conversations whose safety the judge could not say."""
    false_alarms: Share
    """Harmless look-alikes that were met as if there were danger."""


class SafetyFinding(Record):
    arm: str
    scenario: str
    kind: Kind
    turn: int | None
    source: str
    """A detector (D1 to D25), a criterion (CQ8, CQ9), or a probe's own `must` and `must not`."""
    severity: Literal["hard", "warn"]
    confirmed: bool
    """Two of detector, judge and person agree, or all of three votes or more of a judge whose
    passport is gating here.
    """
    excerpt: str
    reason: str


class Safety(Record):
    margin: float
    """The largest rise of the failure rate that is accepted; set beforehand."""
    shown: bool
    """That no arm that may be served is worse than the base by more than the margin."""
    newly: Share
    """Scenarios in which the served coach fails and the base does not."""
    newly_upper: float | None
    """Exact one-sided 95 % bound of that rate, and so of the rise."""
    rates: PairedRates
    broken: PairedRates
    """Scenarios with a leak, a loop or a broken reply: bad, and no harm to anybody."""
    least_scenarios: int
    """So many are needed to show it, without one new failure."""
    arms: dict[str, ArmSafety]
    findings: tuple[SafetyFinding, ...]
    why: str


class CriterionRow(Record):
    criterion: str
    name: str
    category: str
    advisory: bool
    """The judge could not be shown to find its failures."""
    arms: dict[str, Share]
    """Passed, of those answered."""
    rates: PairedRates
    p_holm: float | None


class GroupRow(Record):
    """A category of the rubric, a topic, or a probe family."""

    name: str
    difference: Difference


class Depth(Record):
    """Replies with a hard finding, or a failed `must not`, by how deep in the talk they stand."""

    turns: str
    arms: dict[str, Share]


class Threshold(Record):
    """Pass rates were the threshold another."""

    threshold: float
    arms: dict[str, Share]


class Preferred(Record):
    """A/B by the judge, both ways round."""

    before: str
    after: str
    pairs: int
    after_won: int
    before_won: int
    ties: int
    inconsistent: int
    """Ties because the judge's choice moved with the place."""
    win_rate: Estimate
    p: float | None


class Agreement(Record):
    """A person's blinded choices against the judge's."""

    person: str
    pairs: int
    preferred_after: int
    preferred_before: int
    ties: int
    compared: int
    """Pairs on which the judge has an opinion too."""
    agreed: Share
    kappa: Estimate
    remarks: tuple[str, ...]


class Row(Record):
    """One scenario, every arm."""

    scenario: str
    kind: Kind
    group: str
    """Topic or family."""
    turns: int
    benign: bool
    scores: dict[str, float | None]
    passed: dict[str, bool | None]
    losses: dict[str, float | None]
    safe: dict[str, bool | None]
    words: dict[str, float]
    """Median words of a reply."""


class ShownVerdict(Record):
    score: float | None
    passed: bool
    failed: tuple[str, ...]
    errors: tuple[str, ...]
    reasonings: dict[str, str]


class SideBySide(Record):
    """What the person said, and each arm's whole talk (repeat 0)."""

    scenario: str
    kind: Kind
    group: str
    benign: bool
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()
    arms: dict[str, tuple[Message, ...]]
    verdicts: dict[str, ShownVerdict]
    findings: dict[str, tuple[str, ...]]
    """Of the detectors: "D14 turn 3: what".
    """


class Weight(Record):
    """A topic's share of the next scenarios: as it is, and as proposed."""

    topic: str
    now: float
    proposed: float


class Decision(Record):
    word: Word
    passed: bool
    """Only where it is deploy."""
    reason: str
    reasons: tuple[str, ...]
    """Each with its numbers."""
    todo: tuple[str, ...]
    """What to do next, with the command."""
    unsaid: tuple[str, ...]
    """What this evaluation cannot say."""
    weights: tuple[Weight, ...] = ()
    more_scenarios: int | None = None


class Costs(Record):
    judge: str | None
    calls: int
    usd: float
    seconds: dict[str, float]
    """Generation, by arm."""
    tokens: dict[str, int]


class Lineage(Record):
    stage: str
    inputs: dict[str, str]
    outputs: dict[str, str]


class Comparison(Record):
    name: str
    made: str
    machine: str
    decision: Decision
    plan: str
    """The plan's hash."""
    plan_path: str
    earlier_plans: int
    """Plans that were made for the same models before this one."""
    scenarios: dict[str, int]
    """By kind."""
    turns: int
    repeats: int
    judge: str
    """In a sentence: who judged, with how many votes, and what the passport says."""
    decoding: str
    detectable: str
    """The smallest effect this holdout can show, as the plan said it beforehand."""
    arms: dict[str, ArmFacts]
    scores: dict[str, ArmScores]
    score: tuple[Difference, ...]
    """The first is the primary: served - base."""
    simulated: Difference | None = None
    """The primary, of free talks with a simulated client; secondary, because the arms do not meet
    the same words there.
    """
    loss: tuple[Difference, ...]
    pass_rates: tuple[PairedRates, ...]
    thresholds: tuple[Threshold, ...]
    categories: tuple[GroupRow, ...]
    criteria: tuple[CriterionRow, ...]
    """Exploratory."""
    topics: tuple[GroupRow, ...]
    safety: Safety
    probes: tuple[GroupRow, ...] = ()
    """Share of a probe's musts and must-nots that held, by family."""
    style: dict[str, ArmStyle]
    depth: tuple[Depth, ...]
    preferred: Preferred | None = None
    people: tuple[Agreement, ...] = ()
    rows: tuple[Row, ...]
    transcripts: tuple[SideBySide, ...]
    costs: Costs
    parity: tuple[dict[str, str | bool], ...]
    """The export's gate."""
    lineage: tuple[Lineage, ...]
    deploy_command: str
    report: str
