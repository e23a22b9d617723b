"""Many calls as Message Batches: half the price, within a day, in any order.

Reads and writes the ledger. A batch is reserved and noted before it is submitted and named when the
service has taken it, so that it can be left alone for days: the same command finds it again. A
batch that was submitted by a process that died before noting its name is looked up among the
account's batches and recognised by its requests, which are named by their keys.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

from coach_mlx import console, egress, supervisor
from coach_mlx.calls import Answer, Broken, Busy, Call, NotFound, mended, split_name
from coach_mlx.errors import BackendError, ConfigError
from coach_mlx.ledger import Ledger
from coach_mlx.llm import Models
from coach_mlx.records import content_hash

INTENDED = "intended:"
MOST_BYTES = 200_000_000
"""The service takes 256 MB and 100,000 requests."""
MOST_REQUESTS = 10_000
ROUNDS = 3
"""An item that expires or meets an error is submitted anew so often."""
IDLE_ROUNDS = 20
"""Of the event loop, before it is taken for certain that everybody waits."""
CLOCKS_DIFFER = timedelta(minutes=10)


async def ask_all(models: Models, calls: Sequence[Call]) -> AsyncIterator[tuple[Call, Answer]]:
    """Every call with its answer, as they come in; calls of one model.

    Raises: ConfigError for a model that takes no batches, BackendError where items are refused or
    stay unanswered, BudgetReached where the next batch would not fit.
    """
    if not calls:
        return
    if split_name(calls[0].model)[0] != "anthropic":
        raise ConfigError(f"{calls[0].model} takes no batches; leave --batch out.")
    assert len({call.model for call in calls}) == 1
    backend = await models.backend(calls[0].model)
    wanted = {await models.key(call): call for call in calls}
    with supervisor.watch(models.stop):
        fruitless = -1  # nothing was asked yet
        while wanted and fruitless < ROUNDS:
            before = len(wanted)
            for key, call, answer in _answered(models, wanted):
                del wanted[key]
                yield call, answer
            fruitless = fruitless + 1 if len(wanted) == before else 0
            if wanted and fruitless < ROUNDS:
                await _submit(models, backend, wanted)
                await _wait(models, backend)
    if wanted:
        raise BackendError(
            f"{len(wanted)} requests stayed unanswered in {ROUNDS} batches. What came is kept; the "
            "same command tries again."
        )


class Rounds:
    """Batches for work whose later questions hang on earlier answers: whatever is asked while a
    batch is under way goes into the next one.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._waiting: dict[Call, asyncio.Future[Answer]] = {}

    async def ask(self, call: Call) -> Answer:
        """Like `Models.ask`, in one of the batches that `serve` sends."""
        answer = await self._put(call)
        if answer.outcome != "malformed":
            return answer
        raw = self._models.ledger.raw(await self._models.key(call))
        wrong = "it is not the JSON object of the schema."
        return await self._put(mended(call, raw, wrong)) if raw else answer

    async def _put(self, call: Call) -> Answer:
        if call not in self._waiting:
            self._waiting[call] = asyncio.get_running_loop().create_future()
        return await self._waiting[call]

    async def serve(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` to its end. Raises: what it raises, or the batches."""
        task = asyncio.ensure_future(work)
        try:
            while not await self._is_done(task):
                asked, self._waiting = self._waiting, {}
                async for call, answer in ask_all(self._models, list(asked)):
                    asked[call].set_result(answer)
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        await task

    async def _is_done(self, task: "asyncio.Task[Any]") -> bool:
        """Whether the work has ended; otherwise it is let on until nothing new is asked."""
        idle, asked = 0, -1
        while not task.done() and (idle < IDLE_ROUNDS or not self._waiting):
            idle = idle + 1 if len(self._waiting) == asked else 0
            asked = len(self._waiting)
            await asyncio.sleep(0)
        return task.done()


def _answered(models: Models, wanted: dict[str, Call]) -> list[tuple[str, Call, Answer]]:
    found = []
    for key, call in wanted.items():
        answer = models.ledger.find(key)
        if answer is not None:
            raw = models.ledger.raw(key)
            found.append((key, call, models.finish(call, key, answer, raw)[0]))
    return found


async def _submit(models: Models, backend: Any, wanted: dict[str, Call]) -> None:
    """Everything that is in no batch yet, in batches as large as service and budget allow."""
    under_way = {
        key for name, _ in models.ledger.open_batches() for key in models.ledger.batch_keys(name)
    }
    left = {key: call for key, call in wanted.items() if key not in under_way}
    while left:
        models.check()
        chosen = _fitting(left)
        intended = INTENDED + content_hash(sorted(chosen))[:16]
        items = [
            (call, key, models.prices.find(call.model).most(call, batch=True))
            for key, call in chosen.items()
        ]
        taken = models.ledger.reserve_batch(intended, items)
        if not taken:
            if models.ledger.open_batches():
                return  # their results will free what they hold
            raise models.ledger.over(items[0][2])
        await _create(models, backend, intended, [(key, left.pop(key)) for key in taken])


def _fitting(left: dict[str, Call]) -> dict[str, Call]:
    chosen: dict[str, Call] = {}
    size = 0
    for key, call in left.items():
        size += call.prompt_bytes
        if chosen and (size > MOST_BYTES or len(chosen) >= MOST_REQUESTS):
            break
        chosen[key] = call
    return chosen


async def _create(
    models: Models, backend: Any, intended: str, items: Sequence[tuple[str, Call]]
) -> None:
    """Submit once. Whether one whose answer was lost was taken, `_adopt` finds out."""

    async def create() -> str | None:
        try:
            return str(await backend.create_batch(items))
        except Broken as error:
            if error.maybe_billed:
                return None
            raise

    try:
        name = await _patiently(models, create)
    except BackendError as error:
        models.ledger.end_batch(intended)
        raise BackendError(f"The batch was not taken: {error}") from None
    if name is not None:
        models.ledger.name_batch(intended, name)
        console.say(f"batch {name}: {len(items)} requests submitted")


async def _wait(models: Models, backend: Any) -> None:
    """Until every open batch has ended and its results are in the ledger."""
    console.say("Waiting for batches. Ctrl-C is safe: the same command goes on, days later too.")
    while True:
        await _adopt(models, backend)
        for name, _ in models.ledger.open_batches():
            if not name.startswith(INTENDED) and await _has_ended(models, backend, name):
                await _take_in(models, backend, name)
        if not models.ledger.open_batches():
            return
        await models.pause(models.poll_seconds)


async def _has_ended(models: Models, backend: Any, name: str) -> bool:
    """One that the service knows no more is over; what it held may have been billed."""

    async def ask() -> bool:
        return bool(await backend.batch_ended(name))

    try:
        return bool(await _patiently(models, ask))
    except NotFound:
        console.say(f"batch {name}: the service knows it no more; its requests are asked anew.")
        models.ledger.end_batch(name, maybe_billed=True)
        return False


async def _take_in(models: Models, backend: Any, name: str) -> None:
    """The results of an ended batch; what it left unanswered is free to be asked again."""

    async def read() -> list[str]:
        wrong = []
        keys = models.ledger.batch_keys(name)
        async for item in backend.batch_results(name):
            if item.key in keys and item.reply is not None:
                model = models.ledger.model_of(item.key)
                usd = models.prices.find(model).cost(item.reply.usage, batch=True)
                models.ledger.settle(item.key, item.reply, usd, 0.0)
            elif item.key in keys and item.unreadable:
                models.ledger.release(item.key, maybe_billed=True)
            elif item.wrong:
                wrong.append(item.wrong)
        return wrong

    wrong = await _patiently(models, read)
    models.ledger.end_batch(name)
    if wrong:
        raise BackendError(
            f"{len(wrong)} items of batch {name} were refused as wrong: {wrong[0]}. The others "
            "are kept."
        )


async def _adopt(models: Models, backend: Any) -> None:
    """Name the batches that were submitted by a process that died before it could. One that may be
    ours and has no results yet is waited for: only its results tell.
    """
    ledger: Ledger = models.ledger
    for intended, created in ledger.open_batches():
        if not intended.startswith(INTENDED):
            continue
        keys = ledger.batch_keys(intended)
        candidates = await _candidates(models, backend, created, len(keys))
        verdicts = {name: await _is_ours(models, backend, name, keys) for name in candidates}
        ours = [name for name, verdict in verdicts.items() if verdict]
        if ours:
            ledger.name_batch(intended, ours[0])
        elif None not in verdicts.values():
            ledger.end_batch(intended)


async def _candidates(models: Models, backend: Any, created: str, count: int) -> list[str]:
    """Batches of this size that the account has made since then and the ledger does not know."""
    since = datetime.fromisoformat(created) - CLOCKS_DIFFER
    known = models.ledger.known_batches()

    async def look() -> list[str]:
        found = [one async for one in backend.batches_since(since)]
        return [name for name, total in found if name not in known and total == count]

    return list(await _patiently(models, look))


async def _is_ours(models: Models, backend: Any, name: str, keys: set[str]) -> bool | None:
    """Whether its results are named by our keys; `None` while it has none."""
    if not await _has_ended(models, backend, name):
        return None

    async def look() -> bool:
        async for item in backend.batch_results(name):
            return item.key in keys
        return False

    return bool(await _patiently(models, look))


async def _patiently(models: Models, ask: Callable[[], Awaitable[Any]]) -> Any:
    """The result, where a busy service and a lost network are waited for like elsewhere. Raises:
    BackendError where patience ends.
    """
    waited, pause = 0.0, 0.5
    while True:
        try:
            with egress.purpose("batch"):
                return await ask()
        except (Busy, Broken) as error:
            if waited > models.patience_seconds:
                raise BackendError(
                    f"The service does not answer: {error}. The batches are noted; the same "
                    "command goes on."
                ) from None
            after = error.retry_after if isinstance(error, Busy) else None
            pause = max(min(60.0, 2 * pause), after or 0.0)
        await models.pause(pause)
        waited += pause
