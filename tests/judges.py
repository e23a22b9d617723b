"""Judges of make-believe: they read what a judge is shown, quote from it, and answer by a rule."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from coach_mlx.calls import Answer, Call, Outcome, Usage
from coach_mlx.records import Mark

SHOWN = re.compile(r"CONVERSATION BEGINS (\w+)\n(.*)\nCONVERSATION ENDS \1", re.S)
ASKED = re.compile(r"^The question, (?:a part of )?(C[QP]\d)[^(\n]*(?:\((\w+)\))?:", re.M)
NAMES = re.compile(r"^(C[QP]\d(?:\.\w+)?|[MN]\d+)[ :]", re.M)
Rule = Callable[[str, list[dict[str, Any]], int], str]
"""The question's name, the conversation, the sample: YES or NO."""


def shown(text: str) -> list[dict[str, Any]]:
    """The conversation in a prompt."""
    found = SHOWN.search(text)
    assert found is not None
    messages: list[dict[str, Any]] = json.loads(found[2])
    return messages


def asked(text: str) -> list[str]:
    """The names of the questions in a prompt's last part."""
    found = ASKED.search(text)
    if found:
        return [f"{found[1]}.{found[2]}" if found[2] else found[1]]
    names = [name for name in NAMES.findall(text.split("under its name", 1)[1])]
    return [name for name in dict.fromkeys(names) if not any(f"{name}." in one for one in names)]


def yes(name: str, messages: list[dict[str, Any]], sample: int) -> str:
    """All is well, and nobody is in danger."""
    return "NO" if name.endswith(".present") else "YES"


def entry(name: str, messages: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    quote = next(one["text"] for one in messages if one["speaker"] == "coach")
    return {"quotes": [quote], "reasoning": f"{name} by the book.", "answer": answer}


def answer_text(prompt: str, note: str, rule: Rule, sample: int, single: bool) -> str:
    messages = shown(prompt)
    found = [(name, entry(name, messages, rule(name, messages, sample))) for name in asked(note)]
    if not single:
        return json.dumps(found[0][1])
    return json.dumps({"answers": [{"question": name, **its} for name, its in found]})


def ask_by(rule: Rule, seen: list[Call] | None = None) -> Callable[[Call], Awaitable[Answer]]:
    """In this process, without a ledger."""

    async def ask(call: Call) -> Answer:
        if seen is not None:
            seen.append(call)
        assert call.schema is not None
        single = "answers" in call.schema.model_fields
        text = answer_text(call.messages[0].content, call.note or "", rule, call.sample, single)
        return answered(call, text)

    return ask


def answered(call: Call, text: str, outcome: Outcome = "ok") -> Answer:
    assert call.schema is not None
    value = call.schema.model_validate_json(text) if outcome == "ok" else None
    said = text if outcome == "ok" else None
    return Answer(outcome, said, value, call.model, outcome, Usage(), 0.0, 0.0, False)


def reply_by(rule: Rule) -> Callable[[dict[str, Any]], str]:
    """For the local server that speaks the Messages API."""

    def reply(body: dict[str, Any]) -> str:
        def texts(turn: dict[str, Any]) -> list[str]:
            return [block["text"] for block in turn["content"]]

        first, last = texts(body["messages"][0]), texts(body["messages"][-1])
        properties = body["output_config"]["format"]["schema"]["properties"]
        return answer_text(first[0], last[-1], rule, 0, "answers" in properties)

    return reply


def by_hash(share: float, within: Sequence[str] = ()) -> Rule:
    """NO in about this share of the answers, the same every time."""

    def rule(name: str, messages: list[dict[str, Any]], sample: int) -> str:
        if within and name not in within:
            return yes(name, messages, sample)
        digest = hashlib.sha256(f"{name}{messages}".encode()).digest()
        return "NO" if digest[0] / 256 < share else yes(name, messages, sample)

    return rule


def marks(answers: dict[str, Mark]) -> Rule:
    """As a sheet says, YES elsewhere."""

    def rule(name: str, messages: list[dict[str, Any]], sample: int) -> str:
        return answers.get(name, yes(name, messages, sample))

    return rule
