import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.stats import cohens_kappa, compare_pairs

numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


def test_a_textbook_paired_t_test() -> None:
    """Student's sleep data (1908): ten patients, two drugs; t = 4.0621, p = 0.002833."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = compare_pairs(first, second, seed=1, resamples=2000)
    assert found.n == 10
    assert found.mean_difference == pytest.approx(1.58)
    assert found.t == pytest.approx(4.0621, abs=1e-4)
    assert found.p == pytest.approx(0.002833, abs=1e-6)
    assert found.low is not None and found.high is not None
    assert 0.5 < found.low < 1.58 < found.high < 3.0


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12))
def test_turning_the_pair_round_turns_the_sign(pairs: list[tuple[float, float]]) -> None:
    before, after = zip(*pairs, strict=True)
    there = compare_pairs(before, after, seed=1, resamples=200)
    back = compare_pairs(after, before, seed=1, resamples=200)
    assert there.mean_difference == pytest.approx(-back.mean_difference)
    assert (there.p is None) == (back.p is None)
    if there.p is not None and back.p is not None:
        assert there.p == pytest.approx(back.p)
        assert 0 <= there.p <= 1
    if there.low is not None and there.high is not None:
        assert there.low <= there.high


def test_what_cannot_be_said_is_none() -> None:
    assert compare_pairs([1.0], [2.0], seed=1, resamples=2000)[4:] == (None, None, None, None)
    same = compare_pairs([1.0, 2.0], [1.0, 2.0], seed=1, resamples=2000)
    assert (same.p, same.low, same.high) == (1.0, 0.0, 0.0)
    constant = compare_pairs([1.0, 2.0], [0.5, 1.5], seed=1, resamples=2000)
    assert (constant.p, constant.low) == (None, -0.5)


def test_broken_pairs_raise() -> None:
    for before, after in (([], []), ([1.0], [1.0, 2.0]), ([math.nan, 1.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="pair"):
            compare_pairs(before, after, seed=1, resamples=2000)


def test_the_interval_is_a_function_of_the_seed() -> None:
    before, after = [1.0, 2.0, 4.0, 3.0], [0.5, 1.7, 3.9, 2.0]
    assert compare_pairs(before, after, seed=5, resamples=500) == compare_pairs(
        before, after, seed=5, resamples=500
    )


def table(both: int, one: int, other: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two raters' answers with so many of each kind."""
    pairs = [(True, True)] * both + [(True, False)] * one
    pairs += [(False, True)] * other + [(False, False)] * neither
    return [first for first, _ in pairs], [second for _, second in pairs]


def test_kappa_of_a_worked_table() -> None:
    """20 and 15 of 50 agreed, 25 and 30 said yes: (0.7 - 0.5) / (1 - 0.5)."""
    found = cohens_kappa(*table(20, 5, 10, 15))
    assert found.kappa == pytest.approx(0.4)
    assert found.n == 50
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.4 < found.high


@pytest.mark.parametrize(
    ("counts", "kappa"), [((10, 0, 0, 10), 1.0), ((0, 10, 10, 0), -1.0), ((5, 5, 5, 5), 0.0)]
)
def test_kappa_at_its_ends(counts: tuple[int, int, int, int], kappa: float) -> None:
    assert cohens_kappa(*table(*counts)).kappa == pytest.approx(kappa)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (7, 0, 0, 0), (0, 0, 0, 3)])
def test_kappa_of_raters_who_never_differ_in_themselves_is_unknown(
    counts: tuple[int, int, int, int],
) -> None:
    assert cohens_kappa(*table(*counts))[1:] == (None, None, None)


def test_the_interval_of_kappa_covers_the_truth() -> None:
    """Simulated raters: the truth is yes in 40 %, each is right in 85 %, apart from each other."""
    rng = np.random.default_rng(3)
    agree = 0.85**2 + 0.15**2
    share = 0.4 * 0.85 + 0.6 * 0.15
    chance = share**2 + (1 - share) ** 2
    truth = (agree - chance) / (1 - chance)
    covered = 0
    for _ in range(2000):
        real = rng.random(150) < 0.4
        one, other = (np.where(rng.random(150) < 0.85, real, ~real) for _ in range(2))
        found = cohens_kappa(one.tolist(), other.tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.935 <= covered / 2000 <= 0.965


def test_raters_of_different_things_are_refused() -> None:
    with pytest.raises(ValueError, match="judged 1 and 2 things"):
        cohens_kappa([True], [True, False])
