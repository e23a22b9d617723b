import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.quotations import Quotable
from coach_mlx.records import Message

TALK = (
    Message(
        role="user",
        content="I said yes again \u2013 and I wanted to say \u201cno\u201d. Typical me!",
    ),
    Message(
        role="assistant", content="And the yes was out\nbefore you'd heard it. Whose yes was it?"
    ),
    Message(role="user", content="..."),
    Message(role="user", content="\u2764\ufe0f"),
    Message(role="user", content="That is great \U0001f44d Take 1.5 cups of rest, Straße 7"),
    Message(role="user", content="Call [Samaritans](https://example.org/a) now, don\u2019t wait."),
    Message(role="user", content="मुझे नींद नहीं आती"),
    Message(role="user", content="I just... can't. Not anymore. 5 days clean, of 50 in all"),
    Message(role="user", content="um… no… I never… told anyone. It is person to person"),
    Message(role="assistant", content="我听到你说了好\uff0c可是你想说不。"),
)
quotable = Quotable(TALK)


@pytest.mark.parametrize(
    "quote",
    [
        "I said yes again",
        'i wanted to say "no". TYPICAL me',
        "And the yes was out before you\u2019d heard it",
        "And the yes … Whose yes was it?",
        "I said yes again [...] wanted to say no",
        "Coach: the yes was out",
        "coach: And the yes was out",
        "[coach] And the yes was out",
        "4: And the yes was out",
        "Message 2, coach: And the yes was out",
        "And the yes was out\\nbefore you'd heard it.",
        'wanted to say \\"no\\"',
        "“Whose yes was it?”",
        "...",
        "听到你说了好\uff0c可是你想",
        "说不",
        "Call Samaritans now, dont wait",
        "[Samaritans](https://example.org) now",
        "❤",
        "That is great",
        "great \U0001f44d",
        "मुझे नींद नहीं आती",
        "Take 1.5 cups of rest",
        "STRASSE",
        "I just... can't. Not anymore",
        "I just can't",
        "um… no… I never… told anyone",
        "5 days clean",
        "Person: 5 days clean",
    ],
)
def test_what_was_written_is_found(quote: str) -> None:
    assert quotable.holds(quote)


@pytest.mark.parametrize(
    "quote",
    [
        "I said no again",
        "You wanted to say yes",
        "said yes again And the yes was out",  # over two messages
        "Whose yes was it? … And the yes was out",  # the wrong way round
        "yes aga",  # half a word
        "!!!",
        "",
        "好不",
        "the yes was out before you had heard it",
        "I … wanted … me",  # a new sentence of scattered words
        "And the yes … heard",
        "Take 15 cups of rest",
        "great \U0001f595",
        "मुझे नीद नहीं आती",  # another word: a mark is gone
        "Call Samaritans later",
        "500 in all",
        "20 told anyone",
        "\U0001f52a 5 days clean",
        "Personally yes was out",
        "Coach: I said yes again",  # the person did
        "um … told anyone",
    ],
)
def test_what_was_not_written_is_missing(quote: str) -> None:
    assert quotable.missing([quote, "I said yes again"]) == [quote]


@pytest.mark.parametrize(
    ("quote", "telling"),
    [
        ("I", False),
        ("said yes", False),
        ("I said yes", True),
        ("...", True),  # all of a message
        ("❤\ufe0f", True),
        ("Person: I", False),
        ("说不", False),
        ("听到你说", True),
        ("5 days clean", True),
        ("person to person", True),
    ],
)
def test_an_answer_cannot_rest_on_a_word_or_two(quote: str, telling: bool) -> None:
    assert quotable.holds(quote)
    assert quotable.is_telling(quote) == telling


WORDS = ["the", "rain", "sat", "down", "and", "nobody", "came", "back", "today"]
words = st.lists(st.sampled_from(WORDS), min_size=1)


@given(st.lists(words, min_size=1, max_size=5), st.data())
def test_any_run_of_words_of_one_message_is_found(
    talk: list[list[str]], data: st.DataObject
) -> None:
    messages = [Message(role="user", content=" ".join(one)) for one in talk]
    chosen = data.draw(st.sampled_from(talk))
    start = data.draw(st.integers(0, len(chosen) - 1))
    end = data.draw(st.integers(start + 1, len(chosen)))
    assert Quotable(messages).holds(" ".join(chosen[start:end]))


@given(words, words)
def test_what_is_found_stands_there(said: list[str], quote: list[str]) -> None:
    text, wanted = " ".join(said), " ".join(quote)
    found = Quotable([Message(role="user", content=text)]).holds(wanted)
    assert found == (f" {wanted} " in f" {text} ")
