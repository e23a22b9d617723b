"""Which talks are chosen over which, and which never are."""

import json
from pathlib import Path
from typing import Any

import pytest

from coach_mlx.comparison import ShownVerdict, SideBySide
from coach_mlx.detectors import REPLY_RULES, TALK_RULES
from coach_mlx.preferences import WARNINGS, write_pairs
from coach_mlx.records import Message

SYSTEM = "You listen."


def talk(coach: str, person: str = "I said yes again.") -> tuple[Message, ...]:
    return tuple(
        Message(role=role, content=f"{text} {turn}")
        for turn in (1, 2)
        for role, text in (("user", person), ("assistant", coach))
    )


def verdict(
    score: float | None = 0.9,
    passed: bool = True,
    failed: tuple[str, ...] = (),
    errors: tuple[str, ...] = (),
) -> ShownVerdict:
    return ShownVerdict(score=score, passed=passed, failed=failed, errors=errors, reasonings={})


GOOD, BAD = verdict(), verdict(0.5, False, ("CQ1", "CQ3"))


def scenario(base: ShownVerdict | None, served: ShownVerdict | None, **more: Any) -> SideBySide:
    verdicts = {"base": base, "served": served}
    facts: dict[str, Any] = {
        "scenario": "s1",
        "kind": "holdout",
        "group": "anxiety",
        "benign": False,
        "arms": {"base": talk("You must say no."), "served": talk("And to whom?")},
        "verdicts": {arm: one for arm, one in verdicts.items() if one is not None},
        "findings": {},
        **more,
    }
    return SideBySide(**facts)


def written(path: Path, *those: SideBySide, system: str | None = SYSTEM) -> list[dict[str, Any]]:
    file = path / "pairs.jsonl"
    count = write_pairs(those, "base", "served", system, file)
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert count == len(lines)
    return lines


def test_a_line_is_what_a_preference_trainer_reads(tmp_path: Path) -> None:
    (line,) = written(tmp_path, scenario(BAD, GOOD))
    assert line == {
        "prompt": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "I said yes again. 1"},
        ],
        "chosen": [
            {"role": "assistant", "content": "And to whom? 1"},
            {"role": "user", "content": "I said yes again. 2"},
            {"role": "assistant", "content": "And to whom? 2"},
        ],
        "rejected": [
            {"role": "assistant", "content": "You must say no. 1"},
            {"role": "user", "content": "I said yes again. 2"},
            {"role": "assistant", "content": "You must say no. 2"},
        ],
        "scenario": "s1",
    }
    (plain,) = written(tmp_path, scenario(BAD, GOOD), system=None)
    assert plain["prompt"] == line["prompt"][1:]


def test_the_base_is_chosen_where_it_was_better(tmp_path: Path) -> None:
    (line,) = written(tmp_path, scenario(GOOD, BAD))
    assert line["chosen"][0]["content"] == "You must say no. 1"


@pytest.mark.parametrize(
    ("base", "served", "told_apart"),
    [
        (verdict(0.9), verdict(1.0), True),
        (verdict(0.81), verdict(0.9), False),
        (verdict(0.4, False), verdict(0.7, False), True),
        (verdict(0.9, False, ("CQ8",)), verdict(0.8), True),  # what is unsafe has no better score
        (verdict(None, False, (), ("CQ1",)), verdict(0.8), False),  # nobody could say
        (verdict(None, False, ("CQ9",), ("CQ1",)), verdict(0.8), True),
        (verdict(0.3, False), None, False),
    ],
)
def test_only_what_the_judge_told_apart_is_a_pair(
    tmp_path: Path, base: ShownVerdict, served: ShownVerdict | None, told_apart: bool
) -> None:
    assert bool(written(tmp_path, scenario(base, served))) is told_apart
    if served is not None and told_apart:
        (line,) = written(tmp_path, scenario(base, served))
        assert line["chosen"][0]["content"] == "And to whom? 1"


@pytest.mark.parametrize("name", ["CQ8", "CQ9"])
def test_what_failed_on_safety_or_could_not_be_cleared_is_never_chosen(
    tmp_path: Path, name: str
) -> None:
    worst = verdict(0.1, False, ("CQ1", "CQ2"))
    assert not written(tmp_path, scenario(worst, verdict(0.95, False, (name,))))
    assert not written(tmp_path, scenario(worst, verdict(0.95, False, (), (name,))))


@pytest.mark.parametrize("code", [*REPLY_RULES, *TALK_RULES])
def test_a_hard_finding_is_never_chosen_and_a_warning_may_be(tmp_path: Path, code: str) -> None:
    found = {"served": (f"{code} turn 2: what stands there",), "base": ("D4 turn 1: 20 mg",)}
    lines = written(tmp_path, scenario(BAD, GOOD, findings=found))
    assert bool(lines) is (code in ["D3", "D11", "D15", "D17", "D19", "D20", "D21", "D23"])
    assert bool(lines) is (code in WARNINGS)


@pytest.mark.parametrize("kind", ["probe", "simulated"])
def test_probes_stay_out(tmp_path: Path, kind: str) -> None:
    assert not written(tmp_path, scenario(BAD, GOOD, kind=kind))


def test_talks_over_other_words_are_no_pair(tmp_path: Path) -> None:
    other = {"base": talk("No.", "Something else."), "served": talk("And to whom?")}
    assert not written(tmp_path, scenario(BAD, GOOD, arms=other))


def test_the_order_is_the_scenarios_and_a_second_writing_is_the_same(tmp_path: Path) -> None:
    those = [scenario(BAD, GOOD, scenario=name) for name in ("c", "a", "b")]
    first = written(tmp_path, *those)
    assert [line["scenario"] for line in first] == ["a", "b", "c"]
    assert written(tmp_path, *reversed(those)) == first
