"""Numbers in, intervals out. Nothing here knows what a model is.

Letters: N conversations. Every sample is paired by conversation, and a missing value never enters:
the caller counts it and leaves the pair out.
"""

from collections.abc import Sequence
from typing import NamedTuple


class PairedComparison(NamedTuple):
    """What the differences `after - before` say; `None` where N is too small to say it."""

    n: int
    mean_before: float
    mean_after: float
    mean_difference: float
    t: float | None
    p: float | None
    low: float | None
    high: float | None


def compare_pairs(
    before: Sequence[float], after: Sequence[float], seed: int, resamples: int
) -> PairedComparison:
    """The paired t-test (two-sided) and a 95 % bootstrap interval of the mean difference.

    Shapes: two sequences (N,), in the same order.
    Missing: fewer than two pairs give `None` for t, p and the interval. Without any spread the
    t-test is undefined: p is 1 when every difference is 0, otherwise `None`, and the interval is
    the difference.
    Source: Efron & Tibshirani 1993, ch. 14 (BCa); scipy's percentile interval where BCa
    degenerates.
    """
    import numpy as np
    from scipy import stats

    if len(before) != len(after):
        raise ValueError(f"paired samples differ in length: {len(before)} and {len(after)}")
    if not before:
        raise ValueError("there is no pair to compare")
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)  # (N,)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a paired sample holds a value that is not finite")
    differences = second - first  # (N,)
    mean = float(differences.mean())
    head = (len(before), float(first.mean()), float(second.mean()), mean)
    if len(before) < 2:
        return PairedComparison(*head, None, None, None, None)
    if np.ptp(differences) == 0:
        return PairedComparison(*head, None, 1.0 if mean == 0 else None, mean, mean)
    test = stats.ttest_rel(second, first)
    low, high = _bootstrap(differences, np.random.default_rng(seed), resamples)
    return PairedComparison(*head, float(test.statistic), float(test.pvalue), low, high)


def _bootstrap(differences: "object", rng: "object", resamples: int) -> tuple[float, float]:
    import warnings

    import numpy as np
    from scipy import stats

    def interval(method: str) -> tuple[float, float]:
        result = stats.bootstrap(
            (differences,), np.mean, n_resamples=resamples, method=method, rng=rng
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)

    with warnings.catch_warnings():
        # Two pairs give BCa no acceleration; scipy warns and returns nan.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = interval("BCa")
        return (low, high) if np.isfinite(low) and np.isfinite(high) else interval("percentile")


class Interval(NamedTuple):
    low: float
    high: float


def wilson_interval(passed: int, n: int) -> Interval:
    """95 % interval of a share.

    Missing: n = 0 raises ValueError; there is no share of nothing.
    Source: Wilson 1927, without continuity correction.
    """
    from scipy import stats

    if not 0 <= passed <= n or n == 0:
        raise ValueError(f"{passed} of {n} is no share")
    found = stats.binomtest(passed, n).proportion_ci(method="wilson")
    return Interval(float(found.low), float(found.high))


class Kappa(NamedTuple):
    """Agreement beyond chance; `None` where it cannot be said."""

    n: int
    kappa: float | None
    low: float | None
    high: float | None


def cohens_kappa(one: Sequence[bool], other: Sequence[bool]) -> Kappa:
    """Of two raters' yes and no on the same things, with its 95 % interval.

    Shapes: two sequences (N,), in the same order.
    Missing: `None` for all where N is 0, or where chance alone would make them agree on everything
    (neither ever says the other thing). With perfect agreement the interval is a point.
    Source: Cohen 1960; standard error of Fleiss, Cohen & Everitt 1969, eq. 13.
    """
    import numpy as np
    from scipy import stats

    if len(one) != len(other):
        raise ValueError(f"the raters judged {len(one)} and {len(other)} things")
    n = len(one)
    if not n:
        return Kappa(0, None, None, None)
    shares = np.zeros((2, 2))  # (rater one, rater two)
    for first, second in zip(one, other, strict=True):
        shares[int(first), int(second)] += 1 / n
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)  # (2,), (2,)
    chance = float(rows @ columns)
    if np.isclose(chance, 1):
        return Kappa(n, None, None, None)
    kappa = (float(np.trace(shares)) - chance) / (1 - chance)
    # var = [sum p_ii (1 - (r_i + c_i)(1 - k))^2 + (1 - k)^2 sum_{i!=j} p_ij (c_i + r_j)^2
    #        - (k - chance (1 - k))^2] / (n (1 - chance)^2)
    diagonal = sum(shares[i, i] * (1 - (rows[i] + columns[i]) * (1 - kappa)) ** 2 for i in (0, 1))
    across = sum(shares[i, 1 - i] * (columns[i] + rows[1 - i]) ** 2 for i in (0, 1))
    variance = diagonal + (1 - kappa) ** 2 * across - (kappa - chance * (1 - kappa)) ** 2
    error = float(np.sqrt(max(variance, 0.0) / n)) / (1 - chance)
    reach = float(stats.norm.ppf(0.975)) * error
    return Kappa(n, kappa, max(kappa - reach, -1.0), min(kappa + reach, 1.0))
