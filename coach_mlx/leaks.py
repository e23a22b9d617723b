"""What must not cross the split: a conversation, a situation, a person, or nearly the same words.

Reads and writes nothing. Fails: DataError where something crosses, which the split must prevent.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from coach_mlx.errors import DataError
from coach_mlx.near_duplicates import crossing, shingle
from coach_mlx.records import Conversation


class Leaks(NamedTuple):
    """How many held-out conversations share something with training."""

    ids: int
    situations: int
    persons: int
    near_duplicates: int
    highest: float
    """The likeness of the two conversations most alike across the split."""
    every_pair: bool


def situation(conversation: Conversation) -> str | None:
    """What the card begins from; letters' case and spaces do not matter."""
    card = conversation.scenario
    return _folded(card.situation) if card and card.situation else None


def person(conversation: Conversation) -> tuple[str, str] | None:
    """Age band and circumstances: the same person may write in another voice."""
    card = conversation.scenario
    return (card.persona.age_band, _folded(card.persona.circumstances)) if card else None


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def find_leaks(
    training: Sequence[Conversation], holdout: Sequence[Conversation], threshold: float
) -> Leaks:
    """What crosses the split, counted in the holdout."""
    shared = crossing(
        [shingle(one) for one in holdout], [shingle(one) for one in training], threshold
    )

    def count(name: Callable[[Conversation], Any]) -> int:
        trained = {name(one) for one in training} - {None}
        return sum(name(one) in trained for one in holdout)

    return Leaks(
        ids=count(lambda one: one.id),
        situations=count(situation),
        persons=count(person),
        near_duplicates=len({pair.left for pair in shared.pairs}),
        highest=shared.highest,
        every_pair=shared.every_pair,
    )


def check_leaks(
    training: Sequence[Conversation], holdout: Sequence[Conversation], threshold: float
) -> Leaks:
    """Raises: DataError where anything crosses; the split is made so that nothing can."""
    leaks = find_leaks(training, holdout, threshold)
    found = describe(leaks)
    if found:
        raise DataError(
            f"The split leaks: {found}. Nothing was written. This is a fault in `coach dataset`: "
            "please report it; another seed may do until it is mended."
        )
    return leaks


def describe(leaks: Leaks) -> str:
    """What crosses, in words; nothing where nothing does."""
    counts = {
        "trained on as well": leaks.ids,
        "with a situation that is trained on": leaks.situations,
        "with a person who is trained on": leaks.persons,
        "nearly the same as one that is trained on": leaks.near_duplicates,
    }
    found = [f"{number} held out {what}" for what, number in counts.items() if number]
    return ", ".join(found)
