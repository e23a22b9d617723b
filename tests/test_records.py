import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from coach_mlx.records import TOPICS, Conversation, Message

words = st.text(min_size=1).filter(lambda text: text.strip() != "")
chats = st.lists(st.tuples(words, words), min_size=1, max_size=5)


def conversation(turns: list[tuple[str, str]]) -> Conversation:
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    return Conversation.model_validate({"messages": messages})


@given(chats, words)
def test_the_system_prompt_does_not_change_who_a_conversation_is(
    turns: list[tuple[str, str]], prompt: str
) -> None:
    one = conversation(turns)
    assert one.with_system(prompt).id == one.id
    again = one.with_system("first").with_system(prompt)
    assert again.messages[0] == one.with_system(prompt).messages[0]
    assert len(again.messages) == 1 + 2 * len(turns)
    assert one.turns == len(turns)


@given(chats)
def test_a_training_line_holds_messages_and_nothing_else(turns: list[tuple[str, str]]) -> None:
    line = conversation(turns).training_line()
    assert "\n" not in line
    assert list(json.loads(line)) == ["messages"]
    assert all(set(message) == {"role", "content"} for message in json.loads(line)["messages"])


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (["assistant", "user"], "expected 'user'"),
        (["user", "user"], "message 2 has role 'user'"),
        (["user"], "last message must be the assistant's"),
        (["system"], "no user message"),
        (["system", "user", "system"], "message 3 has role 'system'"),
    ],
)
def test_roles_out_of_order_are_refused(roles: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Conversation.model_validate({"messages": [{"role": r, "content": "x"} for r in roles]})


def test_empty_words_and_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="content is empty"):
        Message(role="user", content=" \n")
    with pytest.raises(ValidationError, match="half of a character"):
        Message(role="user", content="a\ud800")
    assert Message(role="user", content=" cafe\u0301\n").content == "caf\u00e9"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Message.model_validate({"role": "user", "content": "x", "name": "y"})


def test_the_starter_conversations_keep_their_cards(starters: list[Conversation]) -> None:
    assert len(starters) == 60
    assert {one.scenario.topic for one in starters if one.scenario} == set(TOPICS)
    for one in starters:
        assert one.scenario is not None
        assert 8 <= one.turns <= 30
        assert one.turns == one.scenario.turns
        assert one.scenario.length == ("medium" if one.turns <= 15 else "extended")
        for message in one.messages:
            assert message.role != "assistant" or message.content.count("?") <= 1
    assert len({one.id for one in starters}) == len(starters)
