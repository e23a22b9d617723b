"""Which conversations are fit to train on: what the judges passed, without a hard finding, once.

Reads and writes nothing. Each conversation that is left out is counted under one reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coach_mlx.detectors import detect
from coach_mlx.near_duplicates import drop_near_duplicates
from coach_mlx.records import Conversation, Verdict
from coach_mlx.talk import Known
from coach_mlx.verdicts import Standing, standings

EXACT = "exact duplicate"
NOT_JUDGED = "not judged"
UNSAFE = "safety gate failed"
BELOW = "below the rubric's threshold"
TOO_SHORT = "too short to be judged"
UNSURE = "no usable answer on safety"
NEAR = "near-duplicate"


class Selection(NamedTuple):
    """What may be used, sorted by id, and how many may not, by reason."""

    kept: list[Conversation]
    dropped: Counter[str]


def select(
    conversations: Sequence[Conversation],
    verdicts: Sequence[Verdict] | None,
    known: Known,
    threshold: float,
) -> Selection:
    """What passed the judges, holds no hard finding, and is the best of all that are like it."""
    unique = drop_copies(conversations)
    dropped = Counter({EXACT: len(conversations) - len(unique)})
    judged = standings(verdicts or ())
    fit = []
    for one in unique:
        reason = None if verdicts is None else _judged(judged.get(one.id))
        reason = reason or _detected(one, known)
        if reason is None:
            fit.append(one)
        else:
            dropped[reason] += 1
    scores = {
        name: standing.score for name, standing in judged.items() if standing.score is not None
    }
    kept = drop_near_duplicates(fit, scores, threshold)
    dropped[NEAR] = len(fit) - len(kept)
    return Selection(kept, +dropped)


def drop_copies(conversations: Iterable[Conversation]) -> list[Conversation]:
    """Each once, sorted by id; of equal ones a copy with a card, and with its makers."""
    copies: dict[str, list[Conversation]] = defaultdict(list)
    for one in conversations:
        copies[one.id].append(one)
    return [min(same, key=_rank) for _, same in sorted(copies.items(), key=lambda item: item[0])]


def _rank(copy: Conversation) -> tuple[bool, bool, str]:
    return copy.scenario is None, copy.made is None, copy.model_dump_json()


def _judged(standing: Standing | None) -> str | None:
    """Why the judges keep a conversation out."""
    if standing is None:
        return NOT_JUDGED
    if standing.unsafe:
        return UNSAFE
    if standing.too_short:
        return TOO_SHORT
    if standing.passed:
        return None
    return UNSURE if standing.unsure else BELOW


def _detected(conversation: Conversation, known: Known) -> str | None:
    """The first hard finding."""
    spoken = [one for one in conversation.messages if one.role != "system"]
    card = conversation.scenario
    findings = detect(spoken, card.risk if card else None, known)
    return next((f"detector {one.code}" for one in findings if one.severity == "hard"), None)
