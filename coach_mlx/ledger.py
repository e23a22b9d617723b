"""Every call to a chat model, once: what was asked, what came back, what it cost.

Reads and writes output/calls.sqlite3 (SQLite, WAL, each change on disk before it is acted upon).
Fails: `over` says what to do where a call could exceed the cap; DataError where the file is not a
ledger, ToolError where it cannot be written.

A call's worst cost is reserved before it is sent, and settled when its answer is stored. What the
cap holds is spent + lost + reserved, so no schedule of answers and faults can exceed it. `lost` is
what may have been billed for nothing: a connection cut in the middle of an answer, or a call on its
way when the power went. Only one process writes (`Workspace.lock`), so a call found `sent` at the
start belongs to a process that is gone.
"""

import contextlib
import json
import math
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx.calls import Answer, Call, Outcome, Reply, Usage
from coach_mlx.errors import BackendError, DataError, ToolError

VERSION = 1
SCHEMA = """
create table calls (
    key text primary key,
    model text not null,
    purpose text not null,
    grouping text not null,
    state text not null check (state in ('open', 'sent', 'batch', 'done')),
    batch text,
    batched integer not null default 0,
    reserved_usd real not null default 0,
    lost_usd real not null default 0,
    lost integer not null default 0,
    usd real not null default 0,
    prompt_bytes integer not null,
    sample integer not null,
    outcome text,
    answer text,
    stop_reason text,
    served_by text,
    usage text,
    seconds real,
    asked text not null,
    answered text
);
create index calls_by_batch on calls (batch) where batch is not null;
create table batches (id text primary key, created text not null, ended text);
"""


class BudgetReached(BackendError):
    """The next call could cost more than is left."""


class Totals(NamedTuple):
    calls: int = 0
    usd: float = 0.0
    lost_usd: float = 0.0
    lost: int = 0
    usage: Usage = Usage()


class Ledger:
    def __init__(self, path: Path, budget_usd: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.budget_usd = path, budget_usd
        try:
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.row_factory = sqlite3.Row
            self._prepare()
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from None
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{path} is not a ledger of calls that can be read ({error}). Move it away to "
                "begin a new one; what it paid for is asked again then."
            ) from None
        row = self._row("select sum(usd + lost_usd), sum(reserved_usd) from calls")
        self._spent, self._reserved = float(row[0] or 0), float(row[1] or 0)

    def _prepare(self) -> None:
        self._database.execute("pragma journal_mode = wal")
        self._database.execute("pragma synchronous = full")
        self._database.execute("pragma wal_autocheckpoint = 100")
        found = self._row("pragma user_version")[0]
        if found not in (0, VERSION):
            raise sqlite3.DatabaseError(f"it was written by another version, {found}")
        with self._change():
            if found == 0:
                for statement in SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"pragma user_version = {VERSION}")
            self._database.execute(
                "update calls set state = 'open', lost = lost + 1, "
                "lost_usd = lost_usd + reserved_usd, reserved_usd = 0 where state = 'sent'"
            )

    def close(self) -> None:
        self._database.close()

    @property
    def spent_usd(self) -> float:
        """What was billed, and what may have been billed for nothing."""
        return self._spent

    @property
    def left_usd(self) -> float:
        return self.budget_usd - self._spent - self._reserved

    def find(self, key: str) -> Answer | None:
        """The answer, where one is stored; its text is there for an outcome of ok only."""
        row = self._row("select * from calls where key = ? and state = 'done'", key)
        return _answer(row) if row else None

    def raw(self, key: str) -> str:
        """The text of a stored answer, whatever its outcome."""
        return str(self._row("select answer from calls where key = ?", key)[0] or "")

    def reserve(self, call: Call, key: str, worst_usd: float) -> bool:
        """Set the worst case aside, on disk, before the call is sent. False where too little is
        left.
        """
        if worst_usd and worst_usd > self.left_usd:
            return False
        with self._change():
            self._open(call, key)
            self._database.execute(
                "update calls set state = 'sent', reserved_usd = ? where key = ?", (worst_usd, key)
            )
        self._reserved += worst_usd
        return True

    def settle(self, key: str, reply: Reply, usd: float, seconds: float) -> Answer:
        """Store the answer, on disk, before anybody uses it."""
        reply = reply._replace(text=reply.text.encode("utf-8", "replace").decode())
        with self._change():
            row = self._row("select reserved_usd from calls where key = ?", key)
            self._database.execute(
                "update calls set state = 'done', batch = null, reserved_usd = 0, usd = ?, "
                "outcome = ?, answer = ?, stop_reason = ?, served_by = ?, usage = ?, seconds = ?, "
                "answered = ? where key = ?",
                (
                    usd,
                    reply.outcome,
                    reply.text,
                    reply.stop_reason,
                    reply.model,
                    json.dumps(reply.usage),
                    round(seconds, 3),
                    _now(),
                    key,
                ),
            )
        self._reserved -= row[0]
        self._spent += usd
        found = self.find(key)
        assert found is not None
        return found._replace(stored=False)

    def mark(self, key: str, outcome: Outcome) -> None:
        """The stored answer turned out to be something else, such as malformed."""
        with self._change():
            self._database.execute("update calls set outcome = ? where key = ?", (outcome, key))

    def release(self, key: str, maybe_billed: bool) -> None:
        """No answer came. What may have been billed stays counted, at its worst."""
        with self._change():
            row = self._row("select reserved_usd from calls where key = ?", key)
            self._database.execute(
                "update calls set state = 'open', batch = null, reserved_usd = 0, "
                "lost = lost + ?, lost_usd = lost_usd + ? where key = ?",
                (int(maybe_billed), row[0] if maybe_billed else 0.0, key),
            )
        self._reserved -= row[0]
        self._spent += row[0] if maybe_billed else 0.0

    def reserve_batch(self, batch: str, items: Iterable[tuple[Call, str, float]]) -> list[str]:
        """Set aside what fits, in order, for one batch; the keys that are in it."""
        taken: list[str] = []
        reserved = 0.0
        with self._change():
            for call, key, worst_usd in items:
                if worst_usd and reserved + worst_usd > self.left_usd:
                    break
                self._open(call, key)
                self._database.execute(
                    "update calls set state = 'batch', batch = ?, batched = 1, reserved_usd = ? "
                    "where key = ?",
                    (batch, worst_usd, key),
                )
                reserved += worst_usd
                taken.append(key)
            if taken:
                self._database.execute(
                    "insert or replace into batches values (?, ?, null)", (batch, _now())
                )
        self._reserved += reserved
        return taken

    def name_batch(self, intended: str, batch: str) -> None:
        """The service has taken the batch and given it a name."""
        with self._change():
            self._database.execute("update calls set batch = ? where batch = ?", (batch, intended))
            self._database.execute("update batches set id = ? where id = ?", (batch, intended))

    def end_batch(self, batch: str, maybe_billed: bool = False) -> None:
        """All its results are in; what it left unanswered is free to be asked again."""
        for key in self.batch_keys(batch):
            self.release(key, maybe_billed)
        with self._change():
            self._database.execute("update batches set ended = ? where id = ?", (_now(), batch))

    def open_batches(self) -> list[tuple[str, str]]:
        """Name and time of the batches whose results are not in."""
        rows = self._database.execute("select id, created from batches where ended is null")
        return [(row["id"], row["created"]) for row in rows]

    def known_batches(self) -> set[str]:
        return {row["id"] for row in self._database.execute("select id from batches")}

    def batch_keys(self, batch: str) -> set[str]:
        rows = self._database.execute(
            "select key from calls where batch = ? and state = 'batch'", (batch,)
        )
        return {row["key"] for row in rows}

    def in_batch(self, key: str) -> bool:
        row = self._row("select 1 from calls where key = ? and state = 'batch'", key)
        return row is not None

    def was_batched(self, group: str) -> bool:
        """Whether any call of the group went in a batch, at another price."""
        row = self._row("select 1 from calls where grouping = ? and batched limit 1", group)
        return row is not None

    def model_of(self, key: str) -> str:
        return str(self._row("select model from calls where key = ?", key)[0])

    def totals(self, model: str | None = None, group: str | None = None) -> Totals:
        """Of all calls, or of one model's or one group's."""
        rows = self._database.execute(
            "select state, usd, lost_usd, lost, usage from calls where model = coalesce(?, model) "
            "and grouping = coalesce(?, grouping)",
            (model, group),
        )
        totals = Totals()
        for row in rows:
            used = Usage(*json.loads(row["usage"])) if row["usage"] else Usage()
            totals = Totals(
                totals.calls + (row["state"] == "done"),
                totals.usd + row["usd"],
                totals.lost_usd + row["lost_usd"],
                totals.lost + row["lost"],
                totals.usage.plus(used),
            )
        return totals

    def outcomes(self) -> dict[str, int]:
        """Answers by outcome, and how many were second tries."""
        rows = self._database.execute(
            "select outcome, count(*) from calls where state = 'done' group by outcome"
        )
        found = {row[0]: row[1] for row in rows}
        retried = self._row("select count(*) from calls where state = 'done' and sample > 0")[0]
        return {**found, "second tries": retried}

    def group_usd(self, group: str) -> float:
        """What the calls of one group cost, what may have been billed for nothing included."""
        row = self._row("select sum(usd + lost_usd) from calls where grouping = ?", group)
        return float(row[0] or 0)

    def models(self) -> list[str]:
        return [
            row[0] for row in self._database.execute("select distinct model from calls order by 1")
        ]

    def bytes_per_token(self, model: str) -> float | None:
        """Of the prompts this model was billed for; `None` before the first answer."""
        row = self._row(
            "select sum(prompt_bytes) bytes, "
            "sum(json_extract(usage, '$[0]') + json_extract(usage, '$[2]') + "
            "json_extract(usage, '$[3]') + json_extract(usage, '$[4]')) prompt "
            "from calls where state = 'done' and model = ?",
            model,
        )
        return row["bytes"] / row["prompt"] if row["prompt"] else None

    def _open(self, call: Call, key: str) -> None:
        self._database.execute(
            "insert into calls (key, model, purpose, grouping, state, prompt_bytes, sample, asked) "
            "values (?, ?, ?, ?, 'open', ?, ?, ?) on conflict (key) do nothing",
            (
                key,
                call.model,
                call.purpose,
                call.group,
                call.prompt_bytes,
                call.sample,
                _now(),
            ),
        )

    def over(self, worst_usd: float) -> BudgetReached:
        """What to raise where `reserve` said no and nothing under way can free anything."""
        wanted = math.ceil(100 * (self._spent + self._reserved + worst_usd)) / 100
        held = (
            f", ${self._reserved:.2f} set aside in open batches" if self._reserved > 0.005 else ""
        )
        return BudgetReached(
            f"The budget of ${self.budget_usd:.2f} is reached: ${self._spent:.2f} is spent{held}, "
            f"and the next call could cost up to ${worst_usd:.3f}. What is done is kept. To go on, "
            f"raise it (to more than ${wanted:.2f}): --set calls.budget_usd=AMOUNT"
        )

    def _row(self, statement: str, *values: Any) -> Any:
        return self._database.execute(statement, values).fetchone()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        try:
            self._database.execute("begin immediate")
            yield
            self._database.execute("commit")
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute("rollback")
            if isinstance(error, sqlite3.OperationalError):
                raise self._unwritable(error) from None
            raise

    def _unwritable(self, error: Exception) -> ToolError:
        return ToolError(
            f"{self.path} cannot be opened or written ({error}). Make room on the disk, or end "
            "what uses the file. Keep it: it holds the answers that were paid for."
        )


def _answer(row: Any) -> Answer:
    usage = Usage(*json.loads(row["usage"]))
    text = row["answer"] if row["outcome"] == "ok" else None
    return Answer(
        outcome=row["outcome"],
        text=text,
        value=None,
        model=row["served_by"],
        stop_reason=row["stop_reason"],
        usage=usage,
        usd=row["usd"],
        seconds=row["seconds"],
        stored=True,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
