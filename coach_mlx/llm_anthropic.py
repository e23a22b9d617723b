"""Claude, through Anthropic's own SDK: single calls and Message Batches.

What is shared stands first and is marked for the cache: each system block, then the conversation
up to its last message. The note follows after the last mark, so that it never breaks the prefix.
These models take no temperature, so none is sent. The SDK's own retries are off: each attempt is
reserved and counted by the ledger. Raises Busy, Broken, BackendError, ToolError; never one of the
SDK's errors, and never a text with the key in it.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import egress
from coach_mlx.calls import (
    BUSY,
    Broken,
    Busy,
    Call,
    NotFound,
    Outcome,
    Reply,
    Usage,
    retry_after,
)
from coach_mlx.errors import BackendError
from coach_mlx.keys import find_key, scrub

KEY = "ANTHROPIC_API_KEY"
STREAMED_TOKENS = 2048
"""Longer answers are streamed, so that a slow one is not taken for a dead one."""
OUTCOMES: dict[str | None, Outcome] = {
    "end_turn": "ok",
    "stop_sequence": "ok",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refusal",
}
MOST_MARKS = 4
LEAST_THINKING: dict[str, tuple[str | None, str | None]] = {
    "claude-haiku-5": ("disabled", None),
    "claude-sonnet-5-5": ("between_tools", None),
    "claude-sonnet-5": ("disabled", None),
    "claude-opus-5": (None, "low"),
    "claude-fable": (None, "low"),
    "claude-mythos": (None, "low"),
}
"""Type of thinking and effort, by the beginning of the name; older models think only when asked."""
SPEND_LIMIT = "enforced_spend_limit_reached"
"""Of the account: a 429 that no patience helps."""


class BatchItem(NamedTuple):
    """`reply` is None where the item was not answered; `wrong` says so where it never can be."""

    key: str
    reply: Reply | None
    wrong: str = ""
    unreadable: bool = False
    """There is an answer, billed, and it is no message."""


class AnthropicBackend:
    def __init__(self, name: str, egress_log: Path, timeout_seconds: float) -> None:
        import anthropic

        self._name, self._key = name, find_key(KEY)
        self._client = anthropic.AsyncAnthropic(
            api_key=self._key,
            max_retries=0,
            timeout=timeout_seconds,
            open_telemetry=False,
            http_client=anthropic.DefaultAsyncHttpxClient(event_hooks=egress.hooks(egress_log)),
        )

    async def identity(self) -> str:
        return ""

    async def close(self) -> None:
        await self._client.close()

    async def send(self, call: Call, seed: int) -> Reply:
        body = self.body(call)
        with self._translated():
            if call.max_tokens > STREAMED_TOKENS:
                return self._reply(await self._stream(body))
            return self._reply(await self._client.messages.create(**body))

    async def _stream(self, body: dict[str, Any]) -> Any:
        """The message; once it has begun, it may be billed, however it breaks off."""
        began = False
        try:
            async with self._client.messages.stream(**body) as stream:
                async for _ in stream:
                    began = True
                if not began:
                    raise Broken("the answer broke off before its first word", True)
                return await stream.get_final_message()
        except Exception as error:  # torn streams trip the SDK in many ways, IndexError is one
            if began:
                raise Broken(f"the answer broke off ({type(error).__name__})", True) from None
            raise

    def body(self, call: Call, ttl: str = "5m") -> dict[str, Any]:
        """The request as the SDK takes it."""
        mark = {"type": "ephemeral", "ttl": ttl}
        first_marked = len(call.system) - (MOST_MARKS - 1)
        system = [
            {
                "type": "text",
                "text": text,
                **({"cache_control": mark} if place >= first_marked else {}),
            }
            for place, text in enumerate(call.system)
        ]
        messages: list[dict[str, Any]] = [
            {"role": message.role, "content": [{"type": "text", "text": message.content}]}
            for message in call.messages
        ]
        if not call.once:
            messages[-1]["content"][0]["cache_control"] = mark
        if call.note:
            messages[-1]["content"].append({"type": "text", "text": call.note})
        body: dict[str, Any] = {
            "model": self._name,
            "max_tokens": call.max_tokens,
            "messages": messages,
        }
        if system:
            body["system"] = system
        thinking, effort = self._thinking(call)
        if thinking:
            body["thinking"] = {"type": thinking}
        shape: dict[str, Any] = {"effort": effort} if effort else {}
        if call.schema:
            shape["format"] = {"type": "json_schema", "schema": self._schema(call.schema)}
        if shape:
            body["output_config"] = shape
        return body

    def _schema(self, schema: Any) -> dict[str, Any]:
        import anthropic

        return anthropic.transform_schema(schema)

    def _thinking(self, call: Call) -> tuple[str | None, str | None]:
        """Type of thinking and effort to ask for; models have different ways to think least."""
        if call.effort != "none":
            return None, call.effort
        for beginning, (thinking, effort) in LEAST_THINKING.items():
            if self._name.startswith(beginning):
                return thinking, effort
        return None, None

    def _reply(self, message: Any) -> Reply:
        from anthropic.types import Message

        if not isinstance(message, Message) or message.usage is None:
            raise Broken("the answer is not a message", True)
        text = "".join(block.text for block in message.content if block.type == "text").strip()
        outcome = OUTCOMES.get(message.stop_reason, "malformed")
        if outcome == "ok" and not text:
            outcome = "empty"
        return Reply(text, outcome, str(message.stop_reason), message.model, _usage(message.usage))

    async def create_batch(self, calls: Sequence[tuple[str, Call]]) -> str:
        requests: list[Any] = []
        for key, call in calls:
            requests.append({"custom_id": key, "params": self.body(call, ttl="1h")})
        with self._translated():
            return (await self._client.messages.batches.create(requests=requests)).id

    async def batch_ended(self, batch: str) -> bool:
        with self._translated():
            found = await self._client.messages.batches.retrieve(batch)
        return found.processing_status == "ended"

    async def batch_results(self, batch: str) -> AsyncIterator[BatchItem]:
        """In any order. An item that expired or met an error of the service has no reply."""
        with self._translated():
            async for item in await self._client.messages.batches.results(batch):
                yield self._batch_item(item)

    def _batch_item(self, item: Any) -> BatchItem:
        result = item.result
        if result.type == "succeeded":
            try:
                return BatchItem(item.custom_id, self._reply(result.message))
            except Broken:
                return BatchItem(item.custom_id, None, unreadable=True)
        wrong = ""
        if result.type == "errored" and result.error.error.type == "invalid_request_error":
            wrong = scrub(result.error.error.message, self._key)
        return BatchItem(item.custom_id, None, wrong)

    async def batches_since(self, moment: datetime) -> AsyncIterator[tuple[str, int]]:
        """Name and number of requests of each batch made since then, newest first."""
        with self._translated():
            async for found in self._client.messages.batches.list(limit=100):
                if found.created_at < moment:
                    return
                counts = found.request_counts
                total = counts.processing + counts.succeeded + counts.errored
                yield found.id, total + counts.canceled + counts.expired

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """The SDK's errors as ours; nothing of the request, which holds the key, goes along."""
        import anthropic
        import httpx2

        try:
            yield
        except anthropic.APITimeoutError as error:
            raise _unreachable(error, "no answer in time") from None
        except anthropic.APIConnectionError as error:
            raise _unreachable(error, "the connection failed") from None
        except anthropic.APIStatusError as error:
            raise self._status(error) from None
        except httpx2.TransportError as error:
            raise Broken(f"the connection broke ({type(error).__name__})", True) from None
        except (anthropic.AnthropicError, ValueError) as error:
            why = f"the answer cannot be read ({type(error).__name__})"
            raise Broken(why, True) from None

    def _status(self, error: Any) -> Exception:
        said = scrub(error.api_message or f"status {error.status_code}", self._key)
        if error.status_code in BUSY and error.error_code != SPEND_LIMIT:
            return Busy(said, retry_after(error.response.headers))
        if error.status_code >= 500 or error.status_code in (408, 409):
            return Broken(said, False)
        hint = {
            401: f"Check the key: export {KEY}=…",
            403: f"Check what {KEY} may do.",
            404: "Check the model's name in the config.",
            429: "The account's own limit is reached; raise it there, or wait for the next month.",
        }.get(error.status_code, "")
        kind = NotFound if error.status_code == 404 else BackendError
        said = f"Claude refuses the call ({error.status_code}): {said.rstrip('. ')}."
        return kind(f"{said} {hint}".rstrip())


def _unreachable(error: Any, why: str) -> Broken:
    """Not billed where no connection came about at all."""
    import httpx2

    never_sent = isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout))
    return Broken(f"{why} ({type(error.__cause__).__name__})", not never_sent)


def _usage(usage: Any) -> Usage:
    written = usage.cache_creation_input_tokens or 0
    long = usage.cache_creation.ephemeral_1h_input_tokens if usage.cache_creation else 0
    return Usage(
        input=usage.input_tokens,
        output=usage.output_tokens,
        cache_read=usage.cache_read_input_tokens or 0,
        cache_write_5m=written - long,
        cache_write_1h=long,
    )
