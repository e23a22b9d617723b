"""Real things, made once: the packaged model imported, and a tiny one that need not be wise."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from coach_mlx import dataset, importer, lora, mlx_runtime
from coach_mlx.config import Config, TrainSection, load_config
from coach_mlx.records import Conversation
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

mlx_runtime.prepare()
settings.register_profile("coach", deadline=None, max_examples=60)
settings.load_profile("coach")

# A shell starts what it puts into the background with Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

STARTERS = PROJECT / "reference" / "starter-conversations.jsonl"


@functools.cache
def without_network() -> tuple[str, ...]:
    """A network namespace with nothing in it, where this machine allows one."""
    command = ("unshare", "--map-root-user", "--net")
    if shutil.which("unshare") is None:
        return ()
    allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if allowed else ()


def coach_command(*arguments: str) -> list[str]:
    """The command line with the network closed, in the process that this starts and no other."""
    script = str(PROJECT / "tests" / "closed_network.py")
    return [*without_network(), sys.executable, script, *arguments]


def coach(
    *arguments: str, stdin: str = "", timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """The command line in one process of its own, the network closed."""
    return subprocess.run(
        coach_command(*arguments),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def start(
    *arguments: str, stdin: int | None = None, script: Path | None = None
) -> "subprocess.Popen[str]":
    """The command line as a person starts it, under way; `script` is what they call."""
    called = ["-m", "coach_mlx.cli"] if script is None else [str(script)]
    return subprocess.Popen(
        [sys.executable, *called, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def start_coach(
    command: str, folder: Path, *arguments: str, stdin: int | None = None
) -> "subprocess.Popen[str]":
    """A command in a workspace, under way."""
    return start(command, "--workspace", str(folder), *arguments, stdin=stdin)


def finished(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
    """Exit code, result, and what was said."""
    out, said = process.communicate(timeout=120)
    return process.returncode, json.loads(out) if out else {}, said


@pytest.fixture(scope="session")
def starters() -> list[Conversation]:
    return read_conversations(STARTERS)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model as an MLX folder."""
    config = load_config(None, ["name=demo", "base.model=smollm2"])
    workspace = Workspace(tmp_path_factory.mktemp("smollm2"), config)
    importer.run(config, workspace)
    return workspace.base


@pytest.fixture(scope="session")
def tokenizer(smollm2: Path) -> Any:
    return mlx_runtime.open_tokenizer(smollm2)


def edited(source: Path, change: Callable[[Any], Any], folder: Path) -> Path:
    """A copy of a YAML document with something changed."""
    values = yaml.safe_load(source.read_text(encoding="utf-8"))
    change(values)
    path = folder / source.name
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def make_tiny(folder: Path, tokenizer_from: Path, family: str = "llama", **facts: Any) -> Path:
    """A random model of two layers with a real tokenizer: real files, no wisdom."""
    import importlib

    import mlx.core as mx
    from mlx_lm.utils import save_model

    module = importlib.import_module(f"mlx_lm.models.{family}")
    settings = {
        "model_type": family,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": 49152,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "head_dim": 16,
        "eos_token_id": 2,
        **facts,
    }
    folder.mkdir(parents=True)
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict(settings))
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(settings))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_from / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "tiny", smollm2)


def make_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter that changes something: mlx-lm's begins as none."""
    import mlx.core as mx
    from mlx.utils import tree_map_with_path

    chosen = TrainSection(**{"rank": 4, "scale": 1.0, "layers": -1, **settings})
    model, _ = mlx_runtime.open_weights(base)
    mx.random.seed(5)
    lora.attach(model, chosen)

    def moved(path: str, array: Any) -> Any:
        return 0.2 * mx.random.normal(array.shape) if path.endswith("lora_b") else array

    model.update(tree_map_with_path(moved, model.trainable_parameters()))
    folder.mkdir(parents=True, exist_ok=True)
    lora.save(model, chosen, folder)
    return folder


def shortened(conversations: Sequence[Conversation], turns: int) -> list[str]:
    """Lines of a conversations file: the cards, and the first turns."""
    lines = []
    for one in conversations:
        messages = one.chat()[: 2 * turns]
        card = one.scenario.model_dump(mode="json") if one.scenario else None
        lines.append(json.dumps({"scenario": card, "messages": messages}) + "\n")
    return lines


TinyRun = tuple[Config, Workspace, list[str]]


def prepare_tiny(run: TinyRun) -> TinyRun:
    """Dataset and base in place, ready to train."""
    if not run[1].holdout.exists():
        dataset.run(run[0], run[1])
        importer.run(run[0], run[1])
    return run


def tiny_maker(
    tiny: Path, starters: Sequence[Conversation], folder: Path
) -> Callable[..., TinyRun]:
    def make(*overrides: str, root: Path = folder) -> TinyRun:
        source = root / "output" / "tiny" / "conversations.jsonl"
        source.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            source.write_text("".join(shortened(starters[:14], 2)), encoding="utf-8")
        settings = [
            "name=tiny",
            f"base.model={tiny}",
            "base.group_size=32",
            f"dataset.conversations={source}",
            "dataset.min_holdout=4",
            "train.steps=4",
            "train.rank=4",
            "train.learning_rate=1e-2",
            "train.report_every=1",
            "train.checkpoint_every=2",
            "verify.tokens=1024",
            "verify.replies=2",
            "verify.reply_tokens=8",
            "evaluate.reply_tokens=4",
            "evaluate.probes=2",
            "serve.num_ctx=1024",
            *overrides,
        ]
        options = ["--workspace", str(root), "--config", str(PROJECT / "config" / "coach.yaml")]
        for setting in settings:
            options += ["--set", setting]
        config = load_config(None, settings)
        return config, Workspace(root, config), options

    return make


@pytest.fixture
def tiny_project(
    tmp_path: Path, tiny: Path, starters: list[Conversation]
) -> Callable[..., TinyRun]:
    """A workspace with short conversations and the tiny base, and its command-line options."""
    return tiny_maker(tiny, starters, tmp_path)


@pytest.fixture(scope="session")
def tiny_project_module(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, starters: list[Conversation]
) -> Callable[..., TinyRun]:
    """The same, for what several tests share."""
    return tiny_maker(tiny, starters, tmp_path_factory.mktemp("shared"))
