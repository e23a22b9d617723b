"""`coach doctor`: what is there, and what to type for what is not. It opens no connection."""

import importlib.util
import platform
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

from coach_mlx import console, mlx_runtime, num_ctx
from coach_mlx.config import Config
from coach_mlx.errors import CoachError
from coach_mlx.keys import stored_key
from coach_mlx.workspace import Workspace


class Check(NamedTuple):
    """`ok` is None where the thing is optional and absent."""

    name: str
    ok: bool | None
    found: str
    hint: str = ""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    checks = [*_machine(), *_tools(), *_artefacts(config, workspace), _context(config, workspace)]
    _show(checks)
    return {
        "ok": all(check.ok is not False for check in checks),
        "checks": [check._asdict() for check in checks],
    }


def _machine() -> list[Check]:
    supported = (sys.platform, platform.machine()) in {
        ("darwin", "arm64"),
        ("linux", "x86_64"),
        ("linux", "aarch64"),
    }
    blas = mlx_runtime.prepare()
    disk = shutil.disk_usage(".").free / 1e9
    return [
        Check(
            "machine",
            supported,
            f"{platform.platform()}; {mlx_runtime.machine()}",
            "Apple Silicon or Linux is needed",
        ),
        Check(
            "python",
            sys.version_info >= (3, 11),
            platform.python_version(),
            "Python 3.11 or newer is needed",
        ),
        Check(
            "blas",
            blas or None,
            "found" if blas else "OpenBLAS is missing: slow",
            mlx_runtime.OPENBLAS_HINT,
        ),
        Check(
            "disk",
            disk > 2,
            f"{disk:.0f} GB free",
            "a 7B model takes some 45 GB on the way (reckoned), the demo 2 GB",
        ),
    ]


def _tools() -> list[Check]:
    reinstall = "scripts/train_local.sh installs it"
    found = [
        Check(module, importlib.util.find_spec(module) is not None, _version(package), reinstall)
        for module, package in (
            ("mlx_lm", "mlx-lm"),
            ("llama_cpp", "llama-cpp-python"),
            ("gguf", "gguf"),
        )
    ]
    ollama = shutil.which("ollama")
    version = ""
    if ollama:
        answer = subprocess.run([ollama, "--version"], capture_output=True, text=True, check=False)
        version = (answer.stdout.strip().splitlines() or ["installed"])[-1]
    key = stored_key("ANTHROPIC_API_KEY")
    return [
        *found,
        Check(
            "ollama",
            True if ollama else None,
            version or "not installed",
            "to serve the coach: see ollama.com/download",
        ),
        Check(
            "claude key",
            True if key else None,
            "set" if key else "not set",
            "only to write conversations with Claude: export ANTHROPIC_API_KEY=…",
        ),
    ]


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _artefacts(config: Config, workspace: Workspace) -> list[Check]:
    stages = (
        ("cards", workspace.scenarios, "coach scenarios"),
        ("conversations", workspace.conversations, "coach generate --quote"),
        ("training data", workspace.training_data, "coach dataset"),
        ("base model", workspace.base_marker, "coach import"),
        ("adapter", workspace.adapter_weights, "coach train"),
        ("fused model", workspace.fused / "config.json", "coach fuse"),
        ("gguf", workspace.gguf, "coach export"),
    )
    return [
        Check(
            name,
            True if path.exists() else None,
            workspace.shown(path) if path.exists() else "not made yet",
            hint,
        )
        for name, path, hint in stages
    ]


def _context(config: Config, workspace: Workspace) -> Check:
    """What a talk costs in memory where the coach is served."""
    try:
        found = num_ctx.check(config, workspace)
    except CoachError as error:
        return Check("context", False, str(error), "see above")
    return Check("context", found is not None or None, found or "no model yet", "coach import")


def _show(checks: list[Check]) -> None:
    from rich.table import Table

    table = Table("", "", "found", "to do", box=None, header_style="bold")
    marks = {True: "ok", False: "missing", None: "not yet"}
    for check in checks:
        table.add_row(marks[check.ok], check.name, check.found, "" if check.ok else check.hint)
    console.show(table)
