import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from simulations import shown
from statsmodels.stats import contingency_tables, inter_rater, multitest
from statsmodels.stats.proportion import proportion_confint

from coach_mlx.rates import (
    AGREED,
    FEW_LABELLED,
    NO_BETTER_THAN_CHANCE,
    NOTHING,
    Counted,
    Interval,
    Kappa,
    NonInferiority,
    PairedTable,
    cohens_kappa,
    corrected_prevalence,
    exact_interval,
    holm,
    least_scenarios,
    mcnemar_test,
    newcombe_interval,
    non_inferiority,
    paired_table,
    wilson_interval,
)
from coach_mlx.stats import EMPTY, IntervalEstimate, PValue

NONE = (None, None, None)
counts = st.integers(0, 40)
tables = st.builds(PairedTable, counts, counts, counts, counts)


@st.composite
def shares(draw: st.DrawFn, least: int = 1) -> Counted:
    n = draw(st.integers(least, 400))
    return Counted(draw(st.integers(0, n)), n)


def held(estimate: IntervalEstimate | Interval | Kappa, truth: float) -> bool:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low - 1e-12 <= truth <= estimate.high + 1e-12


# --- one proportion


@given(shares())
def test_wilsons_interval_is_statsmodels(one: Counted) -> None:
    low, high = wilson_interval(*one)
    expected = proportion_confint(*one, method="wilson")
    assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert 0 <= low <= one.found / one.n <= high <= 1


@given(shares())
def test_the_exact_interval_is_statsmodels(one: Counted) -> None:
    found = exact_interval(*one)
    assert (found.low, found.high) == pytest.approx(proportion_confint(*one, method="beta"))
    assert found.value == one.found / one.n


@given(shares(), st.sampled_from([0.9, 0.95, 0.99]))
def test_one_sided_bounds_are_scipys(one: Counted, confidence: float) -> None:
    for side, alternative in (("upper", "less"), ("lower", "greater")):
        found = exact_interval(*one, side=side, confidence=confidence)  # type: ignore[arg-type]
        test = scipy_stats.binomtest(*one, alternative=alternative)
        reference = test.proportion_ci(confidence, method="exact")
        assert (found.low, found.high) == pytest.approx(tuple(reference), abs=1e-9)


def test_wilsons_interval_covers_the_true_share() -> None:
    """Exactly, by adding up all outcomes: 95 % on average, and nowhere far from it."""
    n = 100
    intervals = [wilson_interval(found, n) for found in range(n + 1)]
    coverage = []
    for share in np.linspace(0.05, 0.95, 181):
        chances = scipy_stats.binom.pmf(np.arange(n + 1), n, share)
        covered = [one.low <= share <= one.high for one in intervals]
        coverage.append(float(chances @ np.array(covered)))
    shown("covered", np.mean(coverage))
    shown("covered at least", min(coverage))
    assert abs(np.mean(coverage) - 0.95) <= 0.005
    assert min(coverage) > 0.91


@pytest.mark.parametrize("n", [20, 100, 300])
def test_the_exact_bound_covers_at_least_as_often_as_it_says(n: int) -> None:
    uppers = [exact_interval(found, n, "upper").high or 0 for found in range(n + 1)]
    for share in np.linspace(0.001, 0.999, 200):
        chances = scipy_stats.binom.pmf(np.arange(n + 1), n, share)
        assert chances @ (np.array(uppers) >= share) >= 0.95 - 1e-9


def test_a_share_of_nothing_is_unknown() -> None:
    assert exact_interval(0, 0) == IntervalEstimate(*NONE, NOTHING)
    with pytest.raises(ValueError, match="0 of 0 is no share"):
        wilson_interval(0, 0)


@pytest.mark.parametrize("one", [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_what_is_no_count_is_refused(one: tuple[int, int]) -> None:
    for function in (wilson_interval, exact_interval):
        with pytest.raises(ValueError, match="is no share"):
            function(*one)
    with pytest.raises(ValueError, match="is no share"):
        corrected_prevalence(Counted(*one), Counted(9, 10), Counted(9, 10))
    with pytest.raises(ValueError, match="is no share"):
        non_inferiority(*one, margin=0.1)


# --- correction for a fallible judge


def test_a_corrected_share_by_hand() -> None:
    """40 % were found; of the true ones 90 %, of the others 20 %: (0.4 - 0.2) / (0.9 - 0.2).

    With the imagined items p = 0.401884, Se = 0.892157, Sp = 0.794118, so theta = 0.285603; its
    middle moves to 0.278875, and 1.959964 standard errors are 0.130069.
    """
    found = corrected_prevalence(Counted(80, 200), Counted(90, 100), Counted(80, 100))
    assert found.value == pytest.approx(2 / 7)
    assert (found.low, found.high) == pytest.approx((0.148806, 0.408944), abs=2e-6)


@given(shares(), shares(10), shares(10))
def test_a_corrected_share_lies_in_its_interval(
    judged: Counted, sensitivity: Counted, specificity: Counted
) -> None:
    found = corrected_prevalence(judged, sensitivity, specificity)
    if found.value is None:
        assert found.why == NO_BETTER_THAN_CHANCE
        return
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(shares(), shares(10), shares(10))
def test_correcting_passes_is_correcting_failures(
    judged: Counted, sensitivity: Counted, specificity: Counted
) -> None:
    there = corrected_prevalence(judged, sensitivity, specificity)
    back = corrected_prevalence(
        Counted(judged.n - judged.found, judged.n), specificity, sensitivity
    )
    if there.value is None or there.low is None or there.high is None:
        assert back == there
        return
    turned = (1 - there.value, 1 - there.high, 1 - there.low)
    assert back[:3] == pytest.approx(turned, abs=1e-9)


def test_a_judge_that_is_never_wrong_changes_nothing() -> None:
    many = Counted(10**9, 10**9)
    found = corrected_prevalence(Counted(37, 200), many, many)
    assert found.value == pytest.approx(37 / 200)
    # What is left is Agresti and Coull's interval.
    assert found[1:3] == pytest.approx(
        proportion_confint(37, 200, method="agresti_coull"), abs=1e-6
    )


@pytest.mark.parametrize(
    ("judged", "labelled", "rates"),
    [
        (200, (60, 200), (0.9, 0.95)),
        (200, (16, 177), (0.9, 0.95)),
        (200, (100, 100), (0.8, 0.8)),
        (60, (10, 10), (0.8, 0.9)),
        (60, (10, 100), (0.95, 0.98)),
        (400, (1000, 1000), (0.9, 0.9)),
    ],
)
def test_the_corrected_interval_covers_the_true_share(
    judged: int, labelled: tuple[int, int], rates: tuple[float, float]
) -> None:
    """The plain interval of the judge's own share does not, and sinks with the size of the sample.
    Among judges that were seen to be better than chance.
    """
    rng, simulations = np.random.default_rng(judged + sum(labelled)), 10_000
    for truth in (0.1, 0.3):
        seen = truth * rates[0] + (1 - truth) * (1 - rates[1])
        drawn = np.column_stack(
            [
                rng.binomial(judged, seen, simulations),
                rng.binomial(labelled[0], rates[0], simulations),
                rng.binomial(labelled[1], rates[1], simulations),
            ]
        ).tolist()
        sizes = (judged, *labelled)
        found = [
            corrected_prevalence(*(Counted(*pair) for pair in zip(one, sizes, strict=True)))
            for one in drawn
        ]
        covered = np.mean([held(one, truth) for one in found if not one.why])
        naive = np.mean([held(wilson_interval(one[0], judged), truth) for one in drawn])
        shown(f"covered, {truth}", covered)
        shown(f"covered uncorrected, {truth}", naive)
        assert covered >= (0.925 if labelled == (10, 100) else 0.935)
        if min(labelled) >= 100:
            assert covered <= 0.965
        if judged == 400 and truth == 0.1:
            assert naive < 0.05


@pytest.mark.parametrize(
    ("judged", "sensitivity", "specificity", "why"),
    [
        ((0, 0), (9, 10), (9, 10), NOTHING),
        ((1, 5), (9, 9), (90, 100), FEW_LABELLED),
        ((1, 5), (90, 100), (0, 0), FEW_LABELLED),
        ((1, 5), (5, 10), (5, 10), NO_BETTER_THAN_CHANCE),
        ((1, 5), (0, 10), (0, 10), NO_BETTER_THAN_CHANCE),
        # 0.9 + 0.104 is more than 1, but not with the imagined items.
        ((1, 5), (9, 10), (104, 1000), NO_BETTER_THAN_CHANCE),
    ],
)
def test_what_cannot_be_corrected_has_a_reason(
    judged: tuple[int, int], sensitivity: tuple[int, int], specificity: tuple[int, int], why: str
) -> None:
    found = corrected_prevalence(Counted(*judged), Counted(*sensitivity), Counted(*specificity))
    assert found == IntervalEstimate(*NONE, why)


# --- two proportions, paired


@given(tables.filter(lambda one: one.only_before + one.only_after > 0))
def test_mcnemars_test_is_statsmodels(table: PairedTable) -> None:
    reference = contingency_tables.mcnemar(np.array(table).reshape(2, 2), exact=True)
    assert mcnemar_test(table).p == pytest.approx(reference.pvalue)


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe 1998, table III, the column of method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((53, 0, 1, 0), -0.0977, 0.0496),
        ((54, 0, 0, 0), -0.0664, 0.0664),
        # Fagerland, Lydersen & Laake 2017, airway hyper-responsiveness (Bentur 2009).
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_the_published_intervals_of_a_paired_difference(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    """The sources take the first share less the second."""
    both, first, second, neither = table
    found = newcombe_interval(PairedTable(both, second, first, neither))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-4)


@given(tables)
def test_a_paired_difference_lies_in_its_interval_and_turns_with_the_pair(
    table: PairedTable,
) -> None:
    found = newcombe_interval(table)
    if found.value is None:
        assert sum(table) == 0
        return
    assert found.low is not None and found.high is not None
    assert -1 <= found.low <= found.value <= found.high <= 1
    back = newcombe_interval(
        PairedTable(table.both, table.only_after, table.only_before, table.neither)
    )
    assert back[:3] == pytest.approx((-found.value, -found.high, -found.low))


@pytest.mark.parametrize(
    ("rates", "n"),
    [
        ((0.6, 0.1, 0.2, 0.1), 60),
        ((0.25, 0.25, 0.25, 0.25), 60),
        ((0.4, 0.3, 0.2, 0.1), 200),
        ((0.8, 0.02, 0.08, 0.1), 200),
    ],
)
def test_newcombes_interval_covers_the_true_difference(
    rates: tuple[float, float, float, float], n: int
) -> None:
    drawn = np.random.default_rng(n).multinomial(n, rates, size=10_000).tolist()
    truth = rates[2] - rates[1]
    covered = np.mean([held(newcombe_interval(PairedTable(*one)), truth) for one in drawn])
    shown("covered", covered)
    assert abs(covered - 0.95) <= 0.015


def test_newcombes_interval_of_few_differing_pairs_is_rather_too_wide() -> None:
    """Six of sixty differ."""
    drawn = np.random.default_rng(6).multinomial(60, (0.8, 0.02, 0.08, 0.1), size=10_000).tolist()
    covered = np.mean([held(newcombe_interval(PairedTable(*one)), 0.06) for one in drawn])
    assert 0.95 <= covered <= 0.985


def test_pairs_are_counted_by_what_both_say() -> None:
    before, after = [True, True, False, False, True], [True, False, True, False, True]
    assert paired_table(before, after) == PairedTable(2, 1, 1, 1)
    with pytest.raises(ValueError, match="differ in length: 1 and 2"):
        paired_table([True], [True, False])


def test_pairs_that_say_nothing_have_a_reason() -> None:
    nothing, agreed = PairedTable(0, 0, 0, 0), PairedTable(3, 0, 0, 4)
    assert mcnemar_test(nothing) == PValue(None, EMPTY)
    assert newcombe_interval(nothing) == IntervalEstimate(*NONE, EMPTY)
    assert mcnemar_test(agreed) == PValue(1.0, AGREED)
    assert newcombe_interval(agreed).value == 0
    for function in (mcnemar_test, newcombe_interval):
        with pytest.raises(ValueError, match="no table of counts"):
            function(PairedTable(1, -1, 0, 0))


# --- non-inferiority


def test_ninety_nine_clean_scenarios_show_a_margin_of_three_points() -> None:
    assert least_scenarios(0.03) == 99
    assert non_inferiority(0, 99, 0.03).shown
    found = non_inferiority(0, 98, 0.03)
    assert found == NonInferiority(0, 98, 0.0, found.upper, 0.03, False, found.why)
    assert "0.0301" in found.why
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 98))


@settings(deadline=None)
@given(st.floats(0.002, 0.999), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_least_number_of_scenarios_is_the_least(margin: float, confidence: float) -> None:
    n = least_scenarios(margin, confidence)
    assert non_inferiority(0, n, margin, confidence).shown
    assert n == 1 or not non_inferiority(0, n - 1, margin, confidence).shown


@pytest.mark.parametrize("margin", [0.01, 0.03, 0.05, 0.1])
def test_a_rise_beyond_the_margin_is_rarely_called_none(margin: float) -> None:
    """Exactly, at the edge: nobody improves, and the rise is the margin."""
    errors = []
    for n in (50, 99, 100, 157, 200, 298, 400):
        called = [non_inferiority(newly, n, margin).shown for newly in range(n + 1)]
        chances = scipy_stats.binom.pmf(np.arange(n + 1), n, margin)
        errors.append(float(chances @ np.array(called)))
    shown("error at most", max(errors))
    assert max(errors) <= 0.05


def test_improvements_elsewhere_make_a_rise_no_easier_to_hide() -> None:
    """The rise is 3 points, the margin too; 3.5 % fail newly, and 0.5 % no longer."""
    drawn = np.random.default_rng(9).multinomial(300, [0.1, 0.005, 0.035, 0.86], size=10_000)
    error = np.mean([non_inferiority(int(one[2]), 300, 0.03).shown for one in drawn])
    shown("error", error)
    assert 0 < error <= 0.05


def test_no_scenario_shows_nothing() -> None:
    assert non_inferiority(0, 0, 0.03) == NonInferiority(0, 0, None, None, 0.03, False, NOTHING)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_margin_is_between_0_and_1(share: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        non_inferiority(0, 10, share)
    with pytest.raises(ValueError, match="margin"):
        least_scenarios(share)
    with pytest.raises(ValueError, match="confidence"):
        least_scenarios(0.1, share)
    with pytest.raises(ValueError, match="confidence"):
        exact_interval(1, 10, confidence=share)


# --- many tests


@settings(max_examples=15, deadline=None)  # the reference takes long
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_correction_is_statsmodels(p_values: list[float]) -> None:
    expected = multitest.multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected.tolist())


def test_a_test_that_could_not_be_made_is_not_counted() -> None:
    assert holm([0.04, None, 0.01]) == [0.04, None, 0.02]
    assert holm([None]) == [None]
    assert holm([]) == []
    for p in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match="outside 0"):
            holm([p])


def test_of_twelve_tests_of_nothing_rarely_one_finds_something() -> None:
    drawn = np.random.default_rng(8).random((10_000, 12)).tolist()
    error = np.mean([min(p for p in holm(one) if p is not None) <= 0.05 for one in drawn])
    shown("error", error)
    assert abs(error - 0.05) <= 0.01


# --- agreement


def raters(both: int, one: int, other: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two raters' answers with so many of each kind."""
    pairs = [(True, True)] * both + [(True, False)] * one
    pairs += [(False, True)] * other + [(False, False)] * neither
    return [first for first, _ in pairs], [second for _, second in pairs]


def test_kappa_of_a_worked_table() -> None:
    """20 and 15 of 50 agreed, 25 and 30 said yes: (0.7 - 0.5) / (1 - 0.5)."""
    found = cohens_kappa(*raters(20, 5, 10, 15))
    assert found.kappa == pytest.approx(0.4)
    assert found.n == 50
    assert found.low is not None and found.high is not None
    assert found.low < 0.4 < found.high


@given(tables.filter(lambda one: max(one.both, one.neither) < sum(one)))
def test_kappa_and_its_interval_are_statsmodels(table: PairedTable) -> None:
    found = cohens_kappa(*raters(*table))
    with np.errstate(all="ignore"):  # it divides by a standard error of 0
        reference = inter_rater.cohens_kappa(np.array(table).reshape(2, 2))
    assert found.kappa == pytest.approx(reference.kappa, abs=1e-9)
    variance = max(reference.var_kappa, 0.0)
    reach = scipy_stats.norm.ppf(0.975) * math.sqrt(variance)
    assert found.low == pytest.approx(max(reference.kappa - reach, -1), abs=1e-6)
    assert found.high == pytest.approx(min(reference.kappa + reach, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("answers", "kappa"), [((10, 0, 0, 10), 1.0), ((0, 10, 10, 0), -1.0), ((5, 5, 5, 5), 0.0)]
)
def test_kappa_at_its_ends(answers: tuple[int, int, int, int], kappa: float) -> None:
    assert cohens_kappa(*raters(*answers)).kappa == pytest.approx(kappa)


@pytest.mark.parametrize("answers", [(0, 0, 0, 0), (7, 0, 0, 0), (0, 0, 0, 3)])
def test_kappa_of_raters_who_never_differ_in_themselves_is_unknown(
    answers: tuple[int, int, int, int],
) -> None:
    assert cohens_kappa(*raters(*answers))[1:] == NONE


def test_the_interval_of_kappa_covers_the_truth() -> None:
    """Simulated raters: the truth is yes in 40 %, each is right in 85 %, apart from each other."""
    rng = np.random.default_rng(3)
    agree = 0.85**2 + 0.15**2
    share = 0.4 * 0.85 + 0.6 * 0.15
    chance = share**2 + (1 - share) ** 2
    truth = (agree - chance) / (1 - chance)
    real = rng.random((5000, 150)) < 0.4
    one, other = (np.where(rng.random(real.shape) < 0.85, real, ~real) for _ in range(2))
    found = [
        cohens_kappa(first, second)
        for first, second in zip(one.tolist(), other.tolist(), strict=True)
    ]
    covered = np.mean([held(each, truth) for each in found])
    shown("covered", covered)
    assert abs(covered - 0.95) <= 0.015


def test_raters_of_different_things_are_refused() -> None:
    with pytest.raises(ValueError, match="judged 1 and 2 things"):
        cohens_kappa([True], [True, False])
