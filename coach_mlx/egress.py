"""What left this process over a network: one line a request, written before it is sent.

Writes: output/egress.jsonl (time, host, bytes of the body, purpose), the clients' own retries and
questions about batches included. A host such as 127.0.0.1 is this machine itself.
"""

import contextlib
import contextvars
import json
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_purpose: contextvars.ContextVar[str] = contextvars.ContextVar("purpose", default="other")


@contextlib.contextmanager
def purpose(text: str) -> Iterator[None]:
    """Requests sent inside the block are logged under this purpose."""
    token = _purpose.set(text)
    try:
        yield
    finally:
        _purpose.reset(token)


def hooks(path: Path) -> dict[str, list[Callable[[Any], Awaitable[None]]]]:
    """Event hooks of an httpx client. Raises: OSError where the log cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()

    async def log(request: Any) -> None:
        _log(path, request)

    return {"request": [log]}


def blocking_hooks(path: Path) -> dict[str, list[Callable[[Any], None]]]:
    """The same for a client that does one thing at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return {"request": [lambda request: _log(path, request)]}


def _log(path: Path, request: Any) -> None:
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": request.url.host,
        "bytes_out": int(request.headers.get("content-length", 0)),
        "purpose": _purpose.get(),
    }
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
