"""A training and the machine under it: its limits, its sleep, and what MLX says when it breaks.

Reads and writes nothing. On Metal a training's memory is kept resident, and what MLX keeps for
reuse is bounded; a Mac stays awake. A message that MLX is known to say is explained; of any other
text nothing is guessed.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from coach_mlx.errors import ToolError

CACHE_FRACTION = 0.25
"""Of the GPU's working set, for buffers kept for reuse. Conversations of many lengths leave buffers
of many sizes that no later step fits into; MLX alone would keep them until 95 % is reached.
"""

COMMAND_BUFFER = "[METAL] Command buffer execution failed"
"""How every failure of work on Metal begins. A new process can go on after it."""


class Trouble(NamedTuple):
    """What a message of MLX's means: what happened, and what to type."""

    happened: str
    remedy: str


ANEW = "Other settings begin a training anew: coach train --force --set"
WATCHDOG = Trouble(
    "macOS stopped the GPU's work, because it took too long or held up the screen (its watchdog).",
    "Let the display sleep (pmset displaysleepnow; the Mac itself stays awake) and close other "
    "programs, then type the same command again. If that is not enough, put "
    "AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 before the command, or give the GPU shorter work: a smaller "
    f"train.max_seq_length or train.batch_size. {ANEW} train.batch_size=1",
)
MEMORY = Trouble(
    "The memory for this training ran out.",
    "Close other programs and type the same command again, or see what fits: coach train --plan. "
    "Less is needed with train.grad_checkpoint=true, or a smaller train.batch_size, "
    f"train.max_seq_length, train.layers or train.rank. {ANEW} train.grad_checkpoint=true",
)
ONE_ARRAY = Trouble(
    "One array of this training is larger than this GPU allows.",
    f"Take a smaller train.max_seq_length or train.batch_size. {ANEW} train.batch_size=1",
)
MANY_ARRAYS = Trouble(
    "This training holds more arrays at once than this GPU allows.",
    f"Take a smaller train.batch_size or train.layers. {ANEW} train.batch_size=1",
)
VICTIM = Trouble(
    "The GPU was reset because of another program's error; the training is not at fault.",
    "Close other programs that use the GPU, and type the same command again.",
)
REFUSED = Trouble(
    "macOS takes no more GPU work from this process, because earlier work failed.",
    "Type the same command again; if it comes back, restart the Mac.",
)
LOST_MAC = Trouble(
    "Another Mac of this training is gone, or cannot be reached any more.",
    "Type the same command again: it goes on from the last checkpoint, with all of them or fewer.",
)
# The cause stands above what follows from it: one text may hold both.
KNOWN = tuple(
    (re.compile(pattern), trouble)
    for pattern, trouble in (
        (r"kIOGPUCommandBufferCallbackError(Timeout|Hang|ImpactingInteractivity)\b", WATCHDOG),
        (r"kIOGPUCommandBufferCallbackErrorOutOfMemory\b", MEMORY),
        (r"\[metal::malloc\] Attempting to allocate \d+ bytes which is greater than", ONE_ARRAY),
        (r"\[metal::malloc\] Resource limit \(\d+\) exceeded", MANY_ARRAYS),
        (r"\[malloc\] Unable to allocate \d+ bytes", MEMORY),
        (r"\bcu\w+\(.*\) failed: out of memory", MEMORY),
        (r"\bstd::bad_alloc\b", MEMORY),
        (r"kIOGPUCommandBufferCallbackErrorInnocentVictim\b", VICTIM),
        (r"kIOGPUCommandBufferCallbackErrorSubmissionsIgnored\b", REFUSED),
        (r"\[ring\] connection to a peer was lost", LOST_MAC),
    )
)


def recognise(text: str) -> Trouble | None:
    """`None` where no known message stands in it.

    Source: mlx/backend/metal/{device,allocator}.cpp and mlx/backend/cuda/{utils,allocator}.cpp of
    MLX 0.32; the names in kIOGPU… are macOS's own.
    """
    return next((trouble for pattern, trouble in KNOWN if pattern.search(text)), None)


def explain(text: str) -> str | None:
    """The same, as one text for the person."""
    trouble = recognise(text)
    return None if trouble is None else " ".join(trouble)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises: ToolError in place of an error of MLX's that is known; others pass through."""
    try:
        yield
    except (RuntimeError, ValueError, MemoryError) as error:
        meaning = explain(str(error))
        if meaning is None:
            raise
        # Where an abort's message would stand, so that whoever watches reads both in one place.
        with contextlib.suppress(OSError):
            os.write(2, f"MLX says: {error}\n".encode())
        raise ToolError(meaning) from error


@contextlib.contextmanager
def training_session(cache_bytes: int | None = None) -> Iterator[None]:
    """For the length of a training: limits on the GPU's memory, and a Mac that does not sleep.
    MLX must have been prepared.
    """
    with stay_awake(), memory_limits(cache_bytes):
        yield


@contextlib.contextmanager
def memory_limits(cache_bytes: int | None = None) -> Iterator[None]:
    """Keep the training's memory resident and bound the cache, on Metal; both as before at the end.
    Elsewhere only a `cache_bytes` that is given is set.
    """
    import mlx.core as mx

    working_set = int(mx.device_info().get("max_recommended_working_set_size", 0))
    with contextlib.ExitStack() as undo:
        if working_set:
            if cache_bytes is None:
                cache_bytes = int(working_set * CACHE_FRACTION)
            undo.callback(mx.set_wired_limit, mx.set_wired_limit(working_set))
        if cache_bytes is not None:
            undo.callback(mx.set_cache_limit, mx.set_cache_limit(cache_bytes))
        undo.callback(mx.synchronize)  # limits must not change under work that is on its way
        yield


@contextlib.contextmanager
def stay_awake() -> Iterator[None]:
    """Keep a Mac from sleeping; its display may. Without `caffeinate` nothing changes."""
    helper = _start_caffeinate() if sys.platform == "darwin" else None
    try:
        yield
    finally:
        if helper is not None:
            helper.terminate()
            helper.wait()


def _start_caffeinate() -> "subprocess.Popen[bytes] | None":
    command = ["caffeinate", "-is", "-w", str(os.getpid())]  # -w: a kill of ours ends it as well
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.Popen(
            command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
        )
    except OSError:
        return None
