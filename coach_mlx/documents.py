"""A YAML document as a closed record: the taxonomy, the rubric, the directory, the probes.

Reads one file; writes nothing. Raises `ConfigError` with every wrong key and value at once; an
unknown key is named together with the nearest known one.
"""

import difflib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from coach_mlx.errors import ConfigError

Document = TypeVar("Document")
WRONG_SCALAR = (ValueError, TypeError, KeyError, AttributeError)
"""What PyYAML raises for a value such as 2026-02-30."""


def read_document(path: Path, kind: type[Document]) -> Document:
    """`kind` is a record, or a tuple of them."""
    return as_document(read_yaml(path), kind, path)


def as_document(values: Any, kind: type[Document], path: Path) -> Document:
    """What `read_yaml` found in the file, checked."""
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        known = _known_keys(adapter.json_schema())
        lines = [f"  {explain(problem, known)}" for problem in error.errors()]
        heading = f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in {path}:"
        raise ConfigError("\n".join([heading, *lines])) from None


def read_yaml(path: Path) -> Any:
    """What the file holds, unchecked. Raises: ConfigError where it cannot be read."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Strict)
    except FileNotFoundError:
        raise ConfigError(f"There is no {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError, *WRONG_SCALAR) as error:
        raise ConfigError(f"{path} is not a YAML file that can be read: {error}") from None


class _Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe; a key that stands twice is an error instead of the last one winning, and a value that
    is none is an error with its place.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except WRONG_SCALAR as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"{node.value!r} cannot be read: {error}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable) or key in seen:
                wrong = "stands here twice" if isinstance(key, Hashable) else "cannot be a key"
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} {wrong}", key_node.start_mark
                )
            seen.add(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _known_keys(schema: dict[str, Any]) -> list[str]:
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({key for part in parts for key in part.get("properties", {})})


def explain(problem: Any, known: Sequence[str] = ()) -> str:
    """One of pydantic's problems in words, with its place; entries of a list count from 1."""
    place = "".join(
        f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]
    ).lstrip(".")
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{place}: no such key" + (f"; did you mean {near[0]}?" if near else "")
    said = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said
