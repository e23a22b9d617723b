import math
from itertools import pairwise

import numpy as np
import pytest
from simulations import shown
from statsmodels.stats.power import TTestPower

from coach_mlx.power import (
    PairsNeeded,
    mcnemar_power,
    minimum_detectable_effect,
    paired_t_power,
    pairs_needed,
)
from coach_mlx.rates import PairedTable, mcnemar_test
from coach_mlx.stats import EMPTY, FEW, NOT_FINITE, Number, paired_t_test


@pytest.mark.parametrize(("d_z", "n"), [(0.2, 199), (0.3, 90), (0.5, 34), (0.8, 15)])
def test_the_textbooks_sample_sizes(d_z: float, n: int) -> None:
    assert pairs_needed(d_z) == pairs_needed(-d_z) == PairsNeeded(n, "")
    fewer, enough = paired_t_power(d_z, n - 1).value, paired_t_power(d_z, n).value
    assert fewer is not None and enough is not None
    assert fewer < 0.8 <= enough
    least = minimum_detectable_effect(n).value
    assert least is not None
    assert least <= d_z < (minimum_detectable_effect(n - 1).value or 0)


@pytest.mark.parametrize("n", [2, 3, 8, 30, 200, 5000])
def test_the_power_of_the_t_test_is_statsmodels(n: int) -> None:
    for noncentrality in (0.1, 0.5, 1, 2, 3, 4, 6):
        d_z = noncentrality / math.sqrt(n)
        for alpha in (0.01, 0.05):
            reference = TTestPower().power(d_z, n, alpha)
            assert paired_t_power(d_z, n, alpha).value == pytest.approx(reference, abs=1e-9)


def test_the_power_grows_with_the_effect_from_the_level_to_1() -> None:
    for n in (2, 3, 7, 20, 1000, 10**6, 2**31):
        effects = [0.0, *np.geomspace(1e-3, 1e3, 60)]
        found = [paired_t_power(noncentrality / math.sqrt(n), n).value for noncentrality in effects]
        assert found[0] == pytest.approx(0.05, abs=1e-6)
        for one, other in pairwise(found):
            assert one is not None and other is not None
            assert one <= other + 1e-9
        assert found[-1] == pytest.approx(1)


def test_simulated_samples_have_the_power_that_was_said() -> None:
    drawn = np.random.default_rng(1).normal(0.5, 1, (4000, 34))
    found = np.mean([(paired_t_test(one).p or 1) <= 0.05 for one in drawn])
    shown("simulated power", found)
    assert found == pytest.approx(0.808, abs=0.025)


@pytest.mark.parametrize("power", [0.04, 0.5, 0.8, 0.99])
def test_the_least_effect_has_just_the_power(power: float) -> None:
    for n in (2, 10, 200):
        found = minimum_detectable_effect(n, power).value
        assert found is not None
        assert paired_t_power(found, n).value == pytest.approx(max(power, 0.05), abs=1e-6)


@pytest.mark.parametrize(("n", "power"), [(100, 0.373), (200, 0.703), (300, 0.874)])
def test_the_power_of_mcnemars_test(n: int, power: float) -> None:
    """A rise of ten points: 10 % are lost, 20 % gained. Simulated tables have the same power."""
    found = mcnemar_power(0.1, 0.2, n).value
    assert found == pytest.approx(power, abs=0.001)
    assert mcnemar_power(0.2, 0.1, n).value == pytest.approx(found)
    tables = np.random.default_rng(n).multinomial(n, [0.5, 0.1, 0.2, 0.2], size=10_000)
    tests = [mcnemar_test(PairedTable(*(int(count) for count in one))).p for one in tables]
    simulated = np.mean([p is not None and p <= 0.05 for p in tests])
    shown("power", found)
    shown("simulated power", simulated)
    assert simulated == pytest.approx(found, abs=0.015)


def test_mcnemars_test_keeps_its_level() -> None:
    for n in (5, 20, 100, 400):
        for rate in (0.01, 0.1, 0.5):
            assert (mcnemar_power(rate, rate, n).value or 0) <= 0.05


def test_a_power_at_its_ends() -> None:
    assert mcnemar_power(0.0, 0.0, 100) == Number(0.0, "")
    assert mcnemar_power(0.0, 1.0, 5) == Number(0.0, "")  # 2 / 2^5 is more than 0.05
    assert mcnemar_power(0.0, 1.0, 6).value == pytest.approx(1)
    assert mcnemar_power(0.5, 0.5, 50).value == pytest.approx(0.0328, abs=1e-4)


def test_what_no_sample_can_show_has_a_reason() -> None:
    assert paired_t_power(0.5, 1) == minimum_detectable_effect(1) == Number(None, FEW)
    assert paired_t_power(math.nan, 9) == paired_t_power(math.inf, 9) == Number(None, NOT_FINITE)
    assert mcnemar_power(0.1, 0.2, 0) == Number(None, EMPTY)
    for d_z, why in ((0.0, "too small"), (1e-9, "too small"), (math.nan, NOT_FINITE)):
        found = pairs_needed(d_z)
        assert found.n is None
        assert why in found.why


def test_what_is_no_rate_and_no_level_is_refused() -> None:
    for rates in ((0.6, 0.5), (-0.1, 0.2), (math.nan, 0.1)):
        with pytest.raises(ValueError, match="no rates of discordant pairs"):
            mcnemar_power(*rates, n=10)
    for level in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="no probability"):
            paired_t_power(0.5, 10, level)
        with pytest.raises(ValueError, match="no probability"):
            pairs_needed(0.5, power=level)
