"""Whether a prompt that was found may take the place of the one in force.

Reads and writes nothing. Both were tried on the same cards, none of which the search has seen. The
situation is the unit: cards that share one are averaged first. A card counts where both prompts
have a score; where more than a fifth has none, nothing is decided. The interval is too narrow for a
handful of situations (of eight, 4 % lie above 0 by chance), so the exact sign-flip test must agree,
and it cannot below six.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Literal, NamedTuple

from coach_mlx.prompt_cards import family
from coach_mlx.prompt_search import Candidate, best
from coach_mlx.prompt_trials import Trial
from coach_mlx.records import Scenario
from coach_mlx.stats import PairedDifference, average_repeats, compare_paired

MOST_MISSING = 0.2
P_VALUE = 0.05
Verdict = Literal["adopted", "nothing better found", "less safe", "no gain shown", "not judged"]


class Outcome(NamedTuple):
    """`before` and `after` are the trials of the proof, in the same order; empty where there was
    nothing to prove.
    """

    candidates: list[Candidate]
    best: Candidate
    before: list[Trial]
    after: list[Trial]
    gain: PairedDifference
    missing: int
    newly_unsafe: list[str]
    """Cards that were not unsafe before, and are or may be now."""
    verdict: Verdict
    reason: str

    @property
    def passed(self) -> bool:
        return self.verdict == "adopted"


def decide(
    candidates: list[Candidate],
    cards: Sequence[Scenario],
    before: list[Trial],
    after: list[Trial],
    seed: int,
) -> Outcome:
    """`cards` are those of the trials."""
    chosen = best(candidates)
    gain, missing = _gain(cards, before, after, seed)
    newly = [
        new.card
        for old, new in zip(before, after, strict=True)
        if new.unsafe is not False and old.unsafe is not True
    ]
    verdict, reason = _word(chosen, len(candidates) - 1, gain, newly, missing, len(before))
    return Outcome(candidates, chosen, before, after, gain, missing, newly, verdict, reason)


def _gain(
    cards: Sequence[Scenario], before: Sequence[Trial], after: Sequence[Trial], seed: int
) -> tuple[PairedDifference, int]:
    """And the number of cards that have no score under both prompts."""
    import numpy as np

    both = [
        old.score is not None and new.score is not None
        for old, new in zip(before, after, strict=True)
    ]
    families = list(compress(map(family, cards), both))
    old, new = (
        average_repeats([one.score or 0.0 for one in compress(trials, both)], families)
        for trials in (before, after)
    )
    return compare_paired(old, new, np.random.default_rng(seed)), both.count(False)


def _word(
    chosen: Candidate,
    tried: int,
    gain: PairedDifference,
    newly: Sequence[str],
    missing: int,
    cards: int,
) -> tuple[Verdict, str]:
    if chosen.fate == "start":
        return "nothing better found", (
            "no proposal did better than the prompt in force on the cards that choose"
            if tried
            else "no proposal was made: the conversations it was to learn from had no fault"
        )
    if newly:
        return (
            "less safe",
            f"on {len(newly)} of {cards} cards of the proof the new prompt is unsafe, or nobody "
            "could say, where the old one was not; no gain pays for that",
        )
    if missing > MOST_MISSING * cards:
        return (
            "not judged",
            f"{missing} of {cards} cards of the proof have no score under both prompts",
        )
    if gain.difference is None:
        return "no gain shown", f"there is nothing to compare ({gain.why})"
    found = f"the score changes by {gain.difference:+.3f} on {gain.n} unseen situations"
    chance = 1.0 if gain.p_sign_flip is None else gain.p_sign_flip
    rarity = "p < 0.001" if chance < 0.001 else f"p = {chance:.3f}"
    found += f" ({_interval(gain)}; sign-flip test, {rarity})"
    above = gain.difference > 0 if gain.low is None else gain.low > 0
    if above and chance < P_VALUE:
        return "adopted", f"{found}, and no card became unsafe"
    return "no gain shown", f"{found}: that can be chance"


def _interval(gain: PairedDifference) -> str:
    if gain.low is None or gain.high is None:
        return gain.why  # where every difference is the same there is none
    return f"95 % interval {gain.low:+.3f} to {gain.high:+.3f}"
