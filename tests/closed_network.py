"""Run `coach` with every way to another machine shut: `python tests/closed_network.py ARGS`.

It works in this very process, as a worker for whom nobody waits: the shut door is this process's
own, and a kill ends the work itself.
"""

import os
import sys
from typing import Any


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"the network is closed, and this asked for it: {event} {arguments}")
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        raise RuntimeError(f"the network is closed, and this asked for it: {arguments[1]}")


if __name__ == "__main__":
    sys.addaudithook(refuse)
    os.environ["COACH_LIFELINE"] = "-1:"
    from coach_mlx.cli import main

    main()
