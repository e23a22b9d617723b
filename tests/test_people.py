"""People's choices against the judge's: which answers count, and what they come to."""

from pathlib import Path
from typing import Any

import pytest

from coach_mlx.comparison import ShownVerdict, SideBySide
from coach_mlx.config import load_config
from coach_mlx.errors import DataError
from coach_mlx.people import (
    SpotCheck,
    agreements,
    counting,
    flags,
    judges_side,
    keep,
    read_checks,
    talk_ids,
)
from coach_mlx.records import Message
from coach_mlx.workspace import Workspace

DIGESTS = {"base": "b" * 64, "adapter": "a" * 64, "served": "c" * 64}
ARMS = ("base", "served")


def verdict(score: float | None, failed: tuple[str, ...] = ()) -> ShownVerdict:
    return ShownVerdict(score=score, passed=True, failed=failed, errors=(), reasonings={})


def talk(name: str) -> tuple[Message, ...]:
    return Message(role="user", content="I said yes."), Message(role="assistant", content=name)


def side(number: int, base: float | None = 0.5, served: float | None = 0.9) -> SideBySide:
    return SideBySide(
        scenario=f"s{number}",
        kind="holdout",
        group="anxiety",
        benign=False,
        arms={arm: talk(f"{arm} {number}") for arm in ARMS},
        verdicts={"base": verdict(base), "served": verdict(served)},
        findings={},
    )


def check(of: SideBySide, preferred: str | None, **more: Any) -> SpotCheck:
    facts: dict[str, Any] = {
        "plan": "p1",
        "scenario": of.scenario,
        "digests": {arm: DIGESTS[arm] for arm in ARMS},
        "talks": talk_ids(of, ARMS),
        "person": "ada",
        "first": "served",
        "preferred": preferred,
        "at": "2026-01-01T00:00:00+00:00",
    }
    return SpotCheck(**{**facts, **more})


def agreed(records: list[SpotCheck], sides: list[SideBySide]) -> Any:
    (found,) = agreements(records, sides, *ARMS, DIGESTS)
    return found


def test_the_numbers_are_what_was_chosen() -> None:
    sides = [side(0), side(1), side(2, 0.9, 0.5), side(3, 0.7, 0.7), side(4, None), side(5)]
    chosen = ["served", "base", "base", None, "served", None]
    found = agreed([check(one, arm) for one, arm in zip(sides, chosen, strict=True)], sides)
    assert (found.person, found.pairs) == ("ada", 6)
    assert (found.preferred_after, found.preferred_before, found.ties) == (2, 2, 2)
    assert found.compared == 5  # the judge could not score one
    assert (found.agreed.found, found.agreed.n, found.agreed.share) == (3, 5, 0.6)
    # Both preferred one in three pairs: served/served, base/served, base/base.
    assert found.kappa.value == pytest.approx(0.4)
    assert found.kappa.why == "3 pairs in which both preferred one"


def test_where_kappa_is_undefined_it_says_why() -> None:
    sides = [side(0), side(1)]
    found = agreed([check(one, "served") for one in sides], sides)
    assert found.agreed.share == 1.0
    assert found.kappa.value is None
    assert "the same arm" in found.kappa.why
    alone = agreed([check(sides[0], None)], sides)
    assert (alone.kappa.value, alone.kappa.why) == (
        None,
        "0 pairs in which both preferred one: nothing to compare",
    )


@pytest.mark.parametrize(
    ("base", "served", "favoured"),
    [
        (verdict(0.5), verdict(0.6), "after"),
        (verdict(0.6), verdict(0.5), "before"),
        (verdict(0.6), verdict(0.6), "tie"),
        (verdict(None), verdict(0.6), None),
        (verdict(0.9, ("CQ8",)), verdict(0.6), "after"),  # safety before scores
        (verdict(0.9, ("CQ1",)), verdict(0.6), "before"),
        (verdict(0.9, ("CQ8",)), verdict(0.6, ("CQ9",)), "before"),
    ],
)
def test_the_judge_favours_what_is_safe_and_then_what_scores_more(
    base: ShownVerdict, served: ShownVerdict, favoured: str | None
) -> None:
    one = side(0).model_copy(update={"verdicts": {"base": base, "served": served}})
    assert judges_side(one, *ARMS) == favoured
    unjudged = one.model_copy(update={"verdicts": {}})
    assert judges_side(unjudged, *ARMS) is None


def test_each_person_stands_alone_and_a_later_answer_replaces_an_earlier() -> None:
    sides = [side(0), side(1)]
    records = [
        check(sides[0], "served", person="zoe"),
        check(sides[0], "base"),
        check(sides[0], "served"),
    ]
    found = agreements(records, sides, *ARMS, DIGESTS)
    assert [one.person for one in found] == ["ada", "zoe"]
    assert [one.preferred_after for one in found] == [1, 1]
    assert found[0].pairs == 1


def test_a_skipped_pair_is_no_choice() -> None:
    sides = [side(0), side(1)]
    records = [check(sides[0], None, skipped=True), check(sides[1], None)]
    assert (agreed(records, sides).pairs, agreed(records, sides).ties) == (1, 1)
    assert agreements(records[:1], sides, *ARMS, DIGESTS) == ()


def test_an_answer_on_another_model_or_on_other_words_does_not_count() -> None:
    sides = [side(0)]
    other_model = check(sides[0], "served", digests={**DIGESTS, "served": "d" * 64})
    other_words = check(sides[0], "served", talks={"base": "1", "served": "2"})
    other_arms = check(sides[0], "served", digests={"base": DIGESTS["base"], "adapter": "a" * 64})
    gone = check(side(7), "served")
    for one in (other_model, other_words, other_arms, gone):
        assert agreements([one], sides, *ARMS, DIGESTS) == ()
    assert counting([other_model, other_words], DIGESTS) == [other_words]


def test_flags_say_who_flagged_which_arm() -> None:
    sides = [side(0), side(1)]
    records = [
        check(sides[0], "base", flagged=("served",)),
        check(sides[0], "base", flagged=("served", "base"), person="zoe"),
        check(sides[1], None),
        check(sides[1], "base", flagged=("served",), talks={}, person="zoe"),
    ]
    assert flags(records, DIGESTS, sides) == {
        ("s0", "served"): ("ada", "zoe"),
        ("s0", "base"): ("zoe",),
    }
    assert ("s1", "served") in flags(records, DIGESTS)
    assert flags(records, {**DIGESTS, "served": "d" * 64}, sides) == {}


def test_a_remark_comes_with_what_its_places_stood_for() -> None:
    sides = [side(0), side(1)]
    records = [check(sides[0], "base", remark="2 was warmer"), check(sides[1], "base")]
    assert agreed(records, sides).remarks == ("s0 (1 is served, 2 is base): 2 was warmer",)


def test_what_is_kept_is_read_again_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, load_config(None, []))
    assert read_checks(workspace) == []
    records = [check(side(0), "served", remark="ja, \u201eso\u201c"), check(side(1), None)]
    for one in records:
        keep(workspace, one)
    path = workspace.spot_checks
    path.write_text(path.read_text() + '{"plan": "p', encoding="utf-8")
    assert read_checks(workspace) == records
    path.write_text('{"plan": 1}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"spot_checks\.jsonl:1"):
        read_checks(workspace)
