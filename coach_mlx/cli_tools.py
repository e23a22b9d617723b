"""The commands beside the pipeline: choosing a base, looking, judging the judge, serving, talking.

Each loads the config and calls one module; `cli` catches what they raise.
"""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from coach_mlx.cli_options import (
    ConfigOption,
    JudgeOption,
    MacOption,
    QuoteOption,
    SetOption,
    WorkspaceOption,
    open_workspace,
    print_result,
)
from coach_mlx.errors import GateFailed

app = typer.Typer()


@app.command("verify", help="Compare the exported file with what was trained; exit 10.")
def verify(
    config: ConfigOption = None, set_: SetOption = None, workspace: WorkspaceOption = Path()
) -> None:
    from coach_mlx import gguf

    loaded, place = open_workspace(config, set_, workspace)
    with place.lock():
        print_result({"command": "verify", **gguf.verify(loaded, place)})


@app.command("lint-data", help="Say whether conversations or probes are fit to use; exit 10.")
def lint_data(
    files: Annotated[list[Path], typer.Argument(help="JSONL of conversations, or YAML of probes.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
) -> None:
    from coach_mlx import lint

    result = lint.run(files, *open_workspace(config, set_, workspace))
    print_result(result)
    if not result["passed"]:
        raise GateFailed("\n".join(["These checks do not hold:", *result["failed"]]))


@app.command("judge-passport", help="Measure how far a judge can be believed.")
def judge_passport(
    file: Annotated[
        str | None, typer.Argument(help="JSONL of labelled conversations; default: the shipped.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    judge: JudgeOption = None,
    votes: Annotated[
        int | None,
        typer.Option("--votes", min=1, max=25, help="Ask each so often, in place of assess.votes."),
    ] = None,
    quote: QuoteOption = False,
) -> None:
    from coach_mlx import judge_passport as module

    given = {"assess.judge": judge, "assess.votes": votes}
    chosen = [f"{key}={value}" for key, value in given.items() if value is not None]
    loaded, place = open_workspace(config, [*(set_ or ()), *chosen], workspace)
    with place.lock():
        act = module.show_quote if quote else module.run
        options = module.Options(file, judge is not None)
        print_result({"command": "judge-passport", **act(loaded, place, options)})


@app.command("spot-check", help="Read pairs of talks, blinded, and say which coach was better.")
def spot_check(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="So many.")] = 12,
    name: Annotated[
        str | None, typer.Option("--name", help="Whose opinion it is; default: the login name.")
    ] = None,
) -> None:
    from coach_mlx import spot_check as module

    loaded, place = open_workspace(config, set_, workspace)
    with place.lock():
        result = module.run(loaded, place, module.Options(pairs, name))
    print_result({"command": "spot-check", **result})


@app.command("select", help="Which base models fit this machine; try some, and choose one.")
def select(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    mac: MacOption = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="private, sharing or commercial: hide the rest.")
    ] = None,
    show: Annotated[
        str | None, typer.Option("--show", help="Everything known of one, and how sure it is.")
    ] = None,
    pilot: Annotated[
        str | None,
        typer.Option("--pilot", help="Let these answer: NAME,NAME or mlx/FOLDER and the like."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Let a pilot fetch what is not on this machine.")
    ] = False,
    judge: Annotated[
        str | None, typer.Option("--judge", help="provider/name: in place of select.judge.")
    ] = None,
    quote: QuoteOption = False,
    choose: Annotated[
        str | None, typer.Option("--choose", help="Write this one into the config.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Choose what would be refused.")] = False,
) -> None:
    from coach_mlx import base_pilot
    from coach_mlx import selector as module

    chosen = [f"select.judge={judge}"] if judge else []
    loaded, place = open_workspace(config, [*(set_ or ()), *chosen], workspace)
    options = module.Options(mac, module.as_purpose(license_), download, judge is not None, force)
    if choose is not None:
        with place.lock():
            result = module.choose(choose, loaded, place, config, options)
    elif pilot is not None:
        names = [name for name in pilot.split(",") if name]
        with place.lock(), contextlib.redirect_stdout(sys.stderr):
            if quote:
                result = base_pilot.show_quote(names, loaded, place)
            else:
                result = module.run_pilot(names, loaded, place, options)
    elif show is not None:
        result = module.show(show, loaded, place, options)
    else:
        result = module.run(loaded, place, options)
    print_result({"command": "select", **result})


@app.command("deploy", help="Ollama serves the coach, once it has proved itself; exit 10 if not.")
def deploy(
    config: ConfigOption = None,
    set_: SetOption = None,
    workspace: WorkspaceOption = Path(),
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the one before; twice is forward again.")
    ] = False,
) -> None:
    from coach_mlx import ollama

    loaded, place = open_workspace(config, set_, workspace)
    with place.lock():
        act = ollama.roll_back if rollback else ollama.run
        result = act(loaded, place)
    print_result({"command": "deploy", **result})


@app.command("chat", help="Talk to the coach, here and in private.")
def chat(
    config: ConfigOption = None, set_: SetOption = None, workspace: WorkspaceOption = Path()
) -> None:
    from coach_mlx import chat as module

    module.run(*open_workspace(config, set_, workspace))


@app.command("config", help="Print every setting in force, as YAML.")
def config(
    config: ConfigOption = None, set_: SetOption = None, workspace: WorkspaceOption = Path()
) -> None:
    from coach_mlx.config import to_yaml

    sys.stdout.write(to_yaml(open_workspace(config, set_, workspace)[0]))


@app.command("doctor", help="Say what is there, and what to type for what is not.")
def doctor(
    config: ConfigOption = None, set_: SetOption = None, workspace: WorkspaceOption = Path()
) -> None:
    from coach_mlx import doctor as module

    print_result(module.run(*open_workspace(config, set_, workspace)))
