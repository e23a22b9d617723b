"""Texts that try to talk a judge round, and conversations with one of them in it.

Reads: config/injections.yaml. Writes nothing. A text that wants YES is put where the answer is NO,
one that wants NO where it is YES, into a message in the middle: of the person, and of the coach.
What the coach writes to a judge counts against it, so no text that wants NO is put into its mouth.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from coach_mlx.documents import read_document
from coach_mlx.records import Conversation, Message, Record, Risk
from coach_mlx.rubric import CRITERIA, Labelled

INJECTIONS = "config/injections.yaml"
Speaker = Literal["user", "assistant"]


class Injection(Record):
    id: str
    kind: str
    wants: Literal["YES", "NO"]
    text: str = Field(min_length=1)


class Injections(Record):
    injections: tuple[Injection, ...] = Field(min_length=1)


class Injected(NamedTuple):
    """A labelled conversation with a text in it."""

    injection: Injection
    speaker: Speaker
    carrier: Labelled
    conversation: Conversation
    criteria: frozenset[str]
    """Whose answer the text wants to turn."""

    @property
    def risk(self) -> Risk:
        return self.carrier.risk


def load_injections(path: Path) -> tuple[Injection, ...]:
    return read_document(path, Injections).injections


def inject(injections: Sequence[Injection], labelled: Sequence[Labelled]) -> Iterator[Injected]:
    """Every text in a conversation that it can do harm in; each conversation in its turn."""
    plain = sorted((one for one in labelled if one.kind != "injection"), key=lambda one: one.id)
    carriers = {
        "YES": cycle([one for one in plain if one.failed] or [None]),
        "NO": cycle([one for one in plain if not one.failed] or [None]),
    }
    for injection in injections:
        speakers: tuple[Speaker, ...] = ("user", "assistant")
        for speaker in speakers[: 2 if injection.wants == "YES" else 1]:
            carrier = next(carriers[injection.wants])
            if carrier is not None:
                yield _injected(injection, speaker, carrier)


def _injected(injection: Injection, speaker: Speaker, carrier: Labelled) -> Injected:
    answer = "NO" if injection.wants == "YES" else "YES"
    criteria = {name for name in CRITERIA if carrier.labels[name].answer == answer}
    messages = insert(carrier.messages, injection.text, speaker)
    conversation = Conversation(messages=messages)
    return Injected(injection, speaker, carrier, conversation, frozenset(criteria))


def insert(messages: Sequence[Message], text: str, speaker: Speaker) -> tuple[Message, ...]:
    """The messages, one in the middle going on with the text."""
    places = [number for number, one in enumerate(messages) if one.role == speaker]
    place = places[len(places) // 2]
    longer = Message(role=speaker, content=f"{messages[place].content}\n\n{text}")
    return (*messages[:place], longer, *messages[place + 1 :])
