"""A training in a process that starts at once: the heavy packages are loaded before the fork."""

from pathlib import Path

from coach_mlx import mlx_runtime, trainer
from coach_mlx.config import load_config
from coach_mlx.workspace import Workspace

mlx_runtime.prepare()
import mlx_lm.tuner.utils  # noqa: E402
import mlx_lm.utils  # noqa: E402, F401


def train(root: str, settings: list[str]) -> None:
    config = load_config(None, settings)
    trainer.run(config, Workspace(Path(root), config))
