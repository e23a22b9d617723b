"""What is held out: whole families of conversations, stratified by topic and difficulty.

Reads and writes nothing. Fails: DataError where a side would have too little. Deterministic in the
seed, whatever the order of the input.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coach_mlx.config import Config
from coach_mlx.errors import DataError
from coach_mlx.leaks import person, situation
from coach_mlx.records import Conversation

PERSON = "shares a person with the holdout"
MOST_TRADES = 50

Kind = tuple[tuple[tuple[str, str], int], ...]
"""What a family is made of: its topics and difficulties, and how often each pair stands in it."""


class Split(NamedTuple):
    """Training is sorted by id; the holdout stands as it was taken, topic after topic."""

    training: list[Conversation]
    holdout: list[Conversation]
    dropped: Counter[str]


def split(conversations: Sequence[Conversation], config: Config) -> Split:
    """Whole families are held out; then training lets go of the people who stand in the holdout.

    Situations and people together hang all of a large set in one piece, so that whole pieces of
    both would leave no split. Raises: DataError where a side has too little.
    """
    settings = config.dataset
    holdout = hold_out(conversations, settings.holdout_fraction, settings.min_holdout, config.seed)
    held, persons = {one.id for one in holdout}, {person(one) for one in holdout} - {None}
    rest = sorted((one for one in conversations if one.id not in held), key=lambda one: one.id)
    training = [one for one in rest if person(one) not in persons]
    if not training:
        raise DataError(
            f"Nothing is left to train on: the other {len(rest)} conversations are about people "
            f"who stand in the holdout of {len(holdout)}. Add conversations with other people."
        )
    return Split(training, holdout, +Counter({PERSON: len(rest) - len(training)}))


class Family(NamedTuple):
    """Conversations that begin from one situation; without a situation, one alone."""

    place: int
    """In the order of the draw."""
    members: list[Conversation]


def hold_out(
    conversations: Sequence[Conversation], fraction: float, at_least: int, seed: int
) -> list[Conversation]:
    """The held-out conversations, in whole families: every topic as near to its share as families
    allow (within one, where each conversation stands alone), difficulties as even as that allows.

    One family after the other is taken, until none brings topics and total nearer to their shares;
    then single families are traded. Families made of the same topics and difficulties are equally
    good, so only the first of each kind is looked at.

    Raises: DataError where nothing would be left to train on.
    """
    total = len(conversations)
    count = max(at_least, round(fraction * total))
    shares = _Shares(conversations, count)
    waiting = _families(conversations, seed)
    taken: list[tuple[Kind, Family]] = []
    while shares.taken < count < total:
        fitting = [kind for kind in waiting if shares.taken + _size(kind) < total]
        scores = {kind: (*shares.score(kind), -waiting[kind][-1].place) for kind in fitting}
        best = max(fitting, key=scores.__getitem__, default=None)
        if best is None or (shares.taken >= at_least and not scores[best][0]):
            break
        taken.append((best, _draw(waiting, best)))
        shares.take(best)
    if shares.taken < at_least:
        raise DataError(
            f"{total} conversations are too few to hold out {count} and train on the rest"
            f"{_situations(conversations)}. Add conversations, or lower dataset.min_holdout."
        )
    _trade(taken, waiting, shares, range(at_least, total))
    return [one for _, family in taken for one in family.members]


def _draw(waiting: dict[Kind, list[Family]], kind: Kind) -> Family:
    family = waiting[kind].pop()
    if not waiting[kind]:
        del waiting[kind]
    return family


def _trade(
    taken: list[tuple[Kind, Family]],
    waiting: dict[Kind, list[Family]],
    shares: "_Shares",
    sizes: range,
) -> None:
    """One family against another, the best trade first, while that brings topics and total nearer
    to their shares, or difficulties without harm to those. Two that stand alone are never traded.
    """
    for _ in range(MOST_TRADES):
        trades = {
            (old, new): shares.gain(new, old)
            for old in {kind for kind, _ in taken}
            for new in waiting
            if _size(old) * _size(new) > 1 and shares.taken + _size(new) - _size(old) in sizes
        }
        old, new = max(trades, key=lambda trade: (trades[trade], trade), default=((), ()))
        if trades.get((old, new), (0, 0)) <= (0, 0):
            return
        place = next(place for place, (kind, _) in enumerate(taken) if kind == old)
        family = _draw(waiting, new)
        waiting.setdefault(old, []).append(taken[place][1])
        taken[place] = (new, family)
        shares.take(new, old)


def _situations(conversations: Sequence[Conversation]) -> str:
    count = len({situation(one) for one in conversations} - {None})
    return f" (they begin from {count} situations, and none may be on both sides)" if count else ""


def _families(conversations: Iterable[Conversation], seed: int) -> dict[Kind, list[Family]]:
    """By kind, in random order; the first to take stands last."""
    members: dict[tuple[str, str], list[Conversation]] = defaultdict(list)
    for one in sorted(conversations, key=lambda one: one.id):
        shared = situation(one)
        members[("", one.id) if shared is None else ("situation", shared)].append(one)
    drawn = sorted(members.values(), key=lambda family: family[0].id)
    random.Random(seed).shuffle(drawn)
    found: dict[Kind, list[Family]] = defaultdict(list)
    for place, family in reversed(list(enumerate(drawn))):
        kind = tuple(sorted(Counter(map(_stratum, family)).items()))
        found[kind].append(Family(place, family))
    return found


def _stratum(conversation: Conversation) -> tuple[str, str]:
    card = conversation.scenario
    return (card.topic, card.difficulty) if card else ("", "")


def _size(kind: Kind) -> int:
    return sum(number for _, number in kind)


class _Shares:
    """What the holdout still lacks of each topic, each difficulty, both together, and in all."""

    def __init__(self, conversations: Sequence[Conversation], count: int) -> None:
        """In units of 1 / len(conversations) of a conversation, so that all stays exact."""
        self.unit = len(conversations)
        self.taken = 0
        self.lacking: Counter[tuple[str, str]] = Counter()
        for one in conversations:
            self.lacking.update({part: count for part in _parts(_stratum(one))})

    def take(self, kind: Kind, instead_of: Kind = ()) -> None:
        self.taken += _size(kind) - _size(instead_of)
        given = _margins(kind, instead_of)
        self.lacking.subtract({part: self.unit * number for part, number in given.items()})

    def gains(self, kind: Kind, instead_of: Kind = ()) -> Counter[str]:
        """How much nearer topics, difficulties, pairs and the total come to their shares.

        A share that lacks L, and is given c, comes nearer by L^2 - (L - c)^2 = c (2L - c).
        """
        gains: Counter[str] = Counter()
        for part, number in _margins(kind, instead_of).items():
            given = self.unit * number
            gains[part[0]] += given * (2 * self.lacking[part] - given)
        return gains

    def gain(self, kind: Kind, instead_of: Kind) -> tuple[int, int]:
        gains = self.gains(kind, instead_of)
        return gains["topic"] + gains["total"], gains["pair"]

    def score(self, kind: Kind) -> tuple[bool, float, float, float]:
        """The larger, the better: brings it topics and total nearer to their shares; then how much
        its topics lack, how little it overshoots them, and what it does for the difficulties.
        """
        gains, size = self.gains(kind), _size(kind)
        gain, evenness = gains["topic"] + gains["total"], gains["difficulty"] / size
        if gain <= 0:
            return False, gain, 0.0, evenness
        topics = {part: n for part, n in _margins(kind).items() if part[0] == "topic"}
        need = sum(number * self.lacking[part] for part, number in topics.items())
        over = sum(max(0, self.unit * n - self.lacking[part]) for part, n in topics.items())
        return True, need / size, -over, evenness


def _parts(stratum: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    topic, difficulty = stratum
    return (
        ("topic", topic),
        ("difficulty", difficulty),
        ("pair", f"{topic} {difficulty}"),
        ("total", ""),
    )


def _margins(kind: Kind, instead_of: Kind = ()) -> Counter[tuple[str, str]]:
    margins: Counter[tuple[str, str]] = Counter()
    for sign, strata in ((1, kind), (-1, instead_of)):
        for stratum, number in strata:
            margins.update({part: sign * number for part in _parts(stratum)})
    return margins
