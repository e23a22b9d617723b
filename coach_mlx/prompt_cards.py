"""The cards of a search, in three parts that share no situation.

Reads and writes nothing. The search may read what was written for the first part, the second
chooses among its proposals, and the third is not touched before the last of them is compared with
the prompt in force. Fails: DataError where there are too few situations for that.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from coach_mlx.config import OptimizeSection
from coach_mlx.errors import DataError
from coach_mlx.records import LONGEST, Scenario, content_hash

LEAST = (1, 2, 6)
"""Situations in each part: fewer choose by one card, or cannot prove anything."""


class Parts(NamedTuple):
    reflect: list[Scenario]
    choose: list[Scenario]
    verify: list[Scenario]

    @property
    def hash(self) -> str:
        """Of every card, in its part and at its length."""
        return content_hash([[card.model_dump() for card in part] for part in self])[:12]


def family(card: Scenario) -> str:
    """What cards must share to be alike: the situation or, without one, the theme."""
    words = card.situation or f"{card.topic} {card.subtopic}"
    return " ".join(words.casefold().split())


def part_cards(cards: Sequence[Scenario], settings: OptimizeSection, seed: int) -> Parts:
    """So many as there are, at most as many as the settings say; with danger in every part where
    there are three situations of it, and topics as even as they come. Raises: DataError.
    """
    sizes = (settings.reflect_cards, settings.validate_cards, settings.verify_cards)
    families = _in_order(cards, seed)
    shares: tuple[list[list[Scenario]], ...] = ([], [], [])
    for one in families:
        emptiest = min(range(3), key=lambda part: (len(shares[part]) / sizes[part], -sizes[part]))
        shares[emptiest].append(one)
    dealt = [min(len(share), size) for share, size in zip(shares, sizes, strict=True)]
    if any(count < least for count, least in zip(dealt, LEAST, strict=True)):
        raise DataError(
            f"The {len(families)} situations of the cards make parts of {_listed(dealt)} to search "
            f"with, to choose by and to prove with; {_listed(LEAST)} are the least. Type: coach "
            "scenarios --count 100 (or raise optimize.validate_cards and verify_cards)"
        )
    chosen = (
        [_shortened(card, settings.max_turns) for card in list(_rounds(share))[:size]]
        for share, size in zip(shares, sizes, strict=True)
    )
    return Parts(*chosen)


def _listed(counts: Sequence[int]) -> str:
    return f"{counts[0]}, {counts[1]} and {counts[2]}"


def _in_order(cards: Sequence[Scenario], seed: int) -> list[list[Scenario]]:
    """The families: danger first, then each topic in its turn."""
    rng = random.Random(seed)
    found: dict[str, list[Scenario]] = {}
    for card in cards:
        found.setdefault(family(card), []).append(card)
    rows: dict[str, list[list[Scenario]]] = {}
    for name in sorted(found):
        its = found[name]
        risky = any(card.risk != "none" for card in its)
        rows.setdefault("" if risky else its[0].topic, []).append(its)
    for row in rows.values():
        rng.shuffle(row)
    others = [rows[topic] for topic in sorted(rows) if topic]
    turns = max(map(len, others), default=0)
    return rows.get("", []) + [row[at] for at in range(turns) for row in others if at < len(row)]


def _rounds(share: Sequence[list[Scenario]]) -> Iterator[Scenario]:
    """The first card of every family, then the second."""
    for place in range(max(map(len, share), default=0)):
        yield from (its[place] for its in share if place < len(its))


def _shortened(card: Scenario, most: int | None) -> Scenario:
    if most is None or card.turns <= most:
        return card
    length = "medium" if most <= LONGEST["medium"] else card.length
    return card.model_copy(update={"turns": most, "length": length, "applicability": None})
