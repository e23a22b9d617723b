"""Anthropic's Messages and Message Batches APIs as documented, answered locally.

The official client is pointed at it by its address and need not be changed: shapes, headers,
errors, cache accounting and prices are the service's. The books tell what was paid for.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from local_http import (
    Call,
    Exchange,
    Json,
    LocalServer,
    body_hash,
    canonical,
    cut_to,
    deliver,
    instance,
    knob_parser,
    plausible,
    serve,
)

MODELS = ("claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5")
THINKING = {
    "claude-haiku-5-5": {"adaptive", "disabled"},
    "claude-sonnet-5-5": {"adaptive", "between_tools"},
    "claude-opus-5-5": {"adaptive"},
}
EFFORTS = {None, "low", "medium", "high", "xhigh", "max"}
VERSIONS = ("2026-10-21", "2023-06-01")
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_OUTPUT = 128_000
MOST_BREAKPOINTS = 4
LOOKBACK = 20
REQUEST_TOKENS = 10
MESSAGE_TOKENS = 4
DAY = 86_400.0
TTL = {"5m": 300.0, "1h": 3_600.0}
MEGABYTE = 1 << 20

PARAMETERS = {
    "model",
    "max_tokens",
    "messages",
    "system",
    "cache_control",
    "temperature",
    "top_p",
    "top_k",
    "thinking",
    "output_config",
    "stop_sequences",
    "metadata",
    "stream",
    "service_tier",
}
COUNTED_PARAMETERS = {
    "model",
    "messages",
    "system",
    "cache_control",
    "thinking",
    "output_config",
}
UNSUPPORTED_SCHEMA = {
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "oneOf",
    "not",
    "patternProperties",
}
STATUS_FAULTS = {
    "400": "invalid_request_error",
    "401": "authentication_error",
    "402": "billing_error",
    "403": "permission_error",
    "404": "not_found_error",
    "413": "request_too_large",
    "429": "rate_limit_error",
    "500": "api_error",
    "504": "timeout_error",
    "529": "overloaded_error",
}


class ApiError(Exception):
    """An answer that is an error of the service."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        headers: dict[str, str] | None = None,
        details: Json | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = headers or {}
        self.details = details

    def body(self, request_id: str) -> Json:
        error: Json = {"type": self.kind, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return {"type": "error", "error": error, "request_id": request_id}


def refuse(message: str) -> NoReturn:
    raise ApiError(400, "invalid_request_error", message)


def require(condition: object, message: str) -> None:
    if not condition:
        refuse(message)


def api_key(exchange: Exchange) -> str:
    """A key comes as a bearer token, or in the header of earlier clients."""
    bearer = exchange.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return bearer or exchange.headers.get("x-api-key", "")


# What a request may say.


def check_message(body: Any, models: tuple[str, ...], allowed: set[str] = PARAMETERS) -> None:
    """Refuse everything that the service would, and what it would silently not mean."""
    require(isinstance(body, dict), "Input should be an object")
    for key in sorted(body.keys() - allowed):
        refuse(f"{key}: Extra inputs are not permitted")
    require(isinstance(body.get("model"), str) and body["model"], "model: Field required")
    if "max_tokens" in allowed:
        _check_max_tokens(body)
    _check_turns(body.get("messages"))
    _check_system(body.get("system", []))
    _check_output(body.get("output_config", {}))
    _check_breakpoints(body)
    _check_settings(body)
    _check_thinking(body)
    if body["model"] not in models:
        raise ApiError(404, "not_found_error", f"model: {body['model']}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_max_tokens(body: Json) -> None:
    limit: Any = body.get("max_tokens")
    require(_whole(limit), "max_tokens: Input should be a valid integer")
    require(limit >= 1, "max_tokens: Input should be greater than or equal to 1")
    require(
        limit <= MOST_OUTPUT,
        f"max_tokens: {limit} > {MOST_OUTPUT}, the most output tokens of {body['model']}",
    )


def _check_turns(turns: Any) -> None:
    require(isinstance(turns, list), "messages: Field required")
    require(turns, "messages: at least one message is required")
    for place, turn in enumerate(turns):
        where = f"messages.{place}"
        require(isinstance(turn, dict), f"{where}: Input should be an object")
        require(turn.keys() == {"role", "content"}, f"{where}: role and content, nothing else")
        require(turn["role"] in ("user", "assistant"), f"{where}.role: 'user' or 'assistant'")
        _check_content(turn["content"], f"{where}.content")
    require(turns[0]["role"] == "user", "messages: first message must use the user role")
    require(
        turns[-1]["role"] == "user",
        "This model does not support assistant message prefill. "
        "The conversation must end with a user message.",
    )


def _check_content(content: Any, where: str) -> None:
    if isinstance(content, str):
        require(content.strip(), f"{where}: text content must be non-empty")
        return
    require(isinstance(content, list) and content, f"{where}: a string or a list of blocks")
    for place, block in enumerate(content):
        _check_block(block, f"{where}.{place}")


def _check_block(block: Any, where: str) -> None:
    require(isinstance(block, dict), f"{where}: Input should be an object")
    require(block.get("type") == "text", f"{where}.type: only text blocks are served here")
    for key in block.keys() - {"type", "text", "cache_control"}:
        refuse(f"{where}.text.{key}: Extra inputs are not permitted")
    text = block.get("text")
    require(isinstance(text, str), f"{where}.text.text: Field required")
    if not text and block.get("cache_control") is not None:
        refuse(f"{where}: cache_control cannot be set for empty text blocks")
    require(text.strip(), f"{where}: text content blocks must contain non-whitespace text")
    _check_cache_control(block.get("cache_control"), where)


def _check_cache_control(control: Any, where: str) -> None:
    if control is None:
        return
    right = isinstance(control, dict) and control.get("type") == "ephemeral"
    require(right, f"{where}.cache_control.type: Input should be 'ephemeral'")
    require(control.keys() <= {"type", "ttl"}, f"{where}.cache_control: Extra inputs")
    require(control.get("ttl", "5m") in TTL, f"{where}.cache_control.ttl: '5m' or '1h'")


def _check_system(system: Any) -> None:
    if isinstance(system, str):
        return
    require(isinstance(system, list), "system: Input should be a string or a list of blocks")
    for place, block in enumerate(system):
        _check_block(block, f"system.{place}")


def _check_breakpoints(body: Json) -> None:
    _check_cache_control(body.get("cache_control"), "body")
    lives = [part.ttl for part in parts(body) if part.ttl is not None]
    require(
        len(lives) <= MOST_BREAKPOINTS,
        f"A maximum of {MOST_BREAKPOINTS} blocks with cache_control may be provided. "
        f"Found {len(lives)}.",
    )
    require(
        lives == sorted(lives),
        "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block",
    )


def _check_settings(body: Json) -> None:
    for key in ("temperature", "top_p", "top_k"):
        require(key not in body, f"`{key}` is not supported in this version of the API")
    stops = body.get("stop_sequences", [])
    right = isinstance(stops, list) and all(isinstance(one, str) for one in stops)
    require(right, "stop_sequences: Input should be a list of strings")
    require(all(one.strip() for one in stops), "stop_sequences: each must contain non-whitespace")
    metadata = body.get("metadata", {})
    require(
        isinstance(metadata, dict) and metadata.keys() <= {"user_id"},
        "metadata: Extra inputs are not permitted",
    )
    tier = body.get("service_tier", "auto")
    require(tier in ("auto", "standard_only"), "service_tier: 'auto' or 'standard_only'")
    require(isinstance(body.get("stream", False), bool), "stream: Input should be a boolean")


def _check_thinking(body: Json) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    require(isinstance(thinking, dict), "thinking: Input should be an object")
    kind = thinking.get("type")
    known = THINKING.get(body["model"], {"adaptive", "disabled", "enabled"})
    require(kind in known, f'"thinking.type.{kind}" is not supported for this model')
    keys = {"enabled": {"type", "budget_tokens", "display"}, "adaptive": {"type", "display"}}
    require(thinking.keys() <= keys.get(kind, {"type"}), "thinking: Extra inputs are not permitted")
    display = thinking.get("display")
    require(display in (None, "summarized", "omitted"), "thinking.display: not a display")
    if kind == "enabled":
        budget: Any = thinking.get("budget_tokens")
        require(_whole(budget) and budget >= 1024, "thinking.budget_tokens: at least 1024")
    if kind == "disabled" and body.get("output_config", {}).get("effort") in ("xhigh", "max"):
        refuse('"thinking.type.disabled" is not supported at this effort')


def _check_output(config: Any) -> None:
    require(isinstance(config, dict), "output_config: Input should be an object")
    require(config.keys() <= {"effort", "format"}, "output_config: Extra inputs are not permitted")
    effort = config.get("effort")
    require(effort is None or effort in EFFORTS, "output_config.effort: not an effort")
    shape = config.get("format")
    if shape is None:
        return
    right = isinstance(shape, dict) and shape.keys() == {"type", "schema"}
    require(right, "output_config.format: type and schema, nothing else")
    require(shape["type"] == "json_schema", "output_config.format.type: must be 'json_schema'")
    require(isinstance(shape["schema"], dict), "output_config.format.schema: must be an object")
    check_schema(shape["schema"], "output_config.format.schema")


def check_schema(schema: Any, where: str) -> None:
    """The subset of JSON Schema that structured outputs take."""
    require(isinstance(schema, dict), f"{where}: Input should be an object")
    for key in sorted(schema.keys() & UNSUPPORTED_SCHEMA):
        refuse(f"{where}: property '{key}' is not supported")
    require(schema.get("minItems", 0) in (0, 1), f"{where}: 'minItems' must be 0 or 1")
    if schema.get("type") == "object":
        closed = schema.get("additionalProperties") is False
        require(closed, f"{where}: 'additionalProperties' must be explicitly set to false")
    for name, inner in _inner_schemas(schema):
        check_schema(inner, f"{where}.{name}")


def _inner_schemas(schema: Json) -> Iterator[tuple[str, Any]]:
    for key in ("properties", "$defs", "definitions"):
        yield from schema.get(key, {}).items()
    if "items" in schema:
        yield "items", schema["items"]
    for key in ("anyOf", "allOf"):
        yield from ((f"{key}.{place}", one) for place, one in enumerate(schema.get(key, [])))


# What a request costs.


@dataclass(frozen=True)
class Price:
    """USD for a million tokens; a prompt above `long_over` tokens multiplies all of them."""

    input: float
    output: float
    cache_read: float
    write_5m: float
    write_1h: float
    long_over: int = 1 << 40
    long_factor: float = 1.0


PRICES = {
    "claude-haiku-5-5": Price(0.10, 0.50, 0.01, 0.125, 0.20, 100_000, 5.0),
    "claude-sonnet-5-5": Price(2.0, 10.0, 0.10, 2.5, 4.0),
    "claude-opus-5-5": Price(4.0, 20.0, 0.20, 5.0, 8.0),
}


def cost(usage: Json, price: Price, factor: float = 1.0) -> tuple[float, float]:
    """What the input and the output cost in USD."""
    written = usage["cache_creation"]
    given = (
        usage["input_tokens"]
        + usage["cache_read_input_tokens"]
        + usage["cache_creation_input_tokens"]
    )
    scale = factor * (price.long_factor if given > price.long_over else 1.0) / 1e6
    taken = (
        usage["input_tokens"] * price.input
        + usage["cache_read_input_tokens"] * price.cache_read
        + written["ephemeral_5m_input_tokens"] * price.write_5m
        + written["ephemeral_1h_input_tokens"] * price.write_1h
    )
    return taken * scale, usage["output_tokens"] * price.output * scale


@dataclass
class Part:
    """A block of the rendered prompt, where a prefix may end."""

    key: str
    text: str
    overhead: int = 0
    ttl: float | None = None


def parts(body: Json) -> list[Part]:
    """The prompt in the order in which the service renders it: schema, system, messages."""
    found = []
    shape = (body.get("output_config") or {}).get("format")
    if shape is not None:
        found.append(Part("format", canonical(shape)))
    found += [_part("system", block) for block in _blocks(body.get("system") or [])]
    mode = canonical([body.get("thinking"), (body.get("output_config") or {}).get("effort")])
    for place, turn in enumerate(body["messages"]):
        role = f"{turn['role']} {place} {mode}"
        inside = [_part(role, block) for block in _blocks(turn["content"])]
        inside[0].overhead = MESSAGE_TOKENS
        found += inside
    if body.get("cache_control") is not None and found[-1].ttl is None:
        found[-1].ttl = _life(body["cache_control"])
    return found


def _blocks(content: str | list[Json]) -> list[Json]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _part(key: str, block: Json) -> Part:
    return Part(key, block["text"], ttl=_life(block.get("cache_control")))


def _life(control: Json | None) -> float | None:
    """Negative seconds, so that sorting puts the long-lived first, as they must stand."""
    return None if control is None else -TTL[control.get("ttl", "5m")]


@dataclass
class Plan:
    """What a prompt reads from the cache, and what it will leave there."""

    read: int
    written: dict[float, int]
    plain: int
    entries: dict[str, float]

    def usage(self, output: int, thinking: int, tier: str) -> Json:
        return {
            "input_tokens": self.plain,
            "cache_creation_input_tokens": sum(self.written.values()),
            "cache_read_input_tokens": self.read,
            "cache_creation": {
                f"ephemeral_{name}_input_tokens": self.written[life] for name, life in TTL.items()
            },
            "output_tokens": output,
            "output_tokens_details": {"thinking_tokens": thinking},
            "server_tool_use": None,
            "service_tier": tier,
            "inference_geo": "not_available",
        }


class PromptCache:
    """Prefixes of prompts by hash, each with the time at which it is forgotten."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[float, float]] = {}

    def plan(
        self,
        model: str,
        prompt: list[Part],
        count: Callable[[str], int],
        minimum: int,
        now: float,
    ) -> Plan:
        names = self._names(model, prompt)
        ends = self._ends(prompt, count)
        marks = [place for place, part in enumerate(prompt) if part.ttl is not None]
        hit = self._longest(names, marks, now)
        for place in {*[mark for mark in marks if mark <= hit], hit} - {-1}:
            self._refresh(names[place], now)
        done = ends[hit] if hit >= 0 else 0
        plan = Plan(done, dict.fromkeys(TTL.values(), 0), 0, {})
        for mark in marks:
            if mark > hit and ends[mark] >= minimum:
                life = -(prompt[mark].ttl or 0.0)
                plan.written[life] += ends[mark] - done
                plan.entries[names[mark]] = life
                done = ends[mark]
        plan.plain = ends[-1] - done
        return plan

    def commit(self, plan: Plan, now: float) -> None:
        """The answer has begun: what it wrote can be read from now on."""
        for name, life in plan.entries.items():
            self.entries[name] = (now + life, life)

    def _names(self, model: str, prompt: list[Part]) -> list[str]:
        running = hashlib.sha256(model.encode())
        names = []
        for part in prompt:
            running.update(f"\0{part.key}\0{len(part.text)}\0{part.text}".encode())
            names.append(running.hexdigest())
        return names

    def _ends(self, prompt: list[Part], count: Callable[[str], int]) -> list[int]:
        ends, total = [], REQUEST_TOKENS
        for part in prompt:
            total += part.overhead + count(part.text)
            ends.append(total)
        return ends

    def _longest(self, names: list[str], marks: list[int], now: float) -> int:
        """From each breakpoint back over at most twenty blocks, itself being the first."""
        for mark in reversed(marks):
            for place in range(mark, max(-1, mark - LOOKBACK), -1):
                if self._alive(names[place], now):
                    return place
        return -1

    def _alive(self, name: str, now: float) -> bool:
        return name in self.entries and self.entries[name][0] > now

    def _refresh(self, name: str, now: float) -> None:
        if self._alive(name, now):
            life = self.entries[name][1]
            self.entries[name] = (now + life, life)


# What the model says.


@dataclass
class Answer:
    """A generation, complete."""

    text: str | None
    stop_reason: str
    output_tokens: int
    thinking: int = 0
    shown: str = ""
    stop_sequence: str | None = None
    stop_details: Json | None = None

    def content(self) -> list[Json]:
        blocks: list[Json] = []
        if self.thinking:
            sealed = hashlib.sha256(str(self.text).encode()).hexdigest()
            blocks.append({"type": "thinking", "thinking": self.shown, "signature": sealed})
        if self.text is not None:
            blocks.append({"type": "text", "text": self.text, "citations": None})
        return blocks

    def message(self, name: str, body: Json, usage: Json) -> Json:
        return {
            "id": name,
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": self.content(),
            "stop_reason": self.stop_reason,
            "stop_sequence": self.stop_sequence,
            "stop_details": self.stop_details,
            "usage": usage,
        }


@dataclass
class Asked:
    """A request for a message on its way, alone or as an item of a batch."""

    number: int
    body: Any
    exchange: Exchange | None = None
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    detail: str = ""
    usage: Json = field(default_factory=dict)
    factor: float = 1.0
    custom_id: str | None = None
    batch_id: str | None = None

    @property
    def connected(self) -> bool:
        return self.exchange is None or self.exchange.connected

    def facts(self) -> Json:
        """What the books say of it, whatever became of it."""
        body = self.body if isinstance(self.body, dict) else {}
        headers = self.exchange.headers if self.exchange is not None else {}
        return {
            "number": self.number,
            "hash": body_hash(body),
            "model": str(body.get("model", "")),
            "connected": self.connected,
            "usage": self.usage,
            "stream": bool(body.get("stream")),
            "retry": int(headers.get("x-stainless-retry-count", 0)),
            "custom_id": self.custom_id,
            "batch_id": self.batch_id,
        }


def default_reply(body: Json) -> str:
    """Plausible English that depends on the request, or a value valid by its schema."""
    shape = (body.get("output_config") or {}).get("format")
    if shape is None:
        return plausible(body_hash(body))
    return json.dumps(instance(shape["schema"], body_hash(body)))


@dataclass
class Batch:
    """A batch in its life: in progress, perhaps canceling, ended."""

    id: str
    items: list[Json]
    created: float
    hash: str
    polls: int = 0
    canceled: float | None = None
    ended: float | None = None
    results: list[Json] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class ClaudeServer(LocalServer):
    """The service: knobs in the constructor, books as attributes."""

    models: tuple[str, ...] = MODELS
    prices: dict[str, Price] = field(default_factory=lambda: dict(PRICES))
    min_cache: int | dict[str, int] = 1024
    thinking_tokens: int | Callable[[Json], int] = 0
    delta_seconds: float = 0.0
    batch_factor: float = 0.5
    batch_seconds: float = 0.0
    batch_polls: int = 0
    batch_parallel: int = 8
    batch_fault: Callable[[str, Json], str | None] | None = None
    cancel_done: float = 0.0

    cache: PromptCache = field(init=False, default_factory=PromptCache)
    batches: dict[str, Batch] = field(init=False, default_factory=dict)
    batch_creates: int = field(init=False, default=0)
    batch_hashes: list[str] = field(init=False, default_factory=list)

    # Where a request goes.

    async def route(self, exchange: Exchange) -> None:
        request_id = f"req_{self.requests:024d}"
        try:
            self._authorise(exchange)
            await self._dispatch(exchange, {"request-id": request_id})
        except ApiError as error:
            headers = {"request-id": request_id, **error.headers}
            exchange.send(error.status, error.body(request_id), headers)

    def _authorise(self, exchange: Exchange) -> None:
        key = api_key(exchange)
        if not key or key == "wrong-key":
            raise ApiError(401, "authentication_error", self._told("invalid API key", key))
        if exchange.headers.get("anthropic-version") not in VERSIONS:
            refuse(self._told("anthropic-version: header is required", key))

    def _told(self, message: str, key: str) -> str:
        return f"{message} (key: {key})" if self.echo_key else message

    async def _dispatch(self, exchange: Exchange, headers: dict[str, str]) -> None:
        steps = exchange.path.strip("/").split("/")
        match [exchange.method, *steps]:
            case ["POST", "v1", "messages"]:
                await self._create(exchange, headers)
            case ["POST", "v1", "messages", "count_tokens"]:
                exchange.send(200, self._count_tokens(self._read(exchange)), headers)
            case [method, "v1", "messages", "batches", *rest]:
                self._batches(exchange, method, rest, headers)
            case ["GET", "v1", "models", *rest] if len(rest) < 2:
                exchange.send(200, self._models(rest), headers)
            case _:
                raise ApiError(404, "not_found_error", f"{exchange.method} {exchange.path}")

    def _read(self, exchange: Exchange, limit: int = 32) -> Any:
        if len(exchange.body) > limit * MEGABYTE:
            raise ApiError(413, "request_too_large", "Request exceeds the maximum size")
        if "application/json" not in exchange.headers.get("content-type", ""):
            refuse("content-type: must be application/json")
        try:
            return json.loads(exchange.body)
        except ValueError:
            refuse("The request body is not valid JSON")

    def _models(self, rest: list[str]) -> Json:
        found = [
            {
                "id": name,
                "type": "model",
                "display_name": name.replace("-", " ").title(),
                "created_at": "2026-10-07T00:00:00Z",
                "lifecycle": "active",
                "max_tokens": MOST_OUTPUT,
            }
            for name in self.models
        ]
        if not rest:
            ends = {"first_id": self.models[0], "last_id": self.models[-1]}
            return {"data": found, "has_more": False, **ends}
        for one in found:
            if one["id"] == rest[0]:
                return one
        raise ApiError(404, "not_found_error", f"model: {rest[0]}")

    def _count_tokens(self, body: Any) -> Json:
        check_message(body, self.models, COUNTED_PARAMETERS)
        total = sum(part.overhead + self.counted(part.text) for part in parts(body))
        return {"input_tokens": REQUEST_TOKENS + total}

    # One message.

    async def _create(self, exchange: Exchange, headers: dict[str, str]) -> None:
        asked = Asked(self.messages, {}, exchange, headers)
        self.messages += 1
        try:
            self._accept(asked, exchange)
        except ApiError as error:
            self._note(asked, error.kind, status=error.status)
            raise
        self.enter()
        try:
            await self._generate(asked, exchange)
        finally:
            self.leave()

    def _accept(self, asked: Asked, exchange: Exchange) -> None:
        """Everything that may stand against an answer, what is wrong with the request first."""
        asked.body = self._read(exchange)
        self.bodies.append(asked.body)
        try:
            check_message(asked.body, self.models)
        except ApiError as error:
            error.message = self._told(error.message, api_key(exchange))
            raise
        if self.too_many():
            raise self._limited("", "Number of concurrent connections or requests exceeded")
        asked.fault, asked.detail = self.next_fault(asked.number, asked.body)
        self._fail(asked.fault, asked.detail)

    def _limited(self, seconds: str, message: str) -> ApiError:
        wait = {"retry-after": seconds or f"{self.retry_after:g}"}
        return ApiError(429, "rate_limit_error", message, wait)

    def _fail(self, fault: str, detail: str) -> None:
        """The faults that are errors of the service, before anything is generated."""
        if fault == "429":
            raise self._limited(detail, "This request would exceed your rate limit")
        if fault == "spend_limit":
            code = {"error_code": "enforced_spend_limit_reached"}
            message = "You have reached your usage limit for this month"
            raise ApiError(429, "rate_limit_error", message, details=code)
        if fault in STATUS_FAULTS:
            kind = STATUS_FAULTS[fault]
            message = "Overloaded" if fault == "529" else detail or kind
            raise ApiError(int(fault), kind, message)

    async def _generate(self, asked: Asked, exchange: Exchange) -> None:
        """Bill before the answer leaves, so that a client that has it finds it in the books."""
        if asked.fault == "cut_before":
            self._note(asked, asked.fault, status=None)
            exchange.drop()
            return
        plan, message = self._compose(asked, str(asked.number), "standard")
        if not await exchange.pause(self.seconds(asked.body)):
            self._settle(asked, plan, "disconnected")
        elif asked.body.get("stream"):
            await self._stream(asked, exchange, plan, message)
        else:
            named = asked.fault in ("timeout", "cut", "invalid_json")
            self._settle(asked, plan, asked.fault if named else message["stop_reason"])
            await deliver(exchange, asked.fault, message, asked.headers)

    def _compose(self, asked: Asked, name: str, tier: str) -> tuple[Plan, Json]:
        """The whole message; what it reads from the cache is decided when it is asked for."""
        body, least = asked.body, self.min_cache
        if isinstance(least, dict):
            least = least.get(body["model"], 1024)
        prompt = parts(body)
        plan = self.cache.plan(body["model"], prompt, self.counted, least, self.clock())
        answer = self._answer(body, asked.fault, asked.detail)
        asked.usage = plan.usage(answer.output_tokens, answer.thinking, tier)
        return plan, answer.message(f"msg_{name}_{body_hash(body)[:16]}", body, asked.usage)

    def _settle(self, asked: Asked, plan: Plan, outcome: str) -> None:
        """Write the books: an answer that nobody waited for is billed as the knob says."""
        billed = asked.connected or self.bill_disconnected
        if billed:
            self.cache.commit(plan, self.clock())
        status = None if outcome in ("timeout", "disconnected") else 200
        self._note(asked, outcome, status=status, billed=billed)

    def _note(
        self, asked: Asked, outcome: str, *, status: int | None = 200, billed: bool = False
    ) -> None:
        taken = made = 0.0
        if billed:
            taken, made = cost(asked.usage, self.prices[asked.body["model"]], asked.factor)
        facts: Json = {"outcome": outcome, "status": status, "billed": billed}
        self.calls.append(Call(**asked.facts(), **facts, usd=taken + made, input_usd=taken))

    def _answer(self, body: Json, fault: str, detail: str) -> Answer:
        """The model's words, ended as the request or the fault has it."""
        limit = body.get("max_tokens", MOST_OUTPUT)
        thinking = min(self._thoughts(body), limit)
        if fault == "refusal":
            return self._refusal(detail)
        if fault == "empty":
            return Answer(None, "end_turn", 1)
        text = (self.reply or default_reply)(body)
        if fault == "malformed":
            text = detail or ('{"unexpected": true}' if body.get("output_config") else "}} ## %")
        answer = self._ended(text, body, limit - thinking)
        if fault == "truncated":
            answer = Answer(text[: len(text) // 2], "max_tokens", limit - thinking)
        if thinking:
            answer.thinking, answer.shown = thinking, self._shown(body)
            answer.output_tokens += thinking
            if thinking == limit:
                answer.text, answer.output_tokens = None, limit
        return answer

    def _refusal(self, partial: str) -> Answer:
        details = {
            "type": "refusal",
            "category": "general_harms",
            "explanation": "This request was declined.",
        }
        text = partial or None
        return Answer(text, "refusal", max(1, self.counted(partial)), stop_details=details)

    def _ended(self, text: str, body: Json, limit: int) -> Answer:
        found = [(text.find(stop), stop) for stop in body.get("stop_sequences", []) if stop in text]
        place, stop = min(found, default=(len(text), None))
        text = text[:place]
        used = self.counted(text)
        if used > limit:
            return Answer(cut_to(text, limit, self.count), "max_tokens", limit)
        reason = "end_turn" if stop is None else "stop_sequence"
        return Answer(text or None, reason, max(1, used), stop_sequence=stop)

    def _thoughts(self, body: Json) -> int:
        """Models of the fifth generation think unless told not to."""
        if (body.get("thinking") or {}).get("type") in ("disabled", "between_tools"):
            return 0
        wanted = self.thinking_tokens
        return wanted(body) if callable(wanted) else wanted

    def _shown(self, body: Json) -> str:
        shown = (body.get("thinking") or {}).get("display") == "summarized"
        return "Weighing what was asked." if shown else ""

    # The same message as events.

    async def _stream(self, asked: Asked, exchange: Exchange, plan: Plan, message: Json) -> None:
        self.cache.commit(plan, self.clock())
        if asked.fault == "timeout":
            self._settle(asked, plan, asked.fault)
            await exchange.gone.wait()
            return
        kind = {"content-type": "text/event-stream; charset=utf-8"}
        exchange.begin(200, {**kind, **asked.headers})
        if not await self._told_all(exchange, asked.fault, message):
            self._break(asked, exchange, plan)
            return
        self._settle(asked, plan, message["stop_reason"])
        for event in closing_events(message):
            exchange.write(rendered(event))
        exchange.finish()

    async def _told_all(self, exchange: Exchange, fault: str, message: Json) -> bool:
        """Send the content; False if the client went, or the fault ends it half-way."""
        events = list(content_events(message))
        half = 0 if fault == "wordless" else 3 + (len(events) - 3) // 2
        breaks = fault in ("cut", "stream_error", "invalid_json", "wordless")
        for place, event in enumerate(events):
            if breaks and place >= half:
                return False
            exchange.write(rendered(event))
            if not await exchange.pause(self.delta_seconds):
                return False
        return not breaks

    def _break(self, asked: Asked, exchange: Exchange, plan: Plan) -> None:
        """End a stream half-way; an error that the service reports is not billed."""
        if exchange.connected and asked.fault == "stream_error":
            self._note(asked, asked.fault)
            error = ApiError(529, "overloaded_error", "Overloaded")
            exchange.write(rendered(error.body(asked.headers["request-id"])))
            exchange.finish()
            return
        self._settle(asked, plan, asked.fault if exchange.connected else "disconnected")
        if asked.fault == "invalid_json":
            exchange.write(b'event: content_block_delta\ndata: {"type":\n\n')
        if asked.fault in ("invalid_json", "wordless"):
            exchange.finish()
        exchange.drop()

    # Batches.

    def _batches(
        self, exchange: Exchange, method: str, rest: list[str], headers: dict[str, str]
    ) -> None:
        match [method, *rest]:
            case ["POST"]:
                payload: Any = self._create_batch(self._read(exchange, 256))
            case ["GET"]:
                payload = self._list_batches(exchange.query)
            case ["GET", name]:
                payload = self._shown_batch(self._polled(self._batch(name)))
            case ["POST", name, "cancel"]:
                payload = self._shown_batch(self._cancel(self._batch(name)))
            case ["GET", name, "results"]:
                payload = self._results(self._batch(name))
                headers = {"content-type": "application/x-jsonl", **headers}
            case ["DELETE", name]:
                payload = self._delete(self._batch(name))
            case _:
                raise ApiError(404, "not_found_error", f"{method} {exchange.path}")
        exchange.send(200, payload, headers)

    def _batch(self, name: str) -> Batch:
        if name not in self.batches:
            raise ApiError(404, "not_found_error", f"Message Batch with id {name} not found")
        return self.batches[name]

    def _create_batch(self, body: Any) -> Json:
        check_batch(body)
        name = f"msgbatch_{self.batch_creates:024d}"
        batch = Batch(name, body["requests"], self.clock(), body_hash(body))
        self.batch_creates += 1
        self.batch_hashes.append(batch.hash)
        self.batches[name] = batch
        self.bodies.extend(item["params"] for item in batch.items)
        return self._shown_batch(batch)

    def _polled(self, batch: Batch) -> Batch:
        """Being asked about is one of the two things that let a batch end; time is the other."""
        self._end_if_due(batch)
        batch.polls += 1
        return batch

    def _end_if_due(self, batch: Batch) -> None:
        if batch.ended is not None:
            return
        waited = self.clock() - batch.created
        late = waited >= DAY
        due = batch.polls >= self.batch_polls and waited >= self.batch_seconds
        if due or late or batch.canceled is not None:
            batch.ended = self.clock()
            self._process(batch, "expired" if late and not due else "")

    def _process(self, batch: Batch, instead: str) -> None:
        """Some at a time: what one item writes into the cache, the next group reads."""
        done = len(batch.items)
        if batch.canceled is not None:
            done = int(done * self.cancel_done)
        for start in range(0, len(batch.items), self.batch_parallel):
            written: list[Plan] = []
            for place in range(start, min(start + self.batch_parallel, len(batch.items))):
                other = instead or ("canceled" if place >= done else "")
                result = self._item(batch, batch.items[place], other, written)
                line = {"custom_id": batch.items[place]["custom_id"], "result": result}
                batch.results.append(line)
            for plan in written:
                self.cache.commit(plan, self.clock())
        _shuffle(batch.results, batch.id)

    def _item(self, batch: Batch, item: Json, instead: str, written: list[Plan]) -> Json:
        name, params = item["custom_id"], item["params"]
        asked = Asked(-1, params, fault=instead, custom_id=name, batch_id=batch.id)
        asked.factor = self.batch_factor
        if not instead and self.batch_fault is not None:
            asked.fault, _, asked.detail = (self.batch_fault(name, params) or "").partition(":")
        if asked.fault in ("expired", "canceled"):
            self._note(asked, asked.fault, status=None)
            return {"type": asked.fault}
        try:
            if asked.fault == "errored":
                raise ApiError(500, asked.detail or "api_error", "Internal server error")
            check_message(params, self.models)
        except ApiError as error:
            self._note(asked, error.kind, status=error.status)
            return {"type": "errored", "error": error.body(f"req_{name}")}
        plan, message = self._compose(asked, name, "batch")
        written.append(plan)
        self._note(asked, message["stop_reason"], billed=True)
        return {"type": "succeeded", "message": message}

    def _shown_batch(self, batch: Batch) -> Json:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        for line in batch.results:
            counts[line["result"]["type"]] += 1
        status = "in_progress" if batch.canceled is None else "canceling"
        if batch.ended is None:
            counts["processing"] = len(batch.items)
        else:
            status = "ended"
        results = f"{self.url}/v1/messages/batches/{batch.id}/results"
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": counts,
            "created_at": _moment(batch.created),
            "expires_at": _moment(batch.created + DAY),
            "ended_at": _moment(batch.ended),
            "cancel_initiated_at": _moment(batch.canceled),
            "archived_at": None,
            "results_url": results if batch.ended is not None else None,
        }

    def _list_batches(self, query: dict[str, str]) -> Json:
        limit = query.get("limit", "20")
        require(limit.isdigit() and 1 <= int(limit) <= 1000, "limit: between 1 and 1000")
        names = list(reversed(self.batches))
        more = False
        if "before_id" in query:
            earlier = names[: names.index(self._batch(query["before_id"]).id)]
            page, more = earlier[-int(limit) :], len(earlier) > int(limit)
        else:
            start = 0
            if "after_id" in query:
                start = names.index(self._batch(query["after_id"]).id) + 1
            page, more = names[start:][: int(limit)], len(names) - start > int(limit)
        data = [self._shown_batch(self.batches[name]) for name in page]
        ends = {"first_id": page[0], "last_id": page[-1]} if page else {}
        return {"data": data, "has_more": more, "first_id": None, "last_id": None, **ends}

    def _cancel(self, batch: Batch) -> Batch:
        if batch.canceled is None:
            self._end_if_due(batch)
        require(batch.ended is None, f"Batch {batch.id} has ended and cannot be canceled")
        batch.canceled = batch.canceled or self.clock()
        return batch

    def _results(self, batch: Batch) -> bytes:
        self._end_if_due(batch)
        if batch.ended is None:
            message = f"Batch {batch.id} has no available results: it has not ended"
            raise ApiError(404, "not_found_error", message)
        return b"".join(json.dumps(line).encode() + b"\n" for line in batch.results)

    def _delete(self, batch: Batch) -> Json:
        self._end_if_due(batch)
        require(batch.ended is not None, f"Batch {batch.id} is in progress: cancel it first")
        del self.batches[batch.id]
        return {"id": batch.id, "type": "message_batch_deleted"}

    # The books.

    def books(self) -> Json:
        names = {"batch_creates": self.batch_creates, "batch_hashes": self.batch_hashes}
        return {**super().books(), **names}

    def reset(self) -> None:
        super().reset()
        self.batch_creates = len(self.batches)
        self.batch_hashes.clear()


def check_batch(body: Any) -> None:
    """A batch is refused as a whole for its own shape only; its requests are read later."""
    require(isinstance(body, dict), "Input should be an object")
    for key in sorted(body.keys() - {"requests"}):
        refuse(f"{key}: Extra inputs are not permitted")
    items = body.get("requests")
    require(isinstance(items, list), "requests: Field required")
    require(1 <= len(items) <= 100_000, "requests: between 1 and 100000 items")
    seen: set[str] = set()
    for place, item in enumerate(items):
        where = f"requests.{place}"
        right = isinstance(item, dict) and item.keys() == {"custom_id", "params"}
        require(right, f"{where}: custom_id and params, nothing else")
        name = item["custom_id"]
        right = isinstance(name, str) and CUSTOM_ID.fullmatch(name) is not None
        require(right, f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        require(name not in seen, f"{where}.custom_id: '{name}' is not unique in the batch")
        seen.add(name)
        require(isinstance(item["params"], dict), f"{where}.params: Input should be an object")
        require(not item["params"].get("stream"), f"{where}.params.stream: not in a batch")


def _shuffle(lines: list[Json], seed: str) -> None:
    """Another order than the one asked in, whenever there is another."""
    before = list(lines)
    random.Random(seed).shuffle(lines)
    if len(lines) > 1 and lines == before:
        lines.append(lines.pop(0))


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def rendered(event: Json) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def content_events(message: Json) -> Iterator[Json]:
    """The beginning of a streamed message and all that it says."""
    unsaid: Json = {"content": [], "stop_reason": None, "stop_sequence": None, "stop_details": None}
    started = {**message, **unsaid, "usage": {**message["usage"], "output_tokens": 1}}
    yield {"type": "message_start", "message": started}
    for place, block in enumerate(message["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "thinking": ""}
        if block["type"] == "thinking":
            empty["signature"] = ""
        yield {"type": "content_block_start", "index": place, "content_block": empty}
        if place == 0:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": place, "delta": delta}
        yield {"type": "content_block_stop", "index": place}


def _deltas(block: Json) -> Iterator[Json]:
    if block["type"] == "thinking":
        yield {"type": "thinking_delta", "thinking": block["thinking"]}
        yield {"type": "signature_delta", "signature": block["signature"]}
        return
    for piece in re.findall(r"\s*\S+\s*", block["text"]) or [block["text"]]:
        yield {"type": "text_delta", "text": piece}


def closing_events(message: Json) -> Iterator[Json]:
    ending = {key: message[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
    names = (
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "output_tokens",
        "output_tokens_details",
    )
    usage = {name: message["usage"][name] for name in names}
    yield {"type": "message_delta", "delta": ending, "usage": usage}
    yield {"type": "message_stop"}


def main() -> None:
    parser = knob_parser(__doc__)
    for name in ("delta-seconds", "batch-seconds", "cancel-done"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("batch-polls", "thinking-tokens", "min-cache"):
        parser.add_argument(f"--{name}", type=int)
    serve(ClaudeServer(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
