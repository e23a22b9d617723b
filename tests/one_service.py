"""Run `coach` and write down every address it connects to, and the modules it loaded:
`COACH_TEST_LOG=FILE python tests/one_service.py ARGS`.
"""

import atexit
import os
import sys
from pathlib import Path
from typing import Any

connected: list[str] = []


def note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        connected.append(":".join(map(str, arguments[1][:2])))
    if event in ("socket.getaddrinfo", "socket.gethostbyname") and arguments[0] != "127.0.0.1":
        connected.append(str(arguments[0]))


def write_down() -> None:
    lines = (" ".join(connected), " ".join(sorted(sys.modules)))
    Path(os.environ["COACH_TEST_LOG"]).write_text("\n".join(lines))


if __name__ == "__main__":
    sys.addaudithook(note)
    atexit.register(write_down)
    os.environ["COACH_LIFELINE"] = "-1:"
    from coach_mlx.cli import main

    main()
