import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import near_duplicates
from coach_mlx.errors import DataError
from coach_mlx.leaks import check_leaks
from coach_mlx.near_duplicates import (
    LEAST_SIDE,
    Pair,
    bands,
    crossing,
    drop_near_duplicates,
    jaccard,
    likeness,
    near_pairs,
    shingle,
)
from coach_mlx.records import Conversation
from coach_mlx.talk import Speech

Script = Sequence[str]
thresholds = st.sampled_from((0.3, 0.5, 0.7, 1.0))


def spoken(user: Script, coach: Script) -> Conversation:
    messages = []
    for said, reply in zip(user, coach, strict=True):
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]
    return Conversation.model_validate({"messages": messages})


def words(seed: int, count: int = 60) -> str:
    return " ".join(
        random.Random(seed).choices([f"word{number}" for number in range(500)], k=count)
    )


def talk(user: int, coach: int) -> Conversation:
    """Whose sides hold the words of two draws."""
    return spoken(
        [words(user), words(user + 10_000)], [words(coach + 20_000), words(coach + 30_000)]
    )


@st.composite
def corpora(draw: st.DrawFn) -> list[Conversation]:
    """Sides cut from few long texts, so that many overlap, by all kinds of shares."""
    texts = [words(seed, 120).split() for seed in range(3)]

    def side() -> str:
        text, start = draw(st.sampled_from(texts)), draw(st.integers(0, 60))
        return " ".join(text[start : start + draw(st.integers(1, 60))])

    found = [spoken([side()], [side()]) for _ in range(draw(st.integers(2, 8)))]
    return list({one.id: one for one in found}.values())


def brute_force(left: Conversation, right: Conversation) -> float:
    """The same definition, written out with sets of words."""

    def runs(one: Conversation, role: str) -> set[tuple[str, ...]]:
        said = [word for m in one.messages if m.role == role for word in Speech(m.content).words]
        grams = {tuple(said[place : place + 5]) for place in range(len(said) - 4)}
        return grams or {tuple(said)}

    def share(ours: set[tuple[str, ...]], theirs: set[tuple[str, ...]]) -> float:
        return len(ours & theirs) / len(ours | theirs)

    sides = [(runs(left, role), runs(right, role)) for role in ("user", "assistant")]
    whole = share(sides[0][0] | sides[1][0], sides[0][1] | sides[1][1])
    return max([whole, *(share(*both) for both in sides if min(map(len, both)) >= LEAST_SIDE)])


@given(corpora(), thresholds)
def test_pairs_are_those_that_brute_force_finds(
    corpus: list[Conversation], threshold: float
) -> None:
    expected = [
        Pair(one, two, value)
        for one, two in itertools.combinations(range(len(corpus)), 2)
        if (value := brute_force(corpus[one], corpus[two])) >= threshold
    ]
    assert near_pairs([shingle(one) for one in corpus], threshold) == expected


@given(corpora(), corpora(), thresholds)
def test_across_two_sets_both_ways_agree_with_brute_force(
    left: list[Conversation], right: list[Conversation], threshold: float
) -> None:
    values = {
        (one, two): brute_force(left[one], right[two])
        for one in range(len(left))
        for two in range(len(right))
    }
    near = [Pair(*places, value) for places, value in values.items() if value >= threshold]
    sides = [shingle(one) for one in left], [shingle(one) for one in right]
    exact, quick = crossing(*sides, threshold), crossing(*sides, threshold, exact_pairs=0)
    assert exact.pairs == quick.pairs == near
    assert exact.highest == max(values.values())
    assert (exact.every_pair, quick.every_pair) == (True, False)


@given(corpora(), thresholds, st.randoms(use_true_random=False))
def test_what_stays_is_apart_and_does_not_depend_on_order(
    corpus: list[Conversation], threshold: float, rng: random.Random
) -> None:
    scores = {one.id: rng.choice((0.5, 0.9)) for one in corpus}
    kept = drop_near_duplicates(corpus, scores, threshold)
    assert not near_pairs([shingle(one) for one in kept], threshold)
    rng.shuffle(corpus)
    assert kept == drop_near_duplicates(corpus, scores, threshold)
    ids = {one.id for one in kept}
    for one in corpus:
        if one.id not in ids:
            assert any(brute_force(one, other) >= threshold for other in corpus if other != one)


def test_a_group_holds_together_through_its_middle_and_leaves_the_best() -> None:
    text = words(1, 100).split()
    chain = [
        spoken([" ".join(text[start : start + 60])], [f"Reply number {start}."])
        for start in (0, 15, 30)
    ]
    assert brute_force(chain[0], chain[2]) < 0.45 < brute_force(chain[0], chain[1])
    for best in chain:
        assert drop_near_duplicates(chain, {best.id: 0.9}, 0.45) == [best]
    first = min(chain, key=lambda one: one.id)
    assert drop_near_duplicates(chain, {}, 0.45) == [first]


@pytest.mark.parametrize("copy", [talk(1, 99), talk(99, 2)], ids=["person", "coach"])
def test_one_side_copied_is_a_near_duplicate(copy: Conversation) -> None:
    original = talk(1, 2)
    assert jaccard(shingle(original).whole, shingle(copy).whole) < 0.5
    assert likeness(shingle(original), shingle(copy)) == 1.0
    assert len(drop_near_duplicates([original, copy], {}, 0.5)) == 1


def test_a_short_side_alone_makes_nothing_alike() -> None:
    replies = ["Good to see you again."] * 2
    one = spoken([words(1), words(2)], replies)
    other = spoken([words(3), words(4)], replies)
    assert len(drop_near_duplicates([one, other], {}, 0.5)) == 2


def test_messages_without_words_are_like_nothing() -> None:
    silent = [spoken(["…"], ["…"]), spoken(["!"], ["?"]), spoken(["yes"], ["yes"])]
    assert len(drop_near_duplicates(silent, {}, 0.5)) == 3


def test_letters_case_punctuation_and_hidden_characters_do_not_matter() -> None:
    original = spoken([words(1)], [words(2)])
    disguised = spoken([words(1).upper().replace(" ", ", ")], [words(2).replace("o", "\u200bo")])
    assert original.id != disguised.id
    assert likeness(shingle(original), shingle(disguised)) == 1.0


def test_hashes_of_runs_do_not_change_from_run_to_run() -> None:
    assert shingle(spoken(["one two three four five"], ["six"])).user.tolist() == [
        9996810755677303467
    ]


@given(st.floats(0.07, 1.0))
def test_bands_miss_at_most_one_pair_in_ten_thousand(threshold: float) -> None:
    count, rows = bands(threshold)
    assert count >= 2
    assert count * rows <= near_duplicates.PERMUTATIONS
    assert (1 - threshold**rows) ** count <= 1e-4


def carded(
    conversation: Conversation, starters: list[Conversation], number: int, **facts: str
) -> Conversation:
    card = starters[number].scenario
    assert card is not None
    return conversation.model_copy(update={"scenario": card.model_copy(update=facts)})


@pytest.fixture
def sides(starters: list[Conversation]) -> tuple[list[Conversation], list[Conversation]]:
    """Training and holdout that have nothing in common."""
    every = [
        carded(talk(2 * number, 2 * number + 1), starters, number, situation=f"Situation {number}.")
        for number in range(8)
    ]
    return every[:6], every[6:]


Sides = tuple[list[Conversation], list[Conversation]]


def test_a_split_that_keeps_apart_passes(sides: Sides) -> None:
    leaks = check_leaks(*sides, 0.5)
    assert leaks[:4] == (0, 0, 0, 0)
    assert 0 <= leaks.highest < 0.05
    assert leaks.every_pair


def leak_id(sides: Sides, starters: list[Conversation]) -> Conversation:
    return sides[0][3].model_copy(update={"scenario": None})


def leak_situation(sides: Sides, starters: list[Conversation]) -> Conversation:
    return carded(talk(500, 501), starters, 20, situation="situation  3. ")


def leak_person(sides: Sides, starters: list[Conversation]) -> Conversation:
    return carded(talk(500, 501), starters, 3, voice="another voice")


def leak_person_side(sides: Sides, starters: list[Conversation]) -> Conversation:
    return talk(6, 501)


def leak_coach_side(sides: Sides, starters: list[Conversation]) -> Conversation:
    return talk(500, 7)


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (leak_id, "1 held out trained on as well"),
        (leak_situation, "1 held out with a situation"),
        (leak_person, "1 held out with a person"),
        (leak_person_side, "1 held out nearly the same"),
        (leak_coach_side, "1 held out nearly the same"),
    ],
)
@pytest.mark.parametrize("exact_pairs", [10_000, 0])
def test_every_kind_of_leak_is_found(
    sides: Sides,
    starters: list[Conversation],
    monkeypatch: pytest.MonkeyPatch,
    plant: object,
    said: str,
    exact_pairs: int,
) -> None:
    monkeypatch.setattr(near_duplicates.crossing, "__defaults__", (exact_pairs,))
    assert callable(plant)
    training, holdout = sides
    with pytest.raises(DataError, match=said):
        check_leaks(training, [*holdout, plant(sides, starters)], 0.5)
