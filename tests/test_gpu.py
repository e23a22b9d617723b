import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coach_mlx import gpu, mlx_runtime
from coach_mlx.errors import ToolError

METAL = "[METAL] Command buffer execution failed: "
ABORT = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        (
            f"{ABORT}{METAL}Caused GPU Timeout Error "
            "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
            gpu.WATCHDOG,
        ),
        (
            f"{METAL}Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang).",
            gpu.WATCHDOG,
        ),
        (
            f"{METAL}Impacting Interactivity "
            "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity).",
            gpu.WATCHDOG,
        ),
        (
            f"{METAL}Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).",
            gpu.MEMORY,
        ),
        (
            "[metal::malloc] Attempting to allocate 30064771072 bytes which is greater than the "
            "maximum allowed buffer size of 9534832640 bytes.",
            gpu.ONE_ARRAY,
        ),
        ("[metal::malloc] Resource limit (499000) exceeded.", gpu.MANY_ARRAYS),
        ("[malloc] Unable to allocate 8589934592 bytes.", gpu.MEMORY),
        ("cudaMallocAsync(&data, size, stream) failed: out of memory", gpu.MEMORY),
        ("std::bad_alloc", gpu.MEMORY),
        (
            f"{METAL}Discarded (victim of GPU error/recovery) "
            "(00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim).",
            gpu.VICTIM,
        ),
        (
            f"{METAL}Ignored (for causing prior/excessive GPU errors) "
            "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored).",
            gpu.REFUSED,
        ),
    ],
)
def test_what_mlx_is_known_to_say_is_explained(text: str, trouble: gpu.Trouble) -> None:
    said = gpu.explain(f"something before\n{text}\nsomething after\n")
    assert said == f"{trouble.happened} {trouble.remedy}"
    with pytest.raises(ToolError) as error, gpu.explained():
        raise RuntimeError(text)
    assert str(error.value) == said
    assert "coach train" in said or "same command" in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Segmentation fault",
        f"{METAL}Invalid Resource (00000009:kIOGPUCommandBufferCallbackErrorInvalidResource).",
        f"{METAL}Internal Error (0000000e:Internal Error)",
        "Unable to allocate 3.5 GiB for an array with shape (1024, 1024)",
        "[malloc_or_wait] something else",
        "We spoke about a timeout, and she ran out of memory sticks.",
    ],
)
def test_of_an_unknown_message_nothing_is_guessed(text: str) -> None:
    assert gpu.explain(text) is None
    error = ValueError(text)
    with pytest.raises(ValueError) as passed, gpu.explained():
        raise error
    assert passed.value is error


def test_the_cause_is_explained_and_not_what_followed_from_it() -> None:
    followed = "Ignored (00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)"
    cause = "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    assert gpu.recognise(f"{METAL}{followed}\n{METAL}{cause}") is gpu.MEMORY


def test_mlxs_own_words_stand_where_an_aborts_would(capfd: pytest.CaptureFixture[str]) -> None:
    words = f"{METAL}Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)."
    with pytest.raises(ToolError), gpu.explained():
        raise RuntimeError(words)
    assert capfd.readouterr().err == f"MLX says: {words}\n"


def test_an_error_that_is_not_mlxs_passes() -> None:
    with pytest.raises(KeyError), gpu.explained():
        raise KeyError("[malloc] Unable to allocate 8 bytes.")


@pytest.fixture
def caffeinate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in of that name, on something that says it is a Mac: it notes how it is called, and
    stays until it is ended.
    """
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    called = tmp_path / "called"
    os.mkfifo(called)
    script = tmp_path / "caffeinate"
    script.write_text(f'#!/bin/sh\necho $$ "$@" > "{called}"\nexec sleep 1000\n')
    script.chmod(0o755)
    yield called


def test_a_mac_stays_awake_as_long_as_the_training(caffeinate: Path) -> None:
    with gpu.stay_awake():
        process, *arguments = caffeinate.read_text().split()
        assert arguments == ["-is", "-w", str(os.getpid())]
        os.kill(int(process), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


def test_a_training_that_fails_lets_the_mac_sleep_again(caffeinate: Path) -> None:
    with pytest.raises(RuntimeError, match="failed"), gpu.stay_awake():
        process = int(caffeinate.read_text().split()[0])
        raise RuntimeError("it failed")
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_mac_without_caffeinate_trains_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("PATH", str(tmp_path))
    with gpu.stay_awake():
        done = "a step"
    assert done == "a step"
    assert capfd.readouterr() == ("", "")


def children() -> list[str]:
    command = ["pgrep", "-P", str(os.getpid())]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()


def test_elsewhere_nothing_is_started(caffeinate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    before = children()
    with gpu.stay_awake():
        assert children() == before


@contextlib.contextmanager
def noted_cache_limit(limit_bytes: int) -> Iterator[Callable[[], int]]:
    """A limit for the length of a test, and how to read it: MLX tells it only when it is set."""
    import mlx.core as mx

    def read() -> int:
        found = int(mx.set_cache_limit(0))
        mx.set_cache_limit(found)
        return found

    before = mx.set_cache_limit(limit_bytes)
    try:
        yield read
    finally:
        mx.set_cache_limit(before)


def test_the_cache_is_bounded_for_the_length_of_a_training_and_then_as_before() -> None:
    mlx_runtime.prepare()
    with noted_cache_limit(12_345) as limit:
        with pytest.raises(KeyboardInterrupt), gpu.training_session(cache_bytes=67_890):
            assert limit() == 67_890
            raise KeyboardInterrupt
        assert limit() == 12_345


def test_a_cpus_own_cache_limit_is_left_alone() -> None:
    if mlx_runtime.device() != "cpu":
        pytest.skip("a GPU gets limits")
    with noted_cache_limit(12_345) as limit, gpu.training_session():
        assert limit() == 12_345


def require_metal() -> None:
    if mlx_runtime.device() != "metal":
        pytest.skip("needs Apple Silicon's GPU")


@pytest.mark.metal
def test_on_metal_memory_is_kept_resident_and_what_is_freed_is_given_back() -> None:
    require_metal()
    import mlx.core as mx

    working_set = int(mx.device_info()["max_recommended_working_set_size"])
    before = mx.set_wired_limit(0)
    mx.set_wired_limit(before)
    with gpu.memory_limits():
        assert mx.set_wired_limit(working_set) == working_set
    assert mx.set_wired_limit(before) == before
    with gpu.memory_limits(cache_bytes=10_000_000):
        for size in range(1_000_000, 40_000_000, 1_000_000):
            mx.eval(mx.ones(size, dtype=mx.uint8) + 1)
        assert mx.get_cache_memory() <= 10_000_000


@pytest.mark.metal
def test_macos_knows_that_it_must_stay_awake() -> None:
    require_metal()
    with gpu.stay_awake():
        command = ["pgrep", "-P", str(os.getpid()), "caffeinate"]
        helper = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(1000):
            shown = subprocess.run(
                ["pmset", "-g", "assertions"], capture_output=True, text=True, check=True
            ).stdout
            if f"pid {helper}(caffeinate)" in shown:
                break
        assert f"pid {helper}(caffeinate)" in shown
