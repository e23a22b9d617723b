"""The base models that a coach can be made from: shapes, licences, templates, and how sure we are.

Reads: config/base-models.yaml. Writes nothing and asks nobody. Fails: ConfigError with everything
that is wrong in the document, and for a name that is not in it, with the nearest that is.
"""

import difflib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from coach_mlx.documents import read_document
from coach_mlx.errors import ConfigError
from coach_mlx.records import Record
from coach_mlx.workspace import base_name

CATALOGUE = "config/base-models.yaml"
PACKAGED = "smollm2"
"""What `base.model` says for the model that comes with the install."""
PACKAGED_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
Purpose = Literal["private", "sharing", "commercial"]
Verdict = Literal["allowed", "conditional", "forbidden"]
SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "max_position_embeddings",
)
"""What config.json must say before anything can be computed."""


def inner(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config; models that also see or hear keep it in another."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _leads_somewhere(values: Any, path: str) -> bool:
    """Whether a dotted path such as use.private.why names something."""
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


class Use(Record):
    verdict: Verdict
    why: str = Field(min_length=1)


class Uses(Record):
    """What the licence allows; read by people who are no lawyers."""

    private: Use
    """On one's own machine, for oneself."""
    sharing: Use
    """Giving the tuned weights to others."""
    commercial: Use


class ChatTemplate(Record):
    system: Literal["own", "folded", "dropped", "refused"]
    """A role of its own; put into the first user's words; left out; an error."""
    thinking: Literal["none", "switch", "always"]
    """Whether the model thinks aloud before it answers, and whether that can be switched off."""


class Candidate(Record):
    """One model of the catalogue."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    mlx: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """The MLX community's 4-bit version of it."""
    revision: str | None = None
    """Of what is downloaded."""
    released: str
    """The month, or the day."""
    parameters: int = Field(gt=0)
    config: dict[str, Any]
    """Of config.json what mlx-lm builds the model from."""
    context: int = Field(gt=0)
    """Tokens that its maker says it was made for."""
    context_note: str | None = None
    license: str = Field(min_length=1)
    use: Uses
    template: ChatTemplate
    llama_cpp: str | None
    """What llama.cpp calls its architecture; `None` where it does not know it."""
    ollama: str | None
    """Its name in Ollama's library."""
    languages: str | None
    notes: str
    sources: tuple[str, ...] = Field(min_length=1)
    verified: date | None
    """The day on which sources were read."""
    unverified: tuple[str, ...] = ()
    """Fields that no source was read for."""

    @field_validator("config")
    @classmethod
    def _has_a_shape(cls, config: dict[str, Any]) -> dict[str, Any]:
        shape = inner(config)
        wrong = [key for key in SHAPE if type(shape.get(key)) is not int or shape[key] < 1]
        if not isinstance(config.get("model_type"), str):
            wrong.insert(0, "model_type")
        if wrong:
            raise ValueError(f"missing or no whole number: {', '.join(wrong)}")
        return config

    @model_validator(mode="after")
    def _unverified_are_fields(self) -> "Candidate":
        known = self.model_dump()
        strange = [one for one in self.unverified if not _leads_somewhere(known, one)]
        if strange:
            raise ValueError(f"unverified names no field: {', '.join(strange)}")
        return self

    @property
    def base_model(self) -> str:
        """What goes into `base.model`."""
        if self.hub == PACKAGED_HUB:
            return PACKAGED
        return self.mlx or self.hub

    @property
    def is_quantized(self) -> bool:
        """Whether what an import begins with has 4 bits already, which it keeps."""
        return self.base_model in (self.mlx, PACKAGED)

    @property
    def own_groups(self) -> int:
        """Weights that share a scale, where it is quantized already."""
        return 32 if self.base_model == PACKAGED else 64

    @property
    def folder(self) -> str:
        """Its name under models/base/."""
        return base_name(self.base_model)

    @property
    def family(self) -> str:
        return str(self.config["model_type"])

    @property
    def shape(self) -> dict[str, Any]:
        """Of the language model."""
        return inner(self.config)

    def of_use(self, purpose: Purpose) -> Use:
        found: Use = getattr(self.use, purpose)
        return found


def load_catalogue(path: Path) -> tuple[Candidate, ...]:
    """Raises: ConfigError, also where two entries cannot be told apart."""
    found = read_document(path, tuple[Candidate, ...])
    for key in ("name", "base_model", "folder"):
        values = [getattr(one, key) for one in found]
        twice = sorted({one for one in values if values.count(one) > 1})
        if twice:
            raise ConfigError(f"{path}: {key} stands twice: {', '.join(twice)}")
    return found


def find_candidate(name: str, candidates: Sequence[Candidate]) -> Candidate:
    """By its name, its hub id, or what `base.model` would say. Raises: ConfigError."""
    wanted = name.lower()
    for one in candidates:
        if wanted in {each.lower() for each in (one.name, one.hub, one.base_model)}:
            return one
    known = [one.name for one in candidates]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(
        f"There is no base model {name} in {CATALOGUE}. {hint}`coach select` lists them."
    )
