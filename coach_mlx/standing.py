"""Where a training stands after a step: what a checkpoint remembers beside weights, and the lines
of metrics.jsonl.

Reads and writes adapters/NAME/metrics.jsonl. A standing follows from the seed, the data and the
step, so that a resumed run writes the lines of one that was never killed, but for the clock.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coach_mlx import mlx_runtime
from coach_mlx.workspace import read_jsonl, write_whole

SMOOTHING = 0.95
"""Weight of the past in the smoothed loss, a step."""
UNKNOWN: dict[str, Any] = {
    "epoch": 0.0,
    "learning_rate": None,
    "gradient_norm": None,
    "validation_loss": None,
    "validation_by_topic": {},
}
"""Of a line that says nothing of it."""


@dataclass
class Window:
    """Sums since the last line of metrics.jsonl."""

    loss: float = 0.0
    targets: int = 0
    tokens: int = 0


@dataclass
class Standing:
    step: int = 0
    """Steps done."""
    smoothed_sum: float = 0.0
    validation_loss: float | None = None
    """The last one measured."""
    best_loss: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Validation losses in a row that were no better."""
    window: Window = field(default_factory=Window)

    @classmethod
    def load(cls, values: dict[str, Any]) -> "Standing":
        return cls(**{**values, "window": Window(**values["window"])})

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    def become(self, other: "Standing") -> None:
        vars(self).update(vars(other))

    @property
    def smoothed(self) -> float | None:
        """Mean loss a target, exponentially weighted over the steps; without the bias to the first
        value that starting there would have.
        """
        weight = 1 - SMOOTHING**self.step
        return self.smoothed_sum / weight if self.step else None

    def add(self, loss: float, targets: int, tokens: int) -> None:
        """Count one more step; `loss` is the mean over its targets."""
        self.step += 1
        self.smoothed_sum = SMOOTHING * self.smoothed_sum + (1 - SMOOTHING) * loss
        self.window.loss += loss * targets
        self.window.targets += targets
        self.window.tokens += tokens

    def judge(self, loss: float | None) -> bool:
        """Take in a validation loss; whether it is the best so far."""
        self.validation_loss = loss
        better = self.best_loss is None or (loss is not None and loss < self.best_loss)
        if loss is None or not better:
            self.stale += loss is not None
            return False
        self.best_loss, self.best_step, self.stale = loss, self.step, 0
        return True


class Journal:
    """metrics.jsonl, a line at a time; one without a path keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._started = time.monotonic()
        self._since = (0, 0)

    def begin(self, step: int) -> None:
        """Forget what stands after `step`: those steps are done anew."""
        if self._path is None:
            return
        lines = read_jsonl(self._path) if self._path.is_file() and step else []
        kept = [line for line in lines if line["step"] <= step]
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def start_clock(self, standing: Standing) -> None:
        """Speed is counted from here; what stood in the window was done by another process."""
        self._started = time.monotonic()
        self._since = (standing.window.tokens, standing.window.targets)

    def speed(self, standing: Standing) -> tuple[float, float]:
        """Tokens and supervised tokens a second since the last line."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        tokens, targets = self._since
        window = standing.window
        return (window.tokens - tokens) / seconds, (window.targets - targets) / seconds

    def write(
        self, standing: Standing, facts: dict[str, Any], speed: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """A line about the window, which ends here."""
        import mlx.core as mx

        window, (tokens, targets) = standing.window, speed
        done = window.targets > 0
        line = {
            "step": standing.step,
            "loss": window.loss / window.targets if done else None,
            "smoothed_loss": standing.smoothed,
            **UNKNOWN,
            **facts,
            "tokens": window.tokens,
            "targets": window.targets,
            "tokens_per_second": round(tokens, 1) if done else None,
            "targets_per_second": round(targets, 1) if done else None,
            "peak_memory_gb": round(mx.get_peak_memory() / 1e9, 3),
        }
        standing.window = Window()
        self.start_clock(standing)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")


def note(standing: Standing, total: int, epoch: float, speed: tuple[float, float]) -> str:
    """The words beside the progress bar."""
    import mlx.core as mx

    loss = standing.smoothed if standing.smoothed is not None else math.nan
    words = [f"step {standing.step}/{total}", f"epoch {epoch:.2f}", f"loss {loss:.3f}"]
    if standing.validation_loss is not None:
        words.append(f"validation {standing.validation_loss:.3f}")
    if standing.best_step is not None:
        words.append(f"best {standing.best_loss:.3f} at {standing.best_step}")
    words.append(f"{speed[0]:.0f} tokens/s, {speed[1]:.0f} supervised")
    words.append(f"{mx.get_peak_memory() / 1e9:.1f} GB")
    return "  ".join(words)


def summary(standing: Standing, before: float | None) -> dict[str, Any]:
    return {
        "steps": standing.step,
        "best_step": standing.best_step,
        "validation_loss_before": before,
        "validation_loss_after": standing.best_loss,
        "validation_loss_last": standing.validation_loss,
        "machine": mlx_runtime.machine(),
    }
