"""Which conversations share their words.

Reads and writes nothing. A conversation is three sets of five-word runs: the person's, the coach's
and both together, so that a script told in another voice is found as well as a copy. LSH only
proposes pairs; the runs themselves decide, and no estimate reaches a result. LSH misses a pair at
the threshold at most once in ten thousand, for thresholds from 0.07. Below 0.4 it proposes so many
that thousands of conversations take minutes. `crossing` compares every pair, unless there are
millions.

Source: Broder 1997 (MinHash); Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3 (LSH;
unlike there, bands are chosen by what may be missed, and false candidates are paid for).
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from coach_mlx.records import Conversation
from coach_mlx.talk import Speech

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Runs = NDArray[np.uint64]

RUN_WORDS = 5
LEAST_SIDE = 20
"""Runs. A shorter side is compared with the whole only: a few stock phrases would make it alike."""
PERMUTATIONS = 128
MISSED = 1e-4
EXACT_PAIRS = 5_000_000
"""Two sets with so many pairs or fewer are compared exactly, pair by pair."""
WEIGHTS = (
    0x9E3779B97F4A7C15,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0xD6E8FEB86659FD93,
    0xA0761D6478BD642F,
)


class Shingled(NamedTuple):
    """Hashes of five-word runs, each sorted and without repeats."""

    whole: "Runs"
    user: "Runs"
    coach: "Runs"


class Pair(NamedTuple):
    """Places in the two sequences compared, and the Jaccard index of the side most alike."""

    left: int
    right: int
    likeness: float


class Crossing(NamedTuple):
    """What two sets of conversations have in common."""

    pairs: list[Pair]
    """Those that reach the threshold."""
    highest: float
    """Among all pairs that were compared, alike or not."""
    every_pair: bool
    """Whether those were all there are, or the candidates of LSH."""


def shingle(conversation: Conversation) -> Shingled:
    """The runs go on across the messages of a side: many messages hold fewer than five words."""
    import numpy as np

    user = _runs(conversation, "user")
    coach = _runs(conversation, "assistant")
    return Shingled(np.union1d(user, coach), user, coach)


def _runs(conversation: Conversation, role: str) -> "Runs":
    """A side of fewer than five words is one run."""
    import numpy as np

    spoken = (one.content for one in conversation.messages if one.role == role)
    words = [_word_hash(word) for text in spoken for word in Speech(text).words]
    hashes = np.array(words, dtype=np.uint64)  # (words,)
    length = min(RUN_WORDS, len(hashes))
    runs = np.zeros(max(0, len(hashes) - RUN_WORDS + 1) or min(1, length), dtype=np.uint64)
    for place in range(length):
        runs += hashes[place : place + len(runs)] * np.uint64(WEIGHTS[place])  # modulo 2^64
    return np.unique(runs)


@lru_cache(maxsize=200_000)
def _word_hash(word: str) -> int:
    """64 bits that are the same on every machine."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def jaccard(left: "Runs", right: "Runs") -> float:
    """Of two empty sets 0."""
    import numpy as np

    shared = len(np.intersect1d(left, right, assume_unique=True))
    union = len(left) + len(right) - shared
    return shared / union if union else 0.0


def likeness(left: Shingled, right: Shingled) -> float:
    """The largest of the Jaccard indices of whole, user and coach."""
    found = [jaccard(left.whole, right.whole)]
    for ours, theirs in ((left.user, right.user), (left.coach, right.coach)):
        if min(len(ours), len(theirs)) >= LEAST_SIDE:
            found.append(jaccard(ours, theirs))
    return max(found)


def near_pairs(shingled: Sequence[Shingled], threshold: float) -> list[Pair]:
    """Every pair within one set that reaches the threshold, the lower place first."""
    candidates = _candidates_within(_signatures(shingled), threshold)
    pairs = (Pair(one, two, likeness(shingled[one], shingled[two])) for one, two in candidates)
    return [pair for pair in pairs if pair.likeness >= threshold]


def drop_near_duplicates(
    conversations: Sequence[Conversation], scores: Mapping[str, float], threshold: float
) -> list[Conversation]:
    """Of each group that likeness holds together, the one with the best score, sorted by id. A
    group is closed: A like B and B like C leaves one of three. Missing: no score counts as 0; of
    equal scores the smallest id stays.
    """
    ranked = sorted(conversations, key=lambda one: (-scores.get(one.id, 0.0), one.id))
    pairs = near_pairs([shingle(one) for one in ranked], threshold)
    best: dict[int, Conversation] = {}
    for group, one in zip(_groups(len(ranked), pairs), ranked, strict=True):
        best.setdefault(group, one)
    return sorted(best.values(), key=lambda one: one.id)


def _groups(count: int, pairs: Sequence[Pair]) -> list[int]:
    """For each place, the number of its connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    places = ([pair.left for pair in pairs], [pair.right for pair in pairs])
    graph = coo_array(([1] * len(pairs), places), shape=(count, count))
    return [int(group) for group in connected_components(graph, directed=False)[1]]


def crossing(
    left: Sequence[Shingled],
    right: Sequence[Shingled],
    threshold: float,
    exact_pairs: int = EXACT_PAIRS,
) -> Crossing:
    """What of one set is like something of the other."""
    if not left or not right:
        return Crossing([], 0.0, True)
    if len(left) * len(right) <= exact_pairs:
        return _compare_all(left, right, threshold)
    candidates = _candidates_across(_signatures(left), _signatures(right), threshold)
    found = [Pair(one, two, likeness(left[one], right[two])) for one, two in candidates]
    highest = max((pair.likeness for pair in found), default=0.0)
    return Crossing([pair for pair in found if pair.likeness >= threshold], highest, False)


def _compare_all(left: Sequence[Shingled], right: Sequence[Shingled], threshold: float) -> Crossing:
    """All pairs that share a run, through an inverted index of the runs."""
    near: dict[tuple[int, int], float] = {}
    highest = 0.0
    for view in Shingled._fields:
        rows, columns, values = _shared_runs(_view(left, view), _view(right, view))
        highest = max(highest, float(values.max(initial=0.0)))
        for place in (values >= threshold).nonzero()[0]:
            places = int(rows[place]), int(columns[place])
            near[places] = max(near.get(places, 0.0), float(values[place]))
    return Crossing(sorted(Pair(*places, near[places]) for places in near), highest, True)


def _view(shingled: Sequence[Shingled], view: str) -> "list[Runs]":
    """One set of runs each; a side that is too short is empty."""
    every = [getattr(one, view) for one in shingled]
    return (
        every if view == "whole" else [one if len(one) >= LEAST_SIDE else one[:0] for one in every]
    )


def _shared_runs(left: "Sequence[Runs]", right: "Sequence[Runs]") -> tuple[Any, Any, Any]:
    """Places and Jaccard index of every pair that shares a run: a sparse product counts what each
    pair shares, rows of runs times columns of runs.
    """
    import numpy as np
    from scipy.sparse import csr_array

    both = [*left, *right]
    sizes = np.array([len(one) for one in both], dtype=np.int64)
    names, columns = np.unique(np.concatenate(both), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    table = csr_array(
        (np.ones(len(columns), dtype=np.int32), columns, starts), shape=(len(both), len(names))
    )
    shared = (table[: len(left)] @ table[len(left) :].T).tocoo()
    unions = sizes[shared.row] + sizes[len(left) + shared.col] - shared.data
    return shared.row, shared.col, shared.data / unions


def _signatures(shingled: Sequence[Shingled]) -> dict[str, list[Any]]:
    """MinHashes by view, `None` for what is not to be compared. The whole is the union of its
    sides, and so is its MinHash.
    """
    from datasketch import MinHash

    def sign(runs: "Sequence[Runs]") -> list[Any]:
        high = ((one >> 32).tolist() for one in runs)  # 32 of the 64 bits: what MinHash takes
        return list(
            MinHash.generator(high, num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
        )

    sides = {view: sign([getattr(one, view) for one in shingled]) for view in ("user", "coach")}
    whole = [MinHash.union(*both) for both in zip(sides["user"], sides["coach"], strict=True)]
    signed = {"whole": whole, **sides}
    return {
        view: [
            one if len(runs) else None
            for one, runs in zip(signed[view], _view(shingled, view), strict=True)
        ]
        for view in Shingled._fields
    }


def _candidates_within(signed: Mapping[str, Sequence[Any]], threshold: float) -> list[Any]:
    found: set[tuple[int, int]] = set()
    for signatures in signed.values():
        index = _index(threshold)
        for place, signature in enumerate(signatures):
            if signature is not None:
                found |= {(other, place) for other in index.query(signature)}
                index.insert(place, signature)
    return sorted(found)


def _candidates_across(
    left: Mapping[str, Sequence[Any]], right: Mapping[str, Sequence[Any]], threshold: float
) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for view, signatures in right.items():
        index = _index(threshold)
        for place, signature in enumerate(signatures):
            if signature is not None:
                index.insert(place, signature)
        for place, signature in enumerate(left[view]):
            if signature is not None:
                found |= {(place, other) for other in index.query(signature)}
    return sorted(found)


def _index(threshold: float) -> Any:
    from datasketch import MinHashLSH

    return MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))


def bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many rows: the longest bands that still miss a pair at the threshold
    at most that often; single rows where none does.

    A pair of likeness s agrees on a row with probability s, on a band of r rows with s^r, and is
    missed by all b bands with (1 - s^r)^b.
    """
    fitting = [
        rows
        for rows in range(1, PERMUTATIONS // 2 + 1)
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= MISSED
    ]
    rows = max(fitting, default=1)
    return PERMUTATIONS // rows, rows
