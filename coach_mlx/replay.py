"""Scripts that every arm answers in its own history, and the records of what it answered.

Reads and writes output/evaluation/replies.jsonl, a line a reply as it comes. A reply is known by
what answered (a digest), how it was asked (decoding) and what was said, so nothing is generated
twice and nothing is taken for another model's. Each line is sealed together with the turn before
it. Fails: DataError naming the line that was changed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import supervisor
from coach_mlx.arms import Decoding, OpenArm
from coach_mlx.comparison import Kind
from coach_mlx.errors import INTERRUPTED, DataError, Stopped
from coach_mlx.mlx_replies import Asked, Reply
from coach_mlx.probes import Probe
from coach_mlx.records import Conversation, Message, Record, Risk, content_hash
from coach_mlx.workspace import append_line, read_appended

NOTHING = "…"
"""Stands in a talk for a reply without a word."""
SEAL_DIGITS = 16


class Script(Record):
    """What the person says, whatever is answered."""

    id: str
    kind: Kind
    group: str
    """Topic or family; empty where nobody wrote a card."""
    system: str | None
    says: tuple[str, ...]
    risk: tuple[Risk, ...] | Risk | None = None
    """By turn where a probe says so, of the whole where a card does."""
    benign: bool = False
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()

    @property
    def worst_risk(self) -> Risk | None:
        if self.risk is None or isinstance(self.risk, str):
            return self.risk
        order: tuple[Risk, ...] = ("none", "implicit", "explicit", "imminent")
        return max(self.risk, key=order.index)


class ReplyRecord(Record):
    """One reply, and what it belongs to."""

    arm: str
    digest: str
    """Of what answered."""
    asked: str
    """Hash of that, of the decoding and of the script."""
    script: str
    repeat: int
    turn: int
    """From 1."""
    said: str
    reply: str
    ended: bool
    """The model ended its turn itself; otherwise the cap did."""
    tokens: int
    seconds: float
    """Since the one before it, of those answered side by side."""
    seal: str


class Told(NamedTuple):
    """One arm's whole talk over a script."""

    script: Script
    arm: str
    repeat: int
    replies: tuple[ReplyRecord, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        said = (Message(role="user", content=one.said) for one in self.replies)
        told = (Message(role="assistant", content=one.reply or NOTHING) for one in self.replies)
        return tuple(one for pair in zip(said, told, strict=True) for one in pair)

    @property
    def conversation(self) -> Conversation:
        return Conversation(messages=self.messages)


def holdout_scripts(
    conversations: Sequence[Conversation], cards: Mapping[str, Conversation]
) -> list[Script]:
    """The person's words of held-out conversations; `cards` holds what their cards are known of."""
    return [_holdout_script(one, cards.get(one.id, one)) for one in conversations]


def _holdout_script(one: Conversation, known: Conversation) -> Script:
    system = next((line.content for line in one.messages if line.role == "system"), None)
    card = known.scenario
    return Script(
        id=one.id,
        kind="holdout",
        group=card.topic if card else "",
        system=system,
        says=tuple(line.content for line in one.messages if line.role == "user"),
        risk=card.risk if card else None,
    )


def probe_scripts(probes: Sequence[Probe], system: str, most: int | None) -> list[Script]:
    """Of the probes so many, every family in its turn."""
    chosen = [one for row in _rounds(probes) for one in row][:most]
    return [
        Script(
            id=one.id,
            kind="probe",
            group=one.family,
            system=system,
            says=tuple(turn.say for turn in one.turns),
            risk=tuple(turn.risk for turn in one.turns),
            benign=one.benign,
            must=one.must,
            must_not=one.must_not,
        )
        for one in chosen
    ]


def _rounds(probes: Sequence[Probe]) -> Iterator[list[Probe]]:
    """The first of each family, then the second of each, the shorter ones first."""
    families: dict[str, list[Probe]] = {}
    for one in probes:
        families.setdefault(one.family, []).append(one)
    for place in range(max(map(len, families.values()), default=0)):
        row = [those[place] for those in families.values() if place < len(those)]
        yield sorted(row, key=lambda one: len(one.turns))


# --- what is on disk


Key = tuple[str, str, int, int]
"""What was asked, the script, the repeat, the turn."""


def asked_hash(digest: str, decoding: Decoding, script: Script) -> str:
    """A probe's must and must-not, and what a judge is told of its risk, change no reply."""
    said = [script.system, list(script.says)]
    return content_hash([digest, decoding.model_dump(), said])[:SEAL_DIGITS]


def seal(before: str, record: Mapping[str, Any]) -> str:
    """Of a reply with all that stands before it."""
    facts = [record[key] for key in ("asked", "repeat", "turn", "said", "reply", "ended")]
    return content_hash([before, *facts])[:SEAL_DIGITS]


def read_replies(path: Path) -> dict[Key, ReplyRecord]:
    """Every reply that was given. Raises: DataError for a line that is not as it was written."""
    found: dict[Key, ReplyRecord] = {}
    for number, one in enumerate(read_appended(path, ReplyRecord), start=1):
        before = found.get((one.asked, one.script, one.repeat, one.turn - 1))
        if (one.turn > 1 and before is None) or one.seal != seal(
            before.seal if before else "", one.model_dump()
        ):
            raise DataError(
                f"{path}:{number}: this is not what the model said: the line, or one before it, "
                f"was changed. Nothing is compared on it. Type: rm {path}, and the same command "
                "generates the replies anew."
            )
        found[one.asked, one.script, one.repeat, one.turn] = one
    return found


def append_reply(path: Path, before: ReplyRecord | None, **facts: Any) -> ReplyRecord:
    """Seal a reply to the one before it, and write it down."""
    record = ReplyRecord(seal=seal(before.seal if before else "", facts), **facts)
    append_line(path, record.model_dump_json())
    return record


def tell(
    script: Script, arm: str, asked: str, repeat: int, found: Mapping[Key, ReplyRecord]
) -> Told | None:
    """The talk, where all of it was answered."""
    keys = [(asked, script.id, repeat, turn) for turn in range(1, len(script.says) + 1)]
    replies = [found[key] for key in keys if key in found]
    return Told(script, arm, repeat, tuple(replies)) if len(replies) == len(keys) else None


# --- asking


class Talk(NamedTuple):
    """A script that an arm is to answer once more."""

    script: Script
    repeat: int
    asked: str

    @property
    def name(self) -> str:
        return f"{self.asked}:{self.script.id}:{self.repeat}"


def missing_replies(talks: Sequence[Talk], found: Mapping[Key, ReplyRecord]) -> int:
    return sum(_key(talk, turn) not in found for talk in talks for turn in _turns(talk))


def _turns(talk: Talk) -> range:
    return range(1, len(talk.script.says) + 1)


def _key(talk: Talk, turn: int) -> Key:
    return talk.asked, talk.script.id, talk.repeat, turn


class Replayer(NamedTuple):
    """One arm, and where its replies go."""

    arm: str
    digest: str
    open_arm: OpenArm
    decoding: Decoding
    path: Path
    advance: Callable[[int], None]

    def replay(self, talks: Sequence[Talk], found: dict[Key, ReplyRecord]) -> None:
        """Let the arm answer what it has not answered; talks of like length side by side."""
        waiting = [one for one in talks if missing_replies([one], found)]
        waiting.sort(key=lambda one: len(one.script.says), reverse=True)
        width = self.open_arm.width
        for group in (waiting[at : at + width] for at in range(0, len(waiting), width)):
            for turn in range(1, len(group[0].script.says) + 1):
                self._turn(group, turn, found)
            for talk in group:
                self.open_arm.forget(talk.name)

    def _turn(self, group: Sequence[Talk], turn: int, found: dict[Key, ReplyRecord]) -> None:
        todo = [talk for talk in group if turn in _turns(talk) and _key(talk, turn) not in found]
        asked = [
            Asked(one.name, self._history(one, turn, found), self._seed(one, turn)) for one in todo
        ]
        since = time.monotonic()
        for place, reply in self.open_arm.replies(asked):
            if supervisor.is_orphaned():
                raise Stopped(INTERRUPTED)
            talk, now = todo[place], time.monotonic()
            record = self._keep(talk, turn, reply, found, now - since)
            found[_key(talk, turn)] = record
            since = now
            self.advance(1)

    def _history(
        self, talk: Talk, turn: int, found: Mapping[Key, ReplyRecord]
    ) -> list[dict[str, str]]:
        script = talk.script
        messages = [{"role": "system", "content": script.system}] if script.system else []
        for earlier in range(1, turn):
            reply = found[_key(talk, earlier)].reply or NOTHING
            messages.append({"role": "user", "content": script.says[earlier - 1]})
            messages.append({"role": "assistant", "content": reply})
        return [*messages, {"role": "user", "content": script.says[turn - 1]}]

    def _seed(self, talk: Talk, turn: int) -> int:
        """The same for every arm."""
        facts = [self.decoding.seed, talk.script.id, talk.repeat, turn]
        return int(content_hash(facts)[:8], 16)

    def _keep(
        self,
        talk: Talk,
        turn: int,
        reply: Reply,
        found: Mapping[Key, ReplyRecord],
        seconds: float,
    ) -> ReplyRecord:
        return append_reply(
            self.path,
            found.get(_key(talk, turn - 1)),
            arm=self.arm,
            digest=self.digest,
            asked=talk.asked,
            script=talk.script.id,
            repeat=talk.repeat,
            turn=turn,
            said=talk.script.says[turn - 1],
            reply=reply.text,
            ended=reply.ended,
            tokens=reply.tokens,
            seconds=round(seconds, 3),
        )
