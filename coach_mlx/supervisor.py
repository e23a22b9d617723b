"""A command that must survive what may end it runs as a worker, and its person's process waits.

Reads and writes nothing. The worker has its own session, so a Ctrl-C reaches it through the one who
waits, and a closed terminal not at all. Asked to stop, or when a pipe says that the waiting process
is gone (`kill -9`), it stores what is under way and ends: a command that pays takes in the answers
it paid for, a training its step. A second Ctrl-C ends it at once.

A training's worker may be ended by the GPU or for want of memory. What it wrote to descriptor 2 is
then read, and it is started once more.
"""

import contextlib
import fcntl
import io
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO, Any, NamedTuple

from coach_mlx import console, gpu
from coach_mlx.errors import ToolError

WATCHED = {
    "generate": {"--help", "--quote"},
    "assess": {"--help", "--quote"},
    "optimize": {"--help", "--quote", "--revert"},
    "judge-passport": {"--help", "--quote"},
    "train": {"--help", "--show-mask", "--plan", "--mac"},
    "evaluate": {"--help", "--quote"},
    "select": {"--help", "--quote", "--show", "--choose"},
    "run": {"--help"},
}
"""The commands that run as a worker, and the options with which they need none."""

RESUMED = {"train", "evaluate", "select", "run"}
"""Started once more when the worker breaks down."""

RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Environment of a process that `mlx.launch` or MPI started, and watches; its number in it."""

LIFELINE = "COACH_LIFELINE"
"""Environment of a worker: the end of the pipe that closes when the waiting process is gone, that
process's number, and the descriptor at which the person reads, as 3:4711:5. Without a pipe (-1:)
the worker has nobody who waits, and works in the process that the person started.
"""

CALLED = "COACH_CALLED"
"""Environment of a worker: the name under which the person called."""

BREAKDOWNS = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGKILL,
    signal.SIGSEGV,
}
STOPPING = "Stopping after this step. Ctrl-C again stops at once, back to the last checkpoint."


class End(NamedTuple):
    """How a worker ended: its exit code (negative: a signal), what it wrote to descriptor 2, and
    whether its person had asked it to stop.
    """

    code: int
    notes: str
    asked: bool


def needs_worker(arguments: Sequence[str]) -> bool:
    """Whether this command line must be given to `run`."""
    command = arguments[0] if arguments else ""
    if command not in WATCHED or is_worker() or WATCHED[command] & {*arguments}:
        return False
    return command not in RESUMED or not any(rank in os.environ for rank in RANKS)


def is_worker() -> bool:
    return LIFELINE in os.environ


def _mark(place: int) -> int | None:
    """One of the numbers in LIFELINE."""
    marks = os.environ.get(LIFELINE, "").split(":")
    return int(marks[place]) if place < len(marks) and marks[place] else None


def waiting_process() -> int:
    """The process that the person started: the one that waits, or this one."""
    waiting = _mark(1)
    return os.getpid() if waiting is None else waiting


def screen() -> int:
    """The descriptor at which the person reads what is said."""
    shown = _mark(2)
    return 2 if shown is None else shown


def begin() -> None:
    """In a worker: its name is what the person typed, and what Python says goes to the person."""
    sys.argv[0] = os.environ.get(CALLED, sys.argv[0])
    if screen() != 2:
        words = io.BufferedWriter(_Screen(screen(), "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(
            words, sys.stderr.encoding, "backslashreplace", line_buffering=True
        )


class _Screen(io.FileIO):
    """Where the terminal is closed or nobody reads, the work goes on in silence."""

    def write(self, words: Any, /) -> int:
        try:
            return super().write(words)
        except OSError:
            _silence()
            return len(words)


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
    end = _work(arguments)
    if arguments[0] in RESUMED and _broke_down(end):
        console.say(f"{_trouble(end).happened} It goes on by itself from where it was.")
        # --force would set aside what is to go on.
        end = _work([argument for argument in arguments if argument != "--force"])
        if _broke_down(end):
            console.say(f"It happened twice. {' '.join(_trouble(end))}")
            return ToolError.exit_code if gpu.recognise(end.notes) else 128 - end.code
    if end.code < 0:
        console.say(f"{_ended_by(end)} The same command goes on.")
        return 128 - end.code
    return end.code


def _broke_down(end: End) -> bool:
    """Whether it ended by no will of its person's, and a new process may get further."""
    failed_on_gpu = end.code == ToolError.exit_code and gpu.COMMAND_BUFFER in end.notes
    return not end.asked and (failed_on_gpu or -end.code in BREAKDOWNS)


def _trouble(end: End) -> gpu.Trouble:
    """What a breakdown's notes say, or what its signal lets one think."""
    known = gpu.recognise(end.notes)
    if known is not None:
        return known
    again = "The same command goes on from where it was."
    if end.code == -signal.SIGKILL:
        return gpu.Trouble(
            f"{_ended_by(end)} Probably the memory ran out.",
            f"Close other programs. {again} What fits: coach train --plan",
        )
    return gpu.Trouble(_ended_by(end), f"{again} What is amiss here: coach doctor")


def _ended_by(end: End) -> str:
    return f"The process at work was ended by {signal.Signals(-end.code).name}."


def _work(arguments: Sequence[str]) -> End:
    """One worker, from its start to its end; what it left in its notes is shown."""
    ours, theirs = os.pipe()
    with _notebook(arguments[0]) as notes, contextlib.ExitStack() as undo:
        undo.callback(os.close, theirs)
        worker = _start(arguments, ours, notes)
        code, asked = _wait(worker)
        said = _read(notes)
    if said.strip():
        console.say(said.rstrip("\n"))
    return End(code, said, asked)


@contextlib.contextmanager
def _notebook(command: str) -> Iterator[IO[bytes] | None]:
    """A file to stand at descriptor 2, where what a dying process writes there can be read; `None`
    where none is wanted, or where there is no room for one.
    """
    with contextlib.ExitStack() as undo:
        notes = None
        if command in RESUMED:
            with contextlib.suppress(OSError):
                notes = undo.enter_context(tempfile.TemporaryFile())
                fcntl.fcntl(notes, fcntl.F_SETFL, os.O_APPEND)  # for whoever opens it again
        yield notes


def _start(
    arguments: Sequence[str], lifeline: int, notes: IO[bytes] | None
) -> "subprocess.Popen[bytes]":
    """A worker that holds this end of the pipe, which is closed here."""
    shown = os.dup(2)
    marks = f"{lifeline}:{os.getpid()}:{shown}"
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "coach_mlx.cli", *arguments],
            env={**os.environ, LIFELINE: marks, CALLED: sys.argv[0]},
            stderr=notes,
            pass_fds=(lifeline, shown, *_named_descriptors(arguments)),
            start_new_session=True,
        )
    finally:
        os.close(lifeline)
        os.close(shown)


def _read(notes: IO[bytes] | None) -> str:
    if notes is None:
        return ""
    notes.seek(0)
    return notes.read().decode(errors="replace")


def _wait(worker: "subprocess.Popen[bytes]") -> tuple[int, bool]:
    """The worker's exit code, and whether its person asked it to stop; signals go on to it."""
    asked: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        asked.append(number)
        with contextlib.suppress(ProcessLookupError):
            worker.send_signal(number)

    def pause(_: int, __: FrameType | None) -> None:
        """Ctrl-Z stops both; `fg` lets both go on."""
        worker.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        worker.send_signal(signal.SIGCONT)

    handlers = {signal.SIGINT: forward, signal.SIGTERM: forward, signal.SIGTSTP: pause}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        return worker.wait(), bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    import asyncio

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

    lifeline = _lifeline()
    numbers = (signal.SIGINT, signal.SIGTERM)
    with contextlib.ExitStack() as undo:
        for number in numbers:
            loop.add_signal_handler(number, interrupt)
            undo.callback(loop.remove_signal_handler, number)
        if lifeline >= 0:
            loop.add_reader(lifeline, orphaned)
            undo.callback(loop.remove_reader, lifeline)
        yield


@contextlib.contextmanager
def stop_after_step() -> Iterator[Callable[[], bool]]:
    """Whether to stop once the step is saved: asked by Ctrl-C or SIGTERM, or nobody waits any more.
    A second Ctrl-C raises KeyboardInterrupt at once. Off the main thread no signal is caught.
    """
    asked: list[int] = []

    def ask(number: int, _: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        with contextlib.suppress(RuntimeError):  # another line is being written at this moment
            console.say(STOPPING)

    with contextlib.ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                undo.callback(signal.signal, number, signal.signal(number, ask))
        yield lambda: bool(asked) or is_orphaned()


def is_orphaned() -> bool:
    """Whether nobody waits for this worker any more; it is silent from then on."""
    lifeline = _lifeline()
    if lifeline < 0 or not _is_open(lifeline) or not select.select([lifeline], [], [], 0)[0]:
        return False
    _silence()
    return True


def _lifeline() -> int:
    lifeline = _mark(0)
    return -1 if lifeline is None else lifeline


def _silence() -> None:
    """Nobody reads what is said any more, and writing to a closed pipe would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in {1, 2, screen()}:
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
