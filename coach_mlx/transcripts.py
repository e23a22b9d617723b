"""Conversations from wherever they come, as a judge can read them.

Reads a file, or what is piped in (`-`): JSONL of {"messages": [...]} lines, of this project's own
records or of labelled conversations; one JSON object; or one plain transcript, each message after
its speaker ("Me: …", "Coach: …"). Writes nothing. Fails: DataError naming every wrong line at once.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from coach_mlx.documents import explain
from coach_mlx.errors import DataError
from coach_mlx.records import Conversation, Message, Record, Risk, words_id
from coach_mlx.workspace import parse_records

SHAPE = 'A line must be {"messages": [{"role": "user", "content": "…"}, …]}.'
ROLES = {
    **dict.fromkeys(("person", "user", "me", "client", "human", "i"), "user"),
    **dict.fromkeys(("coach", "assistant", "ai", "bot", "therapist"), "assistant"),
}
TIME = r"(?:[\[(][^\])\n]{1,30}[\])])?"
SPEAKER = re.compile(
    rf"^[\W_]*(?:\d+[.)]\s*)?{TIME}[\W_]*({'|'.join(ROLES)})(?![^\W_])[ *_]*{TIME}[ *_]*[:\uff1a]"
    r"[*_]*[ \t]*",
    re.I,
)
STRANGER = re.compile(
    r"^\W*(?:(?-i:[A-Z])[\w.'-]*\s+){0,3}\(?(?:coach|assistant|therapist|client|user|person)\)?"
    r"\s*[:\uff1a]",
    re.I,
)
"""Somebody who says who they are in another way: "Anna (coach):", "Dr. Coach:"."""
OF_LABELLED = {"id", "kind", "twin_of", "note", "topic", "aim", "labels"}


class Transcript(Record):
    """A conversation that may end with a message of the person nobody answered."""

    conversation: Conversation
    unanswered: Message | None = None
    risk: Risk | None = None
    """Of a labelled conversation, which has no card."""

    @model_validator(mode="before")
    @classmethod
    def _from_a_line(cls, line: Any) -> Any:
        """What stands in a file is a conversation: its last message is set apart where it is the
        person's.
        """
        if not isinstance(line, dict):
            raise ValueError("a line must be one JSON object")
        if "conversation" in line:
            return line
        labelled = "labels" in line
        own = {key: value for key, value in line.items() if not (labelled and key in OF_LABELLED)}
        risk = own.pop("risk", None) if labelled else None
        given = own.get("messages")
        if given is not None and not isinstance(given, list):
            raise ValueError('"messages" must be a list')
        messages: list[Any] = given or []
        last = messages[-1] if messages else None
        if not isinstance(last, dict) or last.get("role") != "user":
            return {"conversation": own, "risk": risk}
        if not any(isinstance(one, dict) and one.get("role") == "assistant" for one in messages):
            raise ValueError("there is no reply of the coach")
        return {
            "conversation": {**own, "messages": messages[:-1]},
            "unanswered": last,
            "risk": risk,
        }

    @property
    def id(self) -> str:
        """Of all words; without an unanswered message, the conversation's own."""
        last = (self.unanswered,) if self.unanswered else ()
        return words_id((*self.conversation.messages, *last))

    @property
    def unanswered_text(self) -> str:
        return self.unanswered.content if self.unanswered else ""


def read_transcripts(source: str) -> list[Transcript]:
    """Every conversation of a file, in order; `-` for what is piped in."""
    if source == "-":
        if sys.stdin is None:
            raise DataError(f"Nothing is piped in. {SHAPE}")
        if sys.stdin.isatty():
            sys.stderr.write("Paste a conversation, then press Ctrl-D.\n")
        return parse(sys.stdin.buffer.read(), "standard input")
    path = Path(source).expanduser()
    try:
        return parse(path.read_bytes(), source)
    except FileNotFoundError:
        raise DataError(f"There is no {source}.") from None
    except IsADirectoryError:
        raise DataError(f"{source} is a folder. Name a file of conversations in it.") from None
    except OSError as error:
        raise DataError(f"{source[:80]} cannot be opened: {error.strerror}.") from None


def parse(content: bytes, place: str) -> list[Transcript]:
    """What was read, whatever shape it has."""
    if not content.strip():
        raise DataError(f"{place} is empty. {SHAPE}")
    if not re.match(rb"(?:\xef\xbb\xbf)?\s*(?:\{|\[\s*\{)", content):
        return [_plain(content, place)]
    whole = _as_one(content)
    try:
        return parse_records(whole or content, place, Transcript, SHAPE)
    except DataError as error:  # a person's file has no "conversation" in it
        said = re.sub(r"(:\d+: )conversation(?:\.|: )", r"\1", str(error))
        raise DataError(said) from None


def _as_one(content: bytes) -> bytes | None:
    """One JSON object over several lines, a list of them, or a bare list of messages, as JSONL;
    `None` where it is anything else.
    """
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return json.dumps(value).encode()
    if all(isinstance(one, dict) and "messages" in one for one in value):
        return "\n".join(json.dumps(one) for one in value).encode()
    return json.dumps({"messages": value}).encode()


def _plain(content: bytes, place: str) -> Transcript:
    """A transcript with speakers; lines without one go on with what was said before."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{place} is not UTF-8 at byte {error.start + 1}.") from None
    messages: list[dict[str, str]] = []
    for number, line in enumerate(lines, start=1):
        found = SPEAKER.match(line)
        if found:
            text = line[found.end() :].strip()
            messages.append({"role": ROLES[found[1].lower()], "content": text})
        elif STRANGER.match(line):
            raise DataError(
                f'{place}:{number}: who says this? Write "Me: …" or "Coach: …" before it.'
            )
        elif messages:
            messages[-1]["content"] += f"\n{line}"
        elif line.strip():
            raise DataError(
                f"{place}:{number}: this is no conversation: nobody is named who says it. Write "
                '"Me: …" and "Coach: …" before the messages, or give a JSONL file. ' + SHAPE
            )
    try:
        return Transcript.model_validate({"messages": messages})
    except ValidationError as error:
        problems = "; ".join(explain(problem) for problem in error.errors())
        raise DataError(f"{place}: {problems}") from None
