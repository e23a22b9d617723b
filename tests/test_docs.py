import re
import subprocess

import pytest

from coach_mlx import cli
from coach_mlx.config import Config, Section
from coach_mlx.workspace import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
TRACKED = subprocess.run(
    ["git", "-C", str(PROJECT), "ls-files"], capture_output=True, text=True, check=True
).stdout.split()


def test_the_readmes_stage_table_is_the_pipelines() -> None:
    stages = [name for name, _, _ in (*cli.MATERIAL, *cli.STAGES)]
    assert re.findall(r"^\| `coach (\w+)` \|", README, re.M) == stages


def test_every_command_the_readme_names_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["--help"]) == 0
    listed = set(re.findall(r"^  ([a-z][\w-]*)  ", capsys.readouterr().out, re.M))
    assert set(re.findall(r"`coach ([\w-]+)", README)) | {"run", "chat"} == listed
    for script in re.findall(r"scripts/\w+\.sh", README):
        assert (PROJECT / script).is_file()
        assert script in TRACKED


def typed_in(text: str) -> list[tuple[str, str]]:
    """Commands with what follows them: in fenced lines, and in backticks."""
    found = []
    for place, block in enumerate(text.split("```")):
        begins = r"^(?:\$ )?" if place % 2 else "`"
        found += re.findall(rf"{begins}coach ([a-z][a-z-]*)((?: [^`#\n]*)?)", block, re.M)
    return found


def test_every_command_and_option_the_docs_and_skills_type_exists(
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [path for path in TRACKED if re.match(r"(docs|skills)/.*\.md$", path)]
    typed = [one for path in paths for one in typed_in((PROJECT / path).read_text())]
    assert len(typed) > 100
    for command in sorted({name for name, _ in typed}):
        assert cli._run([command, "--help"]) == 0, command
        known = set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))
        options = {
            option
            for name, rest in typed
            if name == command
            for option in re.findall(r"--[a-z][\w-]*", rest)
        }
        assert options <= known, command


def test_the_readmes_tree_is_the_tree() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    modules = set(re.findall(r"^  (\w+\.\w+) ", tree, re.M))
    package = {path.split("/")[1] for path in TRACKED if path.startswith("coach_mlx/")}
    assert modules == package - {"__init__.py"}
    top = {line.split()[0].rstrip("/") for line in tree.splitlines() if line and line[0] != " "}
    tracked = {path.split("/")[0] for path in TRACKED if not path.startswith(".")}
    assert top == tracked - {"README.md", "CHANGELOG.md", "LICENSE"}


def test_the_architecture_shows_the_rows_that_hold() -> None:
    from test_cli import ROWS

    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [
        set(line.split()) for line in text.split("## Rows")[1].splitlines() if line[:4] == "    "
    ]
    assert rows == ROWS


def test_every_setting_the_docs_name_exists() -> None:
    sections = {name: type(value) for name, value in Config() if isinstance(value, Section)}
    known = {f"{section}.{key}" for section, kind in sections.items() for key in kind.model_fields}
    docs = ("architecture", "assess", "evaluate", "generate", "optimize", "pitfalls", "select")
    for path in ("README.md", *(f"docs/{name}.md" for name in docs)):
        text = (PROJECT / path).read_text(encoding="utf-8")
        named = re.findall(rf"`((?:{'|'.join(sections)})\.[a-z_]+)", text)
        files = (".py", ".yaml", ".jsonl", ".sqlite")
        assert {name for name in named if not name.endswith(files)} <= known


def test_the_pinned_set_names_no_address() -> None:
    lock = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--hash=sha256:" in lock
    for line in lock.splitlines():
        assert line.startswith((" ", "#")) or "==" in line, line


@pytest.mark.parametrize("script", ["train_local.sh", "test.sh", "setup.sh"])
def test_the_scripts_are_whole(script: str) -> None:
    subprocess.run(["bash", "-n", str(PROJECT / "scripts" / script)], check=True)


def test_the_main_script_explains_itself_without_installing() -> None:
    done = subprocess.run(
        [str(PROJECT / "scripts" / "train_local.sh"), "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert "--workspace DIR" in done.stdout
