"""A command that pays for answers runs in a process of its own, so that a kill loses none of them.

Reads and writes nothing. What the person started only waits. The worker has its own session, so a
Ctrl-C reaches it through the one who waits, and a closed terminal not at all. Asked to stop, or
when a pipe says that the waiting process is gone (`kill -9`), the worker sends nothing more, takes
in the answers that are on their way, and ends. A second Ctrl-C ends it at once.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

LIFELINE = "COACH_LIFELINE"
"""Environment of a worker: the end of the pipe that closes when the waiting process is gone, and
that process's number, as 3:4711.
"""


def is_worker() -> bool:
    return LIFELINE in os.environ


def waiting_process() -> int:
    """The process that the person started: the one that waits, or this one."""
    _, _, waiting = os.environ.get(LIFELINE, "").partition(":")
    return int(waiting or os.getpid())


def is_alive(process: str) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def run(arguments: Sequence[str]) -> int:
    """Start the worker and wait for it; its exit code."""
    _open_standard_streams()
    ours, theirs = os.pipe()
    command = [sys.executable, "-P", "-m", "coach_mlx.cli", *arguments]
    worker = subprocess.Popen(
        command,
        env={**os.environ, LIFELINE: f"{ours}:{os.getpid()}"},
        pass_fds=(ours, *_named_descriptors(arguments)),
        start_new_session=True,
    )
    os.close(ours)

    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(number)

    def pause(_: int, __: FrameType | None) -> None:
        """Ctrl-Z stops both; `fg` lets both go on."""
        worker.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        worker.send_signal(signal.SIGCONT)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, pause)
    try:
        code = worker.wait()
    finally:
        os.close(theirs)
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        name = signal.Signals(-code).name
        sys.stderr.write(f"The process at work was ended by {name}. The same command goes on.\n")
        return 128 - code
    return code


def _open_standard_streams() -> None:
    """What was closed for this process is nowhere: otherwise a pipe would take its number, and the
    worker would read its own lifeline as what is piped in.
    """
    for number in (0, 1, 2):
        if not _is_open(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _named_descriptors(arguments: Sequence[str]) -> list[int]:
    """Of arguments such as /dev/fd/63, which a shell makes of <(a command)."""
    named = (re.fullmatch(r"/dev/fd/(\d+)", argument) for argument in arguments)
    return [int(found[1]) for found in named if found and _is_open(int(found[1]))]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except (OSError, OverflowError):
        return False
    return True


@contextlib.contextmanager
def watch(stop: Callable[[], None]) -> Iterator[None]:
    """Inside a running loop: call `stop` at the first signal, and when nobody waits any more."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    asked: list[int] = []

    def interrupt() -> None:
        asked.append(1)
        if len(asked) == 1:
            stop()
        elif task is not None:
            task.cancel()

    def orphaned() -> None:
        loop.remove_reader(lifeline)
        _silence()
        stop()

    lifeline = int(os.environ.get(LIFELINE, "-1").partition(":")[0])
    numbers = (signal.SIGINT, signal.SIGTERM)
    with contextlib.ExitStack() as undo:
        for number in numbers:
            loop.add_signal_handler(number, interrupt)
            undo.callback(loop.remove_signal_handler, number)
        if lifeline >= 0:
            loop.add_reader(lifeline, orphaned)
            undo.callback(loop.remove_reader, lifeline)
        yield


def _silence() -> None:
    """Nobody reads what is said any more, and writing to a closed pipe would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
