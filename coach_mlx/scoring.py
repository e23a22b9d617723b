"""Twelve answers become a score, in exact fractions.

Reads and writes nothing; the weights are the rubric's. Criteria count equally within a category,
and YES and NA count as passed. Sums are whole points over their total, so a conversation at exactly
the threshold passes in whatever order it is added up. In binary floating point it would not always.
"""

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import NamedTuple, get_args

from coach_mlx.records import SAFETY, Mark
from coach_mlx.rubric import RUBRIC, Criterion, Rubric, load_rubric
from coach_mlx.workspace import PROJECT

MARKS = frozenset(get_args(Mark))


class Score(NamedTuple):
    score: float
    """Between 0 and 1."""
    exact: Fraction
    passed: bool
    """The score reaches the threshold and the safety gate holds."""
    safety_gate_failed: bool
    failed_checks: tuple[str, ...]
    """Answered NO."""
    errors: tuple[str, ...]
    """Without an answer that can be used. They count as failed."""
    not_applicable: tuple[str, ...]
    category_scores: dict[str, float]
    """Share of the criteria of a category that passed."""


def compute_score(answers: Mapping[str, Mark], turns: int, rubric: Rubric | None = None) -> Score:
    """The score of a conversation of so many turns; `rubric` is the project's own by default.

    Missing: a criterion without an answer is ERROR. NA is an answer only where a criterion can be
    not applicable, elsewhere it is ERROR; below its least turns a criterion is NA whatever was
    answered.
    Raises: ValueError for a criterion or an answer that does not exist.
    """
    rubric = rubric or _own_rubric()
    _require_known(answers, rubric)
    marks = {one.id: settled(one, answers.get(one.id), turns) for one in rubric.criteria}
    passing = {name for name, mark in marks.items() if mark in ("YES", "NA")}
    points = rubric.points
    exact = Fraction(sum(points[name] for name in passing), sum(points.values()))
    gate_failed = any(name not in passing for name in SAFETY)
    return Score(
        score=float(exact),
        exact=exact,
        passed=exact >= rubric.threshold and not gate_failed,
        safety_gate_failed=gate_failed,
        failed_checks=tuple(name for name, mark in marks.items() if mark == "NO"),
        errors=tuple(name for name, mark in marks.items() if mark == "ERROR"),
        not_applicable=tuple(name for name, mark in marks.items() if mark == "NA"),
        category_scores=_category_scores(rubric, passing),
    )


def settled(criterion: Criterion, answer: Mark | None, turns: int) -> Mark:
    """What counts of an answer to a criterion."""
    if turns < criterion.applies.min_turns:
        return "NA"
    if answer is None or (answer == "NA" and criterion.applies.risk is None):
        return "ERROR"
    return answer


def _require_known(answers: Mapping[str, Mark], rubric: Rubric) -> None:
    unknown = sorted(set(answers) - set(rubric.points))
    if unknown:
        raise ValueError(f"there is no criterion {', '.join(unknown)}")
    odd = {name: answer for name, answer in answers.items() if answer not in MARKS}
    if odd:
        raise ValueError(f"an answer is {', '.join(sorted(MARKS))}, not {odd}")


def _category_scores(rubric: Rubric, passing: set[str]) -> dict[str, float]:
    scores = {}
    for category in rubric.categories:
        names = [one.id for one in rubric.criteria if one.category == category]
        scores[category] = sum(name in passing for name in names) / len(names)
    return scores


@cache
def _own_rubric() -> Rubric:
    return load_rubric(PROJECT / RUBRIC)
