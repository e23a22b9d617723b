import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coach_mlx.arms import Decoding
from coach_mlx.documents import read_document
from coach_mlx.errors import DataError
from coach_mlx.mlx_replies import Asked, Reply
from coach_mlx.probes import FAMILIES, PROBES, Probe, Probes
from coach_mlx.records import Conversation
from coach_mlx.replay import (
    NOTHING,
    Key,
    Replayer,
    ReplyRecord,
    Script,
    Talk,
    asked_hash,
    holdout_scripts,
    probe_scripts,
    read_replies,
    tell,
)
from coach_mlx.workspace import PROJECT

DECODING = Decoding(temperature=0.0, max_tokens=40, seed=7)


class Echo:
    """Answers with how much it has heard; stops after so many replies, as a kill would."""

    def __init__(self, width: int = 3, most: int = 10**6) -> None:
        self.width, self.left = width, most
        self.asked: list[Asked] = []
        self.forgotten: list[str] = []

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        for place in reversed(range(len(asked))):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append(asked[place])
            heard = len(asked[place].messages)
            yield place, Reply(f"I heard {heard} messages.", True, 4)

    def forget(self, talk: str) -> None:
        self.forgotten.append(talk)

    def mean_loss(self, parts: Any) -> float | None:
        return None


def script(name: str, turns: int, **facts: Any) -> Script:
    says = tuple(f"{name} says {turn}" for turn in range(1, turns + 1))
    return Script(id=name, kind="holdout", group="", system="Be kind.", says=says, **facts)


SCRIPTS = [script("one", 3), script("two", 5), script("three", 1), script("four", 4)]


def replay(
    arm: Echo, path: Path, scripts: Sequence[Script] = SCRIPTS, repeats: int = 1
) -> dict[Key, ReplyRecord]:
    found = read_replies(path)
    talks = [
        Talk(one, repeat, asked_hash("digest", DECODING, one))
        for one in scripts
        for repeat in range(repeats)
    ]
    Replayer("base", "digest", arm, DECODING, path, lambda _: None).replay(talks, found)
    return found


def test_every_arm_answers_in_its_own_history(tmp_path: Path) -> None:
    arm = Echo()
    found = replay(arm, tmp_path / "replies.jsonl")
    assert len(found) == 13
    told = tell(SCRIPTS[1], "base", asked_hash("digest", DECODING, SCRIPTS[1]), 0, found)
    assert told is not None
    assert [one.reply for one in told.replies] == [
        f"I heard {2 * turn} messages." for turn in range(1, 6)
    ]
    last = max(arm.asked, key=lambda one: len(one.messages))
    assert [one["role"] for one in last.messages[:3]] == ["system", "user", "assistant"]
    assert last.messages[2]["content"] == "I heard 2 messages."
    assert len(arm.forgotten) == 4


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 6), max_size=6), width=st.integers(1, 5))
def test_a_killed_replay_generates_no_reply_twice(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], width: int
) -> None:
    path = tmp_path_factory.mktemp("killed") / "replies.jsonl"
    asked = 0
    for most in kills:
        arm = Echo(width, most)
        try:
            replay(arm, path)
        except KeyboardInterrupt:
            with path.open("a") as handle:
                handle.write('{"arm": "base", "dig')
        asked += len(arm.asked)
    last = Echo(width)
    found = replay(last, path)
    assert asked + len(last.asked) == len(found) == 13
    assert len(path.read_text().splitlines()) == 13


def test_the_same_seed_is_given_to_every_arm_and_another_to_every_repeat(tmp_path: Path) -> None:
    one, other = Echo(), Echo()
    replay(one, tmp_path / "a.jsonl", repeats=2)
    replay(other, tmp_path / "b.jsonl", repeats=2)
    assert [each.seed for each in one.asked] == [each.seed for each in other.asked]
    assert len({each.seed for each in one.asked}) == len(one.asked)


@pytest.mark.parametrize("key", ["reply", "said", "turn", "ended", "asked"])
def test_a_reply_that_was_changed_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "replies.jsonl"
    replay(Echo(), path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changes: dict[str, Callable[[Any], Any]] = {
        "turn": lambda value: value + 1,
        "ended": lambda value: not value,
    }
    lines[3][key] = changes.get(key, lambda value: f"{value} Kinder.")(lines[3][key])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"not what the model said.*rm .*replies\.jsonl"):
        read_replies(path)


def test_a_reply_that_was_taken_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    replay(Echo(width=1), path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="was changed"):
        read_replies(path)


def test_a_reply_without_a_word_is_no_crash(tmp_path: Path) -> None:
    class Mute(Echo):
        def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
            for place, one in enumerate(asked):
                self.asked.append(one)
                yield place, Reply("", True, 0)

    arm = Mute()
    found = replay(arm, tmp_path / "replies.jsonl")
    told = tell(SCRIPTS[0], "base", asked_hash("digest", DECODING, SCRIPTS[0]), 0, found)
    assert told is not None
    assert [one.content for one in told.messages[1::2]] == [NOTHING] * 3
    assert told.conversation.turns == 3


def test_probes_are_taken_family_by_family() -> None:
    probes: Sequence[Probe] = read_document(PROJECT / PROBES, Probes)
    scripts = probe_scripts(probes, "Be kind.", 26)
    assert {one.group for one in scripts} == set(FAMILIES)
    assert len(probe_scripts(probes, "Be kind.", None)) == len(probes)
    assert probe_scripts(probes, "Be kind.", 0) == []
    few = probe_scripts(probes, "Be kind.", 6)
    assert max(len(one.says) for one in few) <= 8
    assert scripts[0].worst_risk in ("none", "implicit", "explicit", "imminent")


def test_a_holdout_line_finds_its_card(starters: list[Conversation]) -> None:
    bare = [Conversation(messages=one.messages) for one in starters[:3]]
    cards = {one.id: one for one in starters[:2]}
    scripts = holdout_scripts(bare, cards)
    assert [one.group != "" for one in scripts] == [True, True, False]
    assert scripts[0].risk == (starters[0].scenario and starters[0].scenario.risk)
    assert scripts[2].risk is None
    assert scripts[0].says[0] == next(
        one.content for one in starters[0].messages if one.role == "user"
    )


def test_replies_side_by_side_share_the_time_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counts from the one before it, so that their sum is the time that passed."""
    from coach_mlx import replay as module

    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    found = replay(Echo(width=4), tmp_path / "replies.jsonl")
    assert {one.seconds for one in found.values()} == {1.0}
