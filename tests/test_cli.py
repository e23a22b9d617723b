import ast
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TinyRun, coach, finished, shortened, start

from coach_mlx import cli
from coach_mlx.config import load_config
from coach_mlx.records import Conversation
from coach_mlx.workspace import PROJECT, Workspace

PACKAGE = PROJECT / "coach_mlx"
ROWS = [
    {
        "errors",
    },
    {
        "records",
        "stats",
        "console",
        "documents",
        "keys",
        "egress",
        "throttle",
        "gpu",
        "chips",
        "chat_template",
        "template_trial",
        "model_facts",
    },
    {
        "config",
        "chat_format",
        "talk",
        "calls",
        "arcs",
        "supervisor",
        "gguf_architecture",
        "rates",
        "power",
    },
    {
        "workspace",
        "rules_bonds",
        "rules_crisis",
        "rules_form",
        "rules_honesty",
        "rules_medicine",
        "quotations",
        "turn_shapes",
        "parity_cases",
        "gguf_vocabulary",
        "comparison",
        "prompt_cards",
        "prompt_rules",
    },
    {
        "prices",
        "cli_options",
        "ledger",
        "slips",
        "near_duplicates",
        "verdicts",
        "transcripts",
        "gguf_facts",
        "modelfile",
        "evaluation_plan",
        "report_cells",
        "report_text",
        "report_talks",
        "config_edit",
        "base_models",
    },
    {
        "rubric",
        "probes",
        "detectors",
        "llama_runtime",
        "mlx_runtime",
        "leaks",
        "dialogue",
        "pilot",
        "ollama_server",
        "plots",
        "report_tables",
        "report_facts",
        "people",
    },
    {
        "taxonomy",
        "crisis",
        "parity_tokens",
        "batches",
        "losses",
        "ranks",
        "lora",
        "original",
        "standing",
        "selection",
        "holdout",
        "dataset_card",
        "scoring",
        "judge_prompt",
        "injections",
        "verdict_table",
        "gguf_tensors",
        "ollama_parity",
        "preferences",
        "mlx_replies",
        "hub",
        "report_markdown",
    },
    {
        "llm_anthropic",
        "llm_servers",
        "llm_local",
        "recipes",
        "quote",
        "generation_report",
        "votes",
        "checkpoints",
        "memory_plan",
        "gguf_file",
        "parity_numbers",
        "parity_file",
        "report",
    },
    {
        "lint_conversations",
        "lint_reference",
        "llm",
        "judge",
        "training_loop",
        "memory_fit",
        "parity_content",
    },
    {
        "message_batches",
        "judging",
        "passport",
        "num_ctx",
        "parity_served",
        "parity",
        "pairwise",
        "arms",
    },
    {
        "rounds",
        "replay",
        "base_fit",
    },
    {
        "requirements",
        "simulated",
        "prompt_trials",
        "base_table",
        "base_pilot_models",
    },
    {
        "judgements",
        "material",
        "prompt_search",
    },
    {
        "evidence",
        "answers",
        "prompt_proof",
        "prompt_run",
    },
    {
        "measures",
        "safety",
        "prompt_report",
        "base_pilot_answers",
        "base_ranking",
    },
    {
        "decision",
        "base_rationale",
    },
    {
        "base_pilot",
    },
    {
        "generator",
        "assessor",
        "judge_passport",
        "dataset",
        "importer",
        "trainer",
        "fuse",
        "gguf",
        "ollama",
        "gguf_adapter",
        "evaluator",
        "optimizer",
        "spot_check",
        "chat",
        "doctor",
        "selector",
        "lint",
    },
    {
        "cli_tools",
    },
    {
        "cli",
    },
]
HEAVY = {"mlx", "mlx_lm", "anthropic", "dspy", "llama_cpp", "matplotlib", "transformers", "scipy"}
LAZY = HEAVY | {"numpy", "pydantic", "yaml", "gguf", "tokenizers", "openai", "ollama", "datasketch"}


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "coach_mlx":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coach_mlx."):
            found.add((node.module or "").split(".")[1])
    return found


def test_a_module_imports_only_from_rows_above_its_own() -> None:
    row_of = {name: number for number, row in enumerate(ROWS) for name in row}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(row_of)
    for name in modules:
        for other in imported(PACKAGE / f"{name}.py"):
            assert row_of[other] < row_of[name], f"{name} imports {other}"


def test_heavy_packages_are_imported_inside_functions_only() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not HEAVY & {name.split(".")[0] for name in names}, path


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom coach_mlx import cli\ncode = cli._run(['--help'])\n"
        f"found = {sorted(LAZY)!r}\n"
        "sys.exit(' '.join(name for name in found if name in sys.modules) or code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for stage, _, summary in cli.STAGES:
        assert stage in done.stdout
        assert summary.split(";")[0].split(",")[0] in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trian"], 2, "Did you mean 'train'?"),
        (["train", "--sett", "x"], 2, "coach --help"),
        (["train", "--set", "train.rnk=3"], 2, "did you mean train.rank?"),
        (["train", "--config", "nowhere.yaml"], 2, "There is no config file"),
        (["dataset"], 3, "config/demo.yaml"),
        (["train"], 5, "coach import"),
        (["import", "--set", "base.model=./nothing"], 2, "is no hub id"),
        (["fuse"], 5, "coach train"),
        (["deploy"], 5, "coach export"),
        (["export"], 5, "coach fuse"),
        (["export", "--adapter-only"], 5, "coach train"),
        (["export", "--model", "nowhere"], 2, "--to FILE.gguf"),
        (["export", "--model", "nowhere", "--to", "x.gguf"], 5, "There is no model in nowhere"),
        (["verify"], 5, "coach fuse"),
        (["fuse", "--set", "fuse.onto=original"], 5, "--set fuse.onto=quantized"),
        (["evaluate"], 5, "coach dataset"),
        (["chat"], 5, "coach run"),
    ],
)
def test_every_mistake_has_its_exit_code_and_says_what_to_type(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    options = [] if arguments == ["trian"] else ["--workspace", str(tmp_path)]
    assert cli._run([*arguments, *options]) == code
    captured = capfd.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_broken_lines_are_all_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_bytes(b'{"messages": 3}\nnonsense\n\xff\n')
    options = ["--workspace", str(tmp_path), "--set", f"dataset.conversations={source}"]
    assert cli._run(["dataset", *options]) == 3
    said = capsys.readouterr().err
    assert all(f"mine.jsonl:{number}:" in said for number in (1, 2, 3))
    assert not list((tmp_path / "output").glob("*.jsonl"))


def test_config_prints_what_is_in_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["config", "--config", "config/demo.yaml", "--set", "train.rank=3"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(printed).train.rank == 3
    assert load_config(printed).name == "demo"


def test_doctor_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["doctor", "--workspace", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    checks = {check["name"]: check for check in json.loads(captured.out)["checks"]}
    assert checks["mlx_lm"]["ok"] is True
    assert checks["adapter"]["found"] == "not made yet"
    assert "coach train" in captured.err
    assert "\x1b" not in captured.err


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "No permission")],
)
def test_a_disk_that_refuses_is_said_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/some/where")

    monkeypatch.setattr(cli, "app", fail)
    assert cli._run(["dataset"]) == 5
    assert said in capsys.readouterr().err


def test_ctrl_c_while_compiled_code_is_imported_is_still_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr(cli, "app", fail)
    assert cli._run(["fuse"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_workspace_that_cannot_be_a_folder_is_said_plainly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "output").write_text("a file stands here")
    assert cli._run(["dataset", "--workspace", str(tmp_path)]) == 5
    assert "A file stands where a folder must be" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_half_made(tiny_project: Callable[..., TinyRun]) -> None:
    """A limit on the size of files stands in for a disk that is full."""
    _, workspace, options = tiny_project()
    limited = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from coach_mlx.cli import main\nmain()"
    )
    command = [sys.executable, "-c", limited]
    assert subprocess.run([*command, "dataset", *options], check=False).returncode == 0
    done = subprocess.run(
        [*command, "import", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert "disk" in done.stderr
    assert not workspace.base.exists()
    done = coach("import", *options)
    assert done.returncode == 0
    assert json.loads(done.stdout)["stage"] == "import"


def test_the_whole_demo_runs_with_the_network_closed(
    tmp_path: Path, starters: list[Conversation]
) -> None:
    """Every stage on the real small model, on short conversations; then nothing is done twice."""
    source = tmp_path / "short.jsonl"
    source.write_text("".join(shortened(starters[:12], 2)), encoding="utf-8")
    options = ["--config", str(PROJECT / "config" / "demo.yaml"), "--workspace", str(tmp_path)]
    for setting in (
        f"dataset.conversations={source}",
        "dataset.min_holdout=3",
        "train.steps=2",
        "train.layers=2",
        "train.validation_fraction=0",
        "evaluate.reply_tokens=3",
        "evaluate.probes=1",
    ):
        options += ["--set", setting]
    done = coach("run", *options)
    assert done.returncode == 10, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] == "inconclusive"  # nobody judges the demo
    assert "\x1b" not in done.stderr
    for stage, _, _ in cli.STAGES:
        assert f"{stage}: done in" in done.stderr
    workspace = Workspace(tmp_path, load_config(PROJECT / "config" / "demo.yaml"))
    for path in (workspace.gguf, workspace.modelfile, workspace.loss_plot, workspace.holdout):
        assert path.stat().st_size > 0
    assert not (tmp_path / "output" / "training_data.jsonl").exists()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = coach("run", *options)
    assert again.returncode == done.returncode
    assert json.loads(again.stdout) == result
    assert again.stderr.count("already complete") == len(cli.STAGES)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in after if after[path] != before.get(path)} <= {
        workspace.manifests / ".lock"
    }
    talk = coach("chat", *options[:4], stdin="hello\n")
    assert talk.returncode == 0, talk.stderr


def test_what_the_export_cannot_write_is_refused_before_the_training(
    tiny_project: Callable[..., TinyRun], tmp_path: Path, tiny: Path
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    facts = json.loads((other / "config.json").read_text())
    facts["rope_scaling"] = {"rope_type": "dynamic", "factor": 8.0}
    (other / "config.json").write_text(json.dumps(facts))
    _, workspace, options = tiny_project(f"base.model={other}")
    done = coach("run", *options)
    assert done.returncode == 3
    assert "dynamic" in done.stderr
    assert not workspace.adapter.exists()


def interrupt_as_it_begins(stage: str, options: list[str]) -> int:
    """Ctrl-C in `coach run`, as soon as this stage says that it has started; the exit code."""
    process = start("run", *options)
    assert process.stderr is not None
    said = ""
    while f"{stage}: started" not in said:
        line = process.stderr.readline()
        assert line, f"{stage} never began: {said}"
        said += line
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[1]
    assert "Traceback" not in said
    return process.returncode


def test_ctrl_c_in_any_stage_ends_with_130_and_the_next_run_goes_on(
    tiny_project: Callable[..., TinyRun], tmp_path: Path
) -> None:
    _, _, options = tiny_project()
    for stage, _, _ in cli.STAGES:
        assert interrupt_as_it_begins(stage, options) == 130
    script = tmp_path / "coach"
    script.write_text("from coach_mlx.cli import main\nmain()\n")
    code, result, said = finished(start("run", *options, script=script))
    assert code == 10, said
    assert f"Talk to it: {script} chat" in said
    assert result["stage"] == "run"
    complete = [stage for stage, _, _ in cli.STAGES if f"{stage}: already complete" in said]
    assert complete == [stage for stage, _, _ in cli.STAGES[:-1]]
