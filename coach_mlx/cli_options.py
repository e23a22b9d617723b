"""What every command takes, and how it speaks: one JSON line on stdout."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML file; default: config/coach.yaml.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override section.key=value; may be repeated.")
]
WorkspaceOption = Annotated[
    Path, typer.Option("--workspace", help="Where output/, adapters/, models/ and reports/ lie.")
]
ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Run although it is complete (an earlier training is set aside)."),
]
AnywayOption = Annotated[
    bool, typer.Option("--force", help="Start anew (an earlier one is set aside), fit or no fit.")
]
MaskOption = Annotated[
    bool, typer.Option("--show-mask", help="Show which words the loss counts, and stop.")
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Compute what it needs of this machine's memory, and stop.")
]
MacOption = Annotated[
    int | None, typer.Option("--mac", min=8, help="The same for a Mac of so many GB.")
]
FileArgument = Annotated[
    str | None,
    typer.Argument(help="JSONL or a plain transcript; - for what is piped in. By default, all."),
]
JudgeOption = Annotated[
    str | None, typer.Option("--judge", help="provider/name: in place of assess.judge.")
]
QuoteOption = Annotated[
    bool, typer.Option("--quote", help="Say what it would cost, and stop. Nothing is sent.")
]
BatchOption = Annotated[
    bool, typer.Option("--batch", help="Message Batches: half the price, within a day.")
]


def open_workspace(config: Path | None, overrides: list[str] | None, root: Path) -> tuple[Any, Any]:
    from coach_mlx.config import load_config
    from coach_mlx.workspace import PROJECT, Workspace

    path = config
    if path is None:
        path = next(
            (
                file
                for file in (root / "config/coach.yaml", PROJECT / "config/coach.yaml")
                if file.is_file()
            ),
            None,
        )
    elif not path.is_file() and (PROJECT / path).is_file():
        path = PROJECT / path
    loaded = load_config(path, overrides or ())
    return loaded, Workspace(root, loaded)


def print_result(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
