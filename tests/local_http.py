"""A small HTTP/1.1 server in a thread, and the make-believe text that the local services share."""

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

Json = dict[str, Any]
Fault = str | list[str | None] | Callable[[int, Json], str | None] | None
Latency = float | Callable[[Json], float]

PHRASES = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    411: "Length Required",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
PIECES = re.compile(r"[^\W\d_]{1,7}|\d+|[^\w\s]|_")
OPENINGS = (
    "That sounds like a long day to have carried on your own",
    "Thank you for telling me, I can hear how much this asked of you",
    "It makes sense that you feel tired after a week like this one",
    "I am glad that you wrote, even though the words were hard to find",
    "Small things can weigh a great deal when sleep has been short",
)
MIDDLES = (
    "maybe a short walk or a glass of water would be a kind start",
    "you could write down one thing that went a little better than expected",
    "it may help to name the feeling before deciding what to do with it",
    "one slow breath at the open window is enough for this evening",
    "perhaps somebody you trust could sit with you for ten minutes",
)
QUESTIONS = (
    "What would help a little right now?",
    "Which part of it stays with you most?",
    "Would you like to look at it together?",
    "How did your body feel then?",
)


def canonical(value: Any) -> str:
    """One spelling for equal JSON, so that equal bodies have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def body_hash(body: Json) -> str:
    """The name of a request; how it is delivered (`stream`) does not change what is asked."""
    asked = {key: value for key, value in body.items() if key != "stream"}
    return hashlib.sha256(canonical(asked).encode()).hexdigest()


def count_pieces(text: str) -> int:
    """Tokens much as a sub-word tokenizer counts them: no fixed number of letters for each."""
    return len(PIECES.findall(text))


def cut_to(text: str, limit: int, count: Callable[[str], int]) -> str:
    """The longest beginning of a text that has at most so many tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[:middle]) <= limit else (low, middle - 1)
    return text[:low]


def plausible(seed: str) -> str:
    """About twenty-five words of English that depend on the seed alone."""
    choice = random.Random(seed).choice
    return f"{choice(OPENINGS)}, and {choice(MIDDLES)}. {choice(QUESTIONS)}"


def instance(schema: Json, seed: str) -> Any:
    """A small value that is valid by a JSON schema and depends on the seed."""
    return _value(schema, schema, random.Random(seed))


def _value(schema: Json, root: Json, chance: random.Random) -> Any:
    if "$ref" in schema:
        return _value(_resolve(schema["$ref"], root), root, chance)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return _value(schema[key][0], root, chance)
    return _typed(schema, root, chance)


def _resolve(reference: str, root: Json) -> Json:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return dict(found)


def _typed(schema: Json, root: Json, chance: random.Random) -> Any:
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {
            name: _value(inner, root, chance)
            for name, inner in schema.get("properties", {}).items()
        }
    if kind == "array":
        length = max(1, schema.get("minItems", 1))
        return [_value(schema.get("items", {}), root, chance) for _ in range(length)]
    if kind in ("integer", "number"):
        return max(schema.get("minimum", 1), min(schema.get("maximum", 3), chance.randint(1, 3)))
    simple = {"boolean": chance.random() < 0.5, "null": None}
    return simple[kind] if kind in simple else plausible(str(chance.random()))


@dataclass(frozen=True)
class Call:
    """One request for a message and what became of it: a line of the books."""

    number: int
    hash: str
    model: str
    outcome: str
    status: int | None
    billed: bool = False
    connected: bool = True
    usage: Json = field(default_factory=dict)
    usd: float = 0.0
    input_usd: float = 0.0
    stream: bool = False
    retry: int = 0
    custom_id: str | None = None
    batch_id: str | None = None


class Exchange:
    """One request and the ways to answer it, the rude ones included."""

    def __init__(self, connection: "_Connection", head: Json, body: bytes) -> None:
        self._connection = connection
        self.method: str = head["method"]
        self.path: str = head["path"]
        self.query: dict[str, str] = head["query"]
        self.headers: dict[str, str] = head["headers"]
        self.body = body
        self.gone = asyncio.Event()
        self.begun = False
        self.counted = True

    @property
    def connected(self) -> bool:
        return not self.gone.is_set() and not self._connection.transport.is_closing()

    async def pause(self, seconds: float) -> bool:
        """Wait, but no longer than the client does; whether it is still there."""
        if seconds > 0 and self.connected:
            try:
                async with asyncio.timeout(seconds):
                    await self.gone.wait()
            except TimeoutError:
                pass
        return self.connected

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        if self.counted:
            self._connection.server.statuses[status] += 1
        lines = [f"HTTP/1.1 {status} {PHRASES.get(status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._connection.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def send(
        self,
        status: int,
        payload: Any,
        headers: dict[str, str] | None = None,
        *,
        share: float = 1.0,
    ) -> None:
        """A whole answer; with a smaller share, the connection ends in the middle of the body."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        length = str(len(body))
        plain = {"content-type": "application/json", "content-length": length}
        self._head(status, {**plain, **(headers or {})})
        self._connection.write(body if share >= 1 else body[: int(len(body) * share)])
        if share < 1:
            self.drop()

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """Start an answer whose length is not known yet."""
        self._head(status, {"transfer-encoding": "chunked", **headers})

    def write(self, data: bytes) -> None:
        self._connection.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def finish(self) -> None:
        self._connection.write(b"0\r\n\r\n")

    def drop(self) -> None:
        """Close the connection: what was written still arrives, the rest never does."""
        self._connection.transport.close()


class _Connection(asyncio.Protocol):
    """A kept-alive connection: one request after the other."""

    transport: asyncio.Transport

    def __init__(self, server: "LocalServer") -> None:
        self.server = server
        self.buffer = bytearray()
        self.head: Json | None = None
        self.exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.exchange is not None:
            self.exchange.gone.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._advance()

    def write(self, data: bytes) -> None:
        """A client that has gone is no fault of the server."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def _advance(self) -> None:
        if self.exchange is not None or self.transport.is_closing():
            return
        try:
            taken = self._take()
        except (ValueError, KeyError):
            self.transport.close()
            return
        if taken is not None:
            self.exchange = Exchange(self, *taken)
            self.server.spawn(self._serve(self.exchange))

    def _take(self) -> tuple[Json, bytes] | None:
        if self.head is None:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.head = _parse_head(bytes(self.buffer[:end]).decode("latin-1"))
            del self.buffer[: end + 4]
        length = int(self.head["headers"].get("content-length", 0))
        if len(self.buffer) < length:
            return None
        head, body = self.head, bytes(self.buffer[:length])
        self.head = None
        del self.buffer[:length]
        return head, body

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self.server.answer(exchange)
        except Exception as error:
            self.server.failures.append(error)
            if not exchange.begun:
                exchange.send(500, {"error": {"message": f"the local server failed: {error!r}"}})
            exchange.drop()
        finally:
            self.exchange = None
        self._advance()


def _parse_head(text: str) -> Json:
    first, *rest = text.split("\r\n")
    method, target, _version = first.split(" ")
    parts = urlsplit(target)
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise ValueError("a request body of unknown length is not served")
    query = dict(parse_qsl(parts.query))
    return {"method": method, "path": unquote(parts.path), "query": query, "headers": headers}


@dataclass(kw_only=True, eq=False)
class LocalServer:
    """The part that every local service shares: the thread, the books, the faults and limits.

    Fields named in the constructor are knobs, and may be changed while it serves. Everything
    is written in the server's own thread; another thread only reads. After `stop`, `start`
    opens the same port again, with the books as they were: a service that was away.
    """

    port: int = 0
    latency: Latency = 0.0
    fault: Fault = None
    reply: Callable[[Json], str] | None = None
    count: Callable[[str], int] = count_pieces
    retry_after: float = 0.05
    concurrency_limit: int | None = None
    rate_limit: float | None = None
    bill_disconnected: bool = True
    echo_key: bool = False
    clock: Callable[[], float] = time.time

    url: str = field(init=False, default="")
    calls: list[Call] = field(init=False, default_factory=list)
    bodies: list[Json] = field(init=False, default_factory=list)
    failures: list[Exception] = field(init=False, default_factory=list)
    statuses: Counter[int] = field(init=False, default_factory=Counter)
    paths: Counter[str] = field(init=False, default_factory=Counter)
    requests: int = field(init=False, default=0)
    messages: int = field(init=False, default=0)
    open_now: int = field(init=False, default=0)
    most_open: int = field(init=False, default=0)
    connections: set[_Connection] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._recent: deque[float] = deque()
        self._thread: threading.Thread | None = None
        self.counted = lru_cache(1 << 17)(lambda text: self.count(text))

    # The thread.

    def start(self) -> Self:
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(ready)), name=type(self).__name__, daemon=True
        )
        self._thread.start()
        ready.result(timeout=30)
        return self

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is None and self.failures:
            raise self.failures[0]

    async def _main(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            listener = await self._loop.create_server(
                lambda: _Connection(self), "127.0.0.1", self.port, backlog=1024
            )
        except OSError as error:
            ready.set_exception(error)
            return
        self.port = listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        ready.set_result(None)
        await self._stopping.wait()
        listener.close()
        await self._close_all()
        await listener.wait_closed()

    async def _close_all(self) -> None:
        for connection in list(self.connections):
            connection.transport.abort()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The requests.

    async def answer(self, exchange: Exchange) -> None:
        if exchange.path in ("/_books", "/_script"):
            exchange.counted = False
            if exchange.method == "POST":
                self.script(json.loads(exchange.body))
            exchange.send(200, self.books())
            return
        self.requests += 1
        self.paths[f"{exchange.method} {exchange.path}"] += 1
        await self.route(exchange)

    async def route(self, exchange: Exchange) -> None:
        raise NotImplementedError

    def seconds(self, body: Json) -> float:
        return self.latency(body) if callable(self.latency) else self.latency

    def next_fault(self, number: int, body: Json) -> tuple[str, str]:
        """The fault's name and what follows its colon; a list is used up from its front."""
        fault: str | None
        if isinstance(self.fault, list):
            fault = self.fault.pop(0) if self.fault else None
        else:
            fault = self.fault(number, body) if callable(self.fault) else self.fault
        name, _, detail = (fault or "").partition(":")
        return name, detail

    def too_many(self) -> bool:
        """Whether a limit is reached: requests open at once, or begun within a second."""
        if self.concurrency_limit is not None and self.open_now >= self.concurrency_limit:
            return True
        if self.rate_limit is None:
            return False
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - 1:
            self._recent.popleft()
        if len(self._recent) >= self.rate_limit:
            return True
        self._recent.append(now)
        return False

    def enter(self) -> None:
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)

    def leave(self) -> None:
        self.open_now -= 1

    # The books.

    @property
    def billed_usd(self) -> float:
        return sum(call.usd for call in list(self.calls))

    @property
    def input_usd(self) -> float:
        return sum(call.input_usd for call in list(self.calls))

    @property
    def billed_by_hash(self) -> Counter[str]:
        """How often each identical body was paid for: more than once is money lost."""
        return Counter(call.hash for call in list(self.calls) if call.billed)

    def books(self) -> Json:
        """Everything counted, as JSON, for another process."""
        return {
            "calls": [asdict(call) for call in self.calls],
            "billed_usd": self.billed_usd,
            "input_usd": self.input_usd,
            "billed_by_hash": dict(self.billed_by_hash),
            "requests": self.requests,
            "messages": self.messages,
            "paths": dict(self.paths),
            "statuses": dict(self.statuses),
            "open_now": self.open_now,
            "most_open": self.most_open,
            "failures": [repr(error) for error in self.failures],
        }

    def script(self, knobs: Json) -> None:
        """Turn knobs from another process; `reset` forgets the books, nothing else."""
        known = {one.name for one in fields(self) if one.init} - {"port"}
        if knobs.pop("reset", False):
            self.reset()
        for name, value in knobs.items():
            if name not in known:
                raise ValueError(f"no such knob: {name}")
            setattr(self, name, value)

    def reset(self) -> None:
        for book in (self.calls, self.bodies, self.failures, self.statuses, self.paths):
            book.clear()
        self.requests = self.messages = 0
        self.most_open = self.open_now


async def deliver(exchange: Exchange, fault: str, payload: Json, headers: dict[str, str]) -> None:
    """An answer in one piece, as the fault has it; a payload that is not JSON ends in a comma."""
    if fault == "timeout":
        await exchange.gone.wait()
    elif fault == "invalid_json":
        exchange.send(200, json.dumps(payload).encode()[:-1] + b",", headers)
    else:
        exchange.send(200, payload, headers, share=0.5 if fault == "cut" else 1.0)


def serve(server: LocalServer) -> None:
    """Run as a process of its own: one line says where, then it serves until it is killed."""
    with server:
        sys.stdout.write(json.dumps({"url": server.url}) + "\n")
        sys.stdout.flush()
        threading.Event().wait()


def knob_parser(description: str | None) -> argparse.ArgumentParser:
    """The command line of a server; an option that is not given leaves the knob as it is."""
    parser = argparse.ArgumentParser(
        description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    for name, kind in (("port", int), ("concurrency-limit", int)):
        parser.add_argument(f"--{name}", type=kind)
    for name in ("latency", "retry-after", "rate-limit"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--fault", help="every request has this fault")
    parser.add_argument("--echo-key", action="store_true")
    parser.add_argument("--bill-disconnected", action=argparse.BooleanOptionalAction)
    return parser
