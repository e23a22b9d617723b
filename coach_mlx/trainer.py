"""`coach train`: LoRA on the quantized base, with the loss on the coach's words alone.

Reads: training_data.jsonl and models/base/NAME/.
Writes: adapters/NAME/ in mlx-lm's format, metrics.jsonl, loss.png and checkpoints/. A killed run
goes on from its newest checkpoint, bit for bit on the CPU: the order of the data and every random
draw are functions of the seed and the step.
Fails: DataError for data that does not fit the model, ConfigError where an unfinished training had
other settings.
"""

import contextlib
import itertools
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import checkpoints, console, mlx_runtime, report
from coach_mlx.batches import Batches, batch_at, make_batches, target_count, token_count
from coach_mlx.chat_format import Encoded, check_mask, encode_conversation
from coach_mlx.config import Config, TrainSection
from coach_mlx.errors import DataError, ToolError
from coach_mlx.records import Conversation
from coach_mlx.workspace import Plan, Workspace, read_conversations, read_jsonl, stamp, write_whole

REPORTING = {"report_every", "validate_every", "checkpoint_every"}


class Run(NamedTuple):
    """What the loop needs; only the model and the optimizer change."""

    model: Any
    optimizer: Any
    batches: Batches
    settings: TrainSection
    seed: int
    total_steps: int
    workspace: Workspace
    fingerprint: dict[str, Any]


def plan(config: Config, workspace: Workspace) -> Plan:
    outputs = (
        workspace.adapter_weights,
        workspace.adapter / checkpoints.ADAPTER_CONFIG,
        workspace.metrics,
        workspace.loss_plot,
    )
    return Plan((workspace.training_data, workspace.base_marker), outputs, _settings(config))


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    conversations = _conversations(workspace)
    fingerprint = _settings(config) | {
        "training_data": stamp(workspace.training_data).sha256,
        "base": stamp(workspace.base_marker).sha256,
    }
    resumed = checkpoints.begin(workspace.adapter, fingerprint)
    with console.spinner("Opening the base model"):
        loaded = mlx_runtime.open_model(workspace.base)
    batches = make_batches(loaded.tokenizer, conversations, config.train, config.seed)
    _require_positions(batches, loaded.config)
    state = _prepare(config, workspace, loaded.model, batches, fingerprint)
    seconds = _train(state, resumed)
    report.plot_loss(read_jsonl(workspace.metrics), workspace.loss_plot)
    checkpoints.save_adapter(state.model, _adapter_config(state.settings), workspace.adapter)
    return _summary(state, seconds)


def set_aside(config: Config, workspace: Workspace) -> None:
    """What `--force` does to an earlier training."""
    checkpoints.set_aside(workspace.adapter)


def _settings(config: Config) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "train": config.train.model_dump(exclude=REPORTING),
        "base": config.base.model,
    }


def _conversations(workspace: Workspace) -> list[Conversation]:
    if not workspace.base_marker.is_file():
        raise ToolError(f"There is no base model in {workspace.base}. Type: coach import")
    if not workspace.training_data.is_file():
        raise DataError(f"There is no {workspace.training_data}. Type: coach dataset")
    return read_conversations(workspace.training_data)


def _require_positions(batches: Batches, model_config: dict[str, Any]) -> None:
    limit = model_config.get("max_position_embeddings")
    longest = max(len(part.token_ids) for batch in batches.training for part in batch)
    if limit and longest > limit:
        raise DataError(
            f"A conversation has {longest} tokens, and this base model knows {limit} positions. "
            f"Type: coach train --set train.max_seq_length={limit}"
        )


def _prepare(
    config: Config, workspace: Workspace, model: Any, batches: Batches, fingerprint: dict[str, Any]
) -> Run:
    import mlx.core as mx
    import mlx.optimizers as optim

    settings = config.train
    mx.random.seed(config.seed)
    model.freeze()
    attach_lora(model, settings)
    model.train()
    total = settings.steps or math.ceil(settings.epochs * len(batches.training))
    optimizer = optim.AdamW(
        learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
    )
    optimizer.init(model.trainable_parameters())
    return Run(model, optimizer, batches, settings, config.seed, total, workspace, fingerprint)


_checkpointed: set[type] = set()


def attach_lora(model: Any, settings: TrainSection) -> None:
    from mlx_lm.tuner.trainer import grad_checkpoint
    from mlx_lm.tuner.utils import linear_to_lora_layers

    adapter = _adapter_config(settings)
    linear_to_lora_layers(model, adapter["num_layers"], adapter["lora_parameters"])
    kind = type(model.layers[0])
    # mlx-lm wraps the class, not the layer: once a process is enough.
    if settings.grad_checkpoint and kind not in _checkpointed:
        grad_checkpoint(model.layers[0])
        _checkpointed.add(kind)


def _adapter_config(settings: TrainSection) -> dict[str, Any]:
    parameters = {"rank": settings.rank, "scale": settings.scale, "dropout": settings.dropout}
    return {"fine_tune_type": "lora", "num_layers": settings.layers, "lora_parameters": parameters}


def learning_rate_at(step: int, total_steps: int, settings: TrainSection) -> float:
    """Linear warm-up, then a cosine from the peak down to a tenth of it."""
    warmup = math.ceil(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total_steps - warmup, 1)
    return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def validation_loss(model: Any, batches: Sequence[Sequence[Encoded]]) -> float | None:
    """Mean loss a target token over the whole validation set; `None` where there is none."""
    if not batches:
        return None
    model.eval()
    total = sum(mlx_runtime.target_losses(model, batch).sum().item() for batch in batches)
    model.train()
    return float(total / sum(target_count(batch) for batch in batches))


def _train(state: Run, resumed: Path | None) -> float:
    """All steps from the checkpoint on; their seconds. Ctrl-C ends it once the step is saved."""
    sizes = [token_count(batch) for batch in state.batches.training]
    order = [batch_at(len(sizes), step, state.seed) for step in range(state.total_steps)]
    total = sum(sizes[number] for number in order)
    _announce(state, total)
    first = _resume(state, resumed) if resumed else _start(state)
    done = sum(sizes[number] for number in order[:first])
    started = time.monotonic()
    with (
        _interrupt_after_step() as interrupted,
        console.progress("train", total, "tokens", done) as bar,
    ):
        window = _Window()
        for step in range(first, state.total_steps):
            batch = state.batches.training[order[step]]
            window.add(_step(state, step, batch), batch)
            bar.advance(
                token_count(batch), f"step {step + 1}/{state.total_steps}  loss {window.last:.3f}"
            )
            window = _after_step(state, step + 1, window)
            if interrupted():
                _save(state, step + 1)
                console.say(f"Stopped after step {step + 1}. The same command goes on from there.")
                raise KeyboardInterrupt
    return time.monotonic() - started


def _announce(state: Run, total_tokens: int) -> None:
    split = state.batches.split_conversations
    cut = f" ({split} long conversations split between turns)" if split else ""
    parts = sum(map(len, state.batches.training))
    console.say(f"{parts} parts{cut}; {state.total_steps} steps, {total_tokens:,} tokens in all.")


def _start(state: Run) -> int:
    write_whole(state.workspace.metrics, "")
    with console.spinner("Validation loss before training"):
        _report(state, 0, _Window(), validation_loss(state.model, state.batches.validation))
    return 0


def _resume(state: Run, checkpoint: Path) -> int:
    step = checkpoints.restore(checkpoint, state.model, state.optimizer)
    lines = [line for line in read_jsonl(state.workspace.metrics) if line["step"] <= step]
    write_whole(state.workspace.metrics, "".join(json.dumps(line) + "\n" for line in lines))
    console.say(f"Going on after step {step}.")
    return step


def _save(state: Run, step: int) -> None:
    folder, adapter = state.workspace.adapter, _adapter_config(state.settings)
    checkpoints.save(folder, step, state.model, state.optimizer, adapter, state.fingerprint)


def _step(state: Run, step: int, batch: Sequence[Encoded]) -> float:
    """One update; the mean loss a target token."""
    import mlx.core as mx
    import mlx.nn as nn

    # Dropout must not depend on when the run was resumed.
    mx.random.seed(state.seed * 1_000_003 + step)
    loss_of = nn.value_and_grad(
        state.model, lambda model: mlx_runtime.target_losses(model, batch).mean()
    )
    loss, gradients = loss_of(state.model)
    state.optimizer.learning_rate = learning_rate_at(step, state.total_steps, state.settings)
    state.optimizer.update(state.model, gradients)
    mx.eval(loss, state.model.trainable_parameters(), state.optimizer.state)
    if not math.isfinite(loss.item()):
        raise DataError(
            f"The loss is {loss.item()} at step {step + 1}. Lower the learning rate: "
            f"coach train --force --set train.learning_rate={state.settings.learning_rate / 10:g}"
        )
    return float(loss.item())


class _Window:
    """Sums since the last line of metrics.jsonl."""

    def __init__(self) -> None:
        self.last, self.loss_sum, self.targets, self.tokens = math.nan, 0.0, 0, 0
        self.seconds, self._started = 0.0, time.monotonic()

    def stop(self) -> None:
        self.seconds = time.monotonic() - self._started

    def add(self, loss: float, batch: Sequence[Encoded]) -> None:
        self.last = loss
        self.loss_sum += loss * target_count(batch)
        self.targets += target_count(batch)
        self.tokens += token_count(batch)


def _after_step(state: Run, done: int, window: _Window) -> _Window:
    """Report, validate and save where this step asks for it; a new window after a report."""
    settings, last = state.settings, done == state.total_steps
    window.stop()
    validate = last or done % settings.validate_every == 0
    if validate or done % settings.report_every == 0:
        value = validation_loss(state.model, state.batches.validation) if validate else None
        _report(state, done, window, value)
        window = _Window()
    if last or done % settings.checkpoint_every == 0:
        _save(state, done)
    return window


def _report(state: Run, step: int, window: _Window, validation: float | None) -> None:
    import mlx.core as mx

    line = {
        "step": step,
        "loss": window.loss_sum / window.targets if window.targets else None,
        "validation_loss": validation,
        "learning_rate": learning_rate_at(max(step - 1, 0), state.total_steps, state.settings),
        "tokens": window.tokens,
        "tokens_per_second": round(window.tokens / window.seconds, 1) if window.tokens else None,
        "peak_memory_gb": round(mx.get_peak_memory() / 1e9, 3),
    }
    with state.workspace.metrics.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


@contextlib.contextmanager
def _interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C lets the step end and be saved; a second one stops at once."""
    asked: list[int] = []

    def ask(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        console.say(
            "Stopping after this step. Ctrl-C again stops at once, back to the last checkpoint."
        )

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _summary(state: Run, seconds: float) -> dict[str, Any]:
    lines = read_jsonl(state.workspace.metrics)
    validation = [line["validation_loss"] for line in lines if line["validation_loss"] is not None]
    return {
        "steps": state.total_steps,
        "split_conversations": state.batches.split_conversations,
        "validation_loss_before": validation[0] if validation else None,
        "validation_loss_after": validation[-1] if validation else None,
        "adapter": state.workspace.shown(state.workspace.adapter),
        "training_seconds": round(seconds, 1),
        "machine": mlx_runtime.machine(),
    }


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
