"""The steps of a training: batches in, a better adapter out.

Writes checkpoints and metrics through `checkpoints` and `Journal`. With several ranks each computes
its share of every batch; the gradients are added up before the one update that all of them make.
Fails: DataError where a loss is no number, before it can reach the weights.
"""

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import checkpoints, console, gpu, losses, supervisor
from coach_mlx.batches import (
    Batch,
    Batches,
    Course,
    Row,
    padding_fraction,
    passes,
    target_count,
    token_count,
)
from coach_mlx.checkpoints import Saved
from coach_mlx.config import TrainSection
from coach_mlx.errors import DataError
from coach_mlx.ranks import Ranks
from coach_mlx.standing import Journal, Standing, note


class Run(NamedTuple):
    """What the loop needs; only the model, the optimizer, the standing and the journal change."""

    model: Any
    optimizer: Any
    batches: Batches
    course: Course
    settings: TrainSection
    seed: int
    folder: Path
    fingerprint: dict[str, Any]
    ranks: Ranks
    standing: Standing
    journal: Journal


def run(state: Run, resumed: Path | None) -> float:
    """All steps from the checkpoint on; their seconds. Ctrl-C ends it once the step is saved."""
    sizes = [token_count(batch) for batch in state.batches.training]
    work = [sum(sizes[number] for number in state.course.at(n)) for n in range(state.course.steps)]
    _announce(state, sum(work))
    with gpu.training_session(), supervisor.stop_after_step() as asked:
        if resumed:
            _go_on(state, resumed)
        _meet(state)
        if not state.standing.step:
            _start(state)
        return _steps(state, work, asked)


def _steps(state: Run, work: Sequence[int], asked: Callable[[], bool]) -> float:
    started, done = time.monotonic(), sum(work[: state.standing.step])
    with console.progress("train", sum(work), "tokens", done) as bar:
        state.journal.start_clock(state.standing)
        while not _is_over(state):
            size = work[state.standing.step]
            facts = _step(state)
            bar.advance(size, _note(state))
            _after_step(state, facts)
            _stop_if(state, asked())
    return time.monotonic() - started


def learning_rate_at(step: int, total_steps: int, settings: TrainSection) -> float:
    """Linear warm-up, then a cosine from the peak down to a tenth of it."""
    warmup = math.ceil(settings.warmup_fraction * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total_steps - warmup, 1)
    return settings.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def _random_seed(seed: int, step: int) -> int:
    """Of the dropout in a step, so that it does not depend on when the run was resumed."""
    return seed * 1_000_003 + step


def _ahead(state: Run) -> dict[str, Any]:
    """What the next step will do: enough to tell whether another program would agree."""
    step = state.standing.step
    return {
        "epoch": state.course.epoch(step),
        "batches": state.course.at(step),
        "random_seed": _random_seed(state.seed, step),
        "learning_rate": learning_rate_at(step, state.course.steps, state.settings),
    }


def _announce(state: Run, total_tokens: int) -> None:
    batches = state.batches
    split = batches.split_conversations
    cut = f" ({split} long conversations split between turns)" if split else ""
    parts, padding = sum(map(len, batches.training)), padding_fraction(batches.training)
    console.say(
        f"{parts} parts{cut}, {padding:.1%} padding; "
        f"{state.course.steps} steps, {total_tokens:,} tokens in all."
    )


def _go_on(state: Run, checkpoint: Path) -> None:
    saved = checkpoints.restore(checkpoint, state.model, state.optimizer)
    state.standing.become(saved.standing)
    checkpoints.require_same_course(checkpoint, saved, _ahead(state))
    state.journal.begin(state.standing.step)
    console.say(f"Going on after step {state.standing.step}.")


def _meet(state: Run) -> None:
    """Let every rank stand where the leader stands."""
    if state.ranks.size > 1:
        state.standing.become(Standing.load(state.ranks.share(state.standing.dump())))
        state.model.update(state.ranks.follow_leader(state.model.trainable_parameters()))
        state.optimizer.state = state.ranks.follow_leader(state.optimizer.state)


def _start(state: Run) -> None:
    state.journal.begin(0)
    with console.spinner("Validation loss before training"):
        facts = validation_losses(state)
    state.journal.write(state.standing, facts)


def _is_over(state: Run) -> bool:
    patience, standing = state.settings.patience, state.standing
    if patience is not None and standing.stale >= patience:
        return True
    return standing.step >= state.course.steps


def _note(state: Run) -> str:
    standing = state.standing
    epoch, speed = state.course.epoch(standing.step), state.journal.speed(standing)
    return note(standing, state.course.steps, epoch, speed)


def _share(state: Run, batch: Batch) -> list[Row]:
    """This rank's rows; every rank gets short and long ones."""
    return batch[state.ranks.rank :: state.ranks.size]


def _step(state: Run) -> dict[str, Any]:
    """One update; what metrics.jsonl says about it."""
    import mlx.core as mx

    step = state.standing.step
    batches = [state.batches.training[number] for number in state.course.at(step)]
    rows = [row for batch in batches for row in batch]
    targets = target_count(rows)
    mx.random.seed(_random_seed(state.seed, step) + state.ranks.rank * 2**32)
    mine = [some for batch in batches for some in passes(_share(state, batch))]
    loss, gradients = state.ranks.sum(gradients_of(state.model, mine, targets))
    norm: Any = mx.sqrt(mx.stack([mx.square(one).sum() for one in _leaves(gradients)]).sum())
    _require_finite(state, rows, loss.item(), float(norm.item()))
    rate = learning_rate_at(step, state.course.steps, state.settings)
    state.optimizer.learning_rate = rate
    state.optimizer.update(state.model, gradients)
    mx.eval(state.model.trainable_parameters(), state.optimizer.state)
    state.standing.add(loss.item(), targets, token_count(rows))
    return {"learning_rate": rate, "gradient_norm": float(norm.item())}


def gradients_of(model: Any, pieces: Sequence[Sequence[Row]], targets: int) -> tuple[Any, Any]:
    """Loss and gradients of the passes together, as if they were one batch of `targets` targets."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_map

    def summed(model: Any, rows: Sequence[Row]) -> Any:
        return losses.loss_sum(model, [row.encoded for row in rows])

    loss_and_gradients = nn.value_and_grad(model, summed)
    loss = mx.array(0.0)
    gradients = tree_map(mx.zeros_like, model.trainable_parameters())
    for rows in pieces:
        some, slopes = loss_and_gradients(model, rows)
        loss, gradients = loss + some, tree_map(mx.add, gradients, slopes)
        mx.eval(loss, gradients)  # one pass in memory at a time
    # Divided last, in 32 bits: in the backward pass of a 16-bit base the quotient would be lost.
    return loss / targets, tree_map(lambda one: one / targets, gradients)


def _leaves(tree: Any) -> list[Any]:
    from mlx.utils import tree_flatten

    return [leaf for _, leaf in tree_flatten(tree)]


def _require_finite(state: Run, rows: Sequence[Row], loss: float, norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    numbers = ", ".join(str(number) for number in sorted({row.conversation for row in rows}))
    raise DataError(
        f"The loss is {loss} and its gradient {norm} at step {state.standing.step + 1}, in the "
        f"batch of conversation {numbers} of the training data. Nothing of it reached the weights. "
        f"{_remedy(state)}"
    )


def _remedy(state: Run) -> str:
    last = state.standing.best_step
    kept = checkpoints.step_folder(state.folder, last) if last else None
    rate = f"{state.settings.learning_rate / 10:g}"
    return (
        (f"The best adapter so far is in {kept}. " if kept else "")
        + "The checkpoints before it are good, but going on would meet the same again: lower the "
        f"learning rate with coach train --force --set train.learning_rate={rate}"
    )


def _validated(state: Run) -> dict[str, Any]:
    """Raises: DataError where the last step ruined the weights, which its own loss cannot show."""
    facts = validation_losses(state)
    if facts["validation_loss"] is not None and not math.isfinite(facts["validation_loss"]):
        raise DataError(
            f"The validation loss is {facts['validation_loss']} after step {state.standing.step}: "
            f"that step was too large. {_remedy(state)}"
        )
    return facts


def validation_losses(state: Run) -> dict[str, Any]:
    """Mean loss a target over the whole validation set, and by topic; `None` without one."""
    batches = state.batches.validation
    topics = sorted({row.topic for batch in batches for row in batch if row.topic})
    state.model.eval()
    sums: dict[str | None, float] = defaultdict(float)
    for batch in batches:
        for rows in passes(_share(state, batch)):
            for row, loss in zip(rows, row_losses(state.model, rows), strict=True):
                sums[row.topic] += loss
    state.model.train()
    found = _added(state, [sums[topic] for topic in (None, *topics)])
    counts = [
        sum(target_count([row]) for batch in batches for row in batch if row.topic == topic)
        for topic in (None, *topics)
    ]
    by_topic = {
        topic: loss / count
        for topic, loss, count in zip(topics, found[1:], counts[1:], strict=True)
    }
    return {
        "validation_loss": sum(found) / sum(counts) if batches else None,
        "validation_by_topic": by_topic,
    }


def row_losses(model: Any, rows: Sequence[Row]) -> list[float]:
    """Summed loss of each row."""
    found = iter(losses.target_losses(model, [row.encoded for row in rows]).tolist())
    return [sum(itertools.islice(found, target_count([row]))) for row in rows]


def _added(state: Run, sums: list[float]) -> list[float]:
    import mlx.core as mx

    if state.ranks.size == 1:
        return sums
    found: list[float] = state.ranks.sum(mx.array(sums)).tolist()
    return found


def _after_step(state: Run, facts: dict[str, Any]) -> None:
    """Validate, report and save where this step asks for it."""
    settings, standing = state.settings, state.standing
    last = standing.step == state.course.steps
    speed = state.journal.speed(standing)  # of the steps alone
    validated = last or standing.step % settings.validate_every == 0
    best = False
    if validated:
        facts |= _validated(state)
        best = standing.judge(facts["validation_loss"])
    if validated or standing.step % settings.report_every == 0:
        epoch = round(state.course.epoch(standing.step), 4)
        state.journal.write(standing, {"epoch": epoch, **facts}, speed)
    if last or best or _is_over(state) or standing.step % settings.checkpoint_every == 0:
        _save(state)


def _save(state: Run) -> None:
    if state.ranks.rank == 0:
        saved = Saved(state.standing, _ahead(state))
        checkpoints.save(
            state.folder, saved, state.model, state.optimizer, state.settings, state.fingerprint
        )


def _stop_if(state: Run, interrupted: bool) -> None:
    import mlx.core as mx

    if state.ranks.size > 1:
        interrupted = bool(state.ranks.sum(mx.array(int(interrupted))).item())
    if interrupted and not _is_over(state):
        _save(state)
        console.say(
            f"Stopped after step {state.standing.step}. The same command goes on from there."
        )
        raise KeyboardInterrupt
