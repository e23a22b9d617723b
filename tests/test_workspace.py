import errno
from pathlib import Path

import pytest

from coach_mlx.config import Config, load_config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.workspace import (
    Plan,
    Workspace,
    drop_torn_line,
    read_conversations,
    read_jsonl,
    require_space,
    whole_folder,
    write_whole,
)

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


def test_every_wrong_line_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    lines = [
        GOOD.encode(),
        b"{not json}",
        b"",
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
        GOOD.replace('"assistant"', '"coach"').encode(),
        GOOD.replace("messages", "mesages").encode(),
        b"[]",
        GOOD.replace('"b"', '"  "').encode(),
        GOOD.replace('"user"', '"assistant"').encode(),
    ]
    file.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError) as error:
        read_conversations(file)
    said = str(error.value)
    for number in (2, 4, 5, 6, 7, 8, 9):
        assert f"{file}:{number}:" in said
    assert f"{file}:1:" not in said
    assert "not UTF-8" in said
    assert "content is empty" in said


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_no_data(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_bytes(content)
    with pytest.raises(DataError, match="holds no conversation"):
        read_conversations(file)


def test_a_missing_file_and_a_folder_are_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no"):
        read_conversations(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_conversations(tmp_path)


def test_the_torn_last_line_of_a_kill_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_jsonl(file) == [{"step": 1}, {"step": 2}]


def test_a_stage_is_complete_until_something_it_names_changes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Config())
    source, result = tmp_path / "in", tmp_path / "out"
    source.write_text("one")
    result.write_text("two")
    plan = Plan((source,), (result,), {"rank": 8})
    assert workspace.complete("train", plan) is None
    workspace.record("train", plan, seed=1, seconds=2.0, result={"steps": 3})
    manifest = workspace.complete("train", plan)
    assert manifest is not None
    assert manifest.result == {"steps": 3}
    assert list(manifest.inputs) == ["in"]
    assert workspace.complete("train", plan._replace(settings={"rank": 9})) is None
    source.write_text("one")  # touched, not changed
    assert workspace.complete("train", plan) is not None
    source.write_text("new")
    assert workspace.complete("train", plan) is None
    source.write_text("one")
    result.unlink()
    assert workspace.complete("train", plan) is None


def test_a_manifest_that_cannot_be_read_counts_as_none(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Config())
    write_whole(workspace.manifests / "train.json", "{half")
    assert workspace.manifest("train") is None


def test_a_demo_never_stands_in_the_way_of_real_data(tmp_path: Path) -> None:
    real, demo = (
        Workspace(tmp_path, Config()),
        Workspace(tmp_path, load_config(None, ["name=demo"])),
    )
    assert real.training_data == tmp_path / "output" / "training_data.jsonl"
    assert demo.training_data == tmp_path / "output" / "demo" / "training_data.jsonl"
    assert real.adapter != demo.adapter
    assert real.model != demo.model
    assert demo.reports == tmp_path / "reports" / "demo"


def test_a_half_filled_folder_never_takes_the_name(tmp_path: Path) -> None:
    target = tmp_path / "fused"
    target.mkdir()
    (target / "old").write_text("kept")
    with pytest.raises(OSError, match="full"), whole_folder(target) as partial:
        (partial / "new").write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert [path.name for path in tmp_path.iterdir()] == ["fused"]
    assert (target / "old").read_text() == "kept"


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    one, two = Workspace(tmp_path, Config()), Workspace(tmp_path, Config())
    with one.lock(), pytest.raises(ToolError, match="Another coach"), two.lock():
        pass
    with two.lock():
        pass


def test_a_disk_without_room_is_said_before_the_hours(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1, "Nothing")
    with pytest.raises(ToolError, match="needs about"):
        require_space(tmp_path, 10**18, "Fusing")


def test_a_torn_line_is_cut_off_and_a_whole_one_kept(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for found, left in (
        (b'{"a": 1}\n{"b"', b'{"a": 1}\n'),
        (b'{"a": 1}\n{"b": 2}', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b"", b""),
    ):
        path.write_bytes(found)
        drop_torn_line(path)
        assert path.read_bytes() == left
