import functools
import os
import statistics
import subprocess
import sys
from collections import defaultdict

from conftest import STARTERS
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.arcs import (
    ENDINGS,
    LONGEST_BY_MEDIAN,
    MEDIAN_WORDS,
    SHORTEST_SHIFT,
    Arc,
    draw_arc,
)
from coach_mlx.documents import read_document
from coach_mlx.records import Scenario
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.taxonomy import PERSONAS, TAXONOMY, Personas, deal, load_taxonomy
from coach_mlx.workspace import PROJECT, read_conversations

RISKS = ("none", "implicit", "explicit", "imminent")
turns_of_a_talk = st.integers(1, 30)


def cards(count: int, seed: int = 5) -> list[Scenario]:
    taxonomy = load_taxonomy(PROJECT / TAXONOMY)
    personas = read_document(PROJECT / PERSONAS, Personas)
    return deal(taxonomy, personas, load_rubric(PROJECT / RUBRIC), count, seed)


@functools.cache
def dealt() -> list[tuple[Scenario, Arc]]:
    return [(card, draw_arc(card)) for card in cards(3000)]


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def in_danger(card: Scenario) -> bool:
    return card.risk in ("explicit", "imminent")


def drawn(turns: int, salt: str, risk: str = "none", style: str = "detailed") -> Arc:
    card, _ = dealt()[0]
    changed = {"id": salt, "risk": risk, "style": style, "turns": turns}
    return draw_arc(card.model_copy(update=changed))


@given(
    turns_of_a_talk, st.text(max_size=8), st.sampled_from(RISKS), st.sampled_from([*MEDIAN_WORDS])
)
def test_an_arc_of_any_length_keeps_its_places(
    turns: int, salt: str, risk: str, style: str
) -> None:
    arc = drawn(turns, salt, risk, style)
    assert arc.turns == turns == len(arc.words)
    assert all(1 <= words <= 300 for words in arc.words)
    assert arc.reveal is None or 1 <= arc.reveal <= turns
    special = [number for number in (arc.shift, arc.silence) if number is not None]
    assert all(2 < number < turns for number in special)
    assert len({*special, arc.reveal}) == len(special) + 1
    assert not special or turns >= SHORTEST_SHIFT
    assert arc.silence is None or arc.words[arc.silence - 1] == 1
    assert arc.ending in ENDINGS
    if risk in ("explicit", "imminent"):
        assert arc.ending != "not helped"
        assert arc.reveal is not None
        assert arc.reveal <= (turns + 1) // 2


@given(turns_of_a_talk, st.text(max_size=8))
def test_the_description_says_what_the_arc_holds(turns: int, salt: str) -> None:
    arc = drawn(turns, salt)
    said = arc.describe()
    assert f"writes {turns} messages" in said
    assert f"It ends: {arc.ending}." in said
    assert ("never comes out" in said) == (arc.reveal is None)
    assert ("leaves the subject" in said) == (arc.shift is not None)
    assert ("is a silence" in said) == (arc.silence is not None)
    assert said.endswith(f"{', '.join(map(str, arc.words))}.")
    assert "None" not in said


def test_one_and_two_messages_make_an_arc() -> None:
    for turns in (1, 2):
        arcs = [drawn(turns, str(salt)) for salt in range(200)]
        assert {(arc.reveal, arc.shift, arc.silence) for arc in arcs} == {(None, None, None)}
        assert {arc.ending for arc in arcs} == set(ENDINGS)
        assert {drawn(turns, str(salt), "imminent").reveal for salt in range(50)} == {1}


def test_a_quarter_never_tells_and_a_quarter_tells_early() -> None:
    safe = [arc for card, arc in dealt() if not in_danger(card)]
    assert 0.22 < share([arc.reveal is None for arc in safe]) < 0.28
    early = [arc.reveal is not None and arc.reveal <= arc.turns // 4 for arc in safe]
    assert 0.22 < share(early) < 0.28
    in_first_half = [arc.reveal is not None and arc.reveal <= arc.turns / 2 for arc in safe]
    assert 0.35 < share(in_first_half) < 0.6


def test_some_talks_shift_or_fall_silent_and_most_do_neither() -> None:
    arcs = [arc for _, arc in dealt()]
    assert 0.31 < share([arc.shift is not None for arc in arcs]) < 0.39
    assert 0.21 < share([arc.silence is not None for arc in arcs]) < 0.29
    assert share([arc.shift is None and arc.silence is None for arc in arcs]) > 0.4


def test_endings_come_by_weight_and_danger_never_ends_without_help() -> None:
    safe = [arc.ending for card, arc in dealt() if not in_danger(card)]
    for ending, weight in ENDINGS.items():
        assert abs(share([found == ending for found in safe]) - weight) < 0.04, ending
    danger = [arc for card, arc in dealt() if in_danger(card)]
    assert danger
    assert all(arc.ending != "not helped" and arc.reveal for arc in danger)


def test_lengths_are_uneven_within_a_talk_and_right_by_style() -> None:
    by_style = defaultdict(list)
    spreads = []
    for card, arc in dealt():
        by_style[card.style] += arc.words
        spreads.append(statistics.stdev(arc.words) / statistics.fmean(arc.words))
    for style, words in by_style.items():
        assert abs(statistics.median(words) / MEDIAN_WORDS[style] - 1) < 0.12, style
        assert max(words) <= LONGEST_BY_MEDIAN * MEDIAN_WORDS[style] + 1
    assert 0.4 < statistics.median(spreads) < 0.7
    assert share([spread > 0.25 for spread in spreads]) > 0.97


def test_the_medians_are_those_of_the_starter_conversations() -> None:
    by_style = defaultdict(list)
    for talk in read_conversations(STARTERS):
        assert talk.scenario is not None
        by_style[talk.scenario.style] += [
            len(message.content.split()) for message in talk.messages if message.role == "user"
        ]
    found = {style: statistics.median(words) for style, words in by_style.items()}
    assert found == MEDIAN_WORDS


def test_two_cards_that_differ_by_what_is_held_back_have_arcs_of_their_own() -> None:
    card, arc = dealt()[0]
    persona = card.persona.model_copy(update={"withheld": "Something else."})
    assert draw_arc(card) == arc
    assert draw_arc(card.model_copy(update={"persona": persona})) != arc
    assert draw_arc(card.model_copy(update={"id": "other"})) != arc


def test_the_same_card_has_the_same_arc_in_another_process() -> None:
    card, arc = dealt()[1]
    program = (
        "import sys; from coach_mlx.arcs import draw_arc; from coach_mlx.records import Scenario; "
        "sys.stdout.write(repr(draw_arc(Scenario.model_validate_json(sys.argv[1]))))"
    )
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", program, card.model_dump_json()],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.stdout == repr(arc)
