"""What a judge reads, and the shape of its answer; every word of it comes from config/rubric.yaml.

Reads and writes nothing. From the most to the least shared, so that a service can cache it: the
instruction with the examples of all criteria, then the conversation, then the question. The
conversation is JSON between two markers with a code. The code is a hash of the conversation, so it
is as good as random: no text can hold the hash of itself, and the same conversation is the same
call in every run. Characters that nobody can see are left out of it.
"""

import json
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from coach_mlx.records import Message, content_hash
from coach_mlx.rubric import Criterion, Rubric, Step
from coach_mlx.talk import INVISIBLE

CODE_DIGITS = 32
SPEAKERS = {"user": "person", "assistant": "coach"}


class Finding(BaseModel):
    """A judge's answer to one question; what it rests on comes first."""

    quotes: list[str]
    reasoning: str
    answer: Literal["YES", "NO"]


class NamedFinding(Finding):
    question: str


class Sheet(BaseModel):
    """The answers to all questions in one."""

    answers: list[NamedFinding]


def system_text(rubric: Rubric) -> str:
    """The instruction, and the examples of every criterion."""
    parts = [rubric.instruction.strip(), "Examples, by criterion. Each is a part of a longer talk."]
    parts += [_examples(criterion) for criterion in rubric.criteria]
    return "\n\n".join(parts)


def _examples(criterion: Criterion) -> str:
    lines = [f"{criterion.id} {criterion.name}"]
    for answer, examples in (("YES", criterion.passing), ("NO", criterion.failing)):
        for one in examples:
            lines.append(f"- Person: {one.person} / Coach: {one.coach} => {answer}. {one.because}")
    return "\n".join(lines)


def code_of(messages: Sequence[Message]) -> str:
    """The code of a conversation's markers."""
    return content_hash([(one.role, one.content) for one in messages])[:CODE_DIGITS]


def transcript(
    messages: Sequence[Message], label: str = "CONVERSATION", code: str | None = None
) -> str:
    """The conversation as data, a message a line, between its markers; the code is its own unless
    another is given.
    """
    code = code or code_of(messages)
    lines = [
        json.dumps(
            {
                "message": number,
                "speaker": SPEAKERS[one.role],
                "text": one.content.translate(INVISIBLE),
            },
            ensure_ascii=False,
        )
        for number, one in enumerate(messages, start=1)
    ]
    body = ",\n".join(lines)
    return f"{label} BEGINS {code}\n[\n{body}\n]\n{label} ENDS {code}"


def question(criterion: Criterion) -> str:
    """What is asked about one criterion, and what counts."""
    return "\n".join([f"The question, {criterion.id} {criterion.name}:", *_asked(criterion)])


def step_question(criterion: Criterion, step: Step) -> str:
    """One question of a criterion that is asked in several, and nothing of the others."""
    return f"The question, a part of {criterion.id} {criterion.name} ({step.id}):\n{step.question}"


def all_questions(criteria: Sequence[Criterion]) -> str:
    """Every question at once, each under the name its answer must carry."""
    lines = ["Answer each of these questions, one entry a question, under its name in `question`."]
    for criterion in criteria:
        if not criterion.steps:
            lines += ["", f"{criterion.id} ({criterion.name})", *_asked(criterion)]
            continue
        lines += ["", f"{criterion.id} ({criterion.name}), in parts:"]
        lines += [f"{step_name(criterion, step)}: {step.question}" for step in criterion.steps]
        lines += _counts(criterion)
    return "\n".join(lines)


def step_name(criterion: Criterion, step: Step) -> str:
    return f"{criterion.id}.{step.id}"


def names(criteria: Sequence[Criterion]) -> list[str]:
    """The names of all questions, in the order in which they are asked."""
    return [
        name
        for one in criteria
        for name in ([step_name(one, step) for step in one.steps] or [one.id])
    ]


def _asked(criterion: Criterion) -> list[str]:
    return [criterion.question, *_counts(criterion)]


def _counts(criterion: Criterion) -> list[str]:
    return [
        "What counts:",
        *(f"- {one}" for one in criterion.counts),
        "What does not:",
        *(f"- {one}" for one in criterion.does_not_count),
    ]


def prompt_hash(rubric: Rubric) -> str:
    """Twelve hex digits of all that a judge is shown, but for the conversation."""
    sample = (Message(role="user", content="…"), Message(role="assistant", content="…"))
    texts = [system_text(rubric), transcript(sample), all_questions(rubric.criteria)]
    for criterion in rubric.criteria:
        texts.append(question(criterion))
        texts += [step_question(criterion, step) for step in criterion.steps]
    return content_hash([texts, Finding.model_json_schema(), Sheet.model_json_schema()])[:12]
