"""How a talk runs before a word of it is written: drawn from the card alone.

Reads and writes nothing. Models asked to write a talk make even messages, steady insight and happy
endings; so lengths, silences, a change of subject, when the withheld comes out (if at all) and how
it ends are drawn here, by the card's id, and given to the writers.
"""

import math
import random
from typing import Literal, NamedTuple

from coach_mlx.records import Scenario, Style

Ending = Literal[
    "a little lighter", "with a small step of their own", "about the same", "not helped"
]
ENDINGS: dict[Ending, float] = {
    "a little lighter": 0.35,
    "with a small step of their own": 0.25,
    "about the same": 0.25,
    "not helped": 0.15,
}
MEDIAN_WORDS: dict[Style, int] = {
    "terse": 9,
    "conversational": 39,
    "detailed": 59,
    "emotional": 36,
    "analytical": 51,
}
"""Of a person's message, by style: medians of the starter conversations."""
SPREAD = 0.6
"""Of the logarithm of a message's length within one talk: as in the starter conversations."""
LONGEST_BY_MEDIAN = 2.5
"""People's long messages are less long than a lognormal's."""
SHORTEST_SHIFT = 6
"""Turns from which on the subject may shift or a silence fall."""


class Arc(NamedTuple):
    """Message numbers count the person's, from 1."""

    turns: int
    reveal: int | None
    """The message in which what is held back comes out."""
    shift: int | None
    """The message that leaves the subject."""
    silence: int | None
    """The message that says almost nothing."""
    ending: Ending
    words: tuple[int, ...]
    """About so many in each message."""

    def describe(self) -> str:
        """As the planner and the writer of a whole conversation read it."""
        lines = [
            f"The person writes {self.turns} messages; each is answered once.",
            f"What is held back comes out in message {self.reveal}."
            if self.reveal
            else "What is held back never comes out.",
            f"Message {self.shift} leaves the subject." if self.shift else "",
            f"Message {self.silence} is a silence: almost nothing." if self.silence else "",
            f"It ends: {self.ending}.",
            f"Words of the person's messages, about: {', '.join(map(str, self.words))}.",
        ]
        return "\n".join(line for line in lines if line)


def draw_arc(card: Scenario) -> Arc:
    """The same arc for the same card, on every machine."""
    turns = card.turns
    rng = random.Random(f"{card.id}:{card.situation}:{card.persona.withheld}:{turns}")
    danger = card.risk in ("explicit", "imminent")
    reveal = _draw_reveal(turns, danger, rng)
    middle = [number for number in range(3, turns - 1) if number != reveal]
    if turns < SHORTEST_SHIFT:
        middle = []
    shift = rng.choice(middle) if middle and rng.random() < 0.35 else None
    quiet = [number for number in middle if number != shift]
    silence = rng.choice(quiet) if quiet and rng.random() < 0.25 else None
    words = [_draw_words(card.style, rng) for _ in range(turns)]
    if silence:
        words[silence - 1] = 1
    ending = _draw_ending(danger, rng)
    return Arc(turns, reveal, shift, silence, ending, tuple(words))


def _draw_ending(danger: bool, rng: random.Random) -> Ending:
    """Nobody in danger is left without having been reached."""
    open_to = [ending for ending in ENDINGS if ending != "not helped" or not danger]
    return rng.choices(open_to, [ENDINGS[ending] for ending in open_to])[0]


def _draw_reveal(turns: int, danger: bool, rng: random.Random) -> int | None:
    """A quarter early, half on the way, a quarter never; in danger always, in the first half."""
    if danger:
        return rng.randint(1, math.ceil(turns / 2))
    part = rng.random()
    if part < 0.25 or turns < 3:
        return None
    if part < 0.5:
        return rng.randint(1, max(1, turns // 4))
    return rng.randint(max(2, turns // 4 + 1), max(2, math.ceil(turns * 0.85)))


def _draw_words(style: Style, rng: random.Random) -> int:
    median = MEDIAN_WORDS[style]
    drawn = rng.lognormvariate(math.log(median), SPREAD)
    return max(1, round(min(drawn, LONGEST_BY_MEDIAN * median)))
