import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import batches
from coach_mlx.batches import Row
from coach_mlx.chat_format import Encoded
from coach_mlx.config import TrainSection
from coach_mlx.errors import DataError
from coach_mlx.records import Conversation


def rows_of(lengths: list[int]) -> list[Row]:
    return [Row(Encoded([1] * n, [True] * n), number, None) for number, n in enumerate(lengths, 1)]


lengths = st.lists(st.integers(1, 4096), min_size=1, max_size=60)


@given(lengths, st.integers(1, 16))
def test_passes_hold_every_row_once_and_little_padding(found: list[int], size: int) -> None:
    rows = rows_of(found)
    groups = batches._group(rows, size)
    assert all(len(group) <= size for group in groups)
    seen = [row for group in groups for some in batches.passes(group) for row in some]
    assert sorted(row.conversation for row in seen) == [row.conversation for row in rows]
    assert batches.padding_fraction(groups) < 0.05
    for group in groups:
        for some in batches.passes(group):
            widest = max(row.length for row in some)
            assert batches.token_count(some) >= 0.95 * widest * len(some)


def test_rows_of_one_length_are_one_pass() -> None:
    assert [len(some) for some in batches.passes(rows_of([500] * 7))] == [7]


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_padding_is_little_on_the_starters(
    tokenizer: Any, starters: list[Conversation], size: int
) -> None:
    settings = TrainSection(batch_size=size, validation_fraction=0)
    found = batches.make_batches(tokenizer, starters, settings, seed=1)
    assert sum(map(len, found.training)) == 60
    assert batches.padding_fraction(found.training) < 0.05


@pytest.mark.parametrize("size", [1, 4, 16])
def test_padding_is_little_on_two_thousand_conversations(size: int) -> None:
    """Lengths as the taxonomy gives them: 1 to 30 turns of uneven talk."""
    rng = random.Random(5)
    turns = [rng.randint(1, 30) for _ in range(2000)]
    rows = rows_of([200 + sum(rng.randint(20, 130) for _ in range(n)) for n in turns])
    groups = batches._group(rows, size)
    assert sum(map(len, groups)) == 2000
    assert batches.padding_fraction(groups) < 0.05


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 3), st.integers(0, 100))
def test_every_batch_is_seen_once_an_epoch(
    count: int, accumulate: int, epochs: int, seed: int
) -> None:
    settings = TrainSection(epochs=epochs, accumulate=accumulate)
    course = batches.Course.of(count, settings, seed)
    seen = [number for step in range(course.steps) for number in course.at(step)]
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert len(seen) == epochs * count
    assert course.epoch(course.steps) == epochs


def test_steps_overrule_epochs() -> None:
    course = batches.Course.of(10, TrainSection(steps=7, accumulate=3, epochs=5), seed=1)
    assert (course.steps, course.total, course.epoch(7)) == (7, 21, 2.1)


def test_no_conversation_is_dropped_or_cut(tokenizer: Any, starters: list[Conversation]) -> None:
    settings = TrainSection(
        max_seq_length=400, context_turns=1, batch_size=4, validation_fraction=0.2
    )
    found = batches.make_batches(tokenizer, starters, settings, seed=3)
    parts = [part for batch in [*found.training, *found.validation] for part in batch]
    assert all(part.length <= 400 for part in parts)
    assert {part.conversation for part in parts} == set(range(1, 61))
    whole = TrainSection(max_seq_length=100_000, validation_fraction=0)
    uncut = batches.make_batches(tokenizer, starters, whole, seed=3)
    assert batches.target_count(parts) == sum(map(batches.target_count, uncut.training))
    assert (uncut.split_conversations, uncut.validation) == (0, [])
    assert found.split_conversations > 0


def test_every_conversation_that_cannot_be_trained_on_is_named(
    tokenizer: Any, starters: list[Conversation]
) -> None:
    settings = TrainSection(max_seq_length=64)
    with pytest.raises(DataError) as error:
        batches.make_batches(tokenizer, starters[:4], settings, seed=1)
    assert str(error.value).count("alone is longer than 64 tokens") > 1


def test_validation_never_takes_everything(tokenizer: Any, starters: list[Conversation]) -> None:
    settings = TrainSection(validation_fraction=0.9)
    found = batches.make_batches(tokenizer, starters[:1], settings, seed=1)
    assert (len(found.training), found.validation) == (1, [])


@pytest.mark.parametrize(("epochs", "total"), [(2.2, 220), (1.1, 110), (0.005, 1)])
def test_parts_of_an_epoch_are_exact(epochs: float, total: int) -> None:
    assert batches.Course.of(100, TrainSection(epochs=epochs), seed=1).total == total
