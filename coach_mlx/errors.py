"""What a person can fix, and the exit code a script sees.

    CoachError          1   never raised itself; anything else that escapes is a bug
     ├── ConfigError    2   a key, a value or an option is wrong
     ├── DataError      3   input is missing, malformed or too small
     ├── BackendError   4   a model or a server did not answer after its retries
     ├── ToolError      5   something the machine lacks: a file, a library, disk space
     ├── GateFailed    10   it ran, and the answer is no
     └── Stopped      130   it was asked to stop, and what was under way is stored

A message says what is wrong, where, and what to type next.
"""

import errno

DISK_ERRORS = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "Your disk quota is used up",
    errno.EFBIG: "The file would be larger than this disk allows",
    errno.EROFS: "The disk is read-only",
    errno.EACCES: "No permission",
    errno.EPERM: "No permission",
    errno.ENOTDIR: "A file stands where a folder must be",
    errno.EEXIST: "A file stands where a folder must be",
    errno.EISDIR: "A folder stands where a file must be",
}
INTERRUPTED = "Interrupted. What is complete is kept; the same command goes on."


class CoachError(Exception):
    """The root, so that the command line can catch every error it may explain."""

    exit_code = 1


class ConfigError(CoachError):
    exit_code = 2


class DataError(CoachError):
    exit_code = 3


class BackendError(CoachError):
    exit_code = 4


class ToolError(CoachError):
    exit_code = 5


class GateFailed(CoachError):
    exit_code = 10


class Stopped(CoachError):
    exit_code = 130


def disk_trouble(error: OSError) -> str | None:
    """What the system says of a file, in plain words; `None` where it is a bug."""
    if error.errno not in DISK_ERRORS:
        return None
    place = f" at {error.filename}" if error.filename else ""
    return f"{DISK_ERRORS[error.errno]}{place}. Mend that, or use --workspace DIR on another disk."
