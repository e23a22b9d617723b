"""Every path, and the memory of what is complete.

A stage is complete when its manifest exists and the settings, inputs and outputs it names are still
the ones on disk. The manifest is written last, so a killed stage has none. Files are hashed once:
while a file keeps its size and its modification time, its hash is taken from the manifest.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from pydantic import ValidationError

from coach_mlx import console, supervisor
from coach_mlx.config import Config
from coach_mlx.documents import explain
from coach_mlx.errors import DataError, ToolError
from coach_mlx.records import Conversation, Record, content_hash

Kind = TypeVar("Kind", bound=Record)
PROJECT = Path(__file__).resolve().parent.parent
LOCK_SECONDS = 0.2
PACKAGES = (
    "mlx",
    "mlx-lm",
    "llama-cpp-python",
    "gguf",
    "transformers",
    "tokenizers",
    "anthropic",
    "openai",
    "ollama",
    "datasketch",
)


class Plan(NamedTuple):
    """What a stage reads, writes and obeys: enough to tell whether it must run."""

    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    settings: dict[str, Any]


class FileStamp(Record):
    sha256: str
    size_bytes: int
    mtime_ns: int


class Manifest(Record):
    """Written when a stage is complete: what it was made from, and what came out."""

    stage: str
    finished: str
    seconds: float
    seed: int
    settings_hash: str
    git_revision: str | None
    versions: dict[str, str]
    inputs: dict[str, FileStamp]
    outputs: dict[str, FileStamp]
    result: dict[str, Any]


class Workspace:
    """The folders of one config under one root. The config named `coach` has output/ and reports/
    to itself.
    """

    def __init__(self, root: Path, config: Config) -> None:
        name = config.name
        below = "." if name == "coach" else name
        self.root = root.expanduser().resolve()
        self.output = self.root / "output" / below
        self.reports = self.root / "reports" / below
        self.base = self.root / "models" / "base" / base_name(config.base.model)
        self.base_marker = self.base / "import.json"
        self.adapter = self.root / "adapters" / name
        self.adapter_weights = self.adapter / "adapters.safetensors"
        self.metrics = self.adapter / "metrics.jsonl"
        self.loss_plot = self.adapter / "loss.png"
        self.model = self.root / "models" / name
        self.fused = self.model / "fused"
        self.gguf = self.model / f"{name}-{config.export.quantization}.gguf"
        self.modelfile = self.model / "Modelfile"
        self.parity = self.model / "parity.json"
        self.verified = self.model / "verified.json"
        self.deployed = self.model / "deployed.json"
        self.scenarios = self.output / "scenarios.jsonl"
        self.conversations = self.output / "conversations.jsonl"
        self.assessments = self.output / "assessments.jsonl"
        self.passports = self.output / "passports"
        self.evaluation = self.output / "evaluation"
        self.selection = self.output / "selection"
        self.base_report = self.reports / "base_model.md"
        self.spot_checks = self.evaluation / "spot_checks.jsonl"
        self.preference_pairs = self.output / "preference_pairs.jsonl"
        self.training_data = self.output / "training_data.jsonl"
        self.holdout = self.output / "eval_holdout.jsonl"
        self.calls = self.output / "calls.sqlite3"
        self.egress = self.output / "egress.jsonl"
        self.recipes = self.output / "recipes"
        self.optimize = self.output / "optimize"
        self.failures = self.output / "generation_failures.jsonl"
        self.failed_examples = self.output / "failed_examples.jsonl"
        self.generation_report = self.output / "generation_report.json"
        self.dataset_card = self.output / "DATASET_CARD.md"
        self.manifests = self.output / "manifests"

    def find(self, name: str) -> Path:
        """A file named in the config: in the workspace, otherwise the one that comes with the
        project.
        """
        here = self.root / name
        return here if here.exists() or not (PROJECT / name).exists() else PROJECT / name

    def shown(self, path: Path) -> str:
        """The path as a person would type it: relative where it lies in the workspace."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process writes; the lock goes with the process, however it ends. One whose
        person is gone only stores what it has under way, and is waited for. Raises: ToolError.
        """
        self.manifests.mkdir(parents=True, exist_ok=True)
        with (self.manifests / ".lock").open("a+") as handle:
            said = False
            while not _try_lock(handle):
                handle.seek(0)
                if supervisor.is_alive(handle.read()):
                    raise ToolError(
                        f"Another coach is at work in {self.output}. Wait for it, or give this "
                        "one --workspace DIR."
                    )
                if not said:
                    console.say("Waiting for an earlier coach to store what it has under way.")
                said = True
                time.sleep(LOCK_SECONDS)
            handle.truncate(0)
            handle.write(str(supervisor.waiting_process()))
            handle.flush()
            yield

    def manifest(self, stage: str) -> Manifest | None:
        """The stage's manifest, whatever it is worth now; `None` where there is none that can be
        read.
        """
        try:
            return Manifest.model_validate_json((self.manifests / f"{stage}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def complete(self, stage: str, plan: Plan) -> Manifest | None:
        """The manifest, where the stage need not run again."""
        manifest = self.manifest(stage)
        if manifest is None or manifest.settings_hash != content_hash(plan.settings):
            return None
        for paths, stamps in ((plan.inputs, manifest.inputs), (plan.outputs, manifest.outputs)):
            if {self.shown(path) for path in paths} != set(stamps):
                return None
            if not all(
                path.is_file() and is_same(path, stamps[self.shown(path)]) for path in paths
            ):
                return None
        return manifest

    def record(
        self, stage: str, plan: Plan, seed: int, seconds: float, result: dict[str, Any]
    ) -> Manifest:
        """Write the stage's manifest: the last act of a stage."""
        manifest = Manifest(
            stage=stage,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(seconds, 2),
            seed=seed,
            settings_hash=content_hash(plan.settings),
            git_revision=_git_revision(),
            versions=_versions(),
            inputs={self.shown(path): stamp(path) for path in plan.inputs},
            outputs={self.shown(path): stamp(path) for path in plan.outputs},
            result=result,
        )
        write_whole(self.manifests / f"{stage}.json", manifest.model_dump_json(indent=2) + "\n")
        return manifest


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def base_name(model: str) -> str:
    """The folder's name under models/base/: the last part of where the model comes from."""
    name = model.rstrip("/").split("/")[-1].removesuffix(".gguf")
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip(".-") or "model"


def stamp(path: Path) -> FileStamp:
    status = path.stat()
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    return FileStamp(sha256=digest, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def is_same(path: Path, old: FileStamp) -> bool:
    status = path.stat()
    if status.st_size != old.size_bytes:
        return False
    return status.st_mtime_ns == old.mtime_ns or stamp(path).sha256 == old.sha256


def write_whole(path: Path, text: str) -> None:
    """Write beside, then rename: a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    with beside.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    beside.replace(path)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that takes the place of `path` when the block ends well, and is gone when it
    does not.
    """
    beside = path.with_name(path.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    before = path.with_name(path.name + ".before")
    try:
        yield beside
        shutil.rmtree(before, ignore_errors=True)
        if path.exists():
            path.rename(before)
        beside.rename(path)
    finally:
        if before.exists() and not path.exists():
            before.rename(path)
        for leftover in (beside, before):
            shutil.rmtree(leftover, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Have what libraries wrote into a folder on the disk, for the case that the power fails."""
    for path in (*(file for file in folder.iterdir() if file.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raises: ToolError before hours are spent, where the disk has too little room."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise ToolError(
            f"{purpose} needs about {needed_bytes / 1e9:.1f} GB on the disk of {existing}, and "
            f"{free / 1e9:.1f} GB "
            "are free. Make room, or use --workspace DIR on another disk."
        )


def read_conversations(path: Path) -> list[Conversation]:
    """Every conversation of a JSONL file, in order.

    Raises: DataError naming all wrong lines at once; an empty or missing file is one as well.
    """
    return read_records(
        path,
        Conversation,
        'A line must be {"messages": [{"role": "user", "content": "…"}, …]}.',
        'Put one {"messages": [...]} a line into it, or delete it.',
    )


def read_records(path: Path, kind: type[Kind], shape: str = "", remedy: str = "") -> list[Kind]:
    """Every line of a JSONL file as a record of one kind; the same errors. `shape` says what a line
    must be, `remedy` what to do about an empty file.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"There is no {path}.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a JSONL file.") from None
    return parse_records(content, str(path), kind, shape, remedy)


def parse_records(
    content: bytes, place: str, kind: type[Kind], shape: str = "", remedy: str = ""
) -> list[Kind]:
    """The same of what was read already; `place` is how errors name it."""
    records, problems = [], []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(kind.model_validate(json.loads(line.decode("utf-8-sig"))))
        except UnicodeDecodeError as error:
            problems.append(f"  {place}:{number}: byte {error.start + 1} of the line is not UTF-8")
        except RecursionError:
            problems.append(f"  {place}:{number}: nested too deep")
        except json.JSONDecodeError as error:
            problems.append(f"  {place}:{number}: not JSON: {error.msg}, column {error.colno}")
        except ValidationError as error:
            problems += [f"  {place}:{number}: {explain(problem)}" for problem in error.errors()]
        except ValueError as error:  # a number of thousands of digits
            problems.append(f"  {place}:{number}: not JSON that can be read: {error}")
    if problems:
        shown = problems[:50] + (
            [f"  … and {len(problems) - 50} more"] if len(problems) > 50 else []
        )
        heading = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {place}:"
        raise DataError("\n".join([heading, *shown, *([shape] if shape else [])]))
    if not records:
        raise DataError(f"{place} holds no {kind.__name__.lower()}. {remedy}".rstrip())
    return records


def read_prompt(path: Path, name: str) -> str:
    """Raises: DataError, saying what the text is, where it is missing, empty or not UTF-8."""
    try:
        prompt = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = (
            error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start + 1}"
        )
        raise DataError(f"{name} {path} cannot be read: {why}.") from None
    if not prompt:
        raise DataError(f"{name} {path} is empty.")
    return prompt


def read_system_prompt(path: Path) -> str:
    """Accents composed, as in the message that training reads it from."""
    return unicodedata.normalize("NFC", read_prompt(path, "The system prompt"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The lines of a file this project appends to; what a kill left of the last line is dropped."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def append_line(path: Path, line: str) -> None:
    """Add a line to a file that grows, on disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")
        handle.flush()
        os.fsync(handle.fileno())


def read_appended(path: Path, kind: type[Kind]) -> list[Kind]:
    """All records of a file that grows; none where it is not there or empty. Raises: DataError."""
    drop_torn_line(path)
    there = path.is_file() and path.stat().st_size > 0
    return read_records(path, kind) if there else []


def drop_torn_line(path: Path) -> None:
    """Cut off what a kill left of the last line, and say so; a whole one only lacks its end."""
    if not path.is_file():
        return
    with path.open("rb+") as handle:
        text = handle.read()
        whole = text.rfind(b"\n") + 1
        if whole == len(text):
            return
        if _is_json(text[whole:]):
            handle.write(b"\n")
        else:
            console.say(f"{path}: the last line was not whole and is dropped.")
            handle.truncate(whole)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _git_revision() -> str | None:
    command = ["git", "-C", str(PROJECT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
