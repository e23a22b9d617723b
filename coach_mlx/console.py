"""Progress and words on stderr; stdout stays free for results.

On a terminal: bars, spinners and an estimate of the time left. Elsewhere: plain lines, at most one
every ten seconds, without colour codes.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

PLAIN_SECONDS = 10.0
SHOWN_PLACES = 12


CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def say(text: str) -> None:
    """One line for the person; codes that a model wrote do not reach the terminal."""
    text = text.translate(CONTROLS)
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def width() -> int:
    """Of the terminal, in columns."""
    return int(_console().width)


def show(renderable: Any) -> None:
    """A rich table or styled text for the person."""
    _console().print(renderable)


class Check(NamedTuple):
    """Something measured against what is wanted; `places` says where it does not hold."""

    name: str
    found: str
    wanted: str
    ok: bool
    places: tuple[str, ...] = ()


def show_checks(title: str, checks: Sequence[Check]) -> None:
    """A table, and under it where a check does not hold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for heading in ("", "check", "found", "wanted"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        cells = ("ok" if check.ok else "NO", check.name, check.found, check.wanted)
        table.add_row(*(Text(cell) for cell in cells))
    show(table)
    for check in checks:
        if check.places and not check.ok:
            more = len(check.places) - SHOWN_PLACES
            say(f"{check.name}:")
            for place in check.places[:SHOWN_PLACES]:
                say(f"  {place}")
            if more > 0:
                say(f"  … and {more} more")


@contextlib.contextmanager
def spinner(text: str) -> Iterator[None]:
    """For work whose length nobody knows."""
    console = _console()
    if not console.is_terminal:
        say(f"{text} …")
        yield
        return
    with console.status(f"{text} …"):
        yield


class Progress:
    """Counts `done` of `total`; rates and estimates come from the units done since this process
    began.
    """

    def __init__(self, label: str, total: int, unit: str, done: int, bar: Any) -> None:
        self._label, self._total, self._unit, self._bar = label, total, unit, bar
        self._done = self._first = done
        self._started = self._said = time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done, note=note)
            return
        now = time.monotonic()
        if now - self._said < PLAIN_SECONDS and self._done < self._total:
            return
        self._said = now
        say(
            f"{self._label}: {self._done}/{self._total} "
            f"{self._unit}{self._left(now)}{'  ' + note if note else ''}"
        )

    def _left(self, now: float) -> str:
        done = self._done - self._first
        if not done or self._done >= self._total:
            return ""
        seconds = (now - self._started) / done * (self._total - self._done)
        return f", about {duration(seconds)} left"


@contextlib.contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    console = _console()
    if not console.is_terminal:
        yield Progress(label, total, unit, done, None)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Bar(Bars):
        """The note stands under the bar, where it may be long."""

        def get_renderables(self) -> Iterator[Any]:
            yield self.make_tasks_table(self.tasks)
            yield from (Text(task.fields["note"]) for task in self.tasks if task.fields["note"])

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        bar.add_task(label, total=total, completed=done, note="")
        yield Progress(label, total, unit, done, bar)


def duration(seconds: float) -> str:
    """Rounded as a person would say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _console() -> Any:
    from rich.console import Console

    class Patient(Console):
        """Where nobody reads any more, the work goes on in silence."""

        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    return Patient(file=sys.stderr)


def write(text: str) -> None:
    """A piece of a reply, on stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
