"""The local services keep the promises of the real ones, as the official clients see them."""

import asyncio
import http.client
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx2
import ollama
import openai
import pytest
from claude_server import PRICES, ClaudeServer, Price
from local_http import count_pieces, cut_to
from openai_server import OpenAIServer

HAIKU = "claude-haiku-5-5"
SONNET = "claude-sonnet-5-5"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["low", "steady", "bright"]},
        "why": {"type": "string"},
        "turns": {"type": "array", "items": {"$ref": "#/$defs/turn"}},
    },
    "required": ["mood", "why", "turns"],
    "additionalProperties": False,
    "$defs": {
        "turn": {
            "type": "object",
            "properties": {"score": {"type": "integer"}},
            "required": ["score"],
            "additionalProperties": False,
        }
    },
}
STRUCTURED = {"format": {"type": "json_schema", "schema": SCHEMA}}


@asynccontextmanager
async def claude(server: ClaudeServer, **settings: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    chosen = {"max_retries": 0, "api_key": "test", "base_url": server.url, **settings}
    async with anthropic.AsyncAnthropic(**chosen) as client:
        yield client


def asked(**changes: Any) -> dict[str, Any]:
    """A proper request, and what a test changes in it."""
    plain = {
        "model": HAIKU,
        "max_tokens": 200,
        "messages": [{"role": "user", "content": "I slept badly."}],
    }
    return {**plain, **changes}


def ask(server: ClaudeServer, **changes: Any) -> anthropic.types.Message:
    async def work() -> anthropic.types.Message:
        async with claude(server) as client:
            return await client.messages.create(**asked(**changes))

    return asyncio.run(work())


def with_client(
    server: ClaudeServer, work: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]]
) -> Any:
    async def run() -> Any:
        async with claude(server) as client:
            return await work(client)

    return asyncio.run(run())


def post(server: ClaudeServer, body: Any, path: str = "/v1/messages") -> Any:
    """A request that the client's own types would not let through."""
    return with_client(server, lambda client: client.post(path, body=body, cast_to=object))


def words(count: int, letter: str = "a") -> str:
    """A text of exactly so many tokens."""
    return " ".join([letter * 3] * count)


def marked(text: str, **control: str) -> dict[str, Any]:
    cache_control = {"type": "ephemeral", **control}
    return {"type": "text", "text": text, "cache_control": cache_control}


# Answers.


def test_an_answer_has_the_shape_of_a_message_and_depends_on_the_request_alone() -> None:
    with ClaudeServer() as server:
        first, again = ask(server), ask(server)
        other = ask(server, max_tokens=100)
    assert first.stop_reason == "end_turn"
    assert first.content[0].type == "text"
    assert first.content == again.content != other.content
    assert first.usage.output_tokens == count_pieces(first.content[0].text)
    assert first.usage.input_tokens == 10 + 4 + count_pieces("I slept badly.")
    assert first._request_id is not None


def test_an_answer_longer_than_allowed_is_cut_by_the_servers_own_count() -> None:
    with ClaudeServer() as server:
        message = ask(server, max_tokens=7)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 7 == count_pieces(message.content[0].text)


def test_the_reply_and_the_count_are_pluggable() -> None:
    with ClaudeServer(reply=lambda body: "one STOP two", count=len) as server:
        message = ask(server, stop_sequences=["STOP"])
    assert message.content[0].text == "one "
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "STOP")
    assert message.usage.output_tokens == 4


def test_a_structured_answer_is_valid_by_its_schema() -> None:
    with ClaudeServer() as server:
        value = json.loads(ask(server, output_config=STRUCTURED).content[0].text)
    assert value.keys() == {"mood", "why", "turns"}
    assert value["mood"] in SCHEMA["properties"]["mood"]["enum"]
    assert isinstance(value["turns"][0]["score"], int)


def test_a_stream_accumulates_to_the_message_that_is_not_streamed() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> tuple[Any, str]:
        async with client.messages.stream(**asked()) as stream:
            text = "".join([piece async for piece in stream.text_stream])
            return await stream.get_final_message(), text

    with ClaudeServer() as server:
        message, text = with_client(server, work)
        whole = ask(server)
        assert server.calls[0].hash == server.calls[1].hash
        assert [call.stream for call in server.calls] == [True, False]
    assert text == whole.content[0].text == message.content[0].text
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert message.stop_reason == "end_turn"


def test_raw_events_come_in_the_documented_order() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> list[str]:
        stream = await client.messages.create(**asked(), stream=True)
        return [event.type async for event in stream]

    with ClaudeServer() as server:
        kinds = with_client(server, work)
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_delta") > 3


def test_thinking_comes_first_and_counts_towards_the_limit() -> None:
    with ClaudeServer(thinking_tokens=50) as server:
        plain = ask(server)
        shown = ask(server, thinking={"type": "adaptive", "display": "summarized"})
        none = ask(server, thinking={"type": "disabled"})
        spent = ask(server, max_tokens=30)
    assert [block.type for block in plain.content] == ["thinking", "text"]
    assert plain.content[0].thinking == "" != shown.content[0].thinking
    assert plain.usage.output_tokens_details.thinking_tokens == 50
    assert [block.type for block in none.content] == ["text"]
    assert ([block.type for block in spent.content], spent.stop_reason) == (
        ["thinking"],
        "max_tokens",
    )


def test_tokens_are_counted_without_a_bill() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> int:
        one = asked()
        counted = await client.messages.count_tokens(model=HAIKU, messages=one["messages"])
        return counted.input_tokens

    with ClaudeServer() as server:
        assert with_client(server, work) == ask(server).usage.input_tokens
        assert len(server.calls) == 1


def test_a_cut_text_is_the_longest_beginning_that_fits() -> None:
    assert count_pieces("considerably, 2026!") == 5
    assert cut_to("one two three", 2, count_pieces).strip() == "one two"
    assert cut_to("one two three", 9, count_pieces) == "one two three"


# Requests that are refused.


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"tools": []},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"max_tokens": 128_001},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "system", "content": "a"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": "a", "name": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"system": [marked("")]},
        {"system": [{"type": "text", "text": "a", "cache_control": {"type": "persistent"}}]},
        {"system": [marked("a", ttl="2h")]},
        {"system": [marked("a") for _ in range(5)]},
        {"system": [marked("a", ttl="5m"), marked("b", ttl="1h")]},
        {"temperature": 1.0},
        {"top_p": 0.5},
        {"top_k": 5},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
        {"model": SONNET, "thinking": {"type": "disabled"}},
        {"output_config": {"effort": "extreme"}},
        {"output_config": {"format": {"type": "json_schema"}}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        {"stop_sequences": [" "]},
        {"metadata": {"name": "a"}},
        {"service_tier": "priority"},
        {"stream": "yes"},
    ],
)
def test_what_the_service_would_not_take_is_refused_and_not_billed(
    changes: dict[str, Any],
) -> None:
    with ClaudeServer() as server:
        with pytest.raises(anthropic.BadRequestError) as refusal:
            post(server, asked(**changes))
        assert server.billed_usd == 0
        assert [call.billed for call in server.calls] == [False]
    assert refusal.value.type == "invalid_request_error"
    assert refusal.value.request_id == refusal.value.body["request_id"]


@pytest.mark.parametrize("keyword", ["minimum", "maxLength", "maxItems", "oneOf"])
def test_a_schema_outside_of_the_supported_subset_is_refused(keyword: str) -> None:
    inner = {"type": "integer", keyword: 1}
    schema = {"type": "object", "properties": {"a": inner}, "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    with ClaudeServer() as server, pytest.raises(anthropic.BadRequestError, match=keyword):
        post(server, asked(output_config=config))


def test_an_unknown_model_and_an_unknown_path_are_not_found() -> None:
    with ClaudeServer() as server:
        with pytest.raises(anthropic.NotFoundError, match="claude-none"):
            ask(server, model="claude-none")
        with pytest.raises(anthropic.NotFoundError):
            post(server, {}, "/v1/nothing")


def test_a_wrong_key_is_refused_and_only_an_echoing_server_repeats_it() -> None:
    async def work(server: ClaudeServer) -> str:
        async with claude(server, api_key="wrong-key") as client:
            with pytest.raises(anthropic.AuthenticationError) as refusal:
                await client.messages.create(**asked())
        return str(refusal.value)

    with ClaudeServer() as server:
        assert "wrong-key" not in asyncio.run(work(server))
        server.echo_key = True
        assert "wrong-key" in asyncio.run(work(server))
        with pytest.raises(anthropic.BadRequestError, match=r"key: test"):
            ask(server, metadata={"name": "a"})
        assert server.calls[0].outcome == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"x-api-key": "test"}, 400),
        ({"x-api-key": "test", "anthropic-version": "2020-01-01"}, 400),
        ({"x-api-key": "test", "anthropic-version": "2026-10-21"}, 200),
        ({"authorization": "Bearer test", "anthropic-version": "2026-10-21"}, 200),
    ],
)
def test_a_request_needs_a_key_and_a_version(headers: dict[str, str], status: int) -> None:
    with ClaudeServer() as server:
        address = urlsplit(server.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
        try:
            connection.request("GET", "/v1/models", headers=headers)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        finally:
            connection.close()
    assert (answer.status, body.get("type") == "error") == (status, status != 200)


def test_the_models_are_listed_and_one_can_be_looked_up() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> tuple[list[str], str]:
        names = [model.id async for model in await client.models.list()]
        return names, (await client.models.retrieve(HAIKU)).lifecycle

    with ClaudeServer() as server:
        names, lifecycle = with_client(server, work)
    assert HAIKU in names
    assert lifecycle == "active"


# The prompt cache.


def turns(*contents: Any) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]


def tokens(message: anthropic.types.Message) -> tuple[int, int, int]:
    usage = message.usage
    return (
        usage.input_tokens,
        usage.cache_creation_input_tokens or 0,
        usage.cache_read_input_tokens or 0,
    )


def test_three_calls_with_a_moving_breakpoint_are_billed_as_counted_by_hand() -> None:
    price = Price(1.0, 10.0, 0.1, 1.25, 2.0)
    system = [marked(words(1990))]
    one, two, three = words(96), words(196, "b"), words(296, "c")
    reply = words(46, "d")
    with ClaudeServer(prices={HAIKU: price}, reply=lambda body: reply) as server:
        first = ask(server, system=system, messages=turns([marked(one)]))
        talk = turns(one, reply, [marked(two)])
        second = ask(server, system=system, messages=talk)
        talk = turns(one, reply, two, reply, [marked(three)])
        third = ask(server, system=system, messages=talk)
        spent = [call.input_usd * 1e6 for call in server.calls]
        total = server.billed_usd * 1e6
    assert tokens(first) == (0, 2000 + 100, 0)
    assert tokens(second) == (0, 50 + 200, 2100)
    assert tokens(third) == (0, 50 + 300, 2350)
    assert spent == pytest.approx([2625.0, 210 + 312.5, 235 + 437.5])
    assert total == pytest.approx(2625 + 522.5 + 672.5 + 3 * 46 * 10)


def test_what_follows_the_last_breakpoint_is_paid_in_full() -> None:
    with ClaudeServer() as server:
        sent = {"system": [marked(words(1490))], "messages": turns(words(96))}
        assert tokens(ask(server, **sent)) == (100, 1500, 0)
        assert tokens(ask(server, **sent)) == (100, 0, 1500)


def test_a_string_and_a_block_are_the_same_prefix_and_another_model_is_another_cache() -> None:
    text = words(1490)
    with ClaudeServer() as server:
        ask(server, system=[marked(text)])
        again = ask(server, system=text, messages=turns([marked(words(96))]))
        other = ask(server, system=[marked(text)], model=SONNET)
    assert again.usage.cache_read_input_tokens == 1500
    assert other.usage.cache_read_input_tokens == 0


def test_a_prefix_below_the_minimum_is_not_cached_and_no_error() -> None:
    system = [marked(words(1000))]
    with ClaudeServer() as server:
        assert tokens(ask(server, system=system))[1:] == (0, 0)
        assert tokens(ask(server, system=system))[1:] == (0, 0)
        server.min_cache = {HAIKU: 1010}
        assert tokens(ask(server, system=system))[1:] == (1010, 0)


@pytest.mark.parametrize(("added", "found"), [(19, True), (20, False)])
def test_a_breakpoint_looks_back_over_twenty_blocks(added: int, found: bool) -> None:
    text = words(2000)
    with ClaudeServer() as server:
        ask(server, messages=turns([marked(text)]))
        blocks = [{"type": "text", "text": text}]
        blocks += [{"type": "text", "text": f"more {n}"} for n in range(added - 1)]
        message = ask(server, messages=turns([*blocks, marked("last")]))
    assert (message.usage.cache_read_input_tokens == 2014) is found


def test_an_entry_lives_five_minutes_from_its_last_use_or_an_hour() -> None:
    now = [1000.0]
    short = {"system": [marked(words(1490))]}
    long = {"system": [marked(words(1490, "b"), ttl="1h")]}

    def read(after: float, sent: dict[str, Any]) -> int | None:
        now[0] += after
        return ask(server, **sent).usage.cache_read_input_tokens

    with ClaudeServer(clock=lambda: now[0]) as server:
        assert read(0, short) == 0
        assert [read(299, short), read(299, short), read(301, short)] == [1500, 1500, 0]
        assert read(0, long) == 0
        assert [read(3599, long), read(3601, long)] == [1500, 0]
        written = server.calls[-1].usage["cache_creation"]
    assert written == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 1500}


def test_equal_requests_sent_together_all_pay_for_the_write() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> list[Any]:
        sent = asked(system=[marked(words(1490))])
        return await asyncio.gather(*(client.messages.create(**sent) for _ in range(4)))

    with ClaudeServer(latency=0.3) as server:
        together = with_client(server, work)
        later = ask(server, system=[marked(words(1490))])
    assert [one.usage.cache_creation_input_tokens for one in together] == [1500] * 4
    assert later.usage.cache_read_input_tokens == 1500


def test_the_automatic_breakpoint_is_the_last_block() -> None:
    with ClaudeServer() as server:
        sent = asked(system=words(1490), cache_control={"type": "ephemeral"})
        assert tokens(ask(server, **sent))[0] == 0
        assert tokens(ask(server, **sent))[0] == 0
        assert server.calls[-1].usage["cache_creation_input_tokens"] == 0


def test_a_long_prompt_has_the_higher_price() -> None:
    with ClaudeServer() as server:
        ask(server, messages=turns(words(99_000)))
        ask(server, messages=turns(words(101_000)))
        low, high = [call.input_usd for call in server.calls]
    assert low == pytest.approx(99_014 * PRICES[HAIKU].input / 1e6)
    assert high == pytest.approx(101_014 * PRICES[HAIKU].input * 5 / 1e6)


# Faults.


@pytest.mark.parametrize(
    ("fault", "error", "kind"),
    [
        ("400", anthropic.BadRequestError, "invalid_request_error"),
        ("403", anthropic.PermissionDeniedError, "permission_error"),
        ("429", anthropic.RateLimitError, "rate_limit_error"),
        ("500", anthropic.InternalServerError, "api_error"),
        ("529", anthropic.InternalServerError, "overloaded_error"),
        ("spend_limit", anthropic.RateLimitError, "rate_limit_error"),
    ],
)
def test_an_error_of_the_service_is_the_clients_and_not_billed(
    fault: str, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with ClaudeServer(fault=[fault]) as server:
        with pytest.raises(error) as caught:
            ask(server)
        assert server.billed_usd == 0
        assert ask(server).stop_reason == "end_turn"
    assert caught.value.type == kind


def test_a_rate_limit_says_how_long_to_wait_and_the_clients_own_retry_obeys() -> None:
    async def work(server: ClaudeServer) -> None:
        async with claude(server, max_retries=2) as client:
            await client.messages.create(**asked())

    with ClaudeServer(fault=["429:0.02", "429:0.03"]) as server:
        asyncio.run(work(server))
        assert [call.retry for call in server.calls] == [0, 1, 2]
        assert server.statuses == {429: 2, 200: 1}
        assert sum(server.billed_by_hash.values()) == 1
        server.fault = ["429:0.25", "spend_limit"]
        waits = []
        for _ in range(2):
            with pytest.raises(anthropic.RateLimitError) as caught:
                ask(server)
            waits.append(caught.value.response.headers.get("retry-after"))
        assert caught.value.error_code == "enforced_spend_limit_reached"
    assert waits == ["0.25", None]


def test_a_timeout_is_billed_though_nobody_hears_the_answer() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APITimeoutError):
            await client.messages.create(**asked(), timeout=0.2)

    with ClaudeServer(fault="timeout") as server:
        with_client(server, work)
        assert [(call.outcome, call.billed) for call in server.calls] == [("timeout", True)]


@pytest.mark.parametrize(("fault", "billed"), [("cut", True), ("cut_before", False)])
def test_a_cut_connection_is_a_connection_error(fault: str, billed: bool) -> None:
    with ClaudeServer(fault=fault) as server:
        with pytest.raises(anthropic.APIConnectionError):
            ask(server)
        assert [call.billed for call in server.calls] == [billed]


def test_a_body_that_is_not_json_reaches_the_caller_and_is_billed() -> None:
    with ClaudeServer(fault="invalid_json") as server:
        with pytest.raises(json.JSONDecodeError):
            ask(server)
        assert [call.billed for call in server.calls] == [True]


def test_a_refusal_says_why_with_nothing_or_a_part_of_an_answer() -> None:
    with ClaudeServer(fault=["refusal", "refusal:I was about"]) as server:
        bare, partial = ask(server), ask(server)
        assert all(call.billed for call in server.calls)
    assert (bare.stop_reason, bare.content) == ("refusal", [])
    assert bare.stop_details is not None
    assert bare.stop_details.category == "general_harms"
    assert partial.content[0].text == "I was about"


def test_answers_can_be_truncated_empty_or_malformed() -> None:
    with ClaudeServer(fault=["truncated", "empty", "malformed", "malformed"]) as server:
        short, empty, odd = ask(server), ask(server), ask(server)
        invalid = ask(server, output_config=STRUCTURED)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 200)
    assert (empty.stop_reason, empty.content) == ("end_turn", [])
    assert odd.content[0].text == "}} ## %"
    assert json.loads(invalid.content[0].text) == {"unexpected": True}


@pytest.mark.parametrize(
    ("fault", "error", "billed"),
    [
        ("cut", httpx2.RemoteProtocolError, True),
        ("stream_error", anthropic.APIStatusError, False),
        ("invalid_json", json.JSONDecodeError, True),
    ],
)
def test_a_stream_can_break_after_it_began(
    fault: str, error: type[Exception], billed: bool
) -> None:
    heard = []

    async def work(client: anthropic.AsyncAnthropic) -> None:
        async with client.messages.stream(**asked()) as stream:
            async for piece in stream.text_stream:
                heard.append(piece)

    with ClaudeServer(fault=fault) as server:
        with pytest.raises(error):
            with_client(server, work)
        assert [call.billed for call in server.calls] == [billed]
    assert heard


def test_a_function_decides_about_faults_by_number_and_body() -> None:
    seen = []

    def fault(number: int, body: dict[str, Any]) -> str | None:
        seen.append((number, body["model"]))
        return "529" if number == 1 else None

    with ClaudeServer(fault=fault) as server:
        ask(server)
        with pytest.raises(anthropic.InternalServerError):
            ask(server)
        ask(server)
    assert seen == [(0, HAIKU), (1, HAIKU), (2, HAIKU)]


# Load, limits, clients that go away.


def gathered(server: ClaudeServer, count: int) -> list[Any]:
    async def work(client: anthropic.AsyncAnthropic) -> list[Any]:
        sent = [asked(max_tokens=n + 100) for n in range(count)]
        calls = (client.messages.create(**one) for one in sent)
        return await asyncio.gather(*calls, return_exceptions=True)

    return list(with_client(server, work))


def test_the_high_water_mark_is_what_was_open_at_once() -> None:
    with ClaudeServer(latency=0.5) as server:
        gathered(server, 60)
        assert (server.most_open, server.open_now) == (60, 0)


def test_more_than_the_limit_at_once_is_turned_away() -> None:
    with ClaudeServer(latency=0.5, concurrency_limit=5) as server:
        results = gathered(server, 12)
        refused = [one for one in results if isinstance(one, anthropic.RateLimitError)]
        assert server.most_open == 5
        assert server.statuses == {200: 5, 429: 7}
    assert len(refused) == 7


def test_more_than_the_rate_is_turned_away() -> None:
    with ClaudeServer(rate_limit=4) as server:
        gathered(server, 12)
        assert server.statuses[429] >= 1
        assert server.statuses[200] >= 4


@pytest.mark.parametrize("billed", [True, False])
def test_an_answer_nobody_waits_for_is_billed_as_the_knob_says(billed: bool) -> None:
    async def work(client: anthropic.AsyncAnthropic) -> None:
        with pytest.raises(anthropic.APITimeoutError):
            await client.messages.create(**asked(), timeout=0.2)

    with ClaudeServer(latency=60, bill_disconnected=billed) as server:
        with_client(server, work)
        until(lambda: server.calls)
        (call,) = server.calls
        assert (call.outcome, call.billed, call.connected) == ("disconnected", billed, False)
        assert (server.billed_usd > 0) is billed
        assert server.open_now == 0


def until(condition: Callable[[], object]) -> None:
    """The server's thread learns of a closed connection a moment later."""
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


def test_the_books_tell_what_was_paid_twice() -> None:
    with ClaudeServer() as server:
        first = ask(server)
        ask(server)
        ask(server, max_tokens=50)
        assert sorted(server.billed_by_hash.values()) == [1, 2]
        expected = first.usage.input_tokens * 0.10 + first.usage.output_tokens * 0.50
        assert server.calls[0].usd == pytest.approx(expected / 1e6)
        assert (server.requests, server.messages) == (3, 3)
        assert server.paths == {"POST /v1/messages": 3}
        assert server.bodies[0] == asked()


def test_a_service_that_was_away_comes_back_with_its_books() -> None:
    server = ClaudeServer().start()
    ask(server)
    server.stop()
    with pytest.raises(anthropic.APIConnectionError):
        ask(server)
    with server:
        ask(server)
    assert len(server.calls) == 2


def test_a_fault_of_the_server_itself_is_not_hidden() -> None:
    def broken(body: dict[str, Any]) -> str:
        raise ZeroDivisionError("no reply")

    server = ClaudeServer(reply=broken).start()
    with pytest.raises(anthropic.InternalServerError):
        ask(server)
    with pytest.raises(ZeroDivisionError):
        server.__exit__(None)


def test_another_process_can_be_steered_and_read() -> None:
    script = Path(__file__).with_name("claude_server.py")
    command = [sys.executable, str(script), "--port", "0", "--fault", "529"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            body = json.dumps({"fault": ["500", None], "latency": 0.01}).encode()
            urllib.request.urlopen(f"{url}/_script", body, timeout=10).close()
            far = ClaudeServer()
            far.url = url
            with pytest.raises(anthropic.InternalServerError):
                ask(far)
            ask(far)
            with urllib.request.urlopen(f"{url}/_books", timeout=10) as answer:
                books = json.load(answer)
        finally:
            process.kill()
    assert [call["outcome"] for call in books["calls"]] == ["api_error", "end_turn"]
    assert books["statuses"] == {"500": 1, "200": 1}
    assert books["billed_usd"] > 0


# Batches.


def items(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [
        {"custom_id": f"item-{n}", "params": asked(max_tokens=n + 100, **changes)}
        for n in range(count)
    ]


async def finished(client: anthropic.AsyncAnthropic, name: str) -> dict[str, Any]:
    results = await client.messages.batches.results(name)
    return {line.custom_id: line.result async for line in results}


def test_a_batch_ends_after_its_polls_and_costs_half() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> None:
        batches = client.messages.batches
        made = await batches.create(requests=items(5))
        assert (made.processing_status, made.results_url) == ("in_progress", None)
        with pytest.raises(anthropic.NotFoundError):
            await client.get(f"/v1/messages/batches/{made.id}/results", cast_to=object)
        for _ in range(2):
            now = await batches.retrieve(made.id)
            assert (now.processing_status, now.request_counts.processing) == ("in_progress", 5)
        ended = await batches.retrieve(made.id)
        assert (ended.processing_status, ended.request_counts.succeeded) == ("ended", 5)
        assert ended.results_url is not None
        assert ended.results_url.startswith(str(client.base_url))
        results = [line async for line in await batches.results(made.id)]
        order = [line.custom_id for line in results]
        assert order != sorted(order) == [item["custom_id"] for item in items(5)]
        assert results[0].result.message.usage.service_tier == "batch"

    with ClaudeServer(batch_polls=2) as server:
        with_client(server, work)
        half = server.billed_usd
        assert server.batch_creates == 1
        assert {call.custom_id for call in server.calls} == {f"item-{n}" for n in range(5)}
        for item in items(5):
            ask(server, **item["params"])
        assert half == pytest.approx((server.billed_usd - half) / 2)
        assert set(server.billed_by_hash.values()) == {2}


def test_a_batch_ends_when_its_time_has_passed() -> None:
    now = [0.0]

    async def work(client: anthropic.AsyncAnthropic) -> list[str]:
        made = await client.messages.batches.create(requests=items(1))
        found = []
        for after in (0, 599, 1):
            now[0] += after
            found.append((await client.messages.batches.retrieve(made.id)).processing_status)
        return found

    with ClaudeServer(batch_seconds=600, clock=lambda: now[0]) as server:
        assert with_client(server, work) == ["in_progress", "in_progress", "ended"]


def test_the_results_of_a_batch_have_every_outcome() -> None:
    wanted = {
        "item-0": "errored",
        "item-1": "errored:invalid_request_error",
        "item-2": "expired",
        "item-3": "canceled",
        "item-4": "refusal",
        "item-5": "truncated",
    }

    async def work(client: anthropic.AsyncAnthropic) -> dict[str, Any]:
        requests = [*items(7), {"custom_id": "bad", "params": asked(temperature=0.5)}]
        made = await client.messages.batches.create(requests=requests)
        ended = await client.messages.batches.retrieve(made.id)
        counts = ended.request_counts
        assert (counts.succeeded, counts.errored, counts.expired, counts.canceled) == (3, 3, 1, 1)
        return await finished(client, made.id)

    with ClaudeServer(batch_fault=lambda name, params: wanted.get(name)) as server:
        found = with_client(server, work)
        assert sum(call.billed for call in server.calls) == 3
    assert found["item-0"].error.error.type == "api_error"
    assert found["item-1"].error.error.type == "invalid_request_error"
    assert found["item-2"].type == "expired"
    assert found["item-3"].type == "canceled"
    assert found["item-4"].message.stop_reason == "refusal"
    assert found["item-5"].message.stop_reason == "max_tokens"
    assert found["item-6"].message.stop_reason == "end_turn"
    assert "temperature" in found["bad"].error.error.message


def test_a_canceled_batch_pays_for_what_was_done() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> dict[str, Any]:
        made = await client.messages.batches.create(requests=items(4))
        canceling = await client.messages.batches.cancel(made.id)
        assert canceling.processing_status == "canceling"
        assert canceling.cancel_initiated_at is not None
        assert (await client.messages.batches.retrieve(made.id)).processing_status == "ended"
        with pytest.raises(anthropic.BadRequestError):
            await client.messages.batches.cancel(made.id)
        return await finished(client, made.id)

    with ClaudeServer(batch_polls=99, cancel_done=0.5) as server:
        found = with_client(server, work)
        assert sum(call.billed for call in server.calls) == 2
    kinds = sorted(result.type for result in found.values())
    assert kinds == ["canceled", "canceled", "succeeded", "succeeded"]


def test_batches_are_listed_newest_first_and_in_pages() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> None:
        batches = client.messages.batches
        made = [(await batches.create(requests=items(1))).id for _ in range(5)]
        newest = made[::-1]
        assert [one.id async for one in batches.list(limit=2)] == newest
        page = await batches.list(limit=2)
        assert (page.has_more, page.first_id, page.last_id) == (True, newest[0], newest[1])
        before = await batches.list(before_id=newest[3], limit=2)
        assert ([one.id for one in before.data], before.has_more) == (newest[1:3], True)
        await batches.retrieve(made[0])
        await batches.delete(made[0])
        with pytest.raises(anthropic.NotFoundError):
            await batches.retrieve(made[0])

    with ClaudeServer() as server:
        with_client(server, work)


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [*items(1), *items(1)],
        [{"custom_id": "has space", "params": asked()}],
        [{"custom_id": "a" * 65, "params": asked()}],
        [{"custom_id": "a", "params": asked(), "more": 1}],
        [{"custom_id": "a", "params": asked(stream=True)}],
    ],
)
def test_a_batch_of_the_wrong_shape_is_refused_as_a_whole(requests: list[Any]) -> None:
    with ClaudeServer() as server:
        with pytest.raises(anthropic.BadRequestError):
            post(server, {"requests": requests}, "/v1/messages/batches")
        assert server.batch_creates == 0


def test_items_of_a_batch_read_what_earlier_items_wrote() -> None:
    async def work(client: anthropic.AsyncAnthropic) -> None:
        requests = items(6, system=[marked(words(1490))])
        made = await client.messages.batches.create(requests=requests)
        await finished(client, made.id)

    with ClaudeServer(batch_parallel=2) as server:
        with_client(server, work)
        reads = [call.usage["cache_read_input_tokens"] for call in server.calls]
    assert reads == [0, 0, 1500, 1500, 1500, 1500]


# OpenAI's and Ollama's.

CHAT = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "I slept badly."}]


def chat(server: OpenAIServer, **changes: Any) -> Any:
    async def work() -> Any:
        settings = {"max_retries": 0, "api_key": "test", "base_url": f"{server.url}/v1"}
        async with openai.AsyncOpenAI(**settings) as client:
            sent = {"model": "local-coach", "messages": CHAT, **changes}
            return await client.chat.completions.create(**sent)

    return asyncio.run(work())


def talk(server: OpenAIServer, **changes: Any) -> ollama.ChatResponse:
    async def work() -> ollama.ChatResponse:
        client = ollama.AsyncClient(host=server.url)
        try:
            return await client.chat(**{"model": "coach", "messages": CHAT, **changes})
        finally:
            await client._client.aclose()

    return asyncio.run(work())


def test_a_completion_has_the_documented_shape_and_is_cut_at_its_limit() -> None:
    with OpenAIServer(prices={"local-coach": (1.0, 0.1, 2.0)}) as server:
        whole, short = chat(server), chat(server, max_completion_tokens=5)
        usage = whole.usage
        spent = usage.prompt_tokens + 2 * usage.completion_tokens
        assert server.calls[0].usd == pytest.approx(spent / 1e6)
    assert whole.choices[0].finish_reason == "stop"
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 5)


def test_a_completion_follows_its_schema_and_reads_a_known_beginning_from_the_cache() -> None:
    shape = {"name": "a", "schema": SCHEMA, "strict": True}
    long = [{"role": "system", "content": words(1500)}, CHAT[1]]
    with OpenAIServer() as server:
        sent = {"response_format": {"type": "json_schema", "json_schema": shape}}
        assert json.loads(chat(server, **sent).choices[0].message.content).keys() == {
            "mood",
            "why",
            "turns",
        }
        first, second = chat(server, messages=long), chat(server, messages=long)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details.cached_tokens == 1408


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_body": {"unknown": 1}},
        {"messages": []},
        {"messages": [{"role": "tool", "content": "a"}]},
        {"max_tokens": 0},
        {"n": 2},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "strict": True, "schema": {"type": "object"}},
            }
        },
    ],
)
def test_what_chat_completions_would_not_take_is_refused(changes: dict[str, Any]) -> None:
    with OpenAIServer() as server, pytest.raises(openai.BadRequestError):
        chat(server, **changes)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("429", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("cut", openai.APIConnectionError),
        ("cut_before", openai.APIConnectionError),
        ("invalid_json", json.JSONDecodeError),
    ],
)
def test_a_fault_of_the_completions_is_the_clients_exception(
    fault: str, error: type[Exception]
) -> None:
    with OpenAIServer(fault=[fault]) as server:
        with pytest.raises(error):
            chat(server)
        assert chat(server).choices[0].message.content


def test_a_completion_can_be_refused_filtered_empty_or_late() -> None:
    faults: list[str | None] = ["refusal", "content_filter", "empty", "timeout"]
    with OpenAIServer(fault=faults) as server:
        assert chat(server).choices[0].message.refusal
        assert chat(server).choices[0].finish_reason == "content_filter"
        assert chat(server).choices[0].message.content == ""
        with pytest.raises(openai.APITimeoutError):
            chat(server, timeout=0.2)


def test_openai_models_are_listed_and_others_not_found() -> None:
    async def work(server: OpenAIServer) -> list[str]:
        async with openai.AsyncOpenAI(api_key="test", base_url=f"{server.url}/v1") as client:
            return [model.id async for model in client.models.list()]

    with OpenAIServer() as server:
        assert "local-coach" in asyncio.run(work(server))
        with pytest.raises(openai.NotFoundError, match="nobody"):
            chat(server, model="nobody")


def test_an_ollama_answer_has_its_counts_and_is_cut_at_its_limit() -> None:
    with OpenAIServer() as server:
        whole = talk(server)
        short = talk(server, options={"num_predict": 4, "num_ctx": 8, "temperature": 0.0})
        value = talk(server, format=SCHEMA, keep_alive="5m", think=False)
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count == count_pieces(whole.message.content or "")
    assert (short.done_reason, short.eval_count, short.prompt_eval_count) == ("length", 4, 8)
    assert json.loads(value.message.content or "").keys() == {"mood", "why", "turns"}


def test_ollama_says_what_it_has_and_what_it_has_not() -> None:
    async def work(server: OpenAIServer) -> tuple[Any, Any]:
        client = ollama.AsyncClient(host=server.url)
        try:
            return await client.list(), await client.show("coach")
        finally:
            await client._client.aclose()

    with OpenAIServer() as server:
        listed, shown = asyncio.run(work(server))
        with urllib.request.urlopen(f"{server.url}/api/version", timeout=10) as answer:
            assert json.load(answer)["version"]
        with pytest.raises(ollama.ResponseError, match="not found") as missing:
            talk(server, model="nobody")
        with pytest.raises(ollama.ResponseError, match="thinking"):
            talk(server, think=True)
    assert len(listed.models[0].digest or "") == 64
    assert shown.modelinfo
    assert missing.value.status_code == 404
