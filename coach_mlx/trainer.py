"""`coach train`: LoRA on the quantized base, with the loss on the coach's words alone.

Reads: training_data.jsonl, models/base/NAME/, and the scenario cards of the conversations for the
loss by topic.
Writes: adapters/NAME/ in mlx-lm's format (the best adapter; the last in last/), metrics.jsonl,
loss.png and checkpoints/. A killed run goes on from its newest checkpoint, bit for bit on the CPU:
the order of the data and every random draw are functions of the seed and the step.
Fails: DataError for data that does not fit the model and for a loss that is no number, ConfigError
where an unfinished training had other settings, ToolError where the memory does not suffice.
"""

import contextlib
import itertools
import json
from typing import Any

from coach_mlx import (
    checkpoints,
    console,
    gpu,
    lora,
    losses,
    memory_fit,
    mlx_runtime,
    ranks,
    report,
    training_loop,
)
from coach_mlx.batches import Batches, Course, make_batches
from coach_mlx.chat_format import check_mask, encode_conversation
from coach_mlx.config import Config, TrainSection
from coach_mlx.errors import DataError, ToolError
from coach_mlx.ranks import Ranks
from coach_mlx.records import Conversation
from coach_mlx.standing import Journal, Standing, summary
from coach_mlx.training_loop import Run
from coach_mlx.workspace import Plan, Workspace, read_conversations, read_jsonl, stamp

FREE = {"report_every", "checkpoint_every", "keep_checkpoints", "grad_checkpoint"}
"""Settings that change how a training runs and not what comes out."""

METHOD = "AdamW with bias correction"
"""Part of what a checkpoint is of; the optimizer below."""


def plan(config: Config, workspace: Workspace) -> Plan:
    outputs = (
        workspace.adapter_weights,
        workspace.adapter / lora.CONFIG,
        workspace.metrics,
        workspace.loss_plot,
    )
    return Plan((workspace.training_data, workspace.base_marker), outputs, _settings(config))


def run(config: Config, workspace: Workspace, force: bool = False) -> dict[str, Any]:
    mlx_runtime.prepare()
    conversations = _conversations(workspace)
    fingerprint = _fingerprint(config, workspace)
    everyone = ranks.join()
    found = checkpoints.look(workspace.adapter, fingerprint, force)
    everyone.share("train")
    must_fit = not force and found.newest is None
    state = _prepare(config, workspace, conversations, everyone, must_fit)
    checkpoints.begin(workspace.adapter, fingerprint, found)
    with gpu.explained():
        seconds = training_loop.run(state, found.newest)
    kept = checkpoints.finish(workspace.adapter, state.standing, state.settings, state.model)
    lines = read_jsonl(workspace.metrics)
    report.plot_loss(lines, workspace.loss_plot)
    before = next((line["validation_loss"] for line in lines if line["step"] == 0), None)
    if before is not None and (state.standing.best_loss or 0) >= before:
        console.say(
            f"No step was better than the base: {state.standing.best_loss:.3f} at best, "
            f"{before:.3f} before. Lower train.learning_rate, or look at the data."
        )
    return {
        **summary(state.standing, before),
        "split_conversations": state.batches.split_conversations,
        "adapter": workspace.shown(workspace.adapter),
        "adapter_from": workspace.shown(kept),
        "training_seconds": round(seconds, 1),
    }


def follow(config: Config, workspace: Workspace) -> None:
    """The part of every Mac but the first: compute, and write nothing."""
    mlx_runtime.prepare()
    everyone = ranks.join()
    if everyone.share() == "nothing":
        return
    state = _prepare(config, workspace, _conversations(workspace), everyone)
    with gpu.explained():
        training_loop.run(state, None)


def dismiss() -> None:
    """Where the leader has nothing to do, the others need not wait."""
    ranks.join().share("nothing")


def _settings(config: Config) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "train": config.train.model_dump(exclude=FREE),
        "base": config.base.model,
    }


def _fingerprint(config: Config, workspace: Workspace) -> dict[str, Any]:
    return _settings(config) | {
        "optimizer": METHOD,
        "training_data": stamp(workspace.training_data).sha256,
        "base": stamp(workspace.base_marker).sha256,
    }


def _conversations(workspace: Workspace) -> list[Conversation]:
    if not workspace.base_marker.is_file():
        raise ToolError(f"There is no base model in {workspace.base}. Type: coach import")
    if not workspace.training_data.is_file():
        raise DataError(f"There is no {workspace.training_data}. Type: coach dataset")
    return read_conversations(workspace.training_data)


def _topics(config: Config, workspace: Workspace) -> dict[str, str]:
    """Of the conversations that still lie where the training data was made from."""
    name = config.dataset.conversations
    path = workspace.conversations if name is None else workspace.find(name)
    with contextlib.suppress(DataError):  # only words in a report hang on it
        found = read_conversations(path)
        return {one.id: one.scenario.topic for one in found if one.scenario is not None}
    return {}


def _prepare(
    config: Config,
    workspace: Workspace,
    conversations: list[Conversation],
    everyone: Ranks,
    must_fit: bool = False,
) -> Run:
    import mlx.core as mx
    import mlx.optimizers as optim

    settings, fingerprint = config.train, _fingerprint(config, workspace)
    everyone.require_same(json.dumps(fingerprint, sort_keys=True), "data, base and config")
    _require_shares(settings, everyone)
    with console.spinner("Opening the base model"):
        loaded = mlx_runtime.open_model(workspace.base)
    topics = everyone.share(_topics(config, workspace))
    batches = make_batches(loaded.tokenizer, conversations, settings, config.seed, topics)
    _require_positions(batches, loaded.config)
    if must_fit:  # before any weight is read
        memory_fit.require_fit(loaded.model, settings, batches, everyone.size)
    losses.require_known_head(loaded.model)
    mx.random.seed(config.seed)
    lora.attach(loaded.model, settings)
    loaded.model.train()
    # MLX leaves Adam's bias correction off, which makes the first steps several times larger than
    # the learning rate says.
    optimizer = optim.AdamW(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        bias_correction=True,
    )
    optimizer.init(loaded.model.trainable_parameters())
    course = Course.of(len(batches.training), settings, config.seed)
    journal = Journal(workspace.metrics if everyone.rank == 0 else None)
    return Run(
        loaded.model,
        optimizer,
        batches,
        course,
        settings,
        config.seed,
        workspace.adapter,
        fingerprint,
        everyone,
        Standing(),
        journal,
    )


def _require_shares(settings: TrainSection, everyone: Ranks) -> None:
    if settings.batch_size % everyone.size:
        raise ToolError(
            f"{everyone.size} processes cannot share batches of {settings.batch_size}. Type: "
            f"coach train --set train.batch_size={everyone.size}"
        )


def _require_positions(batches: Batches, model_config: dict[str, Any]) -> None:
    limit = model_config.get("max_position_embeddings")
    longest = max(row.length for batch in batches.training for row in batch)
    if limit and longest > limit:
        raise DataError(
            f"A conversation has {longest} tokens, and this base model knows {limit} positions. "
            f"Type: coach train --set train.max_seq_length={limit}"
        )


def show_plan(config: Config, workspace: Workspace, mac: int | None) -> dict[str, Any]:
    """`coach train --plan`: what it would need, here or on a Mac of so many GB."""
    return memory_fit.show(config, workspace.base, _conversations(workspace), mac)


def show_mask(config: Config, workspace: Workspace) -> dict[str, Any]:
    """`coach train --show-mask`: a conversation with every token the loss counts in green."""
    from rich.text import Text

    chat = _conversations(workspace)[0].chat()
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    encoded = encode_conversation(tokenizer, chat)
    check_mask(tokenizer, chat, encoded)
    styled = Text()
    for target, group in itertools.groupby(zip(*encoded, strict=True), key=lambda pair: pair[1]):
        styled.append(
            tokenizer.decode([token for token, _ in group]), "bold green" if target else "dim"
        )
    console.show(styled)
    return {"tokens": len(encoded.token_ids), "targets": sum(encoded.is_target)}
