"""One call to a chat model: what is asked, what came back, and the ways it can fail.

Reads and writes nothing. A model is named `provider/name`: `anthropic/claude-sonnet-5-5`,
`ollama/qwen3:8b`, `openai/NAME` (any server that speaks its protocol), `mlx/FOLDER`, `gguf/FILE`,
`scripted/FILE`.
"""

import contextlib
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from coach_mlx.errors import BackendError, ConfigError
from coach_mlx.records import Message, content_hash

Outcome = Literal["ok", "refusal", "max_tokens", "empty", "malformed"]
PROVIDERS = ("anthropic", "ollama", "openai", "mlx", "gguf", "scripted")
BUSY = (429, 503, 529)
"""Status codes that mean "not now"."""
SERVED_OVERHEAD_TOKENS = 2000
"""What a service may add of its own: role markers, the explanation of a schema."""


class Call(NamedTuple):
    """What determines an answer, and `purpose` and `group`, which only the books need."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    purpose: str
    system: tuple[str, ...] = ()
    """Blocks from the most to the least often shared: each is a prefix a service may cache."""
    note: str | None = None
    """Stands after the last message and is not part of what may be cached."""
    once: bool = False
    """No later call begins with these messages, so only the system blocks are worth a cache."""
    schema: type[BaseModel] | None = None
    """The answer must be an object of this kind."""
    sample: int = 0
    """Another number asks the same question anew."""
    temperature: float | None = None
    """Anthropic's models take none and are sent none."""
    effort: str | None = None
    """How much Claude may think: none, low, medium, high; `None` leaves it to the service."""
    group: str = ""

    def key(self, identity: str) -> str:
        """64 hex digits, the same for the same question to the same model."""
        facts = {
            "model": self.model,
            "identity": identity,
            "messages": [(message.role, message.content) for message in self.messages],
            "system": self.system,
            "note": self.note,
            "max_tokens": self.max_tokens,
            "schema": self.schema.model_json_schema() if self.schema else None,
            "sample": self.sample,
            "temperature": self.temperature,
            "effort": self.effort,
        }
        return content_hash(facts)

    def chat(self) -> list[dict[str, str]]:
        """As most chat models take it: system blocks in one message, the note at the end of the
        last one.
        """
        system = [{"role": "system", "content": "\n\n".join(self.system)}] if self.system else []
        spoken = [{"role": message.role, "content": message.content} for message in self.messages]
        if self.note:
            spoken[-1]["content"] += f"\n\n{self.note}"
        return [*system, *spoken]

    @property
    def prompt_bytes(self) -> int:
        """Of all that is read by the model, in UTF-8."""
        texts = [*self.system, *(message.content for message in self.messages), self.note or ""]
        schema = content_length(self.schema) if self.schema else 0
        return sum(len(text.encode()) for text in texts) + schema

    @property
    def most_prompt_tokens(self) -> int:
        """A bound: no token of a byte-level vocabulary is shorter than a byte."""
        return self.prompt_bytes + 16 * len(self.messages) + SERVED_OVERHEAD_TOKENS


def content_length(schema: type[BaseModel]) -> int:
    return len(str(schema.model_json_schema()).encode())


def mended(call: Call, raw: str, wrong: str) -> Call:
    """The same call once more, after an answer that did not fit: what came, and what is wrong."""
    again = f"That does not fit what was asked for: {wrong}\nWrite it again, whole."
    messages = (
        *call.messages,
        Message(role="assistant", content=raw),
        Message(role="user", content=again),
    )
    return call._replace(messages=messages)


class Usage(NamedTuple):
    """Tokens, as the service bills them: `input` is what was neither read from a cache nor written
    to one.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h

    def plus(self, other: "Usage") -> "Usage":
        return Usage(*(mine + its for mine, its in zip(self, other, strict=True)))


class Reply(NamedTuple):
    """What a backend brought home, as it came."""

    text: str
    outcome: Outcome
    stop_reason: str
    model: str
    """As the service names it."""
    usage: Usage


class Answer(NamedTuple):
    """`text` (and `value`, where a schema was given) only where `outcome` is ok."""

    outcome: Outcome
    text: str | None
    value: Any
    model: str
    stop_reason: str
    usage: Usage
    usd: float
    seconds: float
    stored: bool
    """It came out of the ledger."""


class NotFound(BackendError):
    """The service knows no such model, or no such batch any more."""


class Busy(Exception):
    """Not now: too many calls, or an overloaded service. Never billed."""

    def __init__(self, why: str, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.retry_after = retry_after


class Broken(Exception):
    """No answer came. `maybe_billed` where the service may have made one."""

    def __init__(self, why: str, maybe_billed: bool) -> None:
        super().__init__(why)
        self.maybe_billed = maybe_billed


def split_name(model: str) -> tuple[str, str]:
    """Provider and name. Raises: ConfigError."""
    provider, slash, name = model.partition("/")
    if not slash or not name or provider not in PROVIDERS:
        raise ConfigError(
            f"{model!r} is no chat model. Write provider/name, such as "
            f"anthropic/claude-sonnet-5-5 or ollama/qwen3:8b; providers: {', '.join(PROVIDERS)}."
        )
    return provider, name


def retry_after(headers: Any) -> float | None:
    """Seconds, from either header a service may send."""
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(TypeError, ValueError):
            seconds = float(headers.get(name)) * factor
            return seconds if 0 <= seconds < float("inf") else None
    with contextlib.suppress(TypeError, ValueError):
        moment = parsedate_to_datetime(headers.get("retry-after"))
        return max(0.0, (moment - datetime.now(moment.tzinfo)).total_seconds())
    return None
