"""OpenAI's Chat Completions and Ollama's chat as documented, both on one local port."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
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

MODELS = ("gpt-5.6-mini", "local-coach")
OLLAMA_MODELS = ("gemma3:1b", "coach:latest")
ROLES = ("system", "user", "assistant")
MESSAGE_TOKENS = 4
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CREATED = 1_790_000_000
CHAT_KEYS = {
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
    "n",
    "response_format",
    "stream",
    "user",
    "metadata",
    "store",
    "frequency_penalty",
    "presence_penalty",
    "reasoning_effort",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
    "verbosity",
}
OLLAMA_KEYS = {"model", "messages", "stream", "options", "format", "keep_alive", "think", "tools"}
OPTIONS: dict[str, Any] = {
    "num_predict": int,
    "temperature": (int, float),
    "num_ctx": int,
    "seed": int,
    "top_p": (int, float),
    "top_k": int,
    "repeat_penalty": (int, float),
    "stop": list,
}
STATUS_FAULTS = {"400", "401", "403", "429", "500", "503"}


class Refused(Exception):
    """An answer that is an error, in the words of either service."""

    def __init__(self, status: int, message: str, kind: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind or "invalid_request_error"
        self.code = code


def refuse(message: str) -> NoReturn:
    raise Refused(400, message)


def require(condition: object, message: str) -> None:
    if not condition:
        refuse(message)


def check_turns(turns: Any) -> None:
    require(isinstance(turns, list) and turns, "'messages' must be a non-empty array")
    for place, turn in enumerate(turns):
        right = isinstance(turn, dict) and turn.keys() == {"role", "content"}
        require(right, f"messages[{place}]: role and content, nothing else")
        require(turn["role"] in ROLES, f"messages[{place}].role: one of {', '.join(ROLES)}")
        right = isinstance(turn["content"], str) and turn["content"] != ""
        require(right, f"messages[{place}].content: a non-empty string")


def check_chat(body: Any) -> None:
    """Refuse what Chat Completions would, and what this server would not mean."""
    require(isinstance(body, dict), "We could not parse the JSON body of your request.")
    for key in sorted(body.keys() - CHAT_KEYS):
        refuse(f"Unrecognized request argument supplied: {key}")
    require(isinstance(body.get("model"), str), "you must provide a model parameter")
    check_turns(body.get("messages"))
    require(not body.get("stream"), "stream: not served here")
    require(body.get("n", 1) == 1, "n: only 1 is served here")
    for key in ("max_tokens", "max_completion_tokens"):
        limit = body.get(key, 1)
        require(isinstance(limit, int) and limit >= 1, f"{key}: an integer of at least 1")
    check_format(body.get("response_format"))


def check_format(shape: Any) -> None:
    if shape is None:
        return
    kind = shape.get("type") if isinstance(shape, dict) else None
    require(kind in ("text", "json_object", "json_schema"), "response_format.type: unknown")
    if kind != "json_schema":
        require(shape.keys() == {"type"}, "response_format: unknown keys")
        return
    inner = shape.get("json_schema")
    require(isinstance(inner, dict), "response_format.json_schema: missing")
    right = inner.keys() <= {"name", "description", "schema", "strict"}
    require(right, "response_format.json_schema: unknown keys")
    require(NAME.fullmatch(str(inner.get("name", ""))), "response_format.json_schema.name: invalid")
    require(isinstance(inner.get("schema"), dict), "response_format.json_schema.schema: missing")
    if inner.get("strict"):
        check_strict(inner["schema"])


def check_strict(schema: Json) -> None:
    """In strict mode every object is closed and every property is required."""
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        closed = schema.get("additionalProperties") is False
        require(closed, "'additionalProperties' is required to be supplied and to be false")
        require(
            set(schema.get("required", [])) == set(properties),
            "'required' is required to be an array including every key in properties",
        )
    for inner in [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]:
        check_strict(inner)
    if isinstance(schema.get("items"), dict):
        check_strict(schema["items"])


def check_ollama(body: Any) -> None:
    require(isinstance(body, dict), "missing request body")
    for key in sorted(body.keys() - OLLAMA_KEYS):
        refuse(f"unknown field: {key}")
    require(isinstance(body.get("model"), str) and body["model"], "model is required")
    check_turns(body.get("messages"))
    require(body.get("stream") is False, "stream: only false is served here")
    require(not body.get("tools"), "tools: not served here")
    options = body.get("options") or {}
    for name, value in options.items():
        require(name in OPTIONS, f"invalid option provided: {name}")
        require(isinstance(value, OPTIONS[name]), f"option {name} has the wrong type")
    shape = body.get("format")
    right = shape in (None, "", "json") or isinstance(shape, dict)
    require(right, "invalid format: expected an object, or 'json'")


def schema_of(body: Json) -> Json | None:
    """The schema that the reply must follow, whichever service was asked."""
    if isinstance(body.get("format"), dict):
        return dict(body["format"])
    shape = body.get("response_format") or {}
    return shape["json_schema"]["schema"] if shape.get("type") == "json_schema" else None


def default_reply(body: Json) -> str:
    schema, name = schema_of(body), body_hash(body)
    if schema is not None:
        return json.dumps(instance(schema, name))
    wants_json = body.get("format") == "json"
    wants_json |= (body.get("response_format") or {}).get("type") == "json_object"
    return json.dumps({"reply": plausible(name)}) if wants_json else plausible(name)


@dataclass(kw_only=True, eq=False)
class OpenAIServer(LocalServer):
    """Both services: `.url + "/v1"` is the base of OpenAI's, `.url` is Ollama's host."""

    models: tuple[str, ...] = MODELS
    ollama_models: tuple[str, ...] = OLLAMA_MODELS
    thinking_models: tuple[str, ...] = ()
    min_cache: int = 1024
    default_context: int = 4096
    prices: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    digest: Callable[[str], str] = lambda name: hashlib.sha256(name.encode()).hexdigest()

    seen: set[str] = field(init=False, default_factory=set)

    async def route(self, exchange: Exchange) -> None:
        headers = {"x-request-id": f"req_{self.requests:024d}"}
        ollama = exchange.path.startswith("/api/")
        try:
            if ollama:
                await self._ollama(exchange)
            else:
                await self._openai(exchange, headers)
        except Refused as error:
            if error.status == 429:
                headers["retry-after"] = f"{self.retry_after:g}"
            full = {
                "message": error.message,
                "type": error.kind,
                "param": None,
                "code": error.code,
            }
            exchange.send(error.status, {"error": error.message if ollama else full}, headers)

    async def _openai(self, exchange: Exchange, headers: dict[str, str]) -> None:
        self._authorise(exchange)
        match exchange.method, exchange.path:
            case "GET", "/v1/models":
                exchange.send(200, {"object": "list", "data": self._listed()}, headers)
            case "POST", "/v1/chat/completions":
                await self._answer(exchange, headers, check_chat, self.models, self._completion)
            case _:
                raise Refused(404, f"Invalid URL ({exchange.method} {exchange.path})")

    def _authorise(self, exchange: Exchange) -> None:
        key = exchange.headers.get("authorization", "").removeprefix("Bearer").strip()
        if not key or key == "wrong-key":
            told = f"Incorrect API key provided: {key}" if self.echo_key else "Incorrect API key"
            raise Refused(401, told, code="invalid_api_key")

    def _listed(self) -> list[Json]:
        facts = {"object": "model", "created": CREATED, "owned_by": "local"}
        return [{"id": name, **facts} for name in self.models]

    async def _ollama(self, exchange: Exchange) -> None:
        match exchange.method, exchange.path:
            case "GET", "/api/version":
                exchange.send(200, {"version": "0.14.2"})
            case "GET", "/api/tags":
                exchange.send(200, {"models": [self._tag(one) for one in self.ollama_models]})
            case "POST", "/api/show":
                exchange.send(200, self._shown(json.loads(exchange.body).get("model", "")))
            case "POST", "/api/chat":
                names = (*self.ollama_models, *self._short_names())
                await self._answer(exchange, {}, check_ollama, names, self._chat)
            case _:
                raise Refused(404, "404 page not found")

    def _short_names(self) -> tuple[str, ...]:
        """`coach` means `coach:latest`."""
        return tuple(name.removesuffix(":latest") for name in self.ollama_models)

    def _tag(self, name: str) -> Json:
        return {
            "name": name,
            "model": name,
            "modified_at": "2026-11-01T10:00:00Z",
            "size": 815_319_791,
            "digest": self.digest(name),
            "details": self._details(),
        }

    def _details(self) -> Json:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": "gemma3",
            "families": ["gemma3"],
            "parameter_size": "999.89M",
            "quantization_level": "Q4_K_M",
        }

    def _shown(self, name: str) -> Json:
        if name not in (*self.ollama_models, *self._short_names()):
            raise Refused(404, f"model '{name}' not found")
        return {
            "modelfile": f"FROM {name}",
            "parameters": "",
            "template": "{{ .Prompt }}",
            "details": self._details(),
            "model_info": {"general.architecture": "gemma3", "gemma3.context_length": 32768},
            "capabilities": ["completion"],
            "modified_at": "2026-11-01T10:00:00Z",
        }

    # A reply, for either service.

    async def _answer(
        self,
        exchange: Exchange,
        headers: dict[str, str],
        check: Callable[[Any], None],
        models: tuple[str, ...],
        render: Callable[[Json, str, str], tuple[Json, Json]],
    ) -> None:
        number = self.messages
        body: Json = {}
        self.messages += 1
        try:
            body, fault, detail = self._begin(number, exchange, check, models)
        except Refused as error:
            self._note(number, body, exchange, error.message, status=error.status)
            raise
        self.enter()
        try:
            await self._deliver(number, body, exchange, headers, fault, detail, render)
        finally:
            self.leave()

    def _begin(
        self,
        number: int,
        exchange: Exchange,
        check: Callable[[Any], None],
        models: tuple[str, ...],
    ) -> tuple[Json, str, str]:
        try:
            body = json.loads(exchange.body)
        except ValueError:
            refuse("We could not parse the JSON body of your request.")
        self.bodies.append(body)
        check(body)
        self._check_model(body, models, exchange.path)
        if self.too_many():
            raise Refused(429, "Rate limit reached for requests", "requests", "rate_limit_exceeded")
        fault, detail = self.next_fault(number, body)
        if fault in STATUS_FAULTS:
            kind = "server_error" if int(fault) >= 500 else "requests"
            raise Refused(int(fault), detail or "The server had an error", kind)
        return body, fault, detail

    def _check_model(self, body: Json, models: tuple[str, ...], path: str) -> None:
        name = body["model"]
        if name not in models:
            ollama = path.startswith("/api/")
            told = f"model '{name}' not found" if ollama else f"The model `{name}` does not exist"
            raise Refused(404, told, code="model_not_found")
        if body.get("think") and name not in self.thinking_models:
            refuse(f'"{name}" does not support thinking')

    async def _deliver(
        self,
        number: int,
        body: Json,
        exchange: Exchange,
        headers: dict[str, str],
        fault: str,
        detail: str,
        render: Callable[[Json, str, str], tuple[Json, Json]],
    ) -> None:
        if fault == "cut_before":
            self._note(number, body, exchange, fault)
            exchange.drop()
            return
        payload, usage = render(body, fault, detail)
        present = await exchange.pause(self.seconds(body))
        outcome = payload.get("done_reason") or payload["choices"][0]["finish_reason"]
        outcome = fault if fault in ("timeout", "cut", "invalid_json") else outcome
        outcome = outcome if present else "disconnected"
        billed = present or self.bill_disconnected
        self._note(number, body, exchange, outcome, usage=usage, status=200, billed=billed)
        if present:
            await deliver(exchange, fault, payload, headers)

    def _note(
        self,
        number: int,
        body: Any,
        exchange: Exchange,
        outcome: str,
        *,
        usage: Json | None = None,
        status: int | None = None,
        billed: bool = False,
    ) -> None:
        body, usage = body if isinstance(body, dict) else {}, usage or {}
        taken, made = self._cost(str(body.get("model", "")), usage) if billed else (0.0, 0.0)
        self.calls.append(
            Call(
                number=number,
                hash=body_hash(body),
                model=str(body.get("model", "")),
                outcome=outcome,
                status=status,
                billed=billed,
                connected=exchange.connected,
                usage=usage,
                usd=taken + made,
                input_usd=taken,
                retry=int(exchange.headers.get("x-stainless-retry-count", 0)),
            )
        )

    def _cost(self, model: str, usage: Json) -> tuple[float, float]:
        """USD for input and output; a model without a price is free, as a local one is."""
        fresh, reused, made = self.prices.get(model, (0.0, 0.0, 0.0))
        cached = usage.get("cached", 0)
        taken = (usage["prompt"] - cached) * fresh + cached * reused
        return taken / 1e6, usage["completion"] * made / 1e6

    def _said(self, body: Json, fault: str, detail: str, limit: int | None) -> tuple[str, bool]:
        """The text, and whether it was cut short."""
        if fault == "empty":
            return "", False
        text = (self.reply or default_reply)(body)
        if fault == "malformed":
            text = detail or '{"unexpected": true}'
        if fault == "truncated":
            return text[: len(text) // 2], True
        if limit is not None and self.counted(text) > limit:
            return cut_to(text, limit, self.count), True
        return text, False

    def _prompt(self, body: Json) -> int:
        return sum(MESSAGE_TOKENS + self.counted(turn["content"]) for turn in body["messages"])

    def _cached(self, body: Json) -> int:
        """Tokens of the longest beginning seen before, in steps of 128 above a minimum."""
        best = total = 0
        for end, turn in enumerate(body["messages"], 1):
            total += MESSAGE_TOKENS + self.counted(turn["content"])
            name = canonical([body["model"], body["messages"][:end]])
            if name in self.seen and total >= self.min_cache:
                best = total // 128 * 128
            self.seen.add(name)
        return best

    def _completion(self, body: Json, fault: str, detail: str) -> tuple[Json, Json]:
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        text, short = self._said(body, fault, detail, limit)
        refused = "I can't help with that." if fault == "refusal" else None
        reason = "length" if short else "stop"
        if fault == "content_filter":
            text, reason = "", "content_filter"
        usage = {
            "prompt": self._prompt(body),
            "completion": self.counted(refused or text),
            "cached": self._cached(body),
        }
        message: Json = {
            "role": "assistant",
            "content": None if refused else text,
            "refusal": refused,
            "annotations": [],
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return _openai_payload(body, choice, usage), usage

    def _chat(self, body: Json, fault: str, detail: str) -> tuple[Json, Json]:
        """What does not fit into the context is silently left out, as Ollama does."""
        options = body.get("options") or {}
        limit = options.get("num_predict", -1)
        text, short = self._said(body, fault, detail, limit if limit >= 0 else None)
        context = options.get("num_ctx", self.default_context)
        usage = {"prompt": min(self._prompt(body), context), "completion": self.counted(text)}
        payload = {
            "model": body["model"],
            "created_at": "2026-11-01T10:00:00.000000Z",
            "message": {"role": "assistant", "content": text},
            "done": True,
            "done_reason": "length" if short else "stop",
            "total_duration": 1_000_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": usage["prompt"],
            "prompt_eval_duration": 100_000_000,
            "eval_count": usage["completion"],
            "eval_duration": 800_000_000,
        }
        return payload, usage


def _openai_payload(body: Json, choice: Json, usage: Json) -> Json:
    return {
        "id": f"chatcmpl-{body_hash(body)[:24]}",
        "object": "chat.completion",
        "created": CREATED,
        "model": body["model"],
        "choices": [choice],
        "usage": _openai_usage(usage),
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _openai_usage(usage: Json) -> Json:
    return {
        "prompt_tokens": usage["prompt"],
        "completion_tokens": usage["completion"],
        "total_tokens": usage["prompt"] + usage["completion"],
        "prompt_tokens_details": {"cached_tokens": usage["cached"], "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def main() -> None:
    parser = knob_parser(__doc__)
    serve(OpenAIServer(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
