"""What of a base model fits a machine: to train, to serve, and how fast; computed from shapes.

Reads the catalogue's shapes, the longest training conversations and, of what is on disk, the
tokenizer. Builds each model lazily, so no weight is ever there, and asks `memory_plan` as `coach
train --plan` does. Writes nothing, opens no model and no connection. What cannot be computed is
`None`, and `why` says why.
"""

import importlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from coach_mlx import chips, hub, mlx_runtime, num_ctx
from coach_mlx.base_models import PACKAGED, Candidate
from coach_mlx.chat_format import encode_conversation, split_conversation
from coach_mlx.config import Config, TrainSection
from coach_mlx.errors import CoachError, DataError
from coach_mlx.memory_fit import CLOSE, Place, Way, busiest, ways_to_fit
from coach_mlx.memory_plan import Load, facts_of, need
from coach_mlx.model_facts import MODULES, cache_bytes_per_token
from coach_mlx.records import Conversation, Record
from coach_mlx.workspace import Workspace

LETTERS_PER_TOKEN = 4
"""Of English, about; where no tokenizer is there."""
WITHOUT_DATA = 14_000
"""Tokens of 30 turns, the longest conversation that is ever written here."""
LEAST_SERVED = num_ctx.LEAST
"""Tokens; with fewer a talk is soon forgotten."""
Trains = Literal["yes", "close", "no", "unknown"]


class Fit(Record):
    """One candidate on one machine."""

    name: str
    base_model: str
    parameters: int
    weight_bytes: int | None = None
    """As an import stores them: 4 bits where that is what it begins with, or `base.bits`."""
    train_bytes: int | None = None
    """At the busiest moment, at the longest conversation."""
    trains: Trains = "unknown"
    longest_tokens: int | None = None
    """Of what a step computes at once."""
    longest_is_estimated: bool = True
    serves_tokens: int | None = None
    """Of a talk, beside the weights; 0 where not even they fit."""
    most_tokens_per_second: float | None = None
    """Bandwidth / weights."""
    speed: str = chips.UNKNOWN
    exports: bool
    """Whether `coach export` knows its family."""
    here: str | None = None
    """Where it lies on this machine."""
    why: str = ""


class OnDisk(NamedTuple):
    """`folder` is None for what comes with the install and was not imported yet."""

    folder: Path | None
    words: str


def find_on_disk(candidate: Candidate, workspace: Workspace) -> OnDisk | None:
    """Imported, or whole in the hub's cache; nothing is downloaded."""
    imported = workspace.root / "models" / "base" / candidate.folder
    if (imported / workspace.base_marker.name).is_file():
        return OnDisk(imported, workspace.shown(imported))
    if candidate.base_model == PACKAGED:
        return OnDisk(None, "comes with the install")
    folder = hub.find(candidate.base_model, candidate.revision)
    return OnDisk(folder, "in the hub's cache") if folder else None


# --- shapes


def build(candidate: Candidate, bits: int, group_size: int) -> Any:
    """mlx-lm's model as an import would quantize it, with every array still to be computed.

    Raises: DataError for a family that mlx-lm does not know, or another shape than it expects.
    """
    import mlx.core as mx
    import mlx.nn as nn

    model = _plain(candidate)
    model.set_dtype(mx.bfloat16)  # else scales would have 32 bits, which no published model has

    def divides(_: str, layer: Any) -> bool:
        return hasattr(layer, "to_quantized") and layer.weight.shape[-1] % group_size == 0

    nn.quantize(model, group_size, bits, class_predicate=divides)
    return model


def as_imported(candidate: Candidate, config: Config) -> Any:
    """What `coach import` would make of it. Raises: DataError."""
    if candidate.is_quantized:
        return build(candidate, 4, candidate.own_groups)
    return build(candidate, config.base.bits, config.base.group_size)


def stored_bytes(model: Any) -> int:
    """Of all its arrays; none of them is computed for it."""
    from mlx.utils import tree_flatten

    return sum(int(array.nbytes) for _, array in tree_flatten(model.parameters()))


def count_parameters(model: Any) -> int:
    """Of a model that is not quantized, by its shapes."""
    from mlx.utils import tree_flatten

    return sum(int(array.size) for _, array in tree_flatten(model.parameters()))


def _plain(candidate: Candidate) -> Any:
    """Not quantized yet, and without an output head that the weights do not bring."""
    from mlx_lm.utils import MODEL_REMAPPING

    family = candidate.family
    try:
        module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(family, family)}")
        model = module.Model(module.ModelArgs.from_dict(candidate.config))
    except (ImportError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"mlx-lm cannot build {candidate.name} ({family}): {error}") from None
    head = candidate.shape["vocab_size"] * candidate.shape["hidden_size"]
    if count_parameters(model) - candidate.parameters == head:
        for _, module in model.named_modules():
            module.pop("lm_head", None)  # mlx-lm drops it too, once it has seen the weights
    return model


# --- what is computed at once


class Longest(NamedTuple):
    """The loads of the longest conversations, and where they come from."""

    loads: tuple[Load, ...]
    is_estimated: bool


class Data(NamedTuple):
    """The longest training conversations; none where there is no training data."""

    conversations: tuple[Conversation, ...]

    @classmethod
    def read(cls, workspace: Workspace) -> "Data":
        path = workspace.training_data
        return cls(tuple(num_ctx.read_longest(path)) if path.is_file() else ())

    @property
    def words(self) -> str:
        if not self.conversations:
            return (
                f"{WITHOUT_DATA:,} tokens, as 30 turns have, because there is no training data yet"
            )
        turns = max(one.turns for one in self.conversations)
        return f"that of the training data, which has up to {turns} turns"


def longest_of(data: Data, settings: TrainSection, tokenizer: Any = None) -> Longest:
    """By this tokenizer, and otherwise estimated from the letters. What is longer than
    `train.max_seq_length` is computed in parts, as training does.
    """
    if not data.conversations:
        return Longest((_load(WITHOUT_DATA, WITHOUT_DATA // 2, settings),), True)
    if tokenizer is None:
        return Longest(tuple(_estimate(one, settings) for one in data.conversations), True)
    encoded = [
        encode_conversation(tokenizer, part.messages, part.context)
        for one in data.conversations
        for part in split_conversation(
            tokenizer, one.chat(), settings.max_seq_length, settings.context_turns
        )
    ]
    loads = (_load(len(one.token_ids), sum(one.is_target), settings) for one in encoded)
    return Longest(tuple(loads), False)


def _estimate(one: Conversation, settings: TrainSection) -> Load:
    coach = sum(len(line.content) for line in one.messages if line.role == "assistant")
    letters = sum(len(line.content) for line in one.messages)
    return _load(letters // LETTERS_PER_TOKEN, coach // LETTERS_PER_TOKEN, settings)


def _load(tokens: int, targets: int, settings: TrainSection) -> Load:
    """A batch of conversations that are all as long."""
    most = min(tokens, settings.max_seq_length)
    rows = settings.batch_size
    return Load(rows, most, rows * max(1, min(targets * most // max(tokens, 1), most)))


# --- one candidate


def measure(
    candidate: Candidate, config: Config, workspace: Workspace, place: Place, data: Data
) -> Fit:
    """Computed, never measured."""
    found = find_on_disk(candidate, workspace)
    known: dict[str, Any] = {
        "name": candidate.name,
        "base_model": candidate.base_model,
        "parameters": candidate.parameters,
        "exports": candidate.family in MODULES,
        "here": found.words if found else None,
    }
    try:
        model = as_imported(candidate, config)
        weights = stored_bytes(model)
        facts = facts_of(model, place.kind)
    except DataError as error:
        return Fit(**known, why=str(error))
    longest = longest_of(data, config.train, _tokenizer(found))
    load = busiest(facts, config.train, longest.loads)
    peak = need(facts, config.train, load).peak
    most = chips.most_tokens_per_second(_bandwidth(place), weights)
    return Fit(
        **known,
        weight_bytes=weights,
        train_bytes=peak,
        trains=verdict(peak, place.limit),
        longest_tokens=load.tokens,
        longest_is_estimated=longest.is_estimated,
        serves_tokens=served_tokens(candidate, weights, place),
        most_tokens_per_second=most and round(most, 1),
        speed=chips.speed_class(most),
    )


def verdict(peak: int, limit: int) -> Trains:
    if peak > limit:
        return "no"
    return "close" if peak > limit * (1 - CLOSE) else "yes"


def served_tokens(candidate: Candidate, weight_bytes: int, place: Place) -> int:
    """As `num_ctx` reckons it: weights, what llama.cpp computes in, and the rest for the talk."""
    room = max(0, place.limit - weight_bytes - num_ctx.WORKING_BYTES)
    tokens = room // cache_bytes_per_token(candidate.shape)
    return int(min(candidate.context, tokens // num_ctx.STEP * num_ctx.STEP))


def _bandwidth(place: Place) -> int | None:
    """Of this machine; another Mac is known by its memory only."""
    return chips.bandwidth_of(mlx_runtime.machine()) if place.is_here else None


def _tokenizer(found: OnDisk | None) -> Any:
    if found is None or found.folder is None:
        return None
    try:
        return mlx_runtime.open_tokenizer(found.folder)
    except CoachError:
        return None  # the estimate stands; a pilot or an import says what is wrong with it


def ways(candidate: Candidate, config: Config, place: Place, data: Data) -> list[Way]:
    """The settings of a training that would make it fit."""
    facts = facts_of(as_imported(candidate, config), place.kind)
    loads = longest_of(data, config.train).loads
    return ways_to_fit(facts, config.train, loads, place.limit)
