"""Two processes on this machine, over loopback, as `mlx.launch` starts them."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TinyRun, coach, prepare_tiny
from test_resume import without_the_clock

from coach_mlx import checkpoints, ranks, trainer
from coach_mlx.errors import DataError
from coach_mlx.ranks import Ranks
from coach_mlx.workspace import PROJECT, read_jsonl

Project = Callable[..., TinyRun]
SETTINGS = (
    "train.steps=6",
    "train.batch_size=2",
    "train.accumulate=2",
    "train.validation_fraction=0.4",
    "train.validate_every=2",
    "train.checkpoint_every=3",
    "train.learning_rate=1e-3",
)


def two_free_ports() -> int:
    """The first of two neighbours that nobody listens on."""
    for _ in range(50):
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two free ports")


def launch(*arguments: str, only_second: str = "") -> "subprocess.CompletedProcess[str]":
    """`coach` in two processes; `only_second` is a further option of the second one's."""
    command = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring"]
    command += ["-p", str(two_free_ports()), "--", sys.executable]
    command += [str(PROJECT / "tests" / "one_of_two.py"), *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": str(PROJECT),
            "COLUMNS": "200",
            "OPENBLAS_NUM_THREADS": "1",
            "ONLY_SECOND": only_second,
        },
    )
    try:
        out, said = process.communicate(timeout=300)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, said)


def test_two_processes_learn_what_one_with_the_doubled_batch_learns(
    tiny_project: Project, tmp_path: Path
) -> None:
    """Each computes one row of every batch of two; the last batch has one row for the first."""
    import mlx.core as mx

    config, alone, _ = prepare_tiny(tiny_project(*SETTINGS, root=tmp_path / "alone"))
    trainer.run(config, alone)
    _, together, options = prepare_tiny(tiny_project(*SETTINGS, root=tmp_path / "together"))
    together.training_data.write_bytes(alone.training_data.read_bytes())
    done = launch("train", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6  # one result: the second process is silent
    assert done.stderr.count("Opening the base model") == 1
    lines = [without_the_clock(one.metrics) for one in (together, alone)]
    assert len(lines[0]) == len(lines[1]) == 7
    for ours, wanted in zip(*lines, strict=True):
        assert ours.keys() == wanted.keys()
        assert ours["validation_by_topic"] == pytest.approx(wanted["validation_by_topic"], rel=1e-5)
        for key in ("loss", "validation_loss", "gradient_norm"):
            assert ours[key] == (wanted[key] and pytest.approx(wanted[key], rel=1e-4)), key
        assert (ours["targets"], ours["epoch"]) == (wanted["targets"], wanted["epoch"])
    one, other = (mx.load(str(place.adapter_weights)) for place in (alone, together))
    for name in one:
        assert mx.allclose(one[name], other[name], rtol=1e-3, atol=1e-5).item(), name


def test_one_process_goes_on_with_what_two_began(tiny_project: Project, tmp_path: Path) -> None:
    """And two with what one began: a checkpoint does not know how many there were."""
    _, workspace, options = prepare_tiny(tiny_project(*SETTINGS))
    done = launch("train", *options)
    assert done.returncode == 0, done.stderr
    before = [line["loss"] for line in read_jsonl(workspace.metrics)]
    workspace.adapter_weights.unlink()
    shutil.rmtree(checkpoints.step_folder(workspace.adapter, 6))
    again = launch("train", *options)
    assert again.returncode == 0, again.stderr
    assert re.search(r"Going on after step [1-5]\.", again.stderr)
    assert [line["loss"] for line in read_jsonl(workspace.metrics)] == before
    workspace.adapter_weights.unlink()
    shutil.rmtree(checkpoints.step_folder(workspace.adapter, 6))
    alone = coach("train", *options)
    assert alone.returncode == 0, alone.stderr
    assert re.search(r"Going on after step [1-5]\.", alone.stderr)
    after = [line["loss"] for line in read_jsonl(workspace.metrics)]
    assert after[1:] == [pytest.approx(loss, rel=1e-4) for loss in before[1:]]
    workspace.adapter_weights.unlink()
    shutil.rmtree(checkpoints.step_folder(workspace.adapter, 6))
    together = launch("train", *options)
    assert together.returncode == 0, together.stderr
    assert re.search(r"Going on after step [1-5]\.", together.stderr)


def test_a_mac_without_the_scenario_cards_trains_along(tiny_project: Project) -> None:
    """The leader's topics are everybody's: other ones would be sums of another length."""
    _, workspace, options = prepare_tiny(tiny_project(*SETTINGS))
    done = launch("train", *options, only_second="dataset.conversations=nowhere.jsonl")
    assert done.returncode == 0, done.stderr
    assert read_jsonl(workspace.metrics)[-1]["validation_by_topic"]


def test_only_the_training_is_shared(tiny_project: Project) -> None:
    _, _, options = prepare_tiny(tiny_project())
    done = launch("run", *options)
    assert "Several Macs train, and nothing else" in done.stderr


def test_where_all_is_done_no_process_waits_for_another(tiny_project: Project) -> None:
    _, _, options = prepare_tiny(tiny_project("train.batch_size=2"))
    assert coach("train", *options).returncode == 0
    done = launch("train", *options)
    assert done.returncode == 0, done.stderr
    assert "train: already complete" in done.stderr


def test_batches_that_cannot_be_shared_are_refused(tiny_project: Project) -> None:
    _, workspace, options = prepare_tiny(tiny_project("train.batch_size=1"))
    done = launch("train", *options)
    assert not workspace.adapter_weights.exists()
    assert "--set train.batch_size=2" in done.stderr


def test_nobody_is_met_where_nobody_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks.RANKS:
        monkeypatch.delenv(name, raising=False)
    assert (ranks.launched(), ranks.follows()) == (False, False)
    assert ranks.join() == Ranks(0, 1)


def test_other_data_on_another_mac_is_refused() -> None:
    class Divided(Ranks):
        """A second process whose leader holds something else."""

        def share(self, value: object = None) -> object:
            return "the leader's"

        def sum(self, arrays: object) -> object:
            return arrays

    with pytest.raises(DataError, match="do not hold the same data"):
        Divided(1, 2).require_same("mine", "data")
