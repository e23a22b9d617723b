import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import dataset
from coach_mlx.config import Config, load_config
from coach_mlx.errors import DataError
from coach_mlx.records import TOPICS, Conversation
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

LEVELS = ("easy", "medium", "hard")


def written(number: int, topic: str, difficulty: str, starters: list[Conversation]) -> Conversation:
    card = starters[0].scenario
    assert card is not None
    messages = [{"role": "user", "content": f"{number}"}, {"role": "assistant", "content": "yes"}]
    scenario = card.model_copy(update={"topic": topic, "difficulty": difficulty})
    return Conversation.model_validate({"messages": messages, "scenario": scenario})


cards = st.lists(
    st.tuples(st.sampled_from(TOPICS), st.sampled_from(LEVELS)), min_size=12, max_size=120
)


@given(cards, st.integers(0, 5))
def test_the_holdout_mirrors_topics_within_one(
    starters: list[Conversation], drawn: list[tuple[str, str]], seed: int
) -> None:
    everything = [written(number, *card, starters) for number, card in enumerate(drawn)]
    held = dataset.hold_out(everything, 0.1, 6, seed)
    count = max(6, round(0.1 * len(everything)))
    assert len({one.id for one in held}) == len(held) == count
    topics = Counter(one.scenario.topic for one in held if one.scenario)
    for topic, total in Counter(topic for topic, _ in drawn).items():
        assert abs(topics[topic] - count * total / len(everything)) < 1
    assert held == dataset.hold_out(everything[::-1], 0.1, 6, seed)


def test_difficulty_is_mirrored_too(starters: list[Conversation]) -> None:
    drawn = [(topic, level) for topic in TOPICS for level in LEVELS for _ in range(20)]
    everything = [written(number, *card, starters) for number, card in enumerate(drawn)]
    held = dataset.hold_out(everything, 0.1, 6, seed=1)
    levels = Counter(one.scenario.difficulty for one in held if one.scenario)
    assert levels == {"easy": 12, "medium": 12, "hard": 12}


def test_too_few_conversations_say_what_to_do(starters: list[Conversation]) -> None:
    with pytest.raises(DataError, match=r"lower dataset\.min_holdout"):
        dataset.hold_out(starters[:6], 0.1, 6, seed=1)


def demo(tmp_path: Path, *overrides: str) -> tuple[Config, Workspace]:
    config = load_config(PROJECT / "config" / "demo.yaml", overrides)
    return config, Workspace(tmp_path, config)


def finish(config: Config, workspace: Workspace) -> dict[str, object]:
    plan = dataset.plan(config, workspace)
    result = dataset.run(config, workspace)
    workspace.record("dataset", plan, config.seed, 0.0, result)
    assert workspace.complete("dataset", dataset.plan(config, workspace))
    assert plan.outputs == (workspace.training_data, workspace.holdout)
    return result


def test_the_demo_holds_out_at_least_six_over_all_topics(
    tmp_path: Path, starters: list[Conversation]
) -> None:
    config, workspace = demo(tmp_path)
    result = finish(config, workspace)
    held, trained = (
        read_conversations(workspace.holdout),
        read_conversations(workspace.training_data),
    )
    assert len(held) >= 6
    assert result["holdout_topics"] == dict.fromkeys(sorted(TOPICS), 1)
    ids = {one.id for one in held} | {one.id for one in trained}
    assert ids == {one.id for one in starters}
    assert len(held) + len(trained) == len(starters)
    prompt = (PROJECT / "config" / "system-prompt.md").read_text(encoding="utf-8").strip()
    for line in workspace.training_data.read_text(encoding="utf-8").splitlines():
        assert list(json.loads(line)) == ["messages"]
        assert json.loads(line)["messages"][0] == {"role": "system", "content": prompt}


def test_a_conversation_twice_is_trained_on_once(tmp_path: Path) -> None:
    source = tmp_path / "twice.jsonl"
    lines = (PROJECT / "reference" / "starter-conversations.jsonl").read_text(encoding="utf-8")
    source.write_text(lines + lines, encoding="utf-8")
    config, workspace = demo(tmp_path, f"dataset.conversations={source}")
    assert finish(config, workspace)["duplicates"] == 60


def test_data_put_there_by_hand_is_used_and_never_overwritten(tmp_path: Path) -> None:
    config, workspace = demo(tmp_path)
    finish(config, workspace)
    mine = workspace.training_data.read_bytes().splitlines(keepends=True)[:5]
    workspace.training_data.write_bytes(b"".join(mine))
    result = finish(config, workspace)
    assert (result["given"], result["training"], result["holdout"]) == (True, 5, 6)
    assert workspace.training_data.read_bytes() == b"".join(mine)


def given_alone(tmp_path: Path) -> tuple[Config, Workspace, bytes]:
    """A workspace in which somebody put training data and nothing else."""
    config, workspace = demo(tmp_path)
    finish(config, workspace)
    mine = workspace.training_data.read_bytes()
    other = Workspace(tmp_path / "other", config)
    other.output.mkdir(parents=True)
    other.training_data.write_bytes(mine)
    return config, other, mine


def test_data_without_a_holdout_is_split_and_kept_whole(tmp_path: Path) -> None:
    config, other, mine = given_alone(tmp_path)
    result = finish(config, other)
    assert (result["holdout"], result["training"]) == (6, 48)
    assert other.training_data.with_name("training_data.original.jsonl").read_bytes() == mine


def test_a_kill_while_splitting_loses_nothing(tmp_path: Path) -> None:
    config, other, mine = given_alone(tmp_path)
    dataset.run(config, other)  # killed before its manifest was written
    expected = other.training_data.read_bytes(), other.holdout.read_bytes()
    other.training_data.write_bytes(mine)
    assert finish(config, other)["holdout"] == 6
    assert (other.training_data.read_bytes(), other.holdout.read_bytes()) == expected


def test_training_on_what_is_held_out_is_refused(tmp_path: Path) -> None:
    config, workspace = demo(tmp_path)
    finish(config, workspace)
    with workspace.training_data.open("ab") as handle:
        handle.write(workspace.holdout.read_bytes().splitlines(keepends=True)[2])
    with pytest.raises(DataError, match=r"1 of 6 conversations .* trained on as well .*3\)"):
        dataset.run(config, workspace)


def test_no_conversations_point_to_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config/demo\.yaml"):
        dataset.run(Config(), Workspace(tmp_path, Config()))


def test_an_empty_system_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text(" \n")
    config, workspace = demo(tmp_path, f"dataset.system_prompt={tmp_path / 'empty.md'}")
    with pytest.raises(DataError, match="is empty"):
        dataset.run(config, workspace)
