from pathlib import Path

import pytest
import yaml

from coach_mlx.config import Config, load_config, to_yaml
from coach_mlx.errors import ConfigError
from coach_mlx.workspace import PROJECT


def test_coach_yaml_is_what_the_defaults_print() -> None:
    assert (PROJECT / "config" / "coach.yaml").read_text(encoding="utf-8") == to_yaml(Config())


def test_what_is_printed_loads_to_the_same_config(tmp_path: Path) -> None:
    demo = load_config(PROJECT / "config" / "demo.yaml")
    printed = tmp_path / "printed.yaml"
    printed.write_text(to_yaml(demo), encoding="utf-8")
    assert load_config(printed) == demo
    assert demo.name == "demo"


def test_all_wrong_keys_are_named_at_once_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, ["train.lerning_rate=1", "trian.rank=2", "train.rank=many", "sed=3"])
    said = str(error.value)
    assert said.startswith("4 wrong settings")
    for part in ("did you mean train.learning_rate?", "did you mean train?", "did you mean seed?"):
        assert part in said
    assert "train.rank: input should be a valid integer" in said


def test_set_beats_the_file_and_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("train: {rank: 4, learning_rate: 1e-5}\n")
    found = load_config(file, ["train.rank=5", "train.steps=null"])
    assert (found.train.rank, found.train.learning_rate, found.train.steps) == (5, 1e-5, None)
    assert found.train.scale == Config().train.scale


@pytest.mark.parametrize("text", ["- a list", "a: [", "\xff"])
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(file)


@pytest.mark.parametrize("override", ["train", "train.rank", "=3", "train..rank=1", "seed.x=1"])
def test_a_malformed_override_says_how_to_write_one(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(None, ["seed=1", override])


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no config file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["base", "../x", "Big Name", ""])
def test_a_name_must_be_fit_for_a_folder(name: str) -> None:
    with pytest.raises(ConfigError):
        load_config(None, [f"name={yaml.safe_dump(name).splitlines()[0]}"])
