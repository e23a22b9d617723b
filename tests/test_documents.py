from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.documents import read_document
from coach_mlx.errors import ConfigError
from coach_mlx.records import Record


class Row(Record):
    service: str
    turns: int = 0


class Sheet(Record):
    rows: tuple[Row, ...]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sheet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_problem_is_named_at_once_with_the_nearest_key(tmp_path: Path) -> None:
    text = "rows:\n  - {servise: x, service: y}\n  - {service: z, turns: many}\nrow: 1\n"
    with pytest.raises(ConfigError) as caught:
        read_document(write(tmp_path, text), Sheet)
    said = str(caught.value)
    assert said.startswith("3 problems in")
    assert "rows[1].servise: no such key; did you mean service?" in said
    assert "rows[2].turns: Input should be a valid integer" in said
    assert "row: no such key; did you mean rows?" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: [", "not a YAML file"),
        ("rows:\n- {service: a}\nrows:\n- {service: b}\n", "'rows' stands here twice"),
        ("? [a]\n: b\n", r"cannot be a key\n.*line 1"),
        ("rows: []\n0x10: a\n16: b\n", "16 stands here twice"),
        ("rows: 2026-02-30\n", r"2026-02-30. cannot be read: day is out of range[^\0]*line 1"),
        ("rows: !!bool x\n", r"cannot be read[^\0]*line 1"),
        ("[" * 3000, "not a YAML file"),
        ("- 1\n", "valid dictionary"),
        ("", "valid dictionary"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_document(write(tmp_path, text), Sheet)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no .*none\.yaml"):
        read_document(tmp_path / "none.yaml", Sheet)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("junk") / "sheet.yaml"
    path.write_bytes(junk)
    with pytest.raises(ConfigError):
        read_document(path, Sheet)
