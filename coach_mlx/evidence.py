"""All that is known of every arm on every script, and the one value a scenario has in a
comparison.

Reads and writes nothing. Repeats of a scenario are averaged first: the scenario is the unit, not
the reply. A judgement that is missing is `None`, and never a low score.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from coach_mlx.comparison import Difference, Estimate, PairedRates
from coach_mlx.config import EvaluateSection
from coach_mlx.detectors import CUT, OF_FORM, Finding, detect
from coach_mlx.judgements import Judged
from coach_mlx.passport import Passport
from coach_mlx.rates import PairedTable, mcnemar_test, newcombe_interval
from coach_mlx.records import Mark
from coach_mlx.replay import Script, Told
from coach_mlx.rubric import Rubric
from coach_mlx.stats import compare_paired
from coach_mlx.talk import Known, Speech


class Seen(NamedTuple):
    """One arm's talk over one script, and what was made of it."""

    told: Told
    findings: tuple[Finding, ...]
    judged: Judged | None
    speeches: tuple[Speech, ...]
    """The coach's replies."""

    @property
    def hard(self) -> list[Finding]:
        return [one for one in self.findings if one.severity == "hard"]

    @property
    def harm(self) -> list[Finding]:
        return [one for one in self.hard if one.code not in OF_FORM]


def look(told: Told, judged: Judged | None, known: Known, cap_is_real: bool) -> Seen:
    """`cap_is_real`: the length cap is the served model's own. Otherwise what it cuts off is no
    failure of the model's.
    """
    cut = {2 * one.turn for one in told.replies if not one.ended and not cap_is_real}
    found = detect(told.messages, told.script.risk, known)
    findings = tuple(one for one in found if not (one.code == CUT and one.message in cut))
    speeches = tuple(Speech(one.reply) for one in told.replies)
    return Seen(told, findings, judged, speeches)


@dataclass(frozen=True)
class Evidence:
    scripts: tuple[Script, ...]
    arms: tuple[str, ...]
    """The first is what the others are compared with."""
    seen: dict[tuple[str, str, int], Seen]
    """By arm, script and repeat."""
    losses: dict[tuple[str, str], float]
    """By arm and held-out script; nats a token."""
    rubric: Rubric
    settings: EvaluateSection
    passport: Passport | None
    seed: int
    flags: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """People who said that an arm should not have said something, by script and arm."""

    @property
    def base(self) -> str:
        return self.arms[0]

    @property
    def served(self) -> str:
        """What a person would talk to."""
        return self.arms[-1]

    @cached_property
    def holdout(self) -> list[Script]:
        return [one for one in self.scripts if one.kind == "holdout"]

    @cached_property
    def probes(self) -> list[Script]:
        return [one for one in self.scripts if one.kind == "probe"]

    @cached_property
    def scripted(self) -> list[Script]:
        """On which every arm meets the same words."""
        return [*self.holdout, *self.probes]

    @cached_property
    def free(self) -> list[Script]:
        return [one for one in self.scripts if one.kind == "simulated"]

    @cached_property
    def is_judged(self) -> bool:
        return any(one.judged is not None for one in self.seen.values())

    def of(self, arm: str, script: Script) -> list[Seen]:
        """Every repeat."""
        repeats = range(self.settings.repeats)
        keys = ((arm, script.id, repeat) for repeat in repeats)
        return [self.seen[key] for key in keys if key in self.seen]

    def all_of(self, arm: str, scripts: Sequence[Script]) -> list[Seen]:
        return [seen for script in scripts for seen in self.of(arm, script)]

    def rng(self, name: str) -> Any:
        """A generator of its own for every table, so that none depends on another."""
        import numpy as np

        return np.random.default_rng([self.seed, *name.encode()])

    # --- one value a scenario

    def score(self, arm: str, script: Script, errors_as: Mark | None = None) -> float | None:
        judged = [one.judged for one in self.of(arm, script) if one.judged is not None]
        return mean_of(one.score(errors_as) for one in judged)

    def passed(self, arm: str, script: Script, threshold: float | None = None) -> bool | None:
        """In most of its repeats."""
        judged = [one.judged for one in self.of(arm, script) if one.judged is not None]
        return most_of(one.passed(threshold) for one in judged)

    def loss(self, arm: str, script: Script) -> float | None:
        return self.losses.get((arm, script.id))

    def broken(self, arm: str, script: Script) -> bool:
        """In any repeat, by the detectors."""
        return any(one.code in OF_FORM for each in self.of(arm, script) for one in each.hard)

    def safe(self, arm: str, script: Script) -> bool | None:
        """In every repeat, by the detectors of harm and, where there is one, by the judge; `None`
        where the judge could not say and nothing else was found.
        """
        found = [_safe(one) for one in self.of(arm, script)]
        if False in found:
            return False
        return None if None in found or not found else True

    # --- two arms

    def difference(
        self,
        before: str,
        after: str,
        scripts: Sequence[Script],
        value: Callable[[str, Script], float | None],
        name: str,
    ) -> Difference:
        """Over the scripts on which both have a value."""
        both = [(value(before, one), value(after, one)) for one in scripts]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        missing = len(both) - len(pairs)
        if not pairs:
            why = "no scenario has a value in both arms"
            return Difference(before=before, after=after, n=0, missing=missing, why=why)
        found = compare_paired(
            [a for a, _ in pairs],
            [b for _, b in pairs],
            self.rng(f"{name}{before}{after}"),
            self.settings.resamples,
        )
        mean = found.mean_before
        relative = found.difference / mean if mean and found.difference is not None else None
        return Difference(
            before=before, after=after, missing=missing, relative=relative, **found._asdict()
        )

    def rates(
        self,
        before: str,
        after: str,
        scripts: Sequence[Script],
        value: Callable[[str, Script], bool | None],
    ) -> PairedRates:
        both = [(value(before, one), value(after, one)) for one in scripts]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        kinds = ((True, True), (True, False), (False, True), (False, False))
        table = PairedTable(*(pairs.count(kind) for kind in kinds))
        return PairedRates(
            before=before,
            after=after,
            n=len(pairs),
            difference=Estimate(**newcombe_interval(table)._asdict()),
            p_mcnemar=mcnemar_test(table).p,
            **table._asdict(),
        )


def _safe(one: Seen) -> bool | None:
    if one.harm or (one.judged is not None and one.judged.safe is False):
        return False
    return True if one.judged is None else one.judged.safe


def mean_of(values: Iterable[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    return fmean(known) if known else None


def most_of(values: Iterable[bool | None]) -> bool | None:
    """More than half of those known; a draw is no."""
    known = [one for one in values if one is not None]
    return 2 * sum(known) > len(known) if known else None
