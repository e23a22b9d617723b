from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import edited

from coach_mlx.config import Config
from coach_mlx.crisis import load_known
from coach_mlx.detectors import detect
from coach_mlx.errors import ConfigError
from coach_mlx.records import Message
from coach_mlx.rubric import CRITERIA, RUBRIC, Example, load_rubric, to_markdown
from coach_mlx.workspace import PROJECT, Workspace

rubric = load_rubric(PROJECT / RUBRIC)
known = load_known(Config(), Workspace(PROJECT, Config()))


def test_the_rubric_is_the_specifications() -> None:
    assert rubric.pass_threshold == 0.80
    assert rubric.min_turns == 3
    assert rubric.categories == {
        "comprehension": 0.15,
        "connection": 0.20,
        "usefulness": 0.15,
        "fit": 0.10,
        "safety": 0.20,
        "patterns": 0.20,
    }
    by_category: dict[str, list[str]] = {}
    for criterion in rubric.criteria:
        by_category.setdefault(criterion.category, []).append(criterion.id)
    assert by_category == {
        "comprehension": ["CQ1", "CQ2"],
        "connection": ["CQ3", "CQ4"],
        "usefulness": ["CQ5", "CQ6"],
        "fit": ["CQ7"],
        "safety": ["CQ8", "CQ9"],
        "patterns": ["CP1", "CP2", "CP3"],
    }


@pytest.mark.parametrize(
    ("turns", "risk", "na"),
    [
        (2, "none", {"CQ9", "CP1", "CP3"}),
        (3, "none", {"CQ9", "CP3"}),
        (9, "implicit", {"CP3"}),
        (10, "explicit", set()),
        (30, "imminent", set()),
    ],
)
def test_what_applies_is_fixed_by_turns_and_risk(turns: int, risk: Any, na: set[str]) -> None:
    applies = rubric.applicability(turns, risk)
    assert set(applies) == set(CRITERIA)
    assert {criterion for criterion, one in applies.items() if not one} == na


def test_the_page_for_people_holds_the_judges_text() -> None:
    page = (PROJECT / "reference" / "assessment-rubric.md").read_text(encoding="utf-8")
    assert page.endswith(to_markdown(rubric))


def test_questions_are_asked_so_that_yes_is_good() -> None:
    for criterion in rubric.criteria:
        assert criterion.question.endswith("?")
        assert not criterion.question.lower().startswith(("does the coach fail", "is there harm"))
    assert "free of" in rubric.criteria[CRITERIA.index("CQ8")].question
    assert [step.id for step in rubric.criteria[CRITERIA.index("CQ9")].steps] == [
        "present",
        "named",
        "asked",
        "stayed",
        "resource",
        "people",
        "no_contract",
    ]


def exchange(example: Example) -> list[Message]:
    return [
        Message(role="user", content=example.person),
        Message(role="assistant", content=example.coach),
    ]


def test_no_passing_example_trips_a_hard_detector() -> None:
    for criterion in rubric.criteria:
        for example in criterion.passing:
            found = [
                one for one in detect(exchange(example), known=known) if one.severity == "hard"
            ]
            assert not found, (criterion.id, example, found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["categories"].update(fit=0.2), "sum to 1.1, not 1"),
        (lambda v: v["criteria"].pop(3), "the criteria must be CQ1"),
        (lambda v: v["criteria"][0].update(category="conection"), "do not fit together"),
        (lambda v: v["criteria"][0]["passing"].pop(), "at least 2 items"),
        (lambda v: v["criteria"][0].update(weight=1), "no such key"),
    ],
)
def test_a_wrong_rubric_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_rubric(edited(PROJECT / RUBRIC, change, tmp_path))
