"""Real processes: a training under the one who waits for it, ended in every way there is."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, finished, start

from coach_mlx import dataset, importer, supervisor
from coach_mlx.supervisor import End
from coach_mlx.workspace import PROJECT, Workspace, read_jsonl

TIMEOUT = (
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command "
    "buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)\n"
)
GOES_ON = "It goes on by itself from where it was."
needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="another process's descriptor 2 is reached through /proc"
)


class Training:
    """`coach train` as a person starts it, and the worker it waits for."""

    def __init__(self, workspace: Workspace, options: list[str], *arguments: str) -> None:
        self.root, self.metrics = workspace.root, workspace.metrics
        self.process = start("train", *options, *arguments)
        self.ended: set[int] = set()

    def wait_for(self, condition: Callable[[], Any]) -> None:
        for _ in range(12000):
            if condition():
                return
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        raise AssertionError("it took too long")

    def workers(self) -> list[int]:
        return [one for one in found("-P", str(self.process.pid)) if one not in self.ended]

    def worker(self) -> int:
        """Of the worker that has not been ended yet."""
        self.wait_for(self.workers)
        return self.workers()[0]

    def step(self) -> int:
        lines = read_jsonl(self.metrics) if self.metrics.exists() else []
        return max((line["step"] for line in lines), default=0)

    def wait_for_steps(self, count: int) -> None:
        first = self.step()
        self.wait_for(lambda: self.step() >= first + count)

    def write_to_descriptor_2(self, words: str) -> None:
        with Path(f"/proc/{self.worker()}/fd/2").open("a", encoding="utf-8") as notes:
            notes.write(words)

    def break_down(self, how: signal.Signals) -> None:
        worker = self.worker()
        os.kill(worker, how)
        self.ended.add(worker)

    def end(self) -> tuple[int, dict[str, Any], str]:
        return finished(self.process)

    def clear_away(self) -> None:
        """What a test that failed left at work."""
        for process in found("-f", f"workspace {self.root}"):
            os.kill(process, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def found(*wanted: str) -> list[int]:
    """Processes, by their parent or their command line."""
    listed = subprocess.run(["pgrep", *wanted], capture_output=True, text=True, check=False)
    return [int(one) for one in listed.stdout.split()]


@pytest.fixture
def train(tiny_project: Callable[..., TinyRun]) -> Iterator[Callable[..., Training]]:
    """Start a training of so many steps, with its data and its base in place."""
    started: list[Training] = []

    def begin(steps: int, *arguments: str) -> Training:
        config, workspace, options = tiny_project(
            f"train.steps={steps}", "train.validation_fraction=0"
        )
        if not workspace.holdout.exists():
            dataset.run(config, workspace)
            importer.run(config, workspace)
        started.append(Training(workspace, options, *arguments))
        return started[-1]

    yield begin
    for training in started:
        training.clear_away()


@needs_proc
def test_a_training_that_the_gpu_ended_is_explained_and_goes_on_by_itself(
    train: Callable[..., Training],
) -> None:
    """With --force, which would set aside what is to go on."""
    training = train(30, "--force")
    training.wait_for_steps(4)
    training.write_to_descriptor_2(TIMEOUT)
    training.break_down(signal.SIGABRT)
    code, result, said = training.end()
    assert code == 0, said
    assert result["steps"] == 30
    assert TIMEOUT in said
    assert f"(its watchdog). {GOES_ON}" in said
    assert "Going on after step" in said
    assert [path.name for path in training.metrics.parent.parent.iterdir()] == ["tiny"]


@needs_proc
def test_a_training_that_the_gpu_ended_twice_says_what_to_type(
    train: Callable[..., Training],
) -> None:
    training = train(400)
    for _ in range(2):
        training.wait_for_steps(4)
        training.write_to_descriptor_2(TIMEOUT)
        training.break_down(signal.SIGABRT)
    code, result, said = training.end()
    assert (code, result) == (5, {})
    assert said.count(TIMEOUT) == 2
    assert said.count(GOES_ON) == 1
    assert "It happened twice. macOS stopped the GPU's work" in said
    assert "coach train --force --set train.batch_size=1" in said


def test_a_training_that_the_system_killed_goes_on_by_itself_until_its_person_stops_it(
    train: Callable[..., Training],
) -> None:
    training = train(400)
    training.wait_for_steps(4)
    training.break_down(signal.SIGKILL)
    training.wait_for_steps(2)
    training.process.send_signal(signal.SIGINT)
    code, _, said = training.end()
    assert code == 130
    assert f"ended by SIGKILL. Probably the memory ran out. {GOES_ON}" in said
    assert said.count(GOES_ON) == 1
    assert "Going on after step" in said


def test_a_training_that_the_system_killed_twice_ends_with_the_signals_code(
    train: Callable[..., Training],
) -> None:
    training = train(400)
    for _ in range(2):
        training.wait_for_steps(2)
        training.break_down(signal.SIGKILL)
    code, _, said = training.end()
    assert code == 128 + signal.SIGKILL
    assert "The same command goes on from where it was." in said
    assert "coach train --plan" in said


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_training_that_is_asked_to_stop_saves_its_step_and_is_not_started_again(
    train: Callable[..., Training], how: signal.Signals
) -> None:
    training = train(400)
    training.wait_for_steps(2)
    training.write_to_descriptor_2("a library's own words\n")
    training.process.send_signal(how)
    code, result, said = training.end()
    assert (code, result) == (130, {}), said
    assert "Stopping after this step." in said
    assert "The same command goes on" in said
    assert "a library's own words" in said
    assert GOES_ON not in said


def test_a_training_whose_person_is_gone_saves_its_step_and_the_next_one_waits_for_it(
    train: Callable[..., Training],
) -> None:
    first = train(400)
    first.wait_for_steps(3)
    worker = first.worker()
    os.kill(worker, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    second = train(400)
    assert second.process.stderr is not None
    assert any("Waiting for an earlier coach" in line for line in second.process.stderr)
    done = first.step()
    os.kill(worker, signal.SIGCONT)
    second.wait_for(lambda: second.step() >= done + 2)
    second.process.send_signal(signal.SIGINT)
    code, _, said = second.end()
    assert code == 130
    resumed = int(said.split("Going on after step ")[1].split(".")[0])
    assert resumed >= done


def test_a_stage_whose_terminal_is_gone_ends_well_and_no_other_follows(
    tiny_project: Callable[..., TinyRun],
) -> None:
    _, workspace, options = tiny_project()
    process, terminal = start_in_terminal("run", *options)
    shown = b""
    while b"dataset: started" not in shown:
        shown += read_terminal(terminal)
    assert process.stdout is not None
    process.stdout.close()
    process.kill()
    os.close(terminal)
    process.wait()
    code, _, said = finished(start("dataset", *options))
    assert code == 0, said
    assert "dataset: already complete" in said
    assert not workspace.base.exists()


def test_the_bar_of_a_worker_is_on_its_persons_terminal(
    tiny_project: Callable[..., TinyRun],
) -> None:
    config, workspace, options = tiny_project("train.steps=2")
    dataset.run(config, workspace)
    importer.run(config, workspace)
    process, terminal = start_in_terminal("train", *options)
    shown = b""
    while chunk := read_terminal(terminal):
        shown += chunk
    out, _ = process.communicate(timeout=60)
    os.close(terminal)
    assert process.returncode == 0
    assert json.loads(out)["stage"] == "train"
    assert b"\x1b[" in shown  # a bar that moves, not plain lines
    assert b"step 2/2" in shown


def start_in_terminal(*arguments: str) -> tuple["subprocess.Popen[bytes]", int]:
    """The command line with its words on a terminal, and that terminal's other side."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "coach_mlx.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    return process, ours


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's word for the end
        return b""


@pytest.mark.parametrize(
    ("code", "notes", "asked", "again"),
    [
        (-signal.SIGABRT, "", False, True),
        (-signal.SIGSEGV, "", False, True),
        (-signal.SIGABRT, TIMEOUT, True, False),
        (-signal.SIGTERM, "", False, False),
        (5, TIMEOUT, False, True),
        (5, "", False, False),
        (5, "[metal::malloc] Resource limit (499000) exceeded.", False, False),
        (1, TIMEOUT, False, False),
        (0, TIMEOUT, False, False),
        (10, "", False, False),
    ],
)
def test_only_a_breakdown_is_tried_again(code: int, notes: str, asked: bool, again: bool) -> None:
    assert supervisor._broke_down(End(code, notes, asked)) is again


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train", True),
        ("train --force --set train.rank=4", True),
        ("run", True),
        ("generate", True),
        ("train --show-mask", False),
        ("train --plan", False),
        ("run --help", False),
        ("generate --quote", False),
        ("fuse", False),
        ("--help", False),
        ("", False),
    ],
)
def test_only_what_a_kill_would_harm_has_a_worker(line: str, wanted: bool) -> None:
    assert supervisor.needs_worker(line.split()) is wanted


@pytest.mark.parametrize("rank", ["MLX_RANK", "OMPI_COMM_WORLD_RANK"])
def test_one_of_several_launched_processes_trains_by_itself(
    monkeypatch: pytest.MonkeyPatch, rank: str
) -> None:
    monkeypatch.setenv(rank, "1")
    assert not supervisor.needs_worker(["train"])
    assert supervisor.needs_worker(["generate"])


def test_without_room_for_its_notes_a_training_begins_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:  # what is captured needs room as well
        patched.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        assert supervisor.run(["train", "--workspace", str(tmp_path)]) == 5
    assert "coach import" in capfd.readouterr().err


STEPS = """
import pathlib, sys, time
from coach_mlx import supervisor
with supervisor.stop_after_step() as asked:
    print("at work", flush=True)
    while not asked():
        time.sleep(0.01)
    pathlib.Path(sys.argv[1]).write_text("saved")
    print("saved", flush=True)
    if sys.argv[2] == "stay":
        time.sleep(100)
"""


def start_steps(saved: Path, then: str = "end", **options: Any) -> "subprocess.Popen[str]":
    """Something that goes on until it is asked to stop; it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", STEPS, str(saved), then],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_the_step_end_and_the_second_does_not(
    tmp_path: Path, how: signal.Signals
) -> None:
    process = start_steps(tmp_path / "saved", "stay")
    process.send_signal(how)
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert supervisor.STOPPING in said
    assert said.strip().endswith("KeyboardInterrupt")


def test_a_worker_for_whom_nobody_waits_saves_in_silence(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    marks = {**os.environ, supervisor.LIFELINE: f"{ours}:4711"}
    process = start_steps(tmp_path / "saved", pass_fds=(ours,), env=marks)
    os.close(ours)
    os.close(theirs)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert (tmp_path / "saved").read_text() == "saved"


@pytest.mark.parametrize("marks", ["-1:", "-1:4711", "987:4711:2"])
def test_a_worker_without_a_pipe_is_not_taken_for_one_that_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch, marks: str
) -> None:
    monkeypatch.setenv(supervisor.LIFELINE, marks)
    assert not supervisor.is_orphaned()


def test_signals_are_as_before_once_the_steps_are_done() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with supervisor.stop_after_step() as asked:
        assert signal.getsignal(signal.SIGTERM) not in before
        assert not asked()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_off_the_main_thread_steps_go_on_without_signals() -> None:
    found = []

    def work() -> None:
        with supervisor.stop_after_step() as asked:
            found.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
