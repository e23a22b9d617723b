"""What the models of a pilot answer: the first turns of held-out talks, and probes.

Reads the evaluation's material; reads and writes output/selection/ (replies.jsonl, losses.jsonl), a
line an answer as it comes, so a killed pilot goes on and generates nothing twice. Every model is
opened once, where something of it is missing. One that cannot be opened or asked is left out, with
its reason, and the others go on.

Losses are nats a byte of the coach's words (UTF-8), the end of each reply included. Tokenizers cut
the same words into different tokens, so what a token costs cannot be compared between models.
"""

from collections.abc import Sequence
from typing import Any

from coach_mlx import console, mlx_runtime
from coach_mlx.answers import BYTES_PER_TOKEN, TURN_TOKENS
from coach_mlx.arms import OpenArm
from coach_mlx.base_pilot_models import PilotModel, require_room
from coach_mlx.chat_format import encode_conversation, split_conversation
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.material import Material, longest_reply, read_material
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
from coach_mlx.workspace import Workspace, append_line, read_appended


def as_evaluation(config: Config) -> Config:
    """The pilot's settings where an evaluation's machinery looks for them."""
    select = config.select
    changes = {
        "judge": select.judge,
        "votes": select.votes,
        "safety_votes": None,
        "holdout": select.holdout,
        "probes": None,
        "client": None,
        "repeats": 1,
        "temperature": 0.0,
        "reply_tokens": select.reply_tokens or config.serve.max_reply_tokens,
    }
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update=changes)})


def read_pilot_material(config: Config, workspace: Workspace) -> Material:
    """The first turns of everything. Raises: ToolError where nothing was held out."""
    material = read_material(as_evaluation(config), workspace)
    turns = config.select.turns
    probes = [one for one in material.of_kind("probe") if shows_early(one, turns)]
    conversations = {one.id: first_turns(one, turns) for one in material.conversations}
    holdout = [
        one.model_copy(update={"id": conversations[one.id].id})
        for one in material.of_kind("holdout")
    ]
    return material._replace(
        conversations=list(conversations.values()),
        scripts=[cut(one, turns) for one in (*holdout, *probes[: config.select.probes])],
    )


def shows_early(probe: Script, turns: int) -> bool:
    """Whether the danger, where there is any, shows in the first turns: a probe that is cut before
    it asks for nothing.
    """
    risk = probe.risk if isinstance(probe.risk, tuple) else ()
    return not any(one != "none" for one in risk[turns:]) or any(
        one != "none" for one in risk[:turns]
    )


def cut(script: Script, turns: int) -> Script:
    """A probe's musts are of the whole talk, so a shorter one has none."""
    if len(script.says) <= turns:
        return script
    risk = script.risk[:turns] if isinstance(script.risk, tuple) else script.risk
    changes = {"says": script.says[:turns], "risk": risk, "must": (), "must_not": ()}
    return script.model_copy(update=changes)


def first_turns(one: Conversation, turns: int) -> Conversation:
    """With the system prompt."""
    head = [message for message in one.messages[:1] if message.role == "system"]
    spoken = one.messages[len(head) :]
    return Conversation(messages=(*head, *spoken[: 2 * turns]), made=one.made)


def coach_bytes(one: Conversation) -> int:
    """UTF-8, of the coach's words."""
    return sum(len(line.content.encode()) for line in one.messages if line.role == "assistant")


class ByteLoss(Record):
    """How likely one model finds the coach's words of one conversation."""

    model: str
    asked: str
    """Hash of the model and of how it was asked."""
    script: str
    nats: float
    bytes: int

    @property
    def per_byte(self) -> float:
        return self.nats / self.bytes


class PilotAnswers:
    """Of all models, what is there and what is not."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        material: Material,
        models: Sequence[PilotModel],
    ) -> None:
        """`config` is as `as_evaluation` makes it."""
        self.config, self.material, self.models = config, material, models
        self.replies_path = workspace.selection / "replies.jsonl"
        self.losses_path = workspace.selection / "losses.jsonl"
        self.replies = read_replies(self.replies_path)
        self.losses = self._read_losses()
        self.failures: dict[str, str] = {}
        """Of models that could not answer, why."""

    def _read_losses(self) -> dict[tuple[str, str], ByteLoss]:
        lines = read_appended(self.losses_path, ByteLoss)
        return {(one.asked, one.script): one for one in lines}

    def generate(self) -> None:
        """Replies and losses that are missing, one model after the other."""
        for model in self.models:
            missing = missing_replies(self.talks(model), self.replies)
            unscored = [one for one in self.material.conversations if not self._loss(model, one)]
            unscored = unscored if model.folder else []
            if not missing and not unscored:
                continue
            try:
                self._answer(model, missing, unscored)
            except (DataError, ToolError) as error:
                self.failures[model.source.name] = str(error)
                console.say(f"{model.source.name} is left out: {error}")

    def _answer(self, model: PilotModel, missing: int, unscored: Sequence[Conversation]) -> None:
        source = model.source
        tokenizer = None
        if model.folder is not None:
            require_room(model.folder)
            tokenizer = mlx_runtime.open_tokenizer(model.folder)
        with console.spinner(f"Opening {source.meaning}"):
            opened = source.open(self._longest)
        total = missing + len(unscored)
        with opened as arm, console.progress(f"pilot {source.name}", total, "answers") as bar:
            for one in unscored:
                self._measure_loss(model, tokenizer, arm, one)
                bar.advance()
            path, decoding = self.replies_path, self.material.decoding
            replayer = Replayer(source.name, source.digest, arm, decoding, path, bar.advance)
            replayer.replay(self.talks(model), self.replies)

    @property
    def _longest(self) -> int:
        """Tokens that a talk may take, or a reference that is scored; reckoned from bytes, because
        every model has its own tokens.
        """
        cap = longest_reply(self.config)
        talks = (
            sum(len(text.encode()) for text in (one.system or "", *one.says)) // BYTES_PER_TOKEN
            + len(one.says) * (cap + TURN_TOKENS)
            for one in self.material.scripts
        )
        return max(talks)

    # --- replies

    def talks(self, model: PilotModel) -> list[Talk]:
        digest, decoding = model.source.digest, self.material.decoding
        return [Talk(one, 0, asked_hash(digest, decoding, one)) for one in self.material.scripts]

    def told(self, model: PilotModel) -> list[Told]:
        """Its whole talks."""
        name = model.source.name
        found = (tell(one.script, name, one.asked, 0, self.replies) for one in self.talks(model))
        return [one for one in found if one is not None]

    @property
    def all_told(self) -> list[Told]:
        return [one for model in self.models for one in self.told(model)]

    def replies_of(self, model: PilotModel) -> list[ReplyRecord]:
        return [one for told in self.told(model) for one in told.replies]

    # --- losses

    def loss(self, model: PilotModel, one: Conversation) -> float | None:
        """Nats a byte."""
        found = self._loss(model, one)
        return found.per_byte if found else None

    def _loss(self, model: PilotModel, one: Conversation) -> ByteLoss | None:
        return self.losses.get(self._key(model, one))

    def _key(self, model: PilotModel, one: Conversation) -> tuple[str, str]:
        settings = self.config.evaluate
        words = [[line.role, line.content] for line in one.messages]
        facts = [model.source.digest, settings.max_seq_length, settings.context_turns, words]
        return content_hash(facts)[:SEAL_DIGITS], one.id

    def _measure_loss(
        self, model: PilotModel, tokenizer: Any, arm: OpenArm, one: Conversation
    ) -> None:
        settings = self.config.evaluate
        parts = [
            encode_conversation(tokenizer, part.messages, part.context)
            for part in split_conversation(
                tokenizer, one.chat(), settings.max_seq_length, settings.context_turns
            )
        ]
        mean = arm.mean_loss(parts)
        if mean is None:
            return
        asked, script = self._key(model, one)
        record = ByteLoss(
            model=model.source.name,
            asked=asked,
            script=script,
            nats=mean * sum(sum(part.is_target) for part in parts),
            bytes=coach_bytes(one),
        )
        append_line(self.losses_path, record.model_dump_json())
        self.losses[asked, script] = record


def losses_of(answers: PilotAnswers) -> dict[tuple[str, str], float]:
    """By model and script, as `Evidence` takes them."""
    return {
        (model.source.name, one.id): loss
        for model in answers.models
        for one in answers.material.conversations
        if (loss := answers.loss(model, one)) is not None
    }
