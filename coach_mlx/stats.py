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
