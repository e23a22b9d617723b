"""Free talks: a chat model plays the person of a held-out card, and an arm answers.

Reads the cards and the client's prompt. Writes output/evaluation/simulated.jsonl, a sealed line a
reply as it comes. Secondary: here the arms do not meet the same words, so a difference may be the
client's. A client that falls out of its part, or refuses, ends the talk, and it is missing. Fails:
BackendError where the client does not answer.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from coach_mlx import supervisor
from coach_mlx.arcs import draw_arc
from coach_mlx.arms import Decoding, OpenArm
from coach_mlx.config import Config
from coach_mlx.dialogue import Ask, Cast, Unwritten, client_turn, plan_talk
from coach_mlx.errors import INTERRUPTED, Stopped
from coach_mlx.ledger import Ledger
from coach_mlx.llm import Models
from coach_mlx.mlx_replies import Asked
from coach_mlx.prices import PRICES, Prices
from coach_mlx.quote import Quote, quote
from coach_mlx.recipes import load_prompts
from coach_mlx.records import Message, Scenario, content_hash
from coach_mlx.replay import (
    NOTHING,
    SEAL_DIGITS,
    Key,
    ReplyRecord,
    Script,
    Told,
    append_reply,
    read_replies,
)
from coach_mlx.workspace import Workspace

THE_ARM = "mlx/the-arm"
"""Stands in a cast for who speaks for the coach; it costs nothing, and is never called."""


class Free(NamedTuple):
    """The free talks of an evaluation."""

    cards: Sequence[Scenario]
    cast: Cast
    system: str
    decoding: Decoding
    path: Path

    def asked(self, digest: str, card: Scenario) -> str:
        """What makes two talks comparable: model, decoding, card, client and its instruction."""
        facts = [self.cast.client, self.cast.prompts.client, self.cast.prompts.planner]
        return content_hash(
            [digest, self.decoding.model_dump(), card.model_dump(mode="json"), self.system, facts]
        )[:SEAL_DIGITS]

    def keys(self, digest: str, card: Scenario) -> list[Key]:
        turns = range(1, draw_arc(card).turns + 1)
        return [(self.asked(digest, card), _name(card), 0, turn) for turn in turns]

    def told(self, arm: str, digest: str) -> list[Told]:
        """The talks that came to their end."""
        found, talks = read_replies(self.path), []
        for card in self.cards:
            keys = self.keys(digest, card)
            if all(key in found for key in keys):
                replies = tuple(found[key] for key in keys)
                talks.append(Told(self._script(card, replies), arm, 0, replies))
        return talks

    def _script(self, card: Scenario, replies: Sequence[ReplyRecord]) -> Script:
        return Script(
            id=_name(card),
            kind="simulated",
            group=card.topic,
            system=self.system,
            says=tuple(one.said for one in replies),
            risk=card.risk,
        )


def _name(card: Scenario) -> str:
    return f"free-{card.id or content_hash(card.model_dump(mode='json'))[:12]}"


def prepare(
    config: Config,
    workspace: Workspace,
    cards: Sequence[Scenario],
    system: str,
    decoding: Decoding,
) -> Free | None:
    """`None` where nobody plays the person."""
    client = config.evaluate.client
    if client is None:
        return None
    settings = config.generate.model_copy(update={"mode": "turns"})
    prompts = load_prompts(config, workspace)
    cast = Cast(client, THE_ARM, client, prompts, settings, "evaluate:client")
    path = workspace.evaluation / "simulated.jsonl"
    return Free(cards[: config.evaluate.talks], cast, system, decoding, path)


def quote_clients(free: Free, arms: int, config: Config, workspace: Workspace) -> Quote:
    prices = Prices(workspace.find(PRICES), config.calls.openai_base_url)
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        return quote([*free.cards] * arms, free.cast, prices, ledger, 0, False)
    finally:
        ledger.close()


def to_do(free: Free, digest: str) -> list[Scenario]:
    found = read_replies(free.path)
    return [card for card in free.cards if not all(key in found for key in free.keys(digest, card))]


def talk_freely(
    free: Free, name: str, digest: str, arm: OpenArm, config: Config, workspace: Workspace
) -> None:
    """One arm, with every card that it has not talked through."""
    found = read_replies(free.path)

    async def all_talks() -> None:
        async with Models(config, workspace) as models:
            await models.prepare([free.cast.client])
            for card in to_do(free, digest):
                await _Talk(free, name, digest, arm, card).go_on(found, models.ask)

    try:
        asyncio.run(all_talks())
    except asyncio.CancelledError:
        raise Stopped(INTERRUPTED) from None


class _Talk(NamedTuple):
    free: Free
    name: str
    digest: str
    arm: OpenArm
    card: Scenario

    async def go_on(self, found: dict[Key, ReplyRecord], ask: Ask) -> None:
        """From the first turn that is not on disk; what the client said before is known."""
        card, cast = self.card, self.free.cast
        arc = draw_arc(card)
        plan = await plan_talk(card, arc, cast, ask)
        messages: list[Message] = []
        for turn, key in enumerate(self.free.keys(self.digest, card), start=1):
            if supervisor.is_orphaned():
                raise Stopped(INTERRUPTED)
            if key not in found:
                try:
                    said = await client_turn(card, arc, plan, messages, turn, cast, ask)
                except Unwritten:
                    return
                found[key] = self._answered(messages, said, key, found)
            messages += [
                Message(role="user", content=found[key].said),
                Message(role="assistant", content=found[key].reply or NOTHING),
            ]
        self.arm.forget(self._talk)

    @property
    def _talk(self) -> str:
        return f"{self.free.asked(self.digest, self.card)}:free"

    def _answered(
        self, messages: Sequence[Message], said: str, key: Key, found: dict[Key, ReplyRecord]
    ) -> ReplyRecord:
        asked, script, repeat, turn = key
        history = [
            {"role": "system", "content": self.free.system},
            *({"role": one.role, "content": one.content} for one in messages),
            {"role": "user", "content": said},
        ]
        seed = int(content_hash([self.free.decoding.seed, script, turn])[:8], 16)
        since = time.monotonic()
        _, reply = next(iter(self.arm.replies([Asked(self._talk, history, seed)])))
        before = found.get((asked, script, repeat, turn - 1))
        return append_reply(
            self.free.path,
            before,
            arm=self.name,
            digest=self.digest,
            asked=asked,
            script=script,
            repeat=repeat,
            turn=turn,
            said=said,
            reply=reply.text,
            ended=reply.ended,
            tokens=reply.tokens,
            seconds=round(time.monotonic() - since, 3),
        )
