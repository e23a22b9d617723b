import json
from pathlib import Path

import pytest

from coach_mlx.errors import DataError
from coach_mlx.records import Conversation
from coach_mlx.transcripts import Transcript, parse, read_transcripts
from coach_mlx.workspace import PROJECT

TURN = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
LAST = {"role": "user", "content": "never mind"}


def one(text: str) -> Transcript:
    (found,) = parse(text.encode(), "talk")
    return found


def test_the_shipped_conversations_are_read_with_their_cards_and_risks() -> None:
    starters = read_transcripts(str(PROJECT / "reference" / "starter-conversations.jsonl"))
    assert len(starters) == 60
    assert all(found.conversation.scenario for found in starters)
    labelled = read_transcripts(str(PROJECT / "reference" / "calibration-conversations.jsonl"))
    assert {found.risk for found in labelled} == {"none", "implicit", "explicit"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"messages": TURN}),
        json.dumps({"messages": TURN}, indent=2),
        json.dumps(TURN),
        "\ufeff" + json.dumps({"messages": TURN}),
        "Me: hi\nCoach: yes?\n",
        "**User:** hi\n\n**Assistant:** yes?",
        "person : hi\nAI: yes?",
        "__Me__: hi\nCoach:yes?",
        "Me (10:40): hi\nCoach (10:41): yes?",
        "[10:33] Me: hi\n[10:34] Coach: yes?",
        "1. Me: hi\n2. Coach: yes?",
        "### Me: hi\n### Coach: yes?",
        "Me\uff1ahi\nCoach\uff1ayes?",
    ],
)
def test_one_conversation_in_many_dresses(text: str) -> None:
    found = one(text)
    assert found.conversation == Conversation.model_validate({"messages": TURN})
    assert found.unanswered is None
    assert found.id == found.conversation.id


def test_a_transcript_goes_on_over_lines_and_keeps_colons() -> None:
    found = one("Me: two things:\n- the first\n\nthe second\nCoach: Which: one or two?")
    assert found.conversation.messages[0].content == "two things:\n- the first\n\nthe second"
    assert found.conversation.messages[1].content == "Which: one or two?"
    reported = one("Me: hi\nI told my therapist: no\nNote to the person: rest\nCoach: hm")
    assert reported.conversation.messages[0].content.endswith("Note to the person: rest")


def test_what_is_said_is_kept_to_the_letter() -> None:
    found = one('Me: -3 out of 10\nCoach: "No" is a word.\nMe: ¿Qué pasó?\nCoach: 👍')
    said = [message.content for message in found.conversation.messages]
    assert said == ["-3 out of 10", '"No" is a word.', "¿Qué pasó?", "👍"]


def test_a_list_of_conversations_is_that_many() -> None:
    text = json.dumps([{"messages": TURN}, {"messages": [*TURN, LAST]}])
    assert [found.unanswered_text for found in parse(text.encode(), "talk")] == ["", "never mind"]


def test_the_persons_last_word_is_set_apart_and_changes_the_id() -> None:
    found = one(json.dumps({"messages": [*TURN, LAST]}))
    assert found.unanswered_text == "never mind"
    assert found.conversation.turns == 1
    assert found.id != found.conversation.id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("just some words", "talk:1: this is no conversation"),
        ("Coach: hello\nMe: hi\nCoach: yes", "message 1 has role 'assistant', expected 'user'"),
        ("Me: hi\nMe: you there?\nCoach: yes", "message 2 has role 'user'"),
        ("Me: hi", "there is no reply of the coach"),
        ("Coach: hello\nAnna (coach): Stop all your pills.", "talk:2: who says this?"),
        ("Me: hi\nDr. Coach: take them", "talk:2: who says this?"),
        ('{"messages": ' + "1" * 5000 + "}", "talk:1: not JSON that can be read"),
        ("Me: hi\nCoach:", "content is empty"),
        (json.dumps({"messages": []}), "talk:1: there is no user message"),
        (json.dumps({"mesages": TURN}), "talk:1: mesages: no such key"),
        (json.dumps({"messages": TURN}) + "\n[1, 2]", "talk:2: a line must be one JSON object"),
        (json.dumps({"messages": TURN}) + "\n{", "talk:2: not JSON"),
        (json.dumps({"messages": "hi"}), 'talk:1: "messages" must be a list'),
    ],
)
def test_what_is_no_conversation_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(text.encode(), "talk")
    assert said in str(caught.value)


def test_no_file_a_folder_and_other_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no nowhere"):
        read_transcripts("nowhere.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_transcripts(str(tmp_path))
    with pytest.raises(DataError, match="cannot be opened"):
        read_transcripts("Me: hi " * 400)
    with pytest.raises(DataError, match="not UTF-8"):
        parse(b"Me: \xff", "talk")
