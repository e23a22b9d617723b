"""Every chat model behind one interface, every call through the ledger.

Reads and writes output/calls.sqlite3 and output/egress.jsonl. A call that was answered before is
answered from the ledger. Otherwise its worst cost is reserved, it is sent, and its answer is on
disk before anybody sees it. Busy services and lost networks are waited for; what a service refuses
outright, and the budget, end the command (exit 4) with everything stored.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from pydantic import ValidationError

from coach_mlx import console, egress, supervisor
from coach_mlx.calls import Answer, Broken, Busy, Call, Reply, mended, split_name
from coach_mlx.config import Config
from coach_mlx.errors import INTERRUPTED, BackendError, CoachError, Stopped, ToolError
from coach_mlx.ledger import Ledger
from coach_mlx.llm_anthropic import AnthropicBackend
from coach_mlx.llm_local import GGUFBackend, MLXBackend, ScriptedBackend
from coach_mlx.llm_servers import OllamaBackend, OpenAIBackend
from coach_mlx.prices import PRICES, Prices
from coach_mlx.throttle import Throttle
from coach_mlx.workspace import Workspace

Item = TypeVar("Item")
IN_PROCESS = ("mlx", "gguf")
STORE_SECONDS = 2.0
PATIENT_SILENCE = 10.0
LONGEST_PAUSE = 60.0
"""Seconds between two attempts."""


class Backend(Protocol):
    """One model: `send` makes one attempt and raises Busy, Broken or an error for the person."""

    async def identity(self) -> str:
        """What else than the call determines the answer."""

    async def send(self, call: Call, seed: int) -> Reply: ...

    async def close(self) -> None: ...


class Models:
    """The chat models of one command; an asynchronous context."""

    def __init__(self, config: Config, workspace: Workspace) -> None:
        self._settings, self._workspace = config.calls, workspace
        self.prices = Prices(workspace.find(PRICES), config.calls.openai_base_url)
        self.ledger = Ledger(workspace.calls, config.calls.budget_usd)
        self._backends: dict[str, tuple[Backend, str]] = {}
        self._throttles: dict[str, Throttle] = {}
        self._opening = asyncio.Lock()
        self._same_call: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._freed = asyncio.Condition()
        self._under_way = 0
        self._stopping = asyncio.Event()
        self.reason: Exception | None = None
        self._said_at = 0.0
        self.poll_seconds = config.calls.poll_seconds
        self.patience_seconds = config.calls.patience_seconds

    async def __aenter__(self) -> "Models":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for backend, _ in self._backends.values():
            await backend.close()
        self.ledger.close()

    async def prepare(self, names: Iterable[str]) -> None:
        """Open these models now, so that a missing key, price or file is said before anything is
        sent.
        """
        for model in names:
            self.prices.find(model)
        for model in names:
            await self._backend(model)

    def stop(self, reason: Exception | None = None) -> None:
        """Send nothing more; what is under way still comes home."""
        self.reason = self.reason or reason or Stopped(INTERRUPTED)
        self._stopping.set()

    def check(self) -> None:
        """Raises: what `stop` was given."""
        if self.reason is not None:
            raise self.reason

    async def pause(self, seconds: float) -> None:
        """Wait, or be told to stop. Raises: what `stop` was given."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        self.check()

    async def each(
        self,
        items: Iterable[Item],
        work: Callable[[Item], Awaitable[None]],
        models: Iterable[str] = (),
    ) -> None:
        """`work` on every item, as many at once as the config allows; one at a time where one of
        the models is in this process, so that it reads a talk's beginning once.

        After an error, or a wish to stop, no more are begun, and it is raised when all that was
        under way is stored.
        """
        waiting = iter(items)
        serial = any(split_name(model)[0] in IN_PROCESS for model in models)
        width = 1 if serial else self._settings.concurrency

        async def worker() -> None:
            for item in waiting:
                if self.reason is not None:
                    return
                try:
                    await work(item)
                except Exception as error:  # a bug too waits until all that is paid for is stored
                    self.stop(error)

        with supervisor.watch(self.stop):
            await asyncio.gather(*(worker() for _ in range(width)))
        self.check()

    async def ask(self, call: Call) -> Answer:
        """The answer; one that does not fit the call's schema is given one chance to be mended."""
        answer, raw, wrong = await self._parsed(call)
        if not wrong:
            return answer
        wrong = f"it is not the JSON object of the schema: {wrong}"
        return (await self._parsed(mended(call, raw, wrong)))[0]

    async def _parsed(self, call: Call) -> tuple[Answer, str, str]:
        """The answer, its text as it came, and what is wrong with it."""
        backend, identity = await self._backend(call.model)
        key = call.key(identity)
        same = self._same_call.setdefault(key, asyncio.Lock())
        async with same:
            answer = self.ledger.find(key) or await self._bring(call, key, backend)
        raw = self.ledger.raw(key)
        answer, wrong = self.finish(call, key, answer, raw)
        return answer, raw, wrong

    def finish(self, call: Call, key: str, answer: Answer, raw: str) -> tuple[Answer, str]:
        """A stored answer with its object, or as malformed, and what is wrong with it."""
        if call.schema is None or answer.outcome not in ("ok", "malformed"):
            return answer, ""
        try:
            value = call.schema.model_validate_json(json_object(raw))
        except ValidationError as error:
            self.ledger.mark(key, "malformed")
            wrong = "; ".join(
                f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
                for problem in error.errors()[:5]
            )
            return answer._replace(outcome="malformed", text=None), wrong if raw else ""
        return answer._replace(value=value), ""

    async def key(self, call: Call) -> str:
        _, identity = await self._backend(call.model)
        return call.key(identity)

    async def identity(self, model: str) -> str:
        """What tells this model's weights from others of the same name; empty where nobody says."""
        return (await self._backend(model))[1]

    async def backend(self, model: str) -> Any:
        """The backend itself, for what only one provider has."""
        return (await self._backend(model))[0]

    async def _backend(self, model: str) -> tuple[Backend, str]:
        async with self._opening:
            if model not in self._backends:
                self.prices.find(model)
                backend = self._open(model)
                try:
                    self._backends[model] = backend, await backend.identity()
                except (Busy, Broken) as error:
                    await backend.close()
                    raise BackendError(f"{model} does not answer: {error}") from None
                except BaseException:
                    await backend.close()
                    raise
        return self._backends[model]

    def _open(self, model: str) -> Backend:
        provider, name = split_name(model)
        settings, log = self._settings, self._workspace.egress
        seconds = settings.timeout_seconds
        place = self._workspace.root / Path(name).expanduser()
        if provider == "anthropic":
            return AnthropicBackend(name, log, seconds)
        if provider == "ollama":
            return OllamaBackend(name, log, seconds, settings.num_ctx)
        if provider == "openai":
            free = self.prices.is_free(model)
            return OpenAIBackend(name, log, seconds, settings.openai_base_url, free)
        if provider == "mlx":
            return MLXBackend(place)
        if provider == "gguf":
            return GGUFBackend(place, settings.num_ctx)
        return ScriptedBackend(place)

    def _throttle(self, model: str) -> Throttle:
        provider, _ = split_name(model)
        name = model if provider in IN_PROCESS else provider
        most = 1 if provider in IN_PROCESS else self._settings.concurrency
        return self._throttles.setdefault(name, Throttle(most, self._stopping))

    async def _bring(self, call: Call, key: str, backend: Backend) -> Answer:
        """Send it until it is answered. Raises: BackendError where patience ends: it lasts as long
        as the service answers others.
        """
        if self.ledger.in_batch(key):
            raise BackendError(
                "This call is in a batch whose results are not in yet. Type the same command with "
                "--batch, which waits for it."
            )
        failures, broken, first = 0, 0, time.monotonic()
        while True:
            pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(failures, 10)) * random.uniform(0.5, 1.0)
            try:
                return await self._attempt(call, key, backend, pause)
            except Busy as error:
                why = f"{call.model} is busy: {error}"
            except Broken as error:
                why = f"{call.model} does not answer: {error}"
                broken += error.maybe_billed
                await self.pause(pause)
            failures += 1
            now = time.monotonic()
            waited = now - max(first, self._throttle(call.model).answered_at)
            if waited > PATIENT_SILENCE and now - self._said_at > LONGEST_PAUSE:
                self._said_at = now
                console.say(f"{why}. Waiting, up to {self._settings.patience_seconds:.0f} s.")
            if waited > self._settings.patience_seconds or broken >= self._settings.attempts:
                raise BackendError(
                    f"{why}. It was tried {failures} times in {now - first:.0f} s. What is done is "
                    "kept; the same command goes on."
                )

    async def _attempt(self, call: Call, key: str, backend: Backend, pause: float) -> Answer:
        price = self.prices.find(call.model)
        throttle = self._throttle(call.model)
        async with throttle as sent_at:
            await self._reserve(call, key, price.most(call))
            maybe_billed: bool | None = True
            started = time.monotonic()
            try:
                with egress.purpose(call.purpose):
                    reply = await backend.send(call, int(key[:8], 16))
                maybe_billed = None
            except Busy as error:
                maybe_billed = False
                wait = max(pause, error.retry_after or 0.0)
                throttle.busy(sent_at, min(wait, self._settings.patience_seconds))
                raise
            except Broken as error:
                maybe_billed = error.maybe_billed
                raise
            except CoachError:
                maybe_billed = False
                raise
            finally:
                if maybe_billed is not None:
                    self.ledger.release(key, maybe_billed)
                    await self._free()
            throttle.answered()
            usd = price.cost(reply.usage)
            answer = await self._settle(key, reply, usd, time.monotonic() - started)
            await self._free()
            return answer

    async def _settle(self, key: str, reply: Reply, usd: float, seconds: float) -> Answer:
        """Store a paid answer, however long the disk takes to have room for it."""
        while True:
            try:
                return self.ledger.settle(key, reply, usd, seconds)
            except ToolError as error:
                self.stop(error)
                console.say(f"{error} Trying again; a second Ctrl-C gives the answer up.")
                await asyncio.sleep(STORE_SECONDS)

    async def _reserve(self, call: Call, key: str, worst_usd: float) -> None:
        """Wait until the budget has room for the worst case. Raises: BudgetReached where nothing
        under way can make any.
        """
        async with self._freed:
            while True:
                self.check()
                if self.ledger.reserve(call, key, worst_usd):
                    self._under_way += 1
                    return
                if not self._under_way:
                    raise self.ledger.over(worst_usd)
                await self._freed.wait()

    async def _free(self) -> None:
        async with self._freed:
            self._under_way -= 1
            self._freed.notify_all()


def json_object(text: str) -> str:
    """The text from the first brace to the last: models like to wrap an object in words."""
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text
