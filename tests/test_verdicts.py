"""Two judges, one rule: what the pilot counts as passed is what the dataset keeps."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.config import load_config
from coach_mlx.errors import DataError
from coach_mlx.pilot import decide
from coach_mlx.records import Conversation, Message, Verdict
from coach_mlx.selection import select
from coach_mlx.talk import NOTHING_KNOWN
from coach_mlx.verdicts import read_verdicts, standings
from coach_mlx.workspace import Workspace

TALK = Conversation(
    messages=(
        Message(role="user", content="I said yes again, and I wanted to say no."),
        Message(role="assistant", content="And the yes was out before you heard it."),
    )
)


def verdict(judge: str, passed: bool, unsafe: bool = False, why: str = "no question") -> Verdict:
    return Verdict(
        conversation=TALK.id,
        passed=passed,
        score=0.9 if passed else 0.5,
        safety_gate_failed=unsafe,
        failed_checks=() if passed else ("CQ3",),
        reasonings={} if passed else {"CQ3": why},
        judge=judge,
        rubric="abc",
    )


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.booleans()), min_size=1))
def test_the_pilot_and_the_dataset_agree(judged: list[tuple[str, bool, bool]]) -> None:
    verdicts = [verdict(judge, passed and not unsafe, unsafe) for judge, passed, unsafe in judged]
    found = standings(verdicts)
    kept = select([TALK], verdicts, NOTHING_KNOWN, 0.5).kept
    assert decide([TALK], found, 0, 1).passed == len(kept) == found[TALK.id].passed


def test_the_last_verdict_of_each_judge_counts() -> None:
    again = [verdict("a", False, why="first"), verdict("b", True), verdict("a", False, why="then")]
    found = standings(again)[TALK.id]
    assert (found.passed, found.unsafe, found.score) == (True, False, pytest.approx(0.7))
    assert found.failed_checks == ("CQ3",)
    assert (found.reasoning("CQ3"), found.reasoning("CQ8")) == ("then", None)
    assert not standings([*again, verdict("b", False, unsafe=True)])[TALK.id].passed


def test_none_an_empty_file_a_torn_line_and_a_wrong_one(tmp_path: Path) -> None:
    place = Workspace(tmp_path, load_config(None))
    assert read_verdicts(place) is None
    place.assessments.parent.mkdir(parents=True)
    place.assessments.write_text("")
    assert read_verdicts(place) == []
    line = verdict("a", True).model_dump_json()
    place.assessments.write_text(f"{line}\n{line[:-9]}")
    assert read_verdicts(place) == [verdict("a", True)]
    place.assessments.write_text(f'{line}\n{{"passed": true}}\n')
    with pytest.raises(DataError, match=r"assessments\.jsonl:2: conversation"):
        read_verdicts(place)


def test_a_person_settles_what_needs_review_and_nothing_else() -> None:
    unsure = verdict("a", False, unsafe=True).model_copy(update={"needs_review": ("CQ9",)})
    mine = verdict("person/anna", True)
    assert not standings([unsure])[TALK.id].passed
    assert standings([unsure, mine])[TALK.id].passed
    assert not standings([unsure, verdict("person/anna", False, unsafe=True)])[TALK.id].passed
    certain = verdict("b", False, unsafe=True)
    assert not standings([unsure, certain, mine])[TALK.id].passed
    assert standings([unsure, verdict("b", True)])[TALK.id].unsafe
    assert not standings([verdict("person/anna", False), verdict("b", True)])[TALK.id].passed


def test_a_judge_without_usable_answers_on_safety_finds_nothing_and_passes_nothing() -> None:
    """Otherwise one useless judge would reject everything, and no other could mend it."""
    useless = verdict("a", False, unsafe=True).model_copy(
        update={"failed_checks": (), "errors": ("CQ3", "CQ8")}
    )
    assert select([TALK], [useless], NOTHING_KNOWN, 0.5).dropped == {
        "no usable answer on safety": 1
    }
    assert standings([useless, verdict("b", True)])[TALK.id].passed
    found = useless.model_copy(update={"failed_checks": ("CQ9",)})
    assert standings([found, verdict("b", True)])[TALK.id].unsafe
    waits = useless.model_copy(update={"needs_review": ("CQ8",)})
    assert standings([waits, verdict("b", True)])[TALK.id].unsafe


def test_a_judge_that_knew_the_card_counts_before_one_that_did_not() -> None:
    carded = verdict("a", False, unsafe=True).model_copy(update={"risk": "imminent"})
    bare = verdict("a", True)
    for order in ([carded, bare], [bare, carded]):
        assert standings(order)[TALK.id].unsafe
    again = carded.model_copy(update={"safety_gate_failed": False, "passed": True})
    assert standings([carded, again, bare])[TALK.id].passed


def test_too_short_is_no_score_and_has_a_reason_of_its_own() -> None:
    short = verdict("a", False).model_copy(
        update={"score": None, "too_short": True, "failed_checks": ()}
    )
    assert standings([short])[TALK.id].score is None
    assert select([TALK], [short], NOTHING_KNOWN, 0.5).dropped == {"too short to be judged": 1}
    longer = [short, verdict("b", True)]
    assert standings(longer)[TALK.id].score == 0.9
    assert select([TALK], longer, NOTHING_KNOWN, 0.5).kept == [TALK]


def test_a_line_written_by_hand_needs_eight_fields(tmp_path: Path) -> None:
    place = Workspace(tmp_path, load_config(None))
    place.assessments.parent.mkdir(parents=True)
    line = verdict("person/anna", True).model_dump(exclude_defaults=True)
    assert len(line) == 8
    place.assessments.write_text(json.dumps(line) + "\n")
    assert read_verdicts(place) == [verdict("person/anna", True)]
