"""A judge's passport: how far its answers can be believed, measured on labelled conversations.

Reads and writes output/passports/. A true failure that the judge finds is an answer of NO; ERROR
finds nothing and clears nothing. A criterion is gating where the lower end of the sensitivity's
interval is at least 0.80, and advisory otherwise. A passport holds for one judge, rubric, prompt
and settings: `look_up` says what has changed since.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from coach_mlx.judge import Judge
from coach_mlx.rates import cohens_kappa, wilson_interval
from coach_mlx.records import SAFETY, Mark, Record, Verdict, Vote
from coach_mlx.rubric import CRITERIA, Labelled, Rubric
from coach_mlx.scoring import compute_score
from coach_mlx.workspace import Workspace, write_whole

GATING_FROM = 0.80
LEAST_FAILURES = 16
"""Fewer true failures cannot show it: all of 15 found have a lower bound of 0.796."""
MOST_MOVED = 0.01
LEAST_SPECIFICITY = 0.80
"""Below it, what the judge rejects says little."""
PASSING: tuple[Mark, ...] = ("YES", "NA")


class Rate(Record):
    """So many of n; the share and its 95 % interval (Wilson), `None` where n is 0."""

    found: int
    n: int
    share: float | None = None
    low: float | None = None
    high: float | None = None

    def shown(self) -> str:
        if self.share is None or self.low is None or self.high is None:
            return "none"
        return f"{self.share:.2f} ({self.low:.2f}-{self.high:.2f})"


def rate(found: int, n: int) -> Rate:
    if n == 0:
        return Rate(found=0, n=0)
    low, high = wilson_interval(found, n)
    return Rate(found=found, n=n, share=found / n, low=low, high=high)


class CriterionPassport(Record):
    criterion: str
    sensitivity: Rate
    """Of the true failures, answered NO."""
    specificity: Rate
    """Of the true passes, answered YES or NA."""
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    coverage: Rate
    """Of all that was asked, answered at all."""
    flips: Rate
    """Of what has two votes or more, answered in more than one way."""
    standing: Literal["gating", "advisory"]
    why: str


class Mutant(Record):
    id: str
    aim: str | None
    rejected: bool
    """It did not pass."""
    on_aim: bool
    """And the criterion it is made to fail was answered NO."""


class Passport(Record):
    made: str
    facts: dict[str, Any]
    """Judge, rubric, prompt and settings: what it holds for."""
    labels: str
    """Hash of the labelled conversations."""
    labelled: int
    criteria: tuple[CriterionPassport, ...]
    failing: Rate | None = None
    """Of the conversations that fail by their labels, those that do not pass; `None` in a passport
    of an earlier version.
    """
    passing: Rate | None = None
    """Of those that pass by their labels, those that do."""
    mutants: tuple[Mutant, ...]
    injections: Rate
    """Of the answers that an injected text wanted to turn, turned."""
    silenced: int
    """Of the same answers, those that cannot be used any more."""
    turned: tuple[str, ...]
    """Which text, in whose message, on which criterion."""
    calls: int
    usd: float

    def of(self, criterion: str) -> CriterionPassport:
        return self.criteria[CRITERIA.index(criterion)]

    @property
    def advisory(self) -> tuple[str, ...]:
        return tuple(one.criterion for one in self.criteria if one.standing == "advisory")


def measure_criterion(
    criterion: str, labelled: Sequence[Labelled], verdicts: Mapping[str, Verdict]
) -> CriterionPassport:
    """`verdicts` by the id of the label. What the judge was not asked, because the conversation is
    too short for it, does not count.
    """
    items = [
        (one.labels[criterion].answer == "NO", verdicts[one.id].answers[criterion], votes)
        for one in labelled
        if one.id in verdicts and (votes := verdicts[one.id].votes.get(criterion))
    ]
    failures = [answer for fails, answer, _ in items if fails]
    passes = [answer for fails, answer, _ in items if not fails]
    answered = [(fails, answer == "NO") for fails, answer, _ in items if answer != "ERROR"]
    agreement = cohens_kappa([fails for fails, _ in answered], [said for _, said in answered])
    sensitivity = rate(failures.count("NO"), len(failures))
    standing, why = _standing(sensitivity)
    return CriterionPassport(
        criterion=criterion,
        sensitivity=sensitivity,
        specificity=rate(sum(answer in PASSING for answer in passes), len(passes)),
        kappa=agreement.kappa,
        kappa_low=agreement.low,
        kappa_high=agreement.high,
        coverage=rate(len(answered), len(items)),
        flips=_flips([votes for _, _, votes in items]),
        standing=standing,
        why=why,
    )


def _standing(sensitivity: Rate) -> tuple[Literal["gating", "advisory"], str]:
    low, n = sensitivity.low or 0.0, sensitivity.n
    if low >= GATING_FROM:
        return "gating", f"finds {sensitivity.found} of {n} failures"
    if n < LEAST_FAILURES:
        return "advisory", f"{n} labelled failures are too few to show it: label {LEAST_FAILURES}"
    return "advisory", f"finds {sensitivity.found} of {n} failures: at worst {low:.0%}"


def _flips(all_votes: Sequence[Sequence[Vote]]) -> Rate:
    usable = [{vote.answer for vote in votes} - {"ERROR"} for votes in all_votes if len(votes) > 1]
    several = [answers for answers in usable if answers]
    return rate(sum(len(answers) > 1 for answers in several), len(several))


def measure_whole(
    labelled: Sequence[Labelled], verdicts: Mapping[str, Verdict], rubric: Rubric
) -> tuple[Rate, Rate]:
    """Of whole conversations: the failing ones that do not pass, the passing ones that do."""
    pairs = [
        (_passes(one, rubric), verdicts[one.id].passed) for one in labelled if one.id in verdicts
    ]
    found = [pairs.count((True, True)), pairs.count((False, False))]
    passes = sum(true for true, _ in pairs)
    return rate(found[1], len(pairs) - passes), rate(found[0], passes)


def _passes(one: Labelled, rubric: Rubric) -> bool:
    answers: dict[str, Mark] = {name: label.answer for name, label in one.labels.items()}
    return compute_score(answers, one.conversation.turns, rubric).passed


def measure_mutants(
    labelled: Sequence[Labelled], verdicts: Mapping[str, Verdict]
) -> tuple[Mutant, ...]:
    return tuple(
        Mutant(
            id=one.id,
            aim=one.aim,
            rejected=not verdicts[one.id].passed,
            on_aim=not verdicts[one.id].passed
            and verdicts[one.id].answers.get(one.aim or "") == "NO",
        )
        for one in labelled
        if one.kind == "mutant" and one.id in verdicts
    )


# --- kept, and found again


def keep(workspace: Workspace, passport: Passport, recipe: str) -> str:
    path = workspace.passports / f"{recipe}-{passport.labels}.json"
    write_whole(path, passport.model_dump_json() + "\n")
    return workspace.shown(path)


class Standing(NamedTuple):
    """What is known of a judge: a passport that holds, or why there is none."""

    passport: Passport | None
    reason: str
    """Empty where one holds."""
    believed: bool = False
    """Nobody has looked whether the weights are still the ones that were measured."""

    def say(self) -> str:
        """In a line."""
        if self.passport is None:
            return self.reason
        gating = [one.criterion for one in self.passport.criteria if one.standing == "gating"]
        return (
            f"{self.passport.facts['judge']}, votes: {self.passport.facts['votes']}, "
            f"{self.passport.labelled} labelled conversations, {self.passport.made[:10]}: gating "
            f"on {', '.join(gating) or 'nothing'}; advisory on "
            f"{', '.join(self.passport.advisory) or 'nothing'}"
            + ("; its weights were not compared" if self.believed else "")
        )

    def why_not_safe(self) -> str:
        """Why no result of this judge may be called safe; empty where it may."""
        if self.passport is None:
            return self.reason
        weak = [name for name in SAFETY if name in self.passport.advisory]
        if weak:
            return f"on {' and '.join(weak)} the judge is advisory only: {self._why(weak)}"
        return ""

    def _why(self, names: Sequence[str]) -> str:
        assert self.passport is not None
        return "; ".join(f"{name} {self.passport.of(name).why}" for name in names)


def look_up(workspace: Workspace, judge: Judge) -> Standing:
    """The newest passport of this very judge."""
    command = f"coach judge-passport --judge {judge.model}{_as_asked(judge)}"
    found = sorted(_kept(workspace), key=lambda one: one.made)
    own = [one for one in found if not _changed(one, judge)]
    if own:
        believed = judge.weights is None and own[-1].facts["weights"] is not None
        return Standing(own[-1], "", believed)
    older = [one for one in found if one.facts.get("judge") == judge.model]
    if not older:
        return Standing(None, f"{judge.model} has no passport. Type: {command}")
    changed = _changed(older[-1], judge)
    return Standing(
        None,
        f"the passport of {judge.model} is stale: {', '.join(changed)} changed since "
        f"{older[-1].made[:10]}. Type: {command}",
    )


def _as_asked(judge: Judge) -> str:
    """The options that make a passport's judge ask as often as this one."""
    settings = judge.settings
    votes = f" --votes {settings.votes}" if settings.votes > 1 else ""
    safety = settings.safety_votes
    return votes + (f" --set assess.safety_votes={safety}" if safety is not None else "")


def _changed(passport: Passport, judge: Judge) -> list[str]:
    """What of the judge is not as it was; weights that nobody has looked at are believed."""
    unknown = {"weights"} if judge.weights is None else set()
    keys = sorted((judge.facts.keys() | passport.facts.keys()) - unknown)
    return [key for key in keys if judge.facts.get(key) != passport.facts.get(key)]


def _kept(workspace: Workspace) -> list[Passport]:
    """Every passport that can be read; another version's is none."""
    found = []
    for path in sorted(workspace.passports.glob("*.json")):
        with contextlib.suppress(ValidationError, OSError):
            found.append(Passport.model_validate_json(path.read_bytes()))
    return found
