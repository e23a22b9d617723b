"""Conversations as the batches a step sees: every one once an epoch, grouped by length, each mask
read back.

Reads and writes no file. A conversation over the limit becomes several parts, cut between turns;
nothing is lost. A batch is computed in passes, each of parts so alike in length that little of it
is padding.
"""

import functools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from coach_mlx import console
from coach_mlx.chat_format import Encoded, check_mask, encode_conversation, split_conversation
from coach_mlx.config import TrainSection
from coach_mlx.errors import DataError
from coach_mlx.records import Conversation

PADDING = 0.04
"""Largest share of a pass that may be padding."""


class Row(NamedTuple):
    """A conversation, or a part of one."""

    encoded: Encoded
    conversation: int
    """Its line in the training data, from 1."""
    topic: str | None

    @property
    def length(self) -> int:
        return len(self.encoded.token_ids)


Batch = list[Row]


class Batches(NamedTuple):
    """The rows trained on, in groups of like length, and those of the validation loss."""

    training: list[Batch]
    validation: list[Batch]
    split_conversations: int


def make_batches(
    tokenizer: Any,
    conversations: Sequence[Conversation],
    settings: TrainSection,
    seed: int,
    topics: Mapping[str, str] | None = None,
) -> Batches:
    """Encode, read every mask back, split what is too long, set some aside for validation; `topics`
    by conversation id.

    Raises: DataError naming every conversation that cannot be trained on.
    """
    validation = _held_back(len(conversations), settings.validation_fraction, seed)
    rows: dict[bool, list[Row]] = {True: [], False: []}
    split, problems = 0, []
    with console.progress("masks", len(conversations), "conversations") as bar:
        for number, conversation in enumerate(conversations):
            try:
                found = _encode_parts(tokenizer, conversation, settings)
            except DataError as error:
                problems.append(f"Conversation {number + 1} of the training data: {error}")
                continue
            topic = (topics or {}).get(conversation.id)
            rows[number in validation] += [Row(part, number + 1, topic) for part in found]
            split += len(found) > 1
            bar.advance()
    if problems:
        raise DataError("\n".join(problems[:20]))
    training, held_back = (_group(rows[which], settings.batch_size) for which in (False, True))
    return Batches(training, held_back, split)


def _held_back(count: int, fraction: float, seed: int) -> set[int]:
    """Which conversations, by number from 0, the validation loss is for."""
    wanted = round(fraction * count)
    if fraction and count >= 10:
        wanted = max(wanted, 1)
    wanted = min(wanted, count - 1)  # something must be left to learn from
    return set(random.Random(f"validation {seed}").sample(range(count), wanted))


def _encode_parts(
    tokenizer: Any, conversation: Conversation, settings: TrainSection
) -> list[Encoded]:
    found = []
    chat = conversation.chat()
    for messages, context in split_conversation(
        tokenizer, chat, settings.max_seq_length, settings.context_turns
    ):
        encoded = encode_conversation(tokenizer, messages, context)
        check_mask(tokenizer, messages, encoded, context)
        found.append(encoded)
    return found


def _group(rows: list[Row], batch_size: int) -> list[Batch]:
    ordered = sorted(rows, key=lambda row: row.length)
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def passes(batch: Sequence[Row]) -> list[list[Row]]:
    """The batch in as few pieces, shortest rows first, as the limit on padding allows."""
    found: list[list[Row]] = []
    tokens = 0
    for row in sorted(batch, key=lambda row: row.length):
        if found and tokens + row.length >= (1 - PADDING) * row.length * (len(found[-1]) + 1):
            found[-1].append(row)
            tokens += row.length
        else:
            found.append([row])
            tokens = row.length
    return found


class Course(NamedTuple):
    """Which batches each step sees: every one once an epoch, in an order drawn from the seed."""

    batches: int
    """In the training data."""
    total: int
    """Seen by all steps together."""
    accumulate: int
    seed: int

    @classmethod
    def of(cls, batches: int, settings: TrainSection, seed: int) -> "Course":
        steps = settings.steps
        total = (
            steps * settings.accumulate if steps else math.ceil(round(settings.epochs * batches, 6))
        )
        return cls(batches, total, settings.accumulate, seed)

    @property
    def steps(self) -> int:
        return math.ceil(self.total / self.accumulate)

    def at(self, step: int) -> list[int]:
        """The numbers of the batches that step `step` (from 0) learns from."""
        places = range(step * self.accumulate, min((step + 1) * self.accumulate, self.total))
        return [
            _order(self.batches, place // self.batches, self.seed)[place % self.batches]
            for place in places
        ]

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return min(step * self.accumulate, self.total) / self.batches


@functools.lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order


def target_count(rows: Sequence[Row]) -> int:
    return sum(sum(row.encoded.is_target) for row in rows)


def token_count(rows: Sequence[Row]) -> int:
    return sum(row.length for row in rows)


def padding_fraction(batches: Sequence[Batch]) -> float:
    """Of all that is computed, what is padding."""
    shapes = [(len(rows), rows[-1].length) for batch in batches for rows in passes(batch)]
    computed = sum(count * width for count, width in shapes)
    return 1 - sum(map(token_count, batches)) / computed if computed else 0.0
