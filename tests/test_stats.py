import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from simulations import shown

from coach_mlx.stats import (
    EMPTY,
    FEW,
    NOT_FINITE,
    SAME,
    ZERO,
    IntervalEstimate,
    Number,
    PairedDifference,
    PValue,
    TTest,
    _bca,
    average_repeats,
    cluster_mean_interval,
    compare_paired,
    mean_interval,
    paired_differences,
    paired_t_test,
    sign_flip_test,
    standardized_difference,
    superiority,
    wilcoxon_test,
)

NAN, INF = math.nan, math.inf
numbers = st.floats(-100, 100).map(lambda value: round(value, 3))
pairs_of_numbers = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12)
SLEEP = (
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
)
"""Student's data (1908): hours that ten patients slept longer, by two drugs."""


def seeded(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- worked examples


def test_a_textbook_comparison() -> None:
    """t = 4.0621 and p = 0.002833; one pair is tied, and nine slept longer with the second."""
    found = compare_paired(*SLEEP, rng=seeded(), resamples=2000)
    assert (found.n, found.why) == (10, "")
    assert found.mean_before == pytest.approx(0.75)
    assert found.mean_after == pytest.approx(2.33)
    assert found.difference == pytest.approx(1.58)
    assert found.t == pytest.approx(4.0621, abs=1e-4)
    assert found.p_t == pytest.approx(0.002833, abs=1e-6)
    assert found.d_z == pytest.approx(4.0621 / math.sqrt(10), abs=1e-4)
    assert found.superiority == 0.95
    assert found.p_sign_flip == found.p_wilcoxon == 2 / 2**9  # nine of one sign, and the reverse
    assert found.low is not None and found.high is not None
    assert 0.5 < found.low < 1.58 < found.high < 3.0


def test_the_result_is_a_function_of_the_seed() -> None:
    before, after = seeded(2).random((2, 40))
    first, again, other = (
        compare_paired(before, after, seeded(seed), resamples=500) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


# --- against others' programs


@given(pairs_of_numbers)
def test_the_t_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    found = paired_t_test(paired_differences(before, after))
    if found.t is None:
        assert found.why in (FEW, SAME, ZERO)
        return
    reference = scipy_stats.ttest_rel(after, before)
    assert found.t == pytest.approx(reference.statistic, rel=1e-6, abs=1e-9)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)
    d_z = standardized_difference(paired_differences(before, after)).value
    assert d_z == pytest.approx(found.t / math.sqrt(len(pairs)))


@settings(deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=2, max_size=8))
def test_enumerated_sign_flips_are_scipys(differences: list[int]) -> None:
    found = sign_flip_test(differences, seeded()).p
    if not any(differences):
        assert found == 1
        return
    reference = scipy_stats.permutation_test(
        (np.array(differences),), np.sum, permutation_type="samples", n_resamples=np.inf
    )
    assert found == pytest.approx(reference.pvalue)


def test_random_sign_flips_agree_with_all_of_them() -> None:
    differences = seeded(4).normal(0.4, 1, 16)
    patterns = np.arange(2**16)[:, None] >> np.arange(16) & 1  # (2^16, 16)
    sums = np.abs((2 * patterns - 1) @ differences)
    exact = (sums >= abs(differences.sum()) - 1e-9).mean()
    found = sign_flip_test(differences, seeded(), flips=100_000).p
    assert found == pytest.approx(exact, abs=0.003)


def test_a_p_value_of_random_flips_is_never_0() -> None:
    assert sign_flip_test([1.0] * 12 + [2.0] * 8, seeded(), flips=999).p == 1 / 1000


@pytest.mark.parametrize("n", [13, 30, 50, 51, 120])
def test_wilcoxons_test_without_ties_is_scipys(n: int) -> None:
    differences = seeded(n).normal(0.3, 1, n)
    reference = scipy_stats.wilcoxon(differences)
    assert wilcoxon_test(differences).p == pytest.approx(reference.pvalue)


@pytest.mark.parametrize("n", [20, 60, 200])
def test_wilcoxons_test_with_ties_is_scipys(n: int) -> None:
    differences = seeded(n).integers(-4, 6, n) / 12
    kept = np.rint(differences[differences != 0] * 12)
    reference = scipy_stats.wilcoxon(kept, method="asymptotic")
    assert wilcoxon_test(differences).p == pytest.approx(reference.pvalue)


@pytest.mark.parametrize("n", [5, 9, 12])
def test_wilcoxons_test_of_few_pairs_is_exact(n: int) -> None:
    free = seeded(n).normal(0.5, 1, n)
    assert wilcoxon_test(free).p == pytest.approx(scipy_stats.wilcoxon(free).pvalue)
    tied = seeded(n).choice([-3, -2, -1, 1, 2, 3], n)
    method = scipy_stats.PermutationMethod(n_resamples=2**13)
    reference = scipy_stats.wilcoxon(tied, method=method)
    assert wilcoxon_test(tied.tolist()).p == pytest.approx(reference.pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_the_bca_interval_is_scipys(seed: int) -> None:
    """From the same resamples, to the last digits; from its own, within what resampling varies."""
    differences = seeded(seed).exponential(1, 40) - 0.7
    reference = scipy_stats.bootstrap(
        (differences,), np.mean, n_resamples=9999, method="BCa", rng=seeded(seed)
    )
    expected = tuple(reference.confidence_interval)
    means = reference.bootstrap_distribution
    assert _bca(differences, means) == pytest.approx(expected, abs=1e-9)
    own = mean_interval(differences, seeded(seed + 100), resamples=40_000)
    assert (own.low, own.high) == pytest.approx(expected, abs=0.03)


# --- what must hold of any numbers


@settings(deadline=None)
@given(pairs_of_numbers)
def test_turning_the_pair_round_turns_the_sign(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    there = compare_paired(before, after, seeded(), resamples=200)
    back = compare_paired(after, before, seeded(), resamples=200)
    assert there.difference == pytest.approx(-(back.difference or 0.0))
    assert there.superiority == pytest.approx(1 - (back.superiority or 0.0))
    assert there.why == back.why
    for name in ("p_t", "p_sign_flip", "p_wilcoxon"):
        one, other = getattr(there, name), getattr(back, name)
        assert one == pytest.approx(other)
        assert one is None or 0 < one <= 1
    if there.low is not None and there.high is not None and there.difference is not None:
        assert there.low <= there.high


@settings(deadline=None)
@given(
    st.lists(st.integers(-12, 12), min_size=2, max_size=30),
    st.sampled_from([1e-300, 1e-9, 1 / 3, 0.1, 7e6, 1e90]),
)
def test_the_unit_of_the_scores_changes_only_what_has_a_unit(steps: list[int], unit: float) -> None:
    zeros = [0.0] * len(steps)
    plain = compare_paired(zeros, [float(step) for step in steps], seeded(), resamples=200)
    scaled = compare_paired(zeros, [step * unit for step in steps], seeded(), resamples=200)
    names = ("t", "p_t", "p_sign_flip", "p_wilcoxon", "d_z", "superiority", "why", "n")
    for name in names:
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), abs=1e-9), name
    for name in ("difference", "low", "high"):
        one, other = getattr(plain, name), getattr(scaled, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert other == pytest.approx(one * unit, rel=1e-9, abs=1e-9 * unit)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=20))
def test_no_numbers_whatever_crash_or_warn(pairs: list[tuple[float, float]]) -> None:
    before, after = [one for one, _ in pairs], [other for _, other in pairs]
    found = compare_paired(before, after, seeded(), resamples=50)
    assert found.n == len(pairs)
    said = [value for value in found[:-1] if value is not None]
    assert all(math.isfinite(value) for value in said)
    if len(said) < len(found) - 1:
        assert found.why


# --- rounding


def test_a_constant_gain_is_no_spread_whatever_its_rounding() -> None:
    """0.1 more each time, in numbers whose differences differ in the last bit."""
    before = [0.1, 0.2, 0.3, 0.7, 1.1, 2.3]
    after = [value + 0.1 for value in before]
    assert len({later - earlier for earlier, later in zip(before, after, strict=True)}) > 1
    found = compare_paired(before, after, seeded(), resamples=100)
    assert (found.t, found.p_t, found.d_z, found.low, found.why) == (None, None, None, None, SAME)
    assert found.p_sign_flip == found.p_wilcoxon == 2 / 2**6


def test_rounding_makes_no_ranks() -> None:
    """One step of twelve is one step, between any two scores."""
    steps = seeded(3).integers(0, 13, (2, 60))
    before, after = steps / 12
    exact = (steps[1] - steps[0]).astype(float)
    assert len(set(np.abs(after - before))) > len(set(np.abs(exact)))
    assert wilcoxon_test(paired_differences(before, after)) == wilcoxon_test(exact)
    assert sign_flip_test(paired_differences(before, after), seeded()) == sign_flip_test(
        exact, seeded()
    )


def test_three_thirds_are_one() -> None:
    """-1/3 three times and 1: the sum is 0, so every pattern of signs is as far out."""
    assert sign_flip_test([-1 / 3, -1 / 3, -1 / 3, 1.0], seeded()).p == 1
    whole = mean_interval([-1.0, -1.0, -1.0, 3.0] * 5, seeded(), resamples=999)
    thirds = mean_interval([-1 / 3, -1 / 3, -1 / 3, 1.0] * 5, seeded(), resamples=999)
    assert thirds.low == pytest.approx((whole.low or 0) / 3)
    assert thirds.high == pytest.approx((whole.high or 0) / 3)


# --- what cannot be said


@pytest.mark.parametrize(
    ("before", "after", "known"),
    [
        ([], [], {"n": 0, "why": EMPTY}),
        (
            [1.0],
            [2.0],
            {"n": 1, "mean_before": 1, "mean_after": 2, "difference": 1, "superiority": 1}
            | {"why": FEW},
        ),
        ([1.0, NAN], [1.0, 1.0], {"n": 2, "why": NOT_FINITE}),
        ([1.0, 2.0], [1.0, INF], {"n": 2, "why": NOT_FINITE}),
        ([INF, 2.0], [INF, 1.0], {"n": 2, "why": NOT_FINITE}),
        ([1e200, 2.0], [1.0, 1.0], {"n": 2, "why": NOT_FINITE}),
        (
            [1.0, 2.0],
            [0.5, 1.5],
            {"n": 2, "mean_before": 1.5, "mean_after": 1, "difference": -0.5, "superiority": 0}
            | {"p_sign_flip": 0.5, "p_wilcoxon": 0.5, "why": SAME},
        ),
        (
            [1.0, 2.0],
            [1.0, 2.0],
            {"n": 2, "mean_before": 1.5, "mean_after": 1.5, "difference": 0, "superiority": 0.5}
            | {"low": 0, "high": 0, "p_t": 1, "p_sign_flip": 1, "p_wilcoxon": 1, "why": ZERO},
        ),
    ],
)
def test_what_cannot_be_said_has_a_reason(
    before: list[float], after: list[float], known: dict[str, float | str]
) -> None:
    found = compare_paired(before, after, seeded(), resamples=100)
    assert found == PairedDifference(**known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("differences", "why"),
    [([], EMPTY), ([3.0], FEW), ([NAN, 1.0], NOT_FINITE), ([-INF, 1.0], NOT_FINITE)],
)
def test_single_functions_name_the_reason_too(differences: list[float], why: str) -> None:
    assert paired_t_test(differences) == TTest(None, None, why)
    assert sign_flip_test(differences, seeded()) == PValue(None, why)
    assert wilcoxon_test(differences) == PValue(None, why)
    assert standardized_difference(differences) == Number(None, why)
    interval = mean_interval(differences, seeded(), resamples=10)
    assert interval == IntervalEstimate(3.0 if why == FEW else None, None, None, why)
    assert superiority(differences) == (Number(1.0, "") if why == FEW else Number(None, why))


def test_two_pairs_and_one_resample_are_enough_not_to_fail() -> None:
    for resamples in (1, 2, 1000):
        found = mean_interval([0.0, 1.0], seeded(), resamples=resamples)
        assert found.low is not None and found.high is not None
        assert 0 <= found.low <= found.high <= 1


def test_broken_calls_raise() -> None:
    with pytest.raises(ValueError, match="differ in length: 1 and 2"):
        compare_paired([1.0], [1.0, 2.0], seeded(), resamples=10)
    with pytest.raises(ValueError, match="2 values, but 1 clusters"):
        average_repeats([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="0 flips"):
        sign_flip_test([1.0, 2.0], seeded(), flips=0)
    with pytest.raises(ValueError, match="0 resamples"):
        mean_interval([1.0, 2.0], seeded(), resamples=0)


# --- repeats


def test_repeats_are_averaged_in_the_order_of_their_scenarios() -> None:
    assert average_repeats([1.0, 5.0, 3.0, 7.0], ["b", "a", "b", "c"]) == [2.0, 5.0, 7.0]


def test_repeats_of_a_scenario_do_not_count_as_scenarios() -> None:
    """The same answers told five times over are no evidence more."""
    once = seeded(7).normal(0.2, 1, 30)
    names = list(range(30)) * 5
    fivefold = average_repeats(np.tile(once, 5), names)
    assert paired_t_test(fivefold).p == pytest.approx(paired_t_test(once).p)
    clustered = cluster_mean_interval(np.tile(once, 5), names, seeded(), resamples=2000)
    assert clustered == pytest.approx(mean_interval(once, seeded(), resamples=2000))
    naive = mean_interval(np.tile(once, 5), seeded(), resamples=2000)
    assert naive.low is not None and naive.high is not None
    assert clustered.low is not None and clustered.high is not None
    assert naive.high - naive.low < 0.55 * (clustered.high - clustered.low)


def test_a_scenario_with_more_repeats_weighs_no_more() -> None:
    found = cluster_mean_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"], seeded(), 100)
    assert found.value == 0.5


# --- simulations: what is promised of many evaluations


def scores(rng: np.random.Generator, simulations: int, scenarios: int) -> np.ndarray:
    """Differences (S, N, 5 repeats) in twelfths without any effect; half the variance is the
    scenario's, so its repeats are alike.
    """
    of_scenario = rng.normal(0, 1.5, (simulations, scenarios, 1))
    of_repeat = rng.normal(0, 1.5, (simulations, scenarios, 5))
    return np.clip(np.rint(of_scenario + of_repeat), -12, 12) / 12


def rejected(
    test: Callable[[Sequence[float]], TTest | PValue], samples: Sequence[Sequence[float]]
) -> float:
    found = [test(sample).p for sample in samples]
    return sum(p is not None and p <= 0.05 for p in found) / len(found)


def test_without_an_effect_one_evaluation_in_twenty_finds_one() -> None:
    """Repeats averaged, three tests find an effect in 5 %; a test that counts each repeat, in a
    quarter: that is what the averaging is for.
    """
    rng, names = seeded(11), np.repeat(np.arange(60), 5).tolist()
    drawn = scores(rng, 6000, 60).reshape(6000, 300)
    averaged = [average_repeats(one, names) for one in drawn]
    observed = {
        "t": rejected(paired_t_test, averaged),
        "sign flip": rejected(lambda one: sign_flip_test(one, rng, flips=999), averaged),
        "Wilcoxon": rejected(wilcoxon_test, averaged[:3000]),
        "naive t": rejected(paired_t_test, drawn),
    }
    for name, error in observed.items():
        shown(f"error, {name}", error)
    assert observed["naive t"] > 0.15
    for name in ("t", "sign flip"):
        assert abs(observed[name] - 0.05) <= 0.01, name
    assert abs(observed["Wilcoxon"] - 0.05) <= 0.013


def test_few_pairs_do_not_make_the_exact_test_liberal() -> None:
    drawn = seeded(12).integers(-3, 4, (4000, 9)).astype(float)
    observed = rejected(lambda one: sign_flip_test(one, seeded()), drawn)
    shown("error", observed)
    assert observed <= 0.055


@pytest.mark.parametrize(("n", "repeats"), [(60, 1), (100, 1), (60, 3)])
def test_the_interval_covers_the_true_mean(n: int, repeats: int) -> None:
    """Bounded, skewed differences (Beta(2, 6) less 0.2: skewness 0.7), repeats alike."""
    rng, names = seeded(n + repeats), np.repeat(np.arange(n), repeats).tolist()
    of_scenario = rng.beta(2, 6, (4000, n, 1)) - 0.2
    drawn = (of_scenario + rng.uniform(-0.1, 0.1, (4000, n, repeats))).reshape(4000, -1)
    truth = 2 / 8 - 0.2
    found = [cluster_mean_interval(one, names, rng, resamples=999) for one in drawn]
    covered = np.mean([one.low <= truth <= one.high for one in found])  # type: ignore[operator]
    shown("covered", covered)
    assert abs(covered - 0.95) <= 0.015


def test_the_interval_of_pass_and_fail_covers_the_true_difference() -> None:
    """Differences of -1, 0 and 1: full of ties."""
    rng = seeded(21)
    drawn = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.65, 0.25], size=(4000, 80))
    found = [mean_interval(one, rng, resamples=999) for one in drawn]
    covered = np.mean([one.low <= 0.15 <= one.high for one in found])  # type: ignore[operator]
    shown("covered", covered)
    assert abs(covered - 0.95) <= 0.015


def test_superiority_is_the_probability_of_a_gain() -> None:
    differences = seeded(5).normal(0.5, 1, 20_000)
    found = superiority(differences).value
    assert found == pytest.approx(scipy_stats.norm.cdf(0.5), abs=0.01)
    assert superiority([1.0, 0.0, -1.0, 2.0]).value == 0.625
