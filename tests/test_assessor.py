"""The scoring, written first: a bug here spoils training data without a sound."""

import itertools
import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.assessor import compute_score
from coach_mlx.records import SAFETY, Mark
from coach_mlx.rubric import CRITERIA

MARKS: tuple[Mark, ...] = ("YES", "NO", "NA", "ERROR")
ALL_YES: dict[str, Mark] = dict.fromkeys(CRITERIA, "YES")
LONG = 20
marks = st.fixed_dictionaries({name: st.sampled_from(MARKS) for name in CRITERIA})
turns = st.integers(min_value=0, max_value=40)


def but(**changed: Mark) -> dict[str, Mark]:
    return {**ALL_YES, **changed}


# The specification's six points.


def test_1_weighted_category_scoring() -> None:
    assert compute_score(ALL_YES, LONG).exact == 1
    lost = {
        "CQ1": Fraction(75, 1000),
        "CQ3": Fraction(10, 100),
        "CQ5": Fraction(75, 1000),
        "CQ7": Fraction(10, 100),
        "CQ8": Fraction(10, 100),
        "CP1": Fraction(2, 30),
    }
    for name, share in lost.items():
        found = compute_score(but(**{name: "NO"}), LONG)
        assert found.exact == 1 - share
        assert found.score == pytest.approx(float(1 - share))
        assert found.failed_checks == (name,)
    found = compute_score(but(CQ3="NO", CP1="NO", CP2="NO"), LONG)
    assert found.category_scores == {
        "comprehension": 1.0,
        "connection": 0.5,
        "usefulness": 1.0,
        "fit": 1.0,
        "safety": 1.0,
        "patterns": pytest.approx(1 / 3),
    }


@pytest.mark.parametrize("criterion", SAFETY)
@pytest.mark.parametrize("answer", ["NO", "ERROR"])
def test_2_any_safety_failure_rejects_whatever_the_score(criterion: str, answer: Mark) -> None:
    found = compute_score(but(**{criterion: answer}), LONG)
    assert found.exact == Fraction(9, 10)
    assert (found.safety_gate_failed, found.passed) == (True, False)
    assert not compute_score(ALL_YES, LONG).safety_gate_failed


def test_3_na_counts_as_pass_where_a_criterion_is_conditional() -> None:
    found = compute_score(but(CQ9="NA"), LONG)
    assert (found.exact, found.passed, found.not_applicable) == (1, True, ("CQ9",))
    short = compute_score(but(CP1="NO", CP3="NO"), 2)
    assert (short.exact, short.not_applicable) == (1, ("CP1", "CP3"))
    assert compute_score(but(CP1="ERROR", CP3="ERROR"), 2).errors == ()
    assert compute_score({name: "YES" for name in CRITERIA if name != "CP3"}, 9).exact == 1


def test_3_na_is_an_error_everywhere_else() -> None:
    for name in set(CRITERIA) - {"CQ9"}:
        found = compute_score(but(**{name: "NA"}), LONG)
        assert found.errors == (name,)
        assert found.exact < 1
    assert compute_score(but(CP1="NA"), 3).errors == ("CP1",)
    assert compute_score(but(CP3="NA"), 9).errors == ()
    assert compute_score(but(CP3="NA"), 10).errors == ("CP3",)


def test_4_error_counts_as_failure_and_so_does_a_missing_answer() -> None:
    for name in CRITERIA:
        missing = {key: mark for key, mark in ALL_YES.items() if key != name}
        found = compute_score(but(**{name: "ERROR"}), LONG)
        assert found.exact == compute_score(but(**{name: "NO"}), LONG).exact
        assert found == compute_score(missing, LONG)
        assert (found.errors, found.failed_checks) == ((name,), ())


# Point 5, the least number of turns, stands with `assess` in test_judge.py and below.


@pytest.mark.parametrize(("length", "na"), [(2, ("CP1", "CP3")), (3, ("CP3",)), (10, ())])
def test_5_turns_decide_what_can_be_judged(length: int, na: tuple[str, ...]) -> None:
    assert compute_score(but(CP1="YES", CP3="YES"), length).not_applicable == na


def test_6_all_na_all_error_and_mixed() -> None:
    nothing = compute_score(dict.fromkeys(CRITERIA, "ERROR"), LONG)
    assert (nothing.exact, nothing.passed, nothing.safety_gate_failed) == (0, False, True)
    assert nothing.errors == CRITERIA
    assert compute_score({}, LONG) == nothing
    na = compute_score(dict.fromkeys(CRITERIA, "NA"), 2)
    assert na.not_applicable == ("CQ9", "CP1", "CP3")
    assert na.exact == Fraction(1, 10) + Fraction(2, 3) * Fraction(1, 5)
    mixed = compute_score(but(CQ2="NO", CQ9="NA", CP2="ERROR"), 5)
    assert mixed.exact == 1 - Fraction(75, 1000) - Fraction(1, 15)
    assert (mixed.failed_checks, mixed.errors) == (("CQ2",), ("CP2",))
    assert mixed.not_applicable == ("CQ9", "CP3")
    assert mixed.passed


# At the threshold, and what does not exist.


@pytest.mark.parametrize(
    "failed", [("CQ3", "CQ4"), ("CP1", "CP2", "CP3"), ("CQ3", "CQ7"), ("CQ4", "CQ7")]
)
def test_exactly_080_passes_in_any_order(failed: tuple[str, ...]) -> None:
    answers = but(**dict.fromkeys(failed, "NO"))
    for order in itertools.islice(itertools.permutations(answers.items()), 0, 4000, 97):
        found = compute_score(dict(order), LONG)
        assert found.exact == Fraction(4, 5)
        assert found.passed


def test_just_under_the_threshold_fails() -> None:
    assert compute_score(but(CQ1="NO", CQ2="NO", CP1="NO"), LONG).exact == Fraction(47, 60)
    assert not compute_score(but(CQ1="NO", CQ2="NO", CP1="NO"), LONG).passed


@pytest.mark.parametrize(
    ("answers", "said"),
    [({"CQ10": "YES"}, "no criterion CQ10"), ({"cq1": "YES"}, "no criterion cq1")]
    + [({"CQ1": wrong}, "an answer is") for wrong in ("yes", "Y", "", None, True)],
)
def test_what_does_not_exist_raises(answers: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        compute_score(answers, LONG)


# Properties.


@given(marks, turns, st.permutations(CRITERIA))
def test_the_order_of_the_answers_changes_nothing(
    answers: dict[str, Mark], length: int, order: list[str]
) -> None:
    shuffled = {name: answers[name] for name in order}
    assert compute_score(shuffled, length) == compute_score(answers, length)


@given(marks, turns, st.sampled_from(CRITERIA))
def test_turning_a_no_into_a_yes_never_lowers(
    answers: dict[str, Mark], length: int, name: str
) -> None:
    worse = compute_score({**answers, name: "NO"}, length)
    better = compute_score({**answers, name: "YES"}, length)
    assert better.exact >= worse.exact
    assert better.passed >= worse.passed


@given(marks, turns)
def test_the_gate_outranks_everything(answers: dict[str, Mark], length: int) -> None:
    found = compute_score(answers, length)
    unsafe = answers["CQ8"] != "YES" or answers["CQ9"] in ("NO", "ERROR")
    assert found.safety_gate_failed == unsafe
    assert not (found.passed and unsafe)


@given(marks, turns)
def test_a_permitted_na_never_lowers(answers: dict[str, Mark], length: int) -> None:
    before = compute_score(answers, length)
    permitted = {"CQ9"} | ({"CP1"} if length < 3 else set()) | ({"CP3"} if length < 10 else set())
    for name in permitted:
        after = compute_score({**answers, name: "NA"}, length)
        assert after.exact >= before.exact
        assert after.passed >= before.passed


@given(marks, turns, st.sampled_from(CRITERIA))
def test_an_error_never_raises_the_score(answers: dict[str, Mark], length: int, name: str) -> None:
    before = compute_score(answers, length)
    after = compute_score({**answers, name: "ERROR"}, length)
    assert after.exact <= before.exact
    assert after.passed <= before.passed


@given(marks, turns)
def test_bounds_and_that_every_criterion_is_accounted_for(
    answers: dict[str, Mark], length: int
) -> None:
    found = compute_score(answers, length)
    assert 0 <= found.score <= 1
    assert found.score == float(found.exact)
    assert all(0 <= share <= 1 for share in found.category_scores.values())
    told = (*found.failed_checks, *found.errors, *found.not_applicable)
    assert len(told) == len(set(told))
    assert (found.exact == 1) == (not found.failed_checks and not found.errors)


# An oracle of another make: whole points of 600, no fractions, written from the specification.

POINTS = (45, 45, 60, 60, 45, 45, 60, 60, 60, 40, 40, 40)


def oracle(pattern: tuple[Mark, ...], length: int) -> bool:
    points = 0
    for place, (mark, worth) in enumerate(zip(pattern, POINTS, strict=True)):
        too_short = (place == 9 and length < 3) or (place == 11 and length < 10)
        good = too_short or mark == "YES" or (mark == "NA" and place == 8)
        if not good and place in (7, 8):
            return False
        points += worth if good else 0
    return points >= 480


def test_a_hundred_thousand_patterns_agree_with_whole_points() -> None:
    """Of all 4^12: most at random, and all 2^12 of YES and NO, where the threshold is."""
    rng = random.Random(12)
    patterns = [tuple(rng.choices(MARKS, weights=(8, 2, 1, 1), k=12)) for _ in range(96_000)]
    patterns += list(itertools.product(("YES", "NO"), repeat=12))
    passed = 0
    for pattern in patterns:
        length = rng.choice((2, 3, 9, 10, 30))
        found = compute_score(dict(zip(CRITERIA, pattern, strict=True)), length).passed
        assert found == oracle(pattern, length), (pattern, length)
        passed += found
    assert 3_000 < passed < 97_000
