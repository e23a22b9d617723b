"""Counts in, intervals out: proportions, agreement, non-inferiority, correction for many tests.

Nothing here knows what a model is. Everything is asked of counts, so nothing is random. What cannot
be said is `None`, and `why` says why; a count that cannot be (6 of 5, minus one) raises ValueError.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from coach_mlx.stats import EMPTY, IntervalEstimate, PValue

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOTHING = "nothing was counted"
AGREED = "no pair is judged differently"
FEW_LABELLED = "fewer than ten labelled items of a kind"
NO_BETTER_THAN_CHANCE = "sensitivity and specificity add up to 1 or less"

LEAST_LABELLED = 10
"""Of either kind. The least coverage of the corrected interval over many simulated judges was 96 %
with 10 and 10, 94 % with 16 and 177, 91 % with 10 and 1,000; below, 91 % with 5 and 60, 63 % with
1 and 60.
"""


class Interval(NamedTuple):
    low: float
    high: float


class Counted(NamedTuple):
    """So many of n."""

    found: int
    n: int


class PairedTable(NamedTuple):
    """Of pairs of yes and no: yes in both, in one, in neither."""

    both: int
    only_before: int
    only_after: int
    neither: int


class Kappa(NamedTuple):
    """Agreement beyond chance; `None` where it cannot be said."""

    n: int
    kappa: float | None
    low: float | None
    high: float | None


class NonInferiority(NamedTuple):
    """`upper` bounds the rise of the failure rate; `shown` where it is at most `margin`."""

    newly: int
    n: int
    rate: float | None
    upper: float | None
    margin: float
    shown: bool
    why: str


# --- one proportion


def wilson_interval(passed: int, n: int) -> Interval:
    """95 % interval of a share.

    Missing: n = 0 raises ValueError; there is no share of nothing.
    Source: Wilson 1927, without continuity correction.
    """
    _require_count(passed, n)
    if n == 0:
        raise ValueError("0 of 0 is no share")
    z, share = _normal_quantile(0.975), passed / n
    middle = (passed + z**2 / 2) / (n + z**2)
    reach = z * (n * share * (1 - share) + z**2 / 4) ** 0.5 / (n + z**2)
    # At 0 and at n the end is that share; rounding would leave it beside.
    low = 0.0 if passed == 0 else middle - reach
    return Interval(low, 1.0 if passed == n else middle + reach)


def exact_interval(
    found: int,
    n: int,
    side: Literal["both", "lower", "upper"] = "both",
    confidence: float = 0.95,
) -> IntervalEstimate:
    """A share with its exact bounds; a one-sided one leaves the other end at 0 or 1.

    The upper bound is the rate at which `found` or fewer would be seen with probability alpha.
    P(X <= k | n, p) = 1 - I_p(k + 1, n - k), so it is the 1 - alpha quantile of Beta(k + 1, n - k);
    the lower bound is the same of what was not found. Two-sided: alpha / 2 at each end.

    Missing: n = 0 gives `None`.
    Source: Clopper & Pearson 1934.
    """
    from scipy import special

    _require_count(found, n)
    _require_inside(confidence, "confidence")
    if n == 0:
        return IntervalEstimate(None, None, None, NOTHING)
    alpha = (1 - confidence) / (2 if side == "both" else 1)
    low, high = 0.0, 1.0
    if side != "upper" and found > 0:
        low = float(special.betaincinv(found, n - found + 1, alpha))
    if side != "lower" and found < n:
        high = float(special.betaincinv(found + 1, n - found, 1 - alpha))
    return IntervalEstimate(found / n, low, high, "")


def corrected_prevalence(
    found: Counted, sensitivity: Counted, specificity: Counted
) -> IntervalEstimate:
    """The true share of what a fallible judge looks for, with its 95 % interval.

    Of the true ones a share Se is found, of the others 1 - Sp, so p = theta Se + (1 - theta)
    (1 - Sp), and theta = (p + Sp - 1) / (Se + Sp - 1). The interval takes in that p, Se and Sp are
    all three estimates: by the delta method, with J = Se + Sp - 1, the variance is
    [p(1-p)/n + theta^2 Se(1-Se)/n_Se + (1-theta)^2 Sp(1-Sp)/n_Sp] / J^2.

    Units: `found` of all that was judged, `sensitivity` of the true ones and `specificity` of the
    others of a labelled set, independent of what was judged. Value and ends are kept within 0..1.
    Missing: `None` where nothing was judged, where a kind has fewer than ten labelled items, or
    where Se + Sp <= 1 (as counted, or with the imagined items): such a judge tells nothing.
    Source: Rogan & Gladen 1978; interval of Lang & Reiczigel 2014, which arXiv 2511.21140 has too.
    It keeps its level where Rogan and Gladen's own falls as short as Wald's. Departure: neither
    source asks for ten labelled items.
    """
    counts = [Counted(*one) for one in (found, sensitivity, specificity)]
    for one in counts:
        _require_count(*one)
    judged, *labelled = counts
    if judged.n == 0:
        return IntervalEstimate(None, None, None, NOTHING)
    if min(one.n for one in labelled) < LEAST_LABELLED:
        return IntervalEstimate(None, None, None, FEW_LABELLED)
    p, right, cleared = (one.found / one.n for one in counts)
    ends = _lang_reiczigel(*counts)
    if right + cleared <= 1 or ends is None:
        return IntervalEstimate(None, None, None, NO_BETTER_THAN_CHANCE)
    return IntervalEstimate(_within((p + cleared - 1) / (right + cleared - 1)), *ends, "")


def _lang_reiczigel(found: Counted, sensitivity: Counted, specificity: Counted) -> Interval | None:
    """z^2 / 2 imagined items on either side of p (Agresti & Coull), one of Se and of Sp; the middle
    is moved by 2 z^2 [theta Se(1-Se)/n_Se - (1-theta) Sp(1-Sp)/n_Sp].
    """
    z = _normal_quantile(0.975)
    n, true, others = found.n + z**2, sensitivity.n + 2, specificity.n + 2
    p = (found.found + z**2 / 2) / n
    right, cleared = (sensitivity.found + 1) / true, (specificity.found + 1) / others
    informed = right + cleared - 1
    if informed <= 0:
        return None
    theta = (p + cleared - 1) / informed
    of_right, of_cleared = right * (1 - right) / true, cleared * (1 - cleared) / others
    middle = theta + 2 * z**2 * (theta * of_right - (1 - theta) * of_cleared)
    variance = p * (1 - p) / n + theta**2 * of_right + (1 - theta) ** 2 * of_cleared
    reach = z * variance**0.5 / informed
    return Interval(_within(middle - reach), _within(middle + reach))


# --- two proportions, paired


def paired_table(before: Sequence[bool], after: Sequence[bool]) -> PairedTable:
    """How often both, only one and neither say yes.

    Shapes: two sequences (N,), in the same order.
    Missing: another length raises ValueError.
    """
    if len(before) != len(after):
        raise ValueError(f"paired samples differ in length: {len(before)} and {len(after)}")
    pairs = [(bool(first), bool(second)) for first, second in zip(before, after, strict=True)]
    kinds = ((True, True), (True, False), (False, True), (False, False))
    return PairedTable(*(pairs.count(kind) for kind in kinds))


def mcnemar_test(table: PairedTable) -> PValue:
    """Whether both proportions are equal, exact and two-sided: of the pairs that differ, half go
    either way.

    Missing: p is 1 where no pair differs, `None` where there is no pair.
    Source: McNemar 1947, with the binomial distribution.
    """
    from scipy import special

    n = _pairs(table)
    if n == 0:
        return PValue(None, EMPTY)
    differ = table.only_before + table.only_after
    if differ == 0:
        return PValue(1.0, AGREED)
    fewer = min(table.only_before, table.only_after)
    return PValue(min(1.0, 2 * float(special.bdtr(fewer, differ, 0.5))), "")


def newcombe_interval(table: PairedTable) -> IntervalEstimate:
    """The share after less the share before, with its 95 % interval.

    Wilson's distances of both shares are put together as two sides of a triangle whose angle is
    the correlation of the pairs: low = d - sqrt(x^2 - 2 phi x y + y^2) with x = p_after - low_after
    and y = high_before - p_before; high likewise with the other two distances.

    Units: -1..1.
    Missing: no pair gives `None`.
    Source: Newcombe 1998 (Statistics in Medicine 17, 2635-2650), method 10.
    """
    n = _pairs(table)
    if n == 0:
        return IntervalEstimate(None, None, None, EMPTY)
    yes_before, yes_after = table.both + table.only_before, table.both + table.only_after
    before, after = yes_before / n, yes_after / n
    of_before, of_after = wilson_interval(yes_before, n), wilson_interval(yes_after, n)
    phi, difference = _correlation(table), (table.only_after - table.only_before) / n
    low = _third_side(after - of_after.low, of_before.high - before, phi)
    high = _third_side(of_after.high - after, before - of_before.low, phi)
    return IntervalEstimate(
        difference, max(difference - low, -1.0), min(difference + high, 1.0), ""
    )


def _correlation(table: PairedTable) -> float:
    """Phi of the table, drawn towards 0 by n / 2 where it is positive (the source's correction)."""
    a, b, c, d = table
    product = (a + b) * (c + d) * (a + c) * (b + d)
    if product == 0:
        return 0.0
    excess = float(a * d - b * c)
    if excess > 0:
        excess = max(excess - sum(table) / 2, 0.0)
    return excess / math.sqrt(product)


def _third_side(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0))


def non_inferiority(newly: int, n: int, margin: float, confidence: float = 0.95) -> NonInferiority:
    """Whether the failure rate rises by no more than `margin`.

    `newly` counts the scenarios in which the tuned coach fails and the base does not. What both
    fail cancels: p_tuned - p_base = P(only tuned fails) - P(only base fails) <= P(only tuned
    fails). So an exact upper bound of the latter bounds the rise, and is conservative: the error
    of "shown" is at most 1 - confidence.

    Units: `margin` in 0..1, set before the data are seen.
    Missing: no scenario shows nothing.
    Source: Clopper & Pearson 1934 for the one-sided bound. Departure: what the tuned coach no
    longer fails is not counted in its favour.
    """
    _require_inside(margin, "margin")
    bound = exact_interval(newly, n, "upper", confidence)
    if bound.high is None:
        return NonInferiority(newly, n, None, None, margin, False, bound.why)
    shown = bound.high <= margin
    why = "" if shown else f"the rise may be {bound.high:.4f}, and {margin:g} is the margin"
    return NonInferiority(newly, n, bound.value, bound.high, margin, shown, why)


def least_scenarios(margin: float, confidence: float = 0.95) -> int:
    """So many scenarios show non-inferiority where not one fails newly.

    With no failure the bound is 1 - (1 - confidence)^(1/n), which is at most the margin from
    n = log(1 - confidence) / log(1 - margin) on.
    """
    _require_inside(margin, "margin")
    _require_inside(confidence, "confidence")
    n = max(1, math.floor(math.log1p(-confidence) / math.log1p(-margin)))
    while not non_inferiority(0, n, margin, confidence).shown:
        n += 1
    return n


# --- many tests


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values, corrected so that any false one among them is as unlikely as one alone.

    Shapes: a sequence (K,), gives (K,) in the same order.
    Missing: a test that could not be made stays `None` and is not counted.
    Source: Holm 1979 (step-down Bonferroni).
    """
    made = [(p, place) for place, p in enumerate(p_values) if p is not None]
    if not all(0 <= p <= 1 for p, _ in made):
        raise ValueError("a p value lies outside 0..1")
    corrected: list[float | None] = [None] * len(p_values)
    most = 0.0
    for rank, (p, place) in enumerate(sorted(made)):
        most = max(most, min(1.0, (len(made) - rank) * p))
        corrected[place] = most
    return corrected


# --- agreement


def cohens_kappa(one: Sequence[bool], other: Sequence[bool]) -> Kappa:
    """Of two raters' yes and no on the same things, with its 95 % interval.

    var = [sum p_ii (1 - (r_i + c_i)(1 - k))^2 + (1 - k)^2 sum_{i != j} p_ij (c_i + r_j)^2
           - (k - chance (1 - k))^2] / (n (1 - chance)^2)

    Shapes: two sequences (N,), in the same order.
    Missing: `None` for all where N is 0, or where chance alone would make them agree on everything
    (neither ever says the other thing). With perfect agreement the interval is a point.
    Source: Cohen 1960; standard error of Fleiss, Cohen & Everitt 1969, eq. 13.
    """
    import numpy as np

    if len(one) != len(other):
        raise ValueError(f"the raters judged {len(one)} and {len(other)} things")
    counts = paired_table(one, other)
    n = sum(counts)
    if not n or max(counts.both, counts.neither) == n:
        return Kappa(n, None, None, None)
    shares = np.array(counts).reshape(2, 2) / n  # (rater one, rater two), yes before no
    chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    kappa = (float(np.trace(shares)) - chance) / (1 - chance)
    reach = _normal_quantile(0.975) * _kappa_error(shares, kappa, chance) / n**0.5
    return Kappa(n, kappa, max(kappa - reach, -1.0), min(kappa + reach, 1.0))


def _kappa_error(shares: "NDArray[np.float64]", kappa: float, chance: float) -> float:
    """The standard error of kappa for one thing judged."""
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)  # (2,), (2,)
    diagonal = sum(shares[i, i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    across = sum(shares[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1))
    variance = diagonal + (1 - kappa) ** 2 * across - (kappa - chance * (1 - kappa)) ** 2
    return math.sqrt(max(variance, 0.0)) / (1 - chance)


# --- shared


def _normal_quantile(share: float) -> float:
    from scipy import special

    return float(special.ndtri(share))


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))


def _pairs(table: PairedTable) -> int:
    if min(table) < 0:
        raise ValueError(f"{tuple(table)} is no table of counts")
    return sum(table)


def _require_count(found: int, n: int) -> None:
    if not 0 <= found <= n:
        raise ValueError(f"{found} of {n} is no share")


def _require_inside(share: float, name: str) -> None:
    if not 0 < share < 1:
        raise ValueError(f"the {name} is {share}, not between 0 and 1")
