"""`coach STAGE [--config FILE] [--set section.key=value]... [--workspace DIR]`.

The stage tables below are the pipeline: what makes the material, and what `coach run` walks. Every
command loads the config and calls one module's `run(config, workspace)`. The commands beside the
pipeline stand in `cli_tools`. This file alone catches errors and knows exit codes; nothing heavy is
imported before a command needs it.
"""

import contextlib
import importlib
import io
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from coach_mlx import cli_tools, supervisor
from coach_mlx.cli_options import (
    AnywayOption,
    BatchOption,
    ConfigOption,
    FileArgument,
    ForceOption,
    JudgeOption,
    MacOption,
    MaskOption,
    PlanOption,
    QuoteOption,
    SetOption,
    WorkspaceOption,
    open_workspace,
    print_result,
)
from coach_mlx.errors import (
    INTERRUPTED,
    CoachError,
    ConfigError,
    GateFailed,
    ToolError,
    disk_trouble,
)

MATERIAL = (
    ("scenarios", "taxonomy", "The taxonomy becomes scenario cards, by exact quotas."),
    ("generate", "generator", "Scenario cards become conversations, written by chat models."),
    ("assess", "assessor", "A judge reads conversations against the rubric."),
    ("optimize", "optimizer", "GEPA searches for a better prompt, which must prove itself."),
)
STAGES = (
    ("dataset", "dataset", "Conversations become training data and a holdout."),
    ("import", "importer", "The base model becomes an MLX folder under models/base/."),
    ("train", "trainer", "LoRA on the quantized base, with the loss on the coach's words."),
    ("fuse", "fuse", "The adapter is put into the weights."),
    ("export", "gguf", "The weights become a quantized GGUF, with a Modelfile."),
    ("evaluate", "evaluator", "Base against tuned, better and safe? Exit 0 only for deploy."),
)
OFFERED = {"dataset": "optimizer", "import": "selector"}
"""What `coach run` speaks of before a stage, and a person does by itself."""
KNOWS_FORCE = ("train",)
"""Stages to which `--force` means more than to run again."""
MODULES = {name: module for name, module, _ in (*MATERIAL, *STAGES)}

app = typer.Typer(
    name="coach",
    help="Make a private self-care coach on your own machine, and keep it honest.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _execute(
    stage: str, config: Any, workspace: Any, force: bool = False, **options: Any
) -> dict[str, Any]:
    """Run a stage, with options of its own, unless it is complete; its result."""
    from coach_mlx import console

    module = importlib.import_module(f"coach_mlx.{MODULES[stage]}")
    plan = module.plan(config, workspace)
    manifest = None if force else workspace.complete(stage, plan)
    if manifest:
        console.say(f"{stage}: already complete")
        if hasattr(module, "dismiss"):
            module.dismiss()
    else:
        _offer(stage, config, workspace)
        console.say(f"{stage}: started")
        forced = {"force": True} if force and stage in KNOWS_FORCE else {}
        started = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for our own result
            result = module.run(config, workspace, **forced, **options)
        seconds = time.monotonic() - started
        manifest = workspace.record(stage, plan, config.seed, seconds, result)
        console.say(f"{stage}: done in {console.duration(seconds)}")
    return dict(manifest.result)


def _offer(stage: str, config: Any, workspace: Any) -> None:
    if stage in OFFERED:
        from coach_mlx import console

        words = importlib.import_module(f"coach_mlx.{OFFERED[stage]}").offer(config, workspace)
        if words:
            console.say(words)


def _gate(results: dict[str, dict[str, Any]]) -> None:
    for result in results.values():
        if result.get("passed") is False:
            raise GateFailed(
                f"{result['verdict']}: {result['reason']}. The report: {result['report']}"
            )


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        config: ConfigOption = None,
        set_: SetOption = None,
        workspace: WorkspaceOption = Path(),
        force: ForceOption = False,
    ) -> None:
        loaded, place = open_workspace(config, set_, workspace)
        with place.lock():
            result = _execute(stage, loaded, place, force)
        print_result({"stage": stage, **result})
        _gate({stage: result})

    return command


def _scenarios(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    force: ForceOption = False,
    count: Annotated[int | None, typer.Option("--count", help="So many cards.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Every draw comes from this.")] = None,
) -> None:
    given = {"scenarios.count": count, "seed": seed}
    chosen = [f"{key}={value}" for key, value in given.items() if value is not None]
    _stage_command("scenarios")(config, [*(set_ or ()), *chosen], workspace, force)


def _train(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    force: AnywayOption = False,
    show_mask: MaskOption = False,
    plan: PlanOption = False,
    mac: MacOption = None,
) -> None:
    from coach_mlx import ranks, trainer

    if show_mask:
        print_result(trainer.show_mask(*open_workspace(config, set_, workspace)))
    elif plan or mac is not None:
        print_result(trainer.show_plan(*open_workspace(config, set_, workspace), mac))
    elif ranks.follows():
        with contextlib.redirect_stderr(io.StringIO()):  # the leader speaks
            trainer.follow(*open_workspace(config, set_, workspace))
    else:
        _stage_command("train")(config, set_, workspace, force)


def _generate(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    quote: QuoteOption = False,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="Write the pilot only, and decide on what is judged.")
    ] = False,
    batch: BatchOption = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Write at most so many now.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write thousands without a passed pilot.")
    ] = False,
) -> None:
    from coach_mlx import generator

    loaded, place = open_workspace(config, set_, workspace)
    options = generator.Options(pilot, batch, force, limit)
    with place.lock():
        if quote:
            print_result({"stage": "generate", **generator.show_quote(loaded, place, options)})
            return
        result = generator.complete(loaded, place, options)
        if result is None:
            started = time.monotonic()
            result = generator.run(loaded, place, options)
            if not result["left"] and not pilot:
                seconds = time.monotonic() - started
                plan = generator.plan(loaded, place)
                place.record("generate", plan, loaded.seed, seconds, result)
    print_result({"stage": "generate", **result})
    _gate({"generate": result})


def _assess(
    file: FileArgument = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    judge: JudgeOption = None,
    quote: QuoteOption = False,
    batch: BatchOption = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Judge at most so many now.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask anew where an answer could not be used.")
    ] = False,
) -> None:
    from coach_mlx import assessor

    chosen = [f"assess.judge={judge}"] if judge else []
    loaded, place = open_workspace(config, [*(set_ or ()), *chosen], workspace)
    options = assessor.Options(file, batch, limit, again, judge is not None)
    with place.lock():
        if quote:
            print_result({"stage": "assess", **assessor.show_quote(loaded, place, options)})
            return
        started = time.monotonic()
        result = assessor.run(loaded, place, options)
        if file is None and not result["left"]:
            plan = assessor.plan(loaded, place)
            place.record("assess", plan, loaded.seed, time.monotonic() - started, result)
    print_result({"stage": "assess", **result})


def _optimize(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    quote: QuoteOption = False,
    again: Annotated[
        bool, typer.Option("--again", help="Go on from the prompt that an earlier run found.")
    ] = False,
    revert: Annotated[
        bool, typer.Option("--revert", help="Put the prompt before this one back.")
    ] = False,
) -> None:
    from coach_mlx import optimizer

    loaded, place = open_workspace(config, set_, workspace)
    with place.lock():
        if quote or revert:
            act = optimizer.show_quote if quote else optimizer.revert
            print_result({"stage": "optimize", **act(loaded, place)})
            return
        result = optimizer.run(loaded, place, optimizer.Options(again))
    print_result({"stage": "optimize", **result})
    _gate({"optimize": result})


def _export(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    force: ForceOption = False,
    adapter_only: Annotated[
        bool, typer.Option("--adapter-only", help="The adapter alone, for ADAPTER in a Modelfile.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="Another MLX or Hugging Face folder; with --to.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="The GGUF file it becomes.")] = None,
) -> None:
    if (model is None) != (to is None):
        raise ConfigError("Type both: coach export --model FOLDER --to FILE.gguf")
    if not adapter_only and model is None:
        _stage_command("export")(config, set_, workspace, force)
        return
    from coach_mlx import gguf, gguf_adapter

    loaded, place = open_workspace(config, set_, workspace)
    with place.lock(), contextlib.redirect_stdout(sys.stderr):
        done = gguf.convert(loaded, model, to) if model and to else gguf_adapter.run(loaded, place)
    print_result({"stage": "export", **done})


def _evaluate(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    force: ForceOption = False,
    judge: Annotated[
        str | None, typer.Option("--judge", help="provider/name: in place of evaluate.judge.")
    ] = None,
    quote: QuoteOption = False,
    new_plan: Annotated[
        bool,
        typer.Option("--new-plan", help="Decide by other rules than were fixed; it is reported."),
    ] = False,
) -> None:
    from coach_mlx import evaluator

    chosen = [f"evaluate.judge={judge}"] if judge else []
    loaded, place = open_workspace(config, [*(set_ or ()), *chosen], workspace)
    with place.lock():
        if quote:
            print_result({"stage": "evaluate", **evaluator.show_quote(loaded, place)})
            return
        options = evaluator.Options(new_plan, judge is not None)
        result = _execute("evaluate", loaded, place, force, options=options)
    print_result({"stage": "evaluate", **result})
    _gate({"evaluate": result})


OWN_OPTIONS: dict[str, Callable[..., None]] = {
    "scenarios": _scenarios,
    "generate": _generate,
    "assess": _assess,
    "optimize": _optimize,
    "train": _train,
    "export": _export,
    "evaluate": _evaluate,
}
for _name, _, _help in (*MATERIAL, *STAGES):
    app.command(_name, help=_help)(OWN_OPTIONS.get(_name, _stage_command(_name)))


@app.command("run", help="Walk the pipeline from the first stage that is not complete.")
def run(
    config: ConfigOption = None, set_: SetOption = None, workspace: WorkspaceOption = Path()
) -> None:
    from coach_mlx import console, ranks

    if ranks.launched():
        raise ConfigError("Several Macs train, and nothing else. Type: mlx.launch … -- coach train")
    loaded, place = open_workspace(config, set_, workspace)
    results = {}
    with place.lock():
        for stage, _, _ in STAGES:
            results[stage] = _execute(stage, loaded, place)
            if supervisor.is_orphaned():
                return
            if stage == "import":
                _preflight(loaded, place)
    print_result({"stage": "run", **results["evaluate"]})
    console.say(f"Report: {results['evaluate']['report']}")
    chosen = [*(["--config", str(config)] if config else []), "--workspace", str(workspace)]
    console.say(f"Talk to it: {_own_name()} chat {' '.join(chosen)}")
    if results["evaluate"]["passed"]:
        console.say(f"Serve it with Ollama: {_own_name()} deploy {' '.join(chosen)}")
    _gate(results)


def _own_name() -> str:
    """How this command was called, as a person would type it again."""
    called = Path(sys.argv[0])
    if called.name != "coach" or shutil.which("coach") == str(called):
        return "coach"
    here = Path.cwd()
    return str(called.relative_to(here) if called.is_relative_to(here) else called)


def _preflight(config: Any, workspace: Any) -> None:
    """Let the later stages refuse now what they would refuse after the training."""
    for _, module, _ in STAGES:
        found = importlib.import_module(f"coach_mlx.{module}")
        if hasattr(found, "preflight"):
            found.preflight(config, workspace)


app.add_typer(cli_tools.app)


def main() -> None:
    """Run the command line; every way out has its exit code."""
    supervisor.begin()
    code = _run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt but the farewell
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        if supervisor.needs_worker(arguments):
            return supervisor.run(arguments)
        return int(app(arguments, standalone_mode=False, prog_name="coach") or 0)
    except CoachError as error:
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _say(INTERRUPTED, 130)
    except BrokenPipeError:
        return 0  # whoever read the result has read enough
    except OSError as error:
        trouble = disk_trouble(error)
        if trouble is None:
            traceback.print_exc()
            return 1
        return _say(trouble, ToolError.exit_code)
    except Exception as error:
        if _is_interrupt(error):
            return _say(INTERRUPTED, 130)
        if hasattr(error, "format_message"):  # click's own: an unknown command or option
            return _say(f"{error.format_message()}\nTry: coach --help", ConfigError.exit_code)
        traceback.print_exc()
        return 1


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: an import of compiled code makes an ImportError of Ctrl-C."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _say(text: str, code: int) -> int:
    sys.stderr.write(text + "\n")
    return code


if __name__ == "__main__":
    main()
