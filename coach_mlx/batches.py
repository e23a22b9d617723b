"""Conversations as the batches a step sees: every part once an epoch, grouped by length, each mask
read back.

Reads and writes no file. A conversation over the limit becomes several parts, cut between turns;
nothing is lost.
"""

import functools
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from coach_mlx import console
from coach_mlx.chat_format import Encoded, check_mask, encode_conversation, split_conversation
from coach_mlx.config import TrainSection
from coach_mlx.errors import DataError
from coach_mlx.records import Conversation


class Batches(NamedTuple):
    """The parts trained on, in groups of like length, and those of the validation loss."""

    training: list[list[Encoded]]
    validation: list[list[Encoded]]
    split_conversations: int


def make_batches(
    tokenizer: Any, conversations: Sequence[Conversation], settings: TrainSection, seed: int
) -> Batches:
    """Encode, read every mask back, split what is too long, set some aside for validation.

    Raises: DataError naming every conversation that cannot be trained on.
    """
    count = round(settings.validation_fraction * len(conversations))
    if settings.validation_fraction and len(conversations) >= 10:
        count = max(count, 1)
    validation = set(random.Random(f"validation {seed}").sample(range(len(conversations)), count))
    parts: dict[bool, list[Encoded]] = {True: [], False: []}
    split, problems = 0, []
    with console.progress("masks", len(conversations), "conversations") as bar:
        for number, conversation in enumerate(conversations):
            try:
                found = _encode_parts(tokenizer, conversation, settings)
            except DataError as error:
                problems.append(f"Conversation {number + 1} of the training data: {error}")
                continue
            parts[number in validation] += found
            split += len(found) > 1
            bar.advance()
    if problems:
        raise DataError("\n".join(problems[:20]))
    training = _group(parts[False], settings.batch_size)
    return Batches(training, _group(parts[True], settings.batch_size), split)


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


def _group(parts: list[Encoded], batch_size: int) -> list[list[Encoded]]:
    ordered = sorted(parts, key=lambda part: len(part.token_ids))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def batch_at(count: int, step: int, seed: int) -> int:
    """Which of `count` batches step `step` (from 0) sees: every one once an epoch, in an order
    drawn from the seed.
    """
    epoch, place = divmod(step, count)
    return _order(count, epoch, seed)[place]


@functools.lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return order


def target_count(batch: Sequence[Encoded]) -> int:
    return sum(sum(part.is_target) for part in batch)


def token_count(batch: Sequence[Encoded]) -> int:
    return sum(len(part.token_ids) for part in batch)
