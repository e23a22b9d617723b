"""Numbers in, intervals out: means of paired differences.

`rates` has the proportions, `power` what a sample can show. Nothing here knows what a model is.
Letters: N pairs, B resamples. The unit is the scenario; repeats of one are averaged
(`average_repeats`) before anything is tested. A missing value never enters: the caller counts it
and leaves the pair out. What cannot be said is `None`, and `why` says why.

Differences are rounded at 2^-44 (6e-14) of the largest value: 0.3 - 0.2 and 0.2 - 0.1 are then the
same number, so ties are ties, and no spread of rounding errors is taken for a spread. Sums of N of
them are equal where they differ by no more than N times that: three thirds are one.
"""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Floats = Sequence[float] | Array

EMPTY = "there is no pair"
FEW = "fewer than two pairs"
SAME = "every difference is the same"
ZERO = "every difference is 0"
NOT_FINITE = "a value is not finite"

GRAIN = 44
"""Bits after the point that a difference keeps, counted from the largest value."""
STEP = 2.0**-GRAIN
"""Means of differences within [-1, 1] that are no further apart are equal."""
LARGEST = 1e100
"""From here on a value counts as not finite: its powers would not be."""
ENUMERATED = 12
"""Up to so many differences other than 0 all sign patterns are gone through."""
BLOCK = 100_000
"""Numbers drawn at a time; more would not fit a processor's cache."""


class Number(NamedTuple):
    """One number, or why there is none."""

    value: float | None
    why: str


class PValue(NamedTuple):
    """Two-sided."""

    p: float | None
    why: str


class TTest(NamedTuple):
    """`p` is two-sided."""

    t: float | None
    p: float | None
    why: str


class IntervalEstimate(NamedTuple):
    """A value and its interval."""

    value: float | None
    low: float | None
    high: float | None
    why: str


class PairedDifference(NamedTuple):
    """All that the differences `after - before` say."""

    n: int
    mean_before: float | None = None
    mean_after: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    t: float | None = None
    p_t: float | None = None
    p_sign_flip: float | None = None
    p_wilcoxon: float | None = None
    d_z: float | None = None
    superiority: float | None = None
    why: str = ""


# --- differences


def paired_differences(before: "Floats", after: "Floats") -> "Array":
    """`after - before`, rounded as the head of this module says.

    Every function below rounds what it is given by its own largest difference; only here the values
    are known, and with them the size of their rounding errors.

    Shapes: two sequences (N,), in the same order; gives (N,).
    Missing: another length raises ValueError. A pair with a value that is not finite gives NaN.
    """
    import numpy as np

    if len(before) != len(after):
        raise ValueError(f"paired samples differ in length: {len(before)} and {len(after)}")
    both = np.array([before, after], dtype=float)  # (2, N)
    finite = np.abs(both) < LARGEST
    exponent = _exponent(both[finite])
    first, second = np.where(finite, both, np.nan)
    return _rounded(second - first, exponent)


def average_repeats(values: "Floats", clusters: Sequence[Hashable]) -> list[float]:
    """The mean of each cluster, in the order in which the clusters first appear.

    A scenario counts once, however often it was repeated: repeats of one scenario are alike, and
    to count them as scenarios makes every p too small and every interval too narrow.

    Shapes: two sequences (M,), value and cluster of each repeat; gives one number a cluster.
    Missing: another length raises ValueError.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values, but {len(clusters)} clusters")
    repeats: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        repeats.setdefault(cluster, []).append(float(value))
    return [sum(of_one) / len(of_one) for of_one in repeats.values()]


class _Sample(NamedTuple):
    values: "Array"
    """Differences divided by 2^exponent, so within [-1, 1]."""
    exponent: int
    why: str


def _exponent(values: "Array") -> int:
    import numpy as np

    return int(np.frexp(np.abs(values).max(initial=0.0))[1])


def _rounded(values: "Array", exponent: int) -> "Array":
    import numpy as np

    return np.ldexp(np.rint(np.ldexp(values, GRAIN - exponent)), exponent - GRAIN)


def _sample(differences: "Floats") -> _Sample:
    import numpy as np

    values = np.asarray(differences, dtype=float)  # (N,)
    if not values.size:
        return _Sample(values, 0, EMPTY)
    if not (np.abs(values) < LARGEST).all():
        return _Sample(values, 0, NOT_FINITE)
    exponent = _exponent(values)
    values = np.ldexp(_rounded(values, exponent), -exponent)
    if values.size < 2:
        return _Sample(values, exponent, FEW)
    if values.min() < values.max():
        return _Sample(values, exponent, "")
    return _Sample(values, exponent, SAME if values[0] else ZERO)


# --- tests


def paired_t_test(differences: "Floats") -> TTest:
    """Whether the mean difference is 0, two-sided, with N - 1 degrees of freedom.

    Shapes: a sequence (N,).
    Missing: without any spread t is undefined; p is 1 where every difference is 0.
    Source: Student 1908.
    """
    from scipy import special

    sample = _sample(differences)
    if sample.why:
        return TTest(None, 1.0 if sample.why == ZERO else None, sample.why)
    n = len(sample.values)
    t = float(sample.values.mean() / sample.values.std(ddof=1)) * n**0.5
    return TTest(t, float(2 * special.stdtr(n - 1, -abs(t))), "")


def sign_flip_test(
    differences: "Floats", rng: "np.random.Generator", flips: int = 10_000
) -> PValue:
    """Whether the differences are symmetric about 0: how often random signs give a mean as far out.

    Exact for 12 differences other than 0 or fewer, otherwise (b + 1) / (m + 1) of m random flips, b
    of them as far out: what was seen is one of the patterns that the null hypothesis allows, so no
    p is 0. A difference of 0 has no sign, and is left out; the sums are the same.

    Shapes: a sequence (N,).
    Missing: fewer than two pairs give `None`.
    Source: Fisher 1935; Phipson & Smyth 2010 for (b + 1) / (m + 1).
    """
    import numpy as np

    if flips < 1:
        raise ValueError(f"{flips} flips are none")
    sample = _sample(differences)
    if sample.why not in ("", SAME):
        return PValue(1.0 if sample.why == ZERO else None, sample.why)
    values = sample.values[sample.values != 0]
    if len(values) <= ENUMERATED:
        return PValue(_share_as_far(values), "")
    seen = abs(values.sum()) - STEP * len(values)
    as_far = 0
    for size in _blocks(flips, len(values)):
        width = -(-len(values) // 8)
        drawn = np.frombuffer(rng.bytes(size * width), dtype=np.uint8).reshape(size, width)
        signs = np.unpackbits(drawn, axis=1, count=len(values)).astype(float)  # (size, N): 0, 1
        as_far += int((np.abs(2 * (signs @ values) - values.sum()) >= seen).sum())
    return PValue((as_far + 1) / (flips + 1), "")


def _share_as_far(values: "Array") -> float:
    """Of all sign patterns, those whose sum is as far from 0 as the one seen."""
    import numpy as np

    patterns = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1  # (2^N, N)
    seen = abs(values.sum()) - STEP * len(values)
    return float((np.abs(2 * (patterns @ values) - values.sum()) >= seen).mean())


def _blocks(total: int, width: int) -> list[int]:
    """Sizes that add up to `total`, each small enough for the cache."""
    size = max(1, BLOCK // width)
    return [min(size, total - start) for start in range(0, total, size)]


def wilcoxon_test(differences: "Floats") -> PValue:
    """Wilcoxon's signed-rank test, two-sided; a difference of 0 is left out, as Wilcoxon did.

    Exact for 12 differences other than 0 or fewer (tied ranks too), and up to 50 without ties;
    otherwise the normal approximation, its variance corrected for ties.

    Shapes: a sequence (N,).
    Missing: fewer than two pairs give `None`; p is 1 where every difference is 0.
    Source: Wilcoxon 1945; scipy.stats.wilcoxon, but for its permutations, which take half a second.
    """
    import numpy as np
    from scipy import stats

    sample = _sample(differences)
    if sample.why not in ("", SAME):
        return PValue(1.0 if sample.why == ZERO else None, sample.why)
    values = sample.values[sample.values != 0]
    if len(values) <= ENUMERATED:
        ranks = np.sign(values) * stats.rankdata(np.abs(values))
        return PValue(_share_as_far(ranks), "")
    exact = len(values) <= 50 and len(np.unique(np.abs(values))) == len(values)
    found = stats.wilcoxon(values, method="exact" if exact else "asymptotic")
    return PValue(float(found.pvalue), "")


# --- intervals and sizes of an effect


def mean_interval(
    differences: "Floats", rng: "np.random.Generator", resamples: int = 10_000
) -> IntervalEstimate:
    """The mean difference and its 95 % BCa bootstrap interval.

    Of the mean the jackknife has a closed form. Without pair i the mean is (S - d_i) / (N - 1), so
    its distance from the mean of all such means is c_i / (N - 1) with c_i = d_i - mean; therefore
    a = sum c_i^3 / (6 (sum c_i^2)^1.5), the N - 1 cancelling.

    Shapes: a sequence (N,). Units: those of the differences.
    Missing: fewer than two pairs, or no spread, give no interval; where every difference is 0 it is
    the point 0.
    Source: Efron & Tibshirani 1993, ch. 14. Departure: a resampled mean equal to the one seen
    counts half (as in scipy), and the share below it is kept off 0 and 1.
    """
    if resamples < 1:
        raise ValueError(f"{resamples} resamples are none")
    sample = _sample(differences)
    if sample.why in (EMPTY, NOT_FINITE):
        return IntervalEstimate(None, None, None, sample.why)
    scale = 2.0**sample.exponent
    mean = float(sample.values.mean()) * scale
    if sample.why:
        end = 0.0 if sample.why == ZERO else None
        return IntervalEstimate(mean, end, end, sample.why)
    low, high = _bca(sample.values, _resampled_means(sample.values, rng, resamples))
    return IntervalEstimate(mean, low * scale, high * scale, "")


def _resampled_means(values: "Array", rng: "np.random.Generator", resamples: int) -> "Array":
    """(B,), each of N pairs drawn with replacement."""
    import numpy as np

    n = len(values)
    shares = np.ones(n)  # a product with it is three times as fast as a sum along the rows
    sums = [
        values[rng.integers(0, n, size=(size, n), dtype=np.int32)] @ shares
        for size in _blocks(resamples, n)
    ]
    return np.concatenate(sums) / n


def _bca(values: "Array", means: "Array") -> tuple[float, float]:
    """Both ends, from the sample (N,) and the means of its resamples (B,)."""
    import numpy as np
    from scipy import special

    centred = values - values.mean()
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    seen, count = values.sum() / len(values), len(means)
    below = ((means < seen - STEP).sum() + (means <= seen + STEP).sum()) / (2 * count)
    bias = special.ndtri(np.clip(below, 1 / (count + 1), count / (count + 1)))
    reach = bias + special.ndtri([0.025, 0.975])
    low, high = np.quantile(means, special.ndtr(bias + reach / (1 - acceleration * reach)))
    return float(low), float(high)


def cluster_mean_interval(
    differences: "Floats",
    clusters: Sequence[Hashable],
    rng: "np.random.Generator",
    resamples: int = 10_000,
) -> IntervalEstimate:
    """The mean over clusters of each cluster's mean difference, with its 95 % BCa interval.

    Clusters are drawn whole: one with many repeats weighs as much as one with few, and comes or
    stays away with all of them.

    Shapes: two sequences (M,), difference and cluster of each repeat.
    Missing: as `mean_interval`, the clusters being the pairs.
    Source: Davison & Hinkley 1997, section 3.8 (the upper level resampled, the lower one not).
    """
    return mean_interval(average_repeats(differences, clusters), rng, resamples)


def standardized_difference(differences: "Floats") -> Number:
    """Cohen's d_z: the mean difference in units of the standard deviation of the differences.

    Shapes: a sequence (N,).
    Missing: `None` for fewer than two pairs or without any spread.
    Source: Cohen 1988, section 2.3.5; Lakens 2013 for the name.
    """
    sample = _sample(differences)
    if sample.why:
        return Number(None, sample.why)
    return Number(float(sample.values.mean() / sample.values.std(ddof=1)), "")


def superiority(differences: "Floats") -> Number:
    """The share of pairs with after > before, ties counting half.

    Shapes: a sequence (N,). Units: 0..1; 0.5 is no difference.
    Source: Grissom & Kim 2012, ch. 5 (the probability of superiority, dependent groups).
    """
    sample = _sample(differences)
    if sample.why in (EMPTY, NOT_FINITE):
        return Number(None, sample.why)
    above, level = int((sample.values > 0).sum()), int((sample.values == 0).sum())
    return Number((2 * above + level) / (2 * len(sample.values)), "")


# --- everything at once


def compare_paired(
    before: "Floats", after: "Floats", rng: "np.random.Generator", resamples: int = 10_000
) -> PairedDifference:
    """Means, interval, three tests and two sizes of the effect; `resamples` flips and resamples.

    Shapes: two sequences (N,), in the same order.
    Missing: what is not finite leaves only N; `None` otherwise as the single functions say. Without
    any spread the sign-flip and Wilcoxon's test still stand.
    """
    differences = paired_differences(before, after)
    n = len(differences)
    interval = mean_interval(differences, rng, resamples)
    if interval.value is None:
        return PairedDifference(n, why=interval.why)
    t_test = paired_t_test(differences)
    return PairedDifference(
        n=n,
        mean_before=float(sum(before) / n),
        mean_after=float(sum(after) / n),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
        t=t_test.t,
        p_t=t_test.p,
        p_sign_flip=sign_flip_test(differences, rng, resamples).p,
        p_wilcoxon=wilcoxon_test(differences).p,
        d_z=standardized_difference(differences).value,
        superiority=superiority(differences).value,
        why=interval.why,
    )
