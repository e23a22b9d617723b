"""A few settings written into a person's YAML file, with every other character left as it is.

Reads and writes one config file, whole or not at all. What was edited is loaded again before it
takes the file's place: it must say what was wanted, and everything else must be as it was. Fails:
ConfigError, with the lines to type by hand, where the file is written in a way that cannot be
edited so (flow mappings, aliases, texts over several lines).
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from coach_mlx.config import load_config, yaml_scalar
from coach_mlx.errors import CoachError, ConfigError
from coach_mlx.workspace import write_whole


class CannotEdit(Exception):
    """Never leaves this module."""


class Splice(NamedTuple):
    """Text in the place of the characters from `start` to `end`."""

    start: int
    end: int
    text: str


def set_values(path: Path, section: str, values: Mapping[str, Any]) -> None:
    """Set keys of a section; a file that is not there is made, with that section alone."""
    path = path.resolve()
    before = path.read_bytes().decode("utf-8") if path.is_file() else ""
    try:
        after = edited(before, section, values)
        _require_only(before, after, section, values)
    except (CannotEdit, CoachError, yaml.YAMLError) as error:
        lines = [f"{section}:", *_block(values, "  ")]
        raise ConfigError(
            "\n".join(
                [f"{path} was left as it is ({error}). Put this into it by hand:", "", *lines]
            )
        ) from None
    write_whole(path, after)


def edited(text: str, section: str, values: Mapping[str, Any]) -> str:
    """The text with these keys set. Raises: CannotEdit, YAMLError."""
    ending = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text)
    if root is None:
        return _appended(text, section, values, ending)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise CannotEdit("it holds no `key: value` lines")
    found = [(key, value) for key, value in root.value if key.value == section]
    if not found:
        return _appended(text, section, values, ending)
    key, value = found[0]
    if isinstance(value, yaml.MappingNode) and not value.flow_style:
        splices = _in_mapping(text, value, values, ending)
    elif isinstance(value, yaml.ScalarNode) and not value.value:
        lines = ending.join(_block(values, "  "))
        end = key.end_mark.index + 1
        splices = [Splice(end, end, ending + lines)]
    else:
        raise CannotEdit(f"{section} is no block of `key: value` lines")
    for one in sorted(splices, reverse=True):
        text = text[: one.start] + one.text + text[one.end :]
    return text


def _in_mapping(
    text: str, mapping: yaml.MappingNode, values: Mapping[str, Any], ending: str
) -> list[Splice]:
    known = {key.value: (key, value) for key, value in mapping.value}
    first = mapping.value[0][0].start_mark
    new = _block({key: one for key, one in values.items() if key not in known}, " " * first.column)
    start = first.index - first.column
    splices = [Splice(start, start, "".join(line + ending for line in new))] if new else []
    return splices + [_replaced(*known[key], values[key]) for key in values if key in known]


def _replaced(key: yaml.Node, value: yaml.Node, wanted: Any) -> Splice:
    if not isinstance(value, yaml.ScalarNode) or value.start_mark.line != value.end_mark.line:
        raise CannotEdit(f"{key.value} stands on several lines")
    start, end = value.start_mark.index, value.end_mark.index
    if value.start_mark.line != key.start_mark.line or start < key.end_mark.index:
        raise CannotEdit(f"{key.value} does not stand on its own line")
    blank = " " if start == end else ""
    return Splice(start, end, blank + yaml_scalar(wanted))


def _appended(text: str, section: str, values: Mapping[str, Any], ending: str) -> str:
    before = text if not text or text.endswith("\n") else text + ending
    lines = [f"{section}:", *_block(values, "  ")]
    return before + (ending if before else "") + "".join(line + ending for line in lines)


def _block(values: Mapping[str, Any], indent: str) -> Sequence[str]:
    return [f"{indent}{key}: {yaml_scalar(value)}" for key, value in values.items()]


def _require_only(before: str, after: str, section: str, values: Mapping[str, Any]) -> None:
    """Raises: CannotEdit where anything else changed, CoachError where it is no config any more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coach.yaml"
        path.write_text(before, encoding="utf-8", newline="")
        wanted = load_config(path).model_dump()
        path.write_text(after, encoding="utf-8", newline="")
        found = load_config(path).model_dump()
    wanted[section] = {**wanted[section], **values}
    if found != wanted:
        raise CannotEdit("the edit would have changed something else")
