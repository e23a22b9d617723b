"""`kill -9` at any moment, and what the training is worth afterwards."""

import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import training_child
from conftest import TinyRun, prepare_tiny

from coach_mlx import trainer
from coach_mlx.workspace import Workspace, read_jsonl

KILLS, STEPS = 20, 90
CLOCK = {"tokens_per_second", "targets_per_second", "peak_memory_gb"}
SETTINGS = (
    f"train.steps={STEPS}",
    "train.dropout=0.1",
    "train.validation_fraction=0.2",
    "train.accumulate=2",
    "train.report_every=3",
    "train.validate_every=5",
    "train.patience=null",
    "train.checkpoint_every=2",
    "train.learning_rate=1e-3",
)


def without_the_clock(path: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_jsonl(path)]


def settings_of(options: list[str]) -> list[str]:
    return [value for key, value in itertools.pairwise(options) if key == "--set"]


def steps_saved(workspace: Workspace) -> int:
    found = [
        int(path.name.split("-")[1]) for path in workspace.adapter.glob("checkpoints/step-??????")
    ]
    return max(found, default=0)


def kill_somewhen(process: Any, workspace: Workspace, starting: bool, seconds: float) -> bool:
    """So many seconds after it started, or saved something; whether it still lived."""
    before = steps_saved(workspace)
    while not starting and process.is_alive() and steps_saved(workspace) == before:
        time.sleep(0.001)
    time.sleep(seconds)
    if not process.is_alive():
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


def test_a_training_killed_at_twenty_random_moments_ends_as_one_that_was_not(
    tiny_project: Callable[..., TinyRun], tmp_path: Path
) -> None:
    config, straight, options = prepare_tiny(tiny_project(*SETTINGS, root=tmp_path / "straight"))
    step_seconds = trainer.run(config, straight)["training_seconds"] / STEPS
    _, killed, _ = prepare_tiny(tiny_project(*SETTINGS, root=tmp_path / "killed"))
    killed.training_data.write_bytes(straight.training_data.read_bytes())
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([training_child.__name__])
    arguments = (str(killed.root), settings_of(options))
    rng, kills, places = random.Random(11), 0, set()
    while kills < KILLS:
        process = context.Process(target=training_child.train, args=arguments)
        process.start()
        starting = kills % 5 == 4
        pause = rng.uniform(0, 1 if starting else 2.5 * step_seconds)
        assert kill_somewhen(process, killed, starting, pause), (
            "it ended before it was killed so often"
        )
        kills += 1
        places.add(steps_saved(killed))
    assert len(places) > KILLS / 3  # it was killed in many places
    process = context.Process(target=training_child.train, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert without_the_clock(killed.metrics) == without_the_clock(straight.metrics)
    for name in ("adapters.safetensors", "last/adapters.safetensors"):
        assert (killed.adapter / name).read_bytes() == (straight.adapter / name).read_bytes()
    states = [
        json.loads((one.adapter / "checkpoints" / "step-000090" / "state.json").read_text())
        for one in (killed, straight)
    ]
    assert states[0] == states[1]
