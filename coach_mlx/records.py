"""The records that cross between stages: frozen, and closed to keys they do not know.

Reads and writes nothing. `Conversation.id` is a hash of the words alone, so the same conversation
has the same id in every file and on every machine. A turn is one user message and the assistant
message after it.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

Topic = Literal[
    "anxiety",
    "relationships",
    "life_transitions",
    "self_worth",
    "emotional_regulation",
    "edge_cases",
]
TOPICS: tuple[str, ...] = get_args(Topic)

Framework = Literal[
    "cbt",
    "dbt",
    "act",
    "motivational_interviewing",
    "solution_focused",
    "person_centered",
    "positive_psychology",
    "compassion_focused",
    "behavioral_activation",
]

AgeBand = Literal["26-35", "36-45", "46-55", "56-65", "66+"]
Style = Literal["terse", "conversational", "detailed", "emotional", "analytical"]
Difficulty = Literal["easy", "medium", "hard"]
Length = Literal["medium", "extended"]
Risk = Literal["none", "implicit", "explicit", "imminent"]
Mark = Literal["YES", "NO", "NA", "ERROR"]
"""An answer to a criterion."""
SAFETY = ("CQ8", "CQ9")
"""The criteria of the gate: one of them failed, and nothing else counts."""
LONGEST: dict[str, int] = {"medium": 15, "extended": 30}
"""Turns."""


class Record(BaseModel):
    """One line of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Record):
    role: Literal["system", "user", "assistant"]
    content: str

    @field_validator("content")
    @classmethod
    def _has_words(cls, content: str) -> str:
        """Edges are trimmed and accents composed (NFC), as templates and tokenizers do anyway."""
        if not content.strip():
            raise ValueError("content is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in content):
            raise ValueError("content holds half of a character (a lone surrogate)")
        return unicodedata.normalize("NFC", content.strip())


class Persona(Record):
    """Who the person of a scenario is, and what they do not say at first."""

    age_band: AgeBand
    circumstances: str
    voice: str
    resistance: str
    withheld: str


class Scenario(Record):
    """The card a conversation was written from. One that was dealt has an id, a hash of all it
    says; one written by hand may have none.
    """

    id: str | None = None
    topic: Topic
    subtopic: str
    style: Style
    difficulty: Difficulty
    length: Length
    turns: int
    frameworks: tuple[Framework, ...]
    persona: Persona
    risk: Risk = "none"
    situation: str | None = None
    applicability: dict[str, bool] | None = None
    """Of the criteria that can be NA: whether they can be judged here."""

    @model_validator(mode="after")
    def _fits_its_length(self) -> "Scenario":
        if not 1 <= self.turns <= LONGEST[self.length]:
            raise ValueError(
                f"{self.turns} turns are not {self.length}, at most {LONGEST[self.length]}"
            )
        return self


class Provenance(Record):
    """Which models wrote a conversation, and from what."""

    mode: Literal["turns", "whole"]
    client: str
    """The model that spoke for the person."""
    coach: str
    """The model that spoke for the coach."""
    recipe: str
    """Hash of prompts, models and mode: what a pilot is a pilot of."""


class Conversation(Record):
    """An optional system message, then user and assistant in turn, ending with the assistant.

    `scenario` is absent where nobody wrote a card, `made` where no model wrote it (a person's own
    data); neither reaches a training line.
    """

    messages: tuple[Message, ...]
    scenario: Scenario | None = None
    made: Provenance | None = None

    @model_validator(mode="after")
    def _alternates(self) -> "Conversation":
        spoken = (
            self.messages[1:]
            if self.messages and self.messages[0].role == "system"
            else self.messages
        )
        for number, message in enumerate(spoken):
            expected = "user" if number % 2 == 0 else "assistant"
            if message.role != expected:
                place = number + 1 + len(self.messages) - len(spoken)
                raise ValueError(
                    f"message {place} has role {message.role!r}, expected {expected!r}"
                )
        if not spoken:
            raise ValueError("there is no user message")
        if len(spoken) % 2:
            raise ValueError("the last message must be the assistant's")
        return self

    @property
    def id(self) -> str:
        """Twelve hex digits of the spoken words; the system prompt is not part of it."""
        return words_id(self.messages)

    @property
    def turns(self) -> int:
        return sum(message.role == "user" for message in self.messages)

    def with_system(self, prompt: str) -> "Conversation":
        """The same conversation under another system prompt."""
        spoken = tuple(message for message in self.messages if message.role != "system")
        return self.model_copy(
            update={"messages": (Message(role="system", content=prompt), *spoken)}
        )

    def training_line(self) -> str:
        """The training file's line: `{"messages": [...]}` and nothing else."""
        return json.dumps({"messages": self.chat()}, ensure_ascii=False)

    def chat(self) -> list[dict[str, str]]:
        """The messages as chat templates take them."""
        return [{"role": message.role, "content": message.content} for message in self.messages]


def words_id(messages: Iterable[Message]) -> str:
    """The id of a conversation of these messages."""
    spoken = [(message.role, message.content) for message in messages if message.role != "system"]
    return content_hash(spoken)[:12]


class Vote(Record):
    """One answer of a judge to one criterion."""

    answer: Mark
    reasoning: str
    """Where the answer is ERROR, why it could not be used."""
    quotes: tuple[str, ...] = ()
    """Of the conversation, word for word."""
    steps: dict[str, Mark] = {}
    """Of a criterion that is asked in several questions, the answer to each."""


class Verdict(Record):
    """What a judge made of one conversation. Of a verdict written by hand the first eight fields
    are enough.
    """

    conversation: str
    """Its id."""
    passed: bool
    """The score reaches the rubric's threshold and the safety gate holds."""
    score: float | None
    """Between 0 and 1; `None` where the conversation was too short to be judged."""
    safety_gate_failed: bool
    failed_checks: tuple[str, ...]
    """The criteria answered NO."""
    reasonings: dict[str, str]
    """By criterion."""
    judge: str
    """A chat model, or person/NAME."""
    rubric: str
    """Hash of the rubric that was applied."""
    exact: str | None = None
    """The score as a fraction, such as 4/5."""
    answers: dict[str, Mark] = {}
    """What counts, by criterion: the majority of the votes."""
    votes: dict[str, tuple[Vote, ...]] = {}
    errors: tuple[str, ...] = ()
    """The criteria without an answer that can be used. They count as failed, and as missing in
    every comparison.
    """
    not_applicable: tuple[str, ...] = ()
    category_scores: dict[str, float] = {}
    needs_review: tuple[str, ...] = ()
    """Criteria that a person must settle: the votes on safety have no majority, or judge and card
    disagree whether there is danger.
    """
    too_short: bool = False
    unanswered: bool = False
    """The conversation ends with a message of the person that nobody answered."""
    risk: Risk | None = None
    """Of the card; `None` where nobody wrote one."""
    recipe: str = ""
    """Hash of judge, rubric, prompt and settings: what makes two verdicts comparable."""

    @property
    def unsafe(self) -> bool:
        """Something was found, or a person must look. A judge that gave no usable answer on safety
        passes nothing, and has found nothing either.
        """
        if not self.safety_gate_failed:
            return False
        found = not self.errors or bool(set(SAFETY) & set(self.failed_checks))
        return found or bool(self.needs_review)


class LossRecord(Record):
    """How likely one model finds the coach's words of one held-out conversation."""

    kind: Literal["loss"] = "loss"
    arm: str
    digest: str
    conversation: str
    mean_loss: float
    targets: int


class ReplyRecord(Record):
    """What one model answers to one held-out user turn."""

    kind: Literal["reply"] = "reply"
    arm: str
    digest: str
    conversation: str
    said: str
    reply: str


def content_hash(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
