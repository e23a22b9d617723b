"""What a sample of so many pairs can show, said before it is drawn: power, size, least effect."""

import math
from typing import TYPE_CHECKING, NamedTuple

from coach_mlx.stats import EMPTY, FEW, NOT_FINITE, Number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_PAIRS = 2**31
"""A larger sample is not searched for."""
HALVINGS = 50
"""More than the bits of a number between 0 and 1 that anybody reads."""
ONE_SIDED = 7.0
"""Noncentrality from which on the other side of the test has no share (below 1e-11), and the
noncentral t there cannot be computed.
"""


class PairsNeeded(NamedTuple):
    """The least number of pairs, or why there is none."""

    n: int | None
    why: str


def paired_t_power(d_z: float, n: int, alpha: float = 0.05) -> Number:
    """The probability that the two-sided paired t-test finds an effect of `d_z` in `n` pairs.

    With the effect, t has the noncentral t distribution with N - 1 degrees of freedom and
    noncentrality d_z sqrt(N); the power is what lies beyond either critical value.

    Units: `d_z` in standard deviations of the differences; power 0..1.
    Missing: `None` for fewer than two pairs. scipy gives NaN for some noncentralities beyond 38;
    nothing is missed there.
    Source: Cohen 1988, section 2.3.5, with the exact distribution.
    """
    from scipy import special

    _require_level(alpha)
    if n < 2 or not math.isfinite(d_z):
        return Number(None, FEW if n < 2 else NOT_FINITE)
    noncentrality = abs(d_z) * n**0.5
    critical = float(special.stdtrit(n - 1, 1 - alpha / 2))
    missed = float(special.nctdtr(n - 1, noncentrality, critical))
    if noncentrality < ONE_SIDED:
        missed -= float(special.nctdtr(n - 1, noncentrality, -critical))
    return Number(1.0 if math.isnan(missed) else 1 - missed, "")


def pairs_needed(d_z: float, power: float = 0.8, alpha: float = 0.05) -> PairsNeeded:
    """The least number of pairs with which the paired t-test has that power.

    Missing: `None` for an effect of 0, one so small that it needs more than 2^31 pairs, or one that
    is not finite.
    """
    _require_level(power)
    if not math.isfinite(d_z):
        return PairsNeeded(None, NOT_FINITE)
    most = MOST_PAIRS
    if not _reaches(d_z, most, power, alpha):
        return PairsNeeded(None, "the effect is too small to be found")
    least = 2
    while least < most:  # the power grows with the number of pairs
        middle = (least + most) // 2
        if _reaches(d_z, middle, power, alpha):
            most = middle
        else:
            least = middle + 1
    return PairsNeeded(least, "")


def _reaches(d_z: float, n: int, power: float, alpha: float) -> bool:
    found = paired_t_power(d_z, n, alpha).value
    return found is not None and found >= power


def minimum_detectable_effect(n: int, power: float = 0.8, alpha: float = 0.05) -> Number:
    """The least d_z that the paired t-test finds in `n` pairs with that power; found by halving.

    Units: standard deviations of the differences.
    Missing: `None` for fewer than two pairs.
    """
    _require_level(power)
    if n < 2:
        return Number(None, FEW)
    low, high = 0.0, 1.0
    while not _reaches(high, n, power, alpha):
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _reaches(middle, n, power, alpha):
            high = middle
        else:
            low = middle
    return Number(high, "")


def mcnemar_power(only_before: float, only_after: float, n: int, alpha: float = 0.05) -> Number:
    """The probability that the exact McNemar test finds the difference in `n` pairs.

    Exact, without a simulation. The number m of discordant pairs is binomial (n, both rates
    together); of m, those gained are binomial (m, only_after / both). The test rejects where the
    smaller side is at most c(m), the largest c with 2 P(X <= c | m, 1/2) <= alpha. So the power is
    the sum over m of P(m) [P(gained <= c(m)) + P(lost <= c(m))].

    Units: the rates 0..1, of all pairs.
    Missing: `None` for no pair.
    Source: Duffy 1984 (Biometrics 40, 1005-1015).
    """
    import numpy as np
    from scipy import special

    _require_level(alpha)
    discordant = only_before + only_after
    if min(only_before, only_after) < 0 or not discordant <= 1:
        raise ValueError(f"{only_before} and {only_after} are no rates of discordant pairs")
    if n < 1:
        return Number(None, EMPTY)
    if discordant == 0:
        return Number(0.0, "")
    m = np.arange(n + 1)  # (N + 1,)
    shares = _binomial(n, discordant)  # (N + 1,)
    critical = np.array([_critical(int(one), alpha) for one in m])
    some = critical >= 0
    lost, gained = (
        special.bdtr(critical[some], m[some], rate / discordant)
        for rate in (only_before, only_after)
    )
    return Number(float(shares[some] @ (lost + gained)), "")


def _critical(m: int, alpha: float) -> int:
    """The largest c with 2 P(X <= c | m, 1/2) <= alpha; -1 where there is none."""
    import numpy as np

    allowed = alpha * (1 + 1e-9)  # a p of exactly alpha rejects, whatever the rounding
    return int((2 * np.cumsum(_binomial(m, 0.5)) <= allowed).sum()) - 1


def _binomial(n: int, rate: float) -> "NDArray[np.float64]":
    """P(0) .. P(n), (N + 1,)."""
    import numpy as np
    from scipy import special

    k = np.arange(n + 1)
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    shares: NDArray[np.float64] = np.exp(
        ways + special.xlogy(k, rate) + special.xlog1py(n - k, -rate)
    )
    return shares


def _require_level(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{share} is no probability between 0 and 1")
