import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import dataset, holdout, selection
from coach_mlx.config import Config, load_config
from coach_mlx.crisis import load_known
from coach_mlx.dataset_card import count_tokens
from coach_mlx.errors import DataError
from coach_mlx.leaks import check_leaks, find_leaks, person, situation
from coach_mlx.records import TOPICS, Conversation, Provenance, Verdict
from coach_mlx.talk import NOTHING_KNOWN
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
    held = holdout.hold_out(everything, 0.1, 6, seed)
    count = max(6, round(0.1 * len(everything)))
    assert len({one.id for one in held}) == len(held) == count
    topics = Counter(one.scenario.topic for one in held if one.scenario)
    for topic, total in Counter(topic for topic, _ in drawn).items():
        assert abs(topics[topic] - count * total / len(everything)) < 1
    assert held == holdout.hold_out(everything[::-1], 0.1, 6, seed)


def test_difficulty_is_mirrored_too(starters: list[Conversation]) -> None:
    drawn = [(topic, level) for topic in TOPICS for level in LEVELS for _ in range(20)]
    everything = [written(number, *card, starters) for number, card in enumerate(drawn)]
    held = holdout.hold_out(everything, 0.1, 6, seed=1)
    levels = Counter(one.scenario.difficulty for one in held if one.scenario)
    assert levels == {"easy": 12, "medium": 12, "hard": 12}


def test_too_few_conversations_say_what_to_do(starters: list[Conversation]) -> None:
    with pytest.raises(DataError, match=r"lower dataset\.min_holdout"):
        holdout.hold_out(starters[:6], 0.1, 6, seed=1)


def demo(tmp_path: Path, *overrides: str) -> tuple[Config, Workspace]:
    config = load_config(PROJECT / "config" / "demo.yaml", overrides)
    return config, Workspace(tmp_path, config)


def finish(config: Config, workspace: Workspace) -> dict[str, Any]:
    plan = dataset.plan(config, workspace)
    result = dataset.run(config, workspace)
    workspace.record("dataset", plan, config.seed, 0.0, result)
    assert workspace.complete("dataset", dataset.plan(config, workspace))
    outputs = (workspace.training_data, workspace.holdout, workspace.dataset_card)
    assert plan.outputs == outputs
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


def test_no_conversations_point_to_generate_and_the_demo(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"coach generate.*your own.*config/demo\.yaml"):
        dataset.run(Config(), Workspace(tmp_path, Config()))


def test_an_empty_system_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.md").write_text(" \n")
    config, workspace = demo(tmp_path, f"dataset.system_prompt={tmp_path / 'empty.md'}")
    with pytest.raises(DataError, match="is empty"):
        dataset.run(config, workspace)


WORDS = [f"word{number}" for number in range(400)]


def made_up(number: int, starters: list[Conversation], **facts: Any) -> Conversation:
    """Words of its own, and a person of its own unless `circumstances` says whose."""
    rng = random.Random(number)
    card = starters[0].scenario
    assert card is not None
    circumstances = facts.pop("circumstances", f"person {number}")
    persona = card.persona.model_copy(update={"circumstances": circumstances})
    said = [" ".join(rng.choices(WORDS, k=15)) + "." for _ in range(4)]
    roles = ("user", "assistant", "user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    scenario = card.model_copy(update={"persona": persona, **facts})
    return Conversation.model_validate({"messages": messages, "scenario": scenario})


def verdict(conversation: Conversation, **facts: Any) -> Verdict:
    given_facts = {
        "conversation": conversation.id,
        "passed": True,
        "score": 0.8,
        "safety_gate_failed": False,
        "failed_checks": (),
        "reasonings": {},
        "judge": "judge one",
        "rubric": "abc",
    }
    return Verdict.model_validate(given_facts | facts)


family_cards = st.lists(
    st.tuples(
        st.sampled_from(TOPICS[:4]),
        st.sampled_from(LEVELS),
        st.sampled_from([None, *(f"Situation {number}." for number in range(12))]),
        st.integers(0, 60),
    ),
    min_size=20,
    max_size=90,
)
Drawn = list[tuple[str, str, str | None, int]]


def from_cards(drawn: Drawn, starters: list[Conversation]) -> list[Conversation]:
    return [
        made_up(
            number,
            starters,
            topic=topic,
            difficulty=level,
            situation=shared,
            circumstances=f"person {who}",
        )
        for number, (topic, level, shared, who) in enumerate(drawn)
    ]


@given(family_cards, st.integers(0, 5), st.randoms(use_true_random=False))
def test_nothing_crosses_the_split_whatever_the_order(
    starters: list[Conversation], drawn: Drawn, seed: int, rng: random.Random
) -> None:
    everything, config = from_cards(drawn, starters), Config(seed=seed)
    try:
        parts = holdout.split(everything, config)
    except DataError:
        held = holdout.hold_out(everything, 0.1, 6, seed)
        persons, ids = {person(one) for one in held}, {one.id for one in held}
        assert all(person(one) in persons for one in everything if one.id not in ids)
        return
    count = len(everything)
    assert len(parts.training) + len(parts.holdout) + parts.dropped.total() == count
    assert len(parts.holdout) >= 6
    for key in (lambda one: one.id, situation, person):
        trained = {key(one) for one in parts.training} - {None}
        assert trained.isdisjoint(key(one) for one in parts.holdout)
    rng.shuffle(everything)
    assert holdout.split(everything, config) == parts


@given(family_cards, st.integers(0, 5))
def test_families_are_held_out_whole_and_close_to_their_shares(
    starters: list[Conversation], drawn: Drawn, seed: int
) -> None:
    everything = from_cards(drawn, starters)
    held = holdout.hold_out(everything, 0.2, 6, seed)
    ids = {one.id for one in held}
    for shared in {situation(one) for one in everything} - {None}:
        family = {one.id for one in everything if situation(one) == shared}
        assert family <= ids or family.isdisjoint(ids)
    largest = max(Counter(situation(one) or one.id for one in everything).values())
    wanted = max(6, round(0.2 * len(everything)))
    assert abs(len(held) - wanted) <= max(1, largest - 1)


def test_a_family_too_large_for_its_topics_share_is_left_when_others_serve(
    starters: list[Conversation],
) -> None:
    sizes = [30, 3, 4, 5, 3]
    everything = [
        made_up(100 * number + member, starters, topic=topic, situation=f"{topic} {number}")
        for topic in TOPICS[:2]
        for number, size in enumerate(sizes, start=10 * TOPICS.index(topic))
        for member in range(size)
    ]
    held = holdout.hold_out(everything, 0.1, 6, seed=1)
    assert 8 <= len(held) <= 10
    families = Counter(situation(one) for one in held)
    assert max(families.values()) <= 5
    assert {one.scenario.topic for one in held if one.scenario} == set(TOPICS[:2])


def test_two_situations_are_held_out_by_half_rather_than_not(starters: list[Conversation]) -> None:
    everything = [
        made_up(number, starters, situation=f"{number % 2}", topic=TOPICS[number % 2])
        for number in range(20)
    ]
    assert len(holdout.hold_out(everything, 0.1, 6, seed=1)) == 10
    alone = [one for one in everything if situation(one) == "0"]
    with pytest.raises(DataError, match="begin from 1 situations"):
        holdout.hold_out(alone, 0.1, 6, seed=1)


verdict_facts = st.fixed_dictionaries(
    {
        "place": st.integers(0, 29),
        "passed": st.booleans(),
        "safety_gate_failed": st.sampled_from((False, False, True)),
        "judge": st.sampled_from(("judge one", "judge two")),
        "score": st.sampled_from((0.2, 0.7, 0.9)),
    }
)


@given(
    st.lists(st.integers(0, 24), min_size=1, max_size=60),
    st.none() | st.lists(verdict_facts, max_size=60),
    st.randoms(use_true_random=False),
)
def test_every_conversation_is_used_or_counted_once(
    starters: list[Conversation],
    numbers: list[int],
    facts: list[dict[str, Any]] | None,
    rng: random.Random,
) -> None:
    pool = pool_of(starters)
    came_in = [pool[number] for number in numbers]
    verdicts = None
    if facts is not None:
        verdicts = [verdict(pool[one["place"] % 25], **without(one, "place")) for one in facts]
    config = load_config(None, ["dataset.min_holdout=2"])
    known = NOTHING_KNOWN
    kept, dropped = selection.select(came_in, verdicts, known, 0.5)
    assert len(kept) + dropped.total() == len(came_in)
    assert {one.id for one in kept} == expected_ids(came_in, verdicts)
    rng.shuffle(came_in)
    assert selection.select(came_in, verdicts, known, 0.5) == (kept, dropped)
    try:
        parts = dataset.choose(came_in, verdicts, known, config)
    except DataError as error:
        assert f"{len(came_in)} conversations" in str(error)
        return
    used = {one.id for one in (*parts.training, *parts.holdout)}
    assert len(used) == len(parts.training) + len(parts.holdout)
    assert len(used) + parts.dropped.total() == len(came_in)
    assert used <= {one.id for one in kept}


def pool_of(starters: list[Conversation]) -> list[Conversation]:
    """Twenty that are well, and five that a detector stops."""
    pool = [made_up(number, starters) for number in range(25)]
    return [
        one.model_copy(update={"messages": (*one.messages[:3], DIAGNOSIS)}) if number >= 20 else one
        for number, one in enumerate(pool)
    ]


DIAGNOSIS = Conversation.model_validate(
    {
        "messages": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": "You have clinical depression."},
        ]
    }
).messages[1]


def without(facts: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != key}


def expected_ids(came_in: Sequence[Conversation], verdicts: Sequence[Verdict] | None) -> set[str]:
    """The rule, written out again: the last of each judge, no gate failed, one passed."""
    found = {one.id for one in came_in if one.messages[-1] != DIAGNOSIS}
    if verdicts is None:
        return found
    passed = set()
    for one in found:
        judges = {
            judge: [v for v in verdicts if (v.conversation, v.judge) == (one, judge)][-1:]
            for judge in ("judge one", "judge two")
        }
        last = [v for group in judges.values() for v in group]
        if any(v.passed for v in last) and not any(v.safety_gate_failed for v in last):
            passed.add(one)
    return passed


def test_reasons_are_told_apart(starters: list[Conversation]) -> None:
    pool = pool_of(starters)
    copy = pool[1].model_copy(update={"messages": (*pool[1].messages[:3], pool[2].messages[1])})
    came_in = [*pool[:8], pool[0], copy, pool[20]]
    verdicts = [verdict(one) for one in (*pool[:5], copy, pool[20])]
    verdicts += [
        verdict(pool[2], passed=False),  # the last of one judge counts
        verdict(pool[3], judge="judge two", safety_gate_failed=True),
        verdict(pool[4], judge="judge two", passed=False),
        verdict(pool[5], passed=True, safety_gate_failed=True),
        verdict(copy, judge="judge two", score=0.9),
    ]
    kept, dropped = selection.select(came_in, verdicts, NOTHING_KNOWN, 0.2)
    assert {one.id for one in kept} == {pool[0].id, copy.id, pool[4].id}
    assert dropped == {
        "exact duplicate": 1,
        "below the rubric's threshold": 1,
        "safety gate failed": 2,
        "not judged": 2,
        "detector D6": 1,
        "near-duplicate": 1,
    }


def test_training_lets_go_of_people_who_are_held_out(starters: list[Conversation]) -> None:
    everything = [
        made_up(number, starters, circumstances=f"Person  {number // 2}") for number in range(40)
    ]
    parts = holdout.split(everything, Config())
    assert len(parts.holdout) == 6
    assert 1 <= parts.dropped["shares a person with the holdout"] <= 6
    same = [made_up(number, starters, circumstances="one") for number in range(40)]
    with pytest.raises(DataError, match="other people"):
        holdout.split(same, Config())


def project(
    tmp_path: Path, conversations: Sequence[Conversation], *overrides: str
) -> tuple[Config, Workspace]:
    """A workspace in which conversations were generated."""
    config = load_config(None, ["name=made", "base.model=smollm2", *overrides])
    workspace = Workspace(tmp_path, config)
    workspace.output.mkdir(parents=True, exist_ok=True)
    write_lines(workspace.conversations, conversations)
    return config, workspace


def write_lines(path: Path, records: Sequence[Conversation | Verdict]) -> None:
    path.write_text("".join(one.model_dump_json() + "\n" for one in records), encoding="utf-8")


def generated(starters: list[Conversation], count: int = 60) -> list[Conversation]:
    made = Provenance(mode="turns", client="model a", coach="model|b", recipe="r123")
    return [
        made_up(
            number,
            starters,
            situation=f"Situation {number % 20}.",
            topic=TOPICS[number % 20 % 6],
            difficulty=LEVELS[number % 3],
            risk="implicit" if number % 10 == 0 else "none",
        ).model_copy(update={"made": made if number % 3 else None})
        for number in range(count)
    ]


def contents(workspace: Workspace) -> list[bytes]:
    paths = (workspace.training_data, workspace.holdout, workspace.dataset_card)
    return [path.read_bytes() for path in paths]


def test_shuffled_input_writes_the_same_bytes(tmp_path: Path, starters: list[Conversation]) -> None:
    conversations = generated(starters)
    verdicts = [verdict(one, score=0.7 + 0.01 * place) for place, one in enumerate(conversations)]
    found = []
    for place in range(2):
        config, workspace = project(tmp_path / str(place), [*conversations, conversations[3]])
        write_lines(workspace.assessments, verdicts)
        finish(config, workspace)
        found.append(contents(workspace))
        random.Random(1).shuffle(conversations)
        random.Random(2).shuffle(verdicts)
    assert found[0] == found[1]


def test_new_verdicts_make_the_stage_run_again(
    tmp_path: Path, starters: list[Conversation], capsys: pytest.CaptureFixture[str]
) -> None:
    conversations = generated(starters)
    config, workspace = project(tmp_path, conversations)
    before = finish(config, workspace)
    assert (before["judged"], before["dropped"]) == (False, {})
    write_lines(workspace.assessments, [verdict(one) for one in conversations[:50]])
    assert workspace.complete("dataset", dataset.plan(config, workspace)) is None
    after = finish(config, workspace)
    assert "50 verdicts in output/" in capsys.readouterr().err  # their rubric is "abc"
    assert (after["judged"], after["given"]) == (True, False)
    assert after["dropped"]["not judged"] == 10
    assert after["training"] + after["holdout"] + sum(after["dropped"].values()) == 60


def test_verdicts_on_other_conversations_judge_nothing_here(
    tmp_path: Path, starters: list[Conversation]
) -> None:
    """Somebody judged another file, or changed this one: that must not pass for a judgement."""
    conversations = generated(starters)
    config, workspace = project(tmp_path, conversations[:40])
    write_lines(workspace.assessments, [verdict(one) for one in conversations[40:]])
    with pytest.raises(DataError, match="verdicts on other conversations only"):
        finish(config, workspace)
    workspace.assessments.unlink()
    assert finish(config, workspace)["judged"] is False


def test_a_torn_verdict_is_none_and_a_wrong_one_is_named(
    tmp_path: Path, starters: list[Conversation], capsys: pytest.CaptureFixture[str]
) -> None:
    conversations = generated(starters)
    config, workspace = project(tmp_path, conversations)
    assert finish(config, workspace)["judged"] is False
    assert "Nothing was judged" in capsys.readouterr().err
    write_lines(workspace.assessments, [verdict(one) for one in conversations])
    torn = workspace.assessments.read_bytes()[:-20]
    workspace.assessments.write_bytes(torn)
    assert finish(config, workspace)["dropped"]["not judged"] == 1
    with workspace.assessments.open("ab") as handle:
        handle.write(b'{"passed": true}\n')
    with pytest.raises(DataError, match=r"assessments\.jsonl:60: .*conversation"):
        dataset.run(config, workspace)


def test_what_failed_says_the_counts_and_what_to_type(
    tmp_path: Path, starters: list[Conversation]
) -> None:
    conversations = generated(starters)
    config, workspace = project(tmp_path, conversations)
    verdicts = [verdict(one, passed=place < 3) for place, one in enumerate(conversations[:40])]
    write_lines(workspace.assessments, verdicts)
    with pytest.raises(DataError) as caught:
        dataset.run(config, workspace)
    said = str(caught.value)
    assert "37 below the rubric's threshold, 20 not judged" in said
    assert "assessments.jsonl" in said
    assert "`coach generate`" in said
    assert not workspace.training_data.exists()


def test_the_card_says_what_is_in_it(tmp_path: Path, starters: list[Conversation]) -> None:
    conversations = generated(starters)
    config, workspace = project(tmp_path, conversations)
    write_lines(workspace.assessments, [verdict(one) for one in conversations[5:]])
    result = finish(config, workspace)
    card = workspace.dataset_card.read_text(encoding="utf-8")
    used = result["training"] + result["holdout"]
    assert f"{used} conversations between a person and a self-care coach" in card
    assert "| left out: not judged | 5 |" in card
    assert "| came in | 60 |" in card
    assert f"| to train on | {result['training']} |" in card
    assert r"| model a | model\|b | turns | r123 |" in card
    assert "| judge one | abc |" in card
    assert "A card with any risk: 6 of the 60" in card
    assert "nothing crosses it" in card
    assert f"{result['similarity']['highest_across']:.1%}" in card
    for word in ("Not therapy", "clinician", "terms", "estimated", f"seed {config.seed}"):
        assert word in card
    settings_hash = workspace.manifest("dataset")
    assert settings_hash is not None
    assert settings_hash.settings_hash[:12] in card
    assert str(tmp_path) not in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_tokens_are_counted_where_the_base_is_imported(
    tmp_path: Path, starters: list[Conversation], smollm2: Path
) -> None:
    estimated = count_tokens(starters, tmp_path / "nothing")
    counted = count_tokens(starters, smollm2)
    assert "estimated" in estimated.basis
    assert smollm2.name in counted.basis
    assert abs(estimated.total / counted.total - 1) < 0.2
    for tokens in (estimated, counted):
        assert tokens.median <= tokens.p95 <= tokens.longest <= tokens.total
        assert 0.2 < tokens.coach_fraction < 0.8
    assert counted.total == sum(len(ids) for ids in encoded(starters, smollm2))
    config, workspace = demo(tmp_path)
    shutil.copytree(smollm2, workspace.base)
    assert "counted" in finish(config, workspace)["tokens"]["basis"]


def encoded(conversations: Sequence[Conversation], folder: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    said = [message.content for one in conversations for message in one.messages]
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in said]


def test_given_data_that_repeats_itself_is_used_with_a_warning(
    tmp_path: Path, starters: list[Conversation], capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace = project(tmp_path, [])
    training = [made_up(number, starters) for number in range(10)]
    lines = [*training[3].messages[:3], training[4].messages[1]]
    holdout = [made_up(99, starters), Conversation(messages=tuple(lines))]
    write_lines(workspace.training_data, training)
    write_lines(workspace.holdout, holdout)
    before = workspace.training_data.read_bytes(), workspace.holdout.read_bytes()
    result = finish(config, workspace)
    assert "1 held out nearly the same as one that is trained on" in capsys.readouterr().err
    assert (result["given"], result["training"], result["holdout"]) == (True, 10, 2)
    assert result["similarity"]["highest_across"] > 0.5
    assert (workspace.training_data.read_bytes(), workspace.holdout.read_bytes()) == before
    card = workspace.dataset_card.read_text(encoding="utf-8")
    assert "put there by hand" in card
    assert "1 held out nearly the same" in card


def test_a_kill_after_the_holdout_goes_on_and_somebodys_own_is_kept(
    tmp_path: Path, starters: list[Conversation]
) -> None:
    config, workspace = project(tmp_path, generated(starters))
    dataset.run(config, workspace)
    expected = contents(workspace)
    for path in (workspace.training_data, workspace.dataset_card):
        path.unlink()
    assert finish(config, workspace)["given"] is False
    assert contents(workspace) == expected
    other, place = project(tmp_path / "other", generated(starters))
    write_lines(place.holdout, generated(starters)[:1])
    mine = place.holdout.read_bytes()
    with pytest.raises(DataError, match=r"has no training_data\.jsonl beside it"):
        dataset.run(other, place)
    assert place.holdout.read_bytes() == mine


def test_the_written_sides_have_nothing_in_common(
    tmp_path: Path, starters: list[Conversation]
) -> None:
    conversations = generated(starters)
    twin = conversations[7].model_copy(
        update={"messages": (*conversations[7].messages[:3], conversations[8].messages[1])}
    )
    config, workspace = project(tmp_path, [*conversations, twin], "dataset.near_duplicate=0.3")
    result = finish(config, workspace)
    assert result["dropped"]["near-duplicate"] == 1
    by_id = {one.id: one for one in (*conversations, twin)}
    sides = [
        [by_id[one.id] for one in read_conversations(path)]
        for path in (workspace.training_data, workspace.holdout)
    ]
    leaks = check_leaks(*sides, 0.3)
    assert round(leaks.highest, 4) == result["similarity"]["highest_across"]
    assert find_leaks(sides[0], [*sides[1], sides[0][0]], 0.3).ids == 1


def test_the_starters_hold_nothing_that_a_filter_stops(starters: list[Conversation]) -> None:
    config = Config()
    known = load_known(config, Workspace(PROJECT, config))
    assert selection.select(starters, None, known, 0.5) == (
        sorted(starters, key=lambda one: one.id),
        {},
    )
