"""`coach lint-data FILE...`: whether written material is fit to teach, to measure and to test with.

Reads: JSONL of conversations (with or without cards) or of labelled conversations, and the YAML
documents of config/: probes, taxonomy, personas, rubric, places of help. Writes nothing.
Fails: DataError or ConfigError for a file that cannot be read as what it is; otherwise every check
is made, shown in a table, and the answer is no (exit 10) where one does not hold.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coach_mlx import console
from coach_mlx.config import Config
from coach_mlx.console import Check
from coach_mlx.crisis import Directory, load_known
from coach_mlx.documents import as_document, read_yaml
from coach_mlx.errors import DataError
from coach_mlx.lint_conversations import check_conversations
from coach_mlx.lint_reference import check_labelled, check_probes
from coach_mlx.probes import Probes
from coach_mlx.records import Record
from coach_mlx.rubric import RUBRIC, Labelled, Rubric, load_rubric
from coach_mlx.talk import Known
from coach_mlx.taxonomy import TAXONOMY, Personas, Taxonomy, load_taxonomy
from coach_mlx.workspace import Workspace, read_conversations, read_records

DOCUMENTS: dict[str, type[Record]] = {
    "topics": Taxonomy,
    "age_bands": Personas,
    "criteria": Rubric,
    "countries": Directory,
}
LABELS = re.compile(rb'(?<!\\)"labels"\s*:')


def run(files: Sequence[Path], config: Config, workspace: Workspace) -> dict[str, Any]:
    """Every file's checks; `passed` where all hold."""
    known = load_known(config, workspace)
    found = {}
    for file in map(Path, files):
        with console.spinner(f"Reading {file}"):
            found[str(file)] = check_file(file, workspace, known)
        console.show_checks(str(file), found[str(file)])
    failed = [
        f"{file}: {one.name}" for file, checks in found.items() for one in checks if not one.ok
    ]
    return {
        "command": "lint-data",
        "passed": not failed,
        "checks": sum(len(checks) for checks in found.values()),
        "failed": failed,
    }


def check_file(file: Path, workspace: Workspace, known: Known) -> list[Check]:
    if file.suffix.lower() in (".yaml", ".yml"):
        return _check_yaml(file)
    if not file.is_file():
        what = f"{file} is a folder" if file.is_dir() else f"There is no file {file}"
        raise DataError(f"{what}. Give it a JSONL or YAML file.")
    rubric = load_rubric(workspace.find(RUBRIC))
    if _is_labelled(file):
        return check_labelled(read_records(file, Labelled), rubric, known)
    taxonomy = load_taxonomy(workspace.find(TAXONOMY))
    return check_conversations(read_conversations(file), taxonomy, rubric, known)


def _check_yaml(file: Path) -> list[Check]:
    values = read_yaml(file)
    if isinstance(values, list):
        return check_probes(as_document(values, Probes, file))
    kinds = [kind for key, kind in DOCUMENTS.items() if isinstance(values, dict) and key in values]
    if not kinds:
        raise DataError(
            f"{file} is none of the documents known here: probes (a list), or one with "
            f"{', '.join(DOCUMENTS)} at its top."
        )
    as_document(values, kinds[0], file)
    return [Check("reads as " + kinds[0].__name__.lower(), "yes", "yes", True)]


def _is_labelled(file: Path) -> bool:
    """Whether any line has labels: inside a string the quotes would be escaped."""
    return LABELS.search(file.read_bytes()) is not None
