"""Every arm's replies and losses: what is on disk, and what is still to be generated.

Reads and writes output/evaluation/ (replies.jsonl, losses.jsonl, simulated.jsonl), a line an answer
as it comes. A model is opened only where something of it is missing, one after the other. Fails as
`arms` and `replay` do.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from coach_mlx import console, mlx_runtime
from coach_mlx.arms import ArmSource, OpenArm
from coach_mlx.chat_format import Encoded, encode_conversation, encode_plain, split_conversation
from coach_mlx.config import Config
from coach_mlx.material import Material
from coach_mlx.records import Conversation, Record, content_hash
from coach_mlx.replay import (
    SEAL_DIGITS,
    Replayer,
    ReplyRecord,
    Script,
    Talk,
    Told,
    asked_hash,
    missing_replies,
    read_replies,
    tell,
)
from coach_mlx.simulated import talk_freely, to_do
from coach_mlx.workspace import Workspace, append_line, read_appended

BYTES_PER_TOKEN = 2
"""At least, of what people write in alphabets; for the room that a talk may take."""
TURN_TOKENS = 16
"""Of a chat template, for a message of each side."""


class LossRecord(Record):
    """How likely one model finds the coach's words of one held-out conversation."""

    arm: str
    asked: str
    """Hash of the model and of how it was asked."""
    script: str
    mean_loss: float
    targets: int


class Answers:
    """Of all arms, those that are there and those that are not."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        material: Material,
        sources: Sequence[ArmSource],
    ) -> None:
        self.config, self.workspace, self.material = config, workspace, material
        self.sources = sources
        self.replies_path = workspace.evaluation / "replies.jsonl"
        self.losses_path = workspace.evaluation / "losses.jsonl"
        self.replies = read_replies(self.replies_path)
        self.losses = self._read_losses()

    def _read_losses(self) -> dict[tuple[str, str], LossRecord]:
        lines = read_appended(self.losses_path, LossRecord)
        return {(one.asked, one.script): one for one in lines}

    def any_seen(self) -> bool:
        """Whether any of these models' replies were generated before."""
        return any(
            (talk.asked, talk.script.id, talk.repeat, 1) in self.replies
            for source in self.sources
            for talk in self._talks(source)
        )

    def loss(self, source: ArmSource, one: Conversation) -> float | None:
        """Nats a token."""
        found = self._loss(source, one)
        return found.mean_loss if found else None

    def replies_of(self, source: ArmSource) -> list[ReplyRecord]:
        return [one for told in self.told if told.arm == source.name for one in told.replies]

    def _talks(self, source: ArmSource) -> list[Talk]:
        return [
            Talk(script, repeat, asked_hash(source.digest, self.material.decoding, script))
            for script in self.material.scripts
            for repeat in range(self.config.evaluate.repeats)
        ]

    # --- every arm answers

    def generate(self) -> None:
        """Replies and losses that are missing, one arm after the other."""
        for source in self.sources:
            talks = self._talks(source)
            missing = missing_replies(talks, self.replies)
            losses = [one for one in self.material.conversations if not self._loss(source, one)]
            losses = losses if source.has_losses else []
            free = to_do(self.material.free, source.digest) if self.material.free else []
            if missing or losses or free:
                self._answer(source, talks, missing, losses)

    def _answer(
        self,
        source: ArmSource,
        talks: Sequence[Talk],
        missing: int,
        losses: Sequence[Conversation],
    ) -> None:
        with console.spinner(f"Opening {source.meaning}"):
            opened = source.open(self._longest)
        total = missing + len(losses)
        with opened as arm, console.progress(f"evaluate {source.name}", total, "answers") as bar:
            replayer = Replayer(
                source.name,
                source.digest,
                arm,
                self.material.decoding,
                self.replies_path,
                bar.advance,
            )
            replayer.replay(talks, self.replies)
            for one in losses:
                self._measure_loss(source, arm, one)
                bar.advance()
            if self.material.free:
                console.say(
                    f"evaluate {source.name}: free talks with {self.config.evaluate.client}"
                )
                talk_freely(
                    self.material.free, source.name, source.digest, arm, self.config, self.workspace
                )

    def _loss_key(self, source: ArmSource, one: Conversation) -> tuple[str, str]:
        settings = self.config.evaluate
        facts = [source.digest, settings.max_seq_length, settings.context_turns]
        return content_hash(facts)[:SEAL_DIGITS], one.id

    def _loss(self, source: ArmSource, one: Conversation) -> LossRecord | None:
        return self.losses.get(self._loss_key(source, one))

    def _measure_loss(self, source: ArmSource, arm: OpenArm, one: Conversation) -> None:
        parts = self._parts(one)
        mean = arm.mean_loss(parts)
        if mean is None:
            return
        asked, script = self._loss_key(source, one)
        targets = sum(sum(part.is_target) for part in parts)
        record = LossRecord(
            arm=source.name, asked=asked, script=script, mean_loss=mean, targets=targets
        )
        append_line(self.losses_path, record.model_dump_json())
        self.losses[asked, script] = record

    def _parts(self, one: Conversation) -> list[Encoded]:
        settings, chat = self.config.evaluate, one.chat()
        parts = split_conversation(
            self._tokenizer, chat, settings.max_seq_length, settings.context_turns
        )
        return [encode_conversation(self._tokenizer, it.messages, it.context) for it in parts]

    @cached_property
    def _longest(self) -> int:
        """Tokens that a talk may take, or a part of a reference that is scored."""
        cap = self.material.decoding.max_tokens
        longest = max(
            self._tokens(one) + len(one.says) * (cap + TURN_TOKENS) for one in self.material.scripts
        )
        if not any(source.has_losses for source in self.sources):
            return longest
        parts = (part for one in self.material.conversations for part in self._parts(one))
        return max(longest, *(len(part.token_ids) for part in parts))

    def _tokens(self, script: Script) -> int:
        """Of the system's words and the person's."""
        texts = (script.system or "", *script.says)
        if self.workspace.base_marker.is_file():
            return sum(len(encode_plain(self._tokenizer, text)) for text in texts)
        return sum(len(text.encode()) // BYTES_PER_TOKEN for text in texts)

    @cached_property
    def _tokenizer(self) -> Any:
        return mlx_runtime.open_tokenizer(self.workspace.base)

    @cached_property
    def told(self) -> list[Told]:
        """Every arm's whole talks."""
        found = (
            tell(talk.script, source.name, talk.asked, talk.repeat, self.replies)
            for source in self.sources
            for talk in self._talks(source)
        )
        free = self.material.free
        told = [one for one in found if one is not None]
        for source in self.sources if free else ():
            told += free.told(source.name, source.digest) if free else []
        return told
