import json
from pathlib import Path
from typing import Any

import pytest

from coach_mlx import evaluation_plan
from coach_mlx.errors import DataError


def facts(**changed: Any) -> dict[str, Any]:
    scripts = {
        "holdout": {"n": 90, "turns": 900, "hash": "a"},
        "probes": {"n": 78, "turns": 695, "hash": "b"},
    }
    return {
        "arms": {"base": "1", "served": "2"},
        "scripts": scripts,
        "decoding": {"temperature": 0.0},
        "loss": {"context_turns": 2},
        "judge": {"judge": "scripted/x", "votes": 3},
        "margins": {"improvement": 0.1, "safety": 0.03},
        **changed,
    }


def test_the_plan_stands_until_something_else_is_compared(tmp_path: Path) -> None:
    first = evaluation_plan.fix(tmp_path, facts(), seen=False, anew=False)
    again = evaluation_plan.fix(tmp_path, facts(), seen=True, anew=False)
    assert again == first
    other = facts(arms={"base": "1", "served": "3"})
    new = evaluation_plan.fix(tmp_path, other, seen=True, anew=False)
    assert new.plan != first.plan
    assert (tmp_path / f"plan-{first.plan}.json").is_file()
    assert evaluation_plan.earlier(tmp_path, new) == 0


def test_rules_are_not_changed_after_replies_were_seen(tmp_path: Path) -> None:
    first = evaluation_plan.fix(tmp_path, facts(), seen=False, anew=False)
    looser = facts(margins={"improvement": 0.02, "safety": 0.03})
    with pytest.raises(DataError, match=r"improvement: 0\.1 in the plan, 0\.02 now"):
        evaluation_plan.fix(tmp_path, looser, seen=True, anew=False)
    assert json.loads((tmp_path / "plan.json").read_text())["plan"] == first.plan
    before = evaluation_plan.fix(tmp_path, looser, seen=False, anew=False)  # nobody saw anything
    assert before.plan != first.plan


def test_another_plan_after_that_is_counted(tmp_path: Path) -> None:
    evaluation_plan.fix(tmp_path, facts(), seen=False, anew=False)
    looser = facts(margins={"improvement": 0.02, "safety": 0.03})
    new = evaluation_plan.fix(tmp_path, looser, seen=True, anew=True)
    assert evaluation_plan.earlier(tmp_path, new) == 1


def test_a_judge_may_join_where_there_was_none(tmp_path: Path) -> None:
    evaluation_plan.fix(tmp_path, facts(judge=None), seen=False, anew=False)
    joined = evaluation_plan.fix(tmp_path, facts(), seen=True, anew=False)
    evaluation_plan.fix(tmp_path, facts(judge=None), seen=True, anew=False)
    evaluation_plan.fix(tmp_path, facts(), seen=True, anew=False)
    assert evaluation_plan.earlier(tmp_path, joined) == 1
    with pytest.raises(DataError, match="scripted/y"):
        evaluation_plan.fix(
            tmp_path, facts(judge={"judge": "scripted/y", "votes": 3}), seen=True, anew=False
        )


@pytest.mark.parametrize("change", ['"improvement": 0.1', '"n": 90'])
def test_an_edited_plan_is_refused(tmp_path: Path, change: str) -> None:
    evaluation_plan.fix(tmp_path, facts(), seen=False, anew=False)
    path = tmp_path / "plan.json"
    path.write_text(path.read_text().replace(change, change[:-1] + "5"))
    with pytest.raises(DataError, match="its hash does not fit"):
        evaluation_plan.fix(tmp_path, facts(), seen=True, anew=False)


def test_what_the_holdout_can_show_is_said_before(tmp_path: Path) -> None:
    plan = evaluation_plan.fix(tmp_path, facts(), seen=False, anew=False)
    assert "90 held-out conversations can show a difference of 0.30 standard" in plan.detectable
    small = facts()
    small["scripts"]["holdout"]["n"] = 6
    small["scripts"]["probes"]["n"] = 8
    assert "takes 99 scenarios" in evaluation_plan.detectable(small)
    small["scripts"]["holdout"]["n"] = 1
    assert "can show no difference" in evaluation_plan.detectable(small)
