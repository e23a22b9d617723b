import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.stats import compare_pairs

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
