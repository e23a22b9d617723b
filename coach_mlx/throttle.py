"""How many calls are under way at once: fewer when a service says it is busy, more when it answers.

Reads and writes nothing. Additive increase, multiplicative decrease, as TCP does it (Chiu and Jain,
1989): each answer raises the limit by 1/limit, each "busy" halves it, at most once a round trip.
While a service asks for patience (`retry-after`), nothing is sent, and nobody waits any more once
`stopping` is set.
"""

import asyncio
import contextlib
import time
from types import TracebackType


class Throttle:
    def __init__(self, most: int, stopping: asyncio.Event) -> None:
        self.limit, self._most = float(most), most
        self._stopping = stopping
        self.active = 0
        self._not_before = 0.0
        self._halved_at = 0.0
        self.answered_at = 0.0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> float:
        """Wait for a place; when it was given, on the monotonic clock."""
        async with self._changed:
            while True:
                wait = self._not_before - time.monotonic()
                if wait > 0 and not self._stopping.is_set():
                    await self._pause(wait)
                elif self.active >= max(1, int(self.limit)):
                    await self._changed.wait()
                else:
                    self.active += 1
                    return time.monotonic()

    async def _pause(self, seconds: float) -> None:
        """Sleep without holding the lock that leaving needs."""
        self._changed.release()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
        finally:
            await self._changed.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with self._changed:
            self.active -= 1
            self._changed.notify_all()

    def answered(self) -> None:
        self.answered_at = time.monotonic()
        self.limit = min(self._most, self.limit + 1 / self.limit)

    def busy(self, sent_at: float, retry_after: float) -> None:
        """A call sent at that time was turned away; `retry_after` in seconds."""
        now = time.monotonic()
        if sent_at >= self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = now
        self._not_before = max(self._not_before, now + retry_after)
