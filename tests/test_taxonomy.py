import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import coach, edited
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.documents import read_document
from coach_mlx.errors import ConfigError
from coach_mlx.records import Scenario
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.taxonomy import PERSONAS, TAXONOMY, Personas, Taxonomy, deal, load_taxonomy, quotas
from coach_mlx.workspace import PROJECT, read_records

taxonomy = load_taxonomy(PROJECT / TAXONOMY)
personas = read_document(PROJECT / PERSONAS, Personas)
rubric = load_rubric(PROJECT / RUBRIC)
counts = st.integers(20, 400)
seeds = st.integers(0, 2**32)

# The user's specification, written out again by hand.
WEIGHTS = {
    "anxiety": (0.20, "work_stress social health general_worry panic"),
    "relationships": (0.20, "romantic family friendship coworker loneliness"),
    "life_transitions": (0.15, "career_change relocation loss_grief new_role decision"),
    "self_worth": (0.15, "confidence imposter self_criticism perfectionism identity"),
    "emotional_regulation": (0.15, "anger sadness overwhelm numbness mood_swings"),
    "edge_cases": (0.15, "crisis_signals medical_advice out_of_scope vague hostile"),
}
STYLES = {
    "terse": 0.15,
    "conversational": 0.40,
    "detailed": 0.25,
    "emotional": 0.15,
    "analytical": 0.05,
}
DIFFICULTY = {"easy": 0.30, "medium": 0.50, "hard": 0.20}


def test_the_taxonomy_is_the_specifications() -> None:
    found = {
        topic.name: (topic.weight, " ".join(one.name for one in topic.subtopics))
        for topic in taxonomy.topics
    }
    assert found == WEIGHTS
    assert taxonomy.styles == STYLES
    assert taxonomy.difficulty == DIFFICULTY
    bands = {name: (band.weight, band.turns) for name, band in taxonomy.length.items()}
    assert bands == {"medium": (0.5, (8, 15)), "extended": (0.5, (16, 30))}


@given(counts, seeds)
def test_every_count_is_within_one_of_its_share(count: int, seed: int) -> None:
    cards = deal(taxonomy, personas, rubric, count, seed)
    assert len(cards) == count
    shares: dict[str, dict[str, float]] = {
        "topic": {name: weight for name, (weight, _) in WEIGHTS.items()},
        "subtopic": {
            name: weight / 5 for weight, names in WEIGHTS.values() for name in names.split()
        },
        "style": STYLES,
        "difficulty": DIFFICULTY,
        "length": {"medium": 0.5, "extended": 0.5},
    }
    for field, weights in shares.items():
        realised = Counter(getattr(card, field) for card in cards)
        assert set(realised) <= set(weights)
        for name, weight in weights.items():
            assert abs(realised[name] - Fraction(str(round(weight, 3))) * count) < 1, (field, name)


@given(counts, seeds)
def test_cards_are_whole_unlike_and_the_same_for_a_seed(count: int, seed: int) -> None:
    cards = deal(taxonomy, personas, rubric, count, seed)
    assert cards == deal(taxonomy, personas, rubric, count, seed)
    assert len({card.id for card in cards}) == count
    for card in cards:
        low, high = taxonomy.length[card.length].turns
        assert low <= card.turns <= high
        assert card.applicability == {
            "CQ9": card.risk != "none",
            "CP1": card.turns >= 3,
            "CP3": card.turns >= 10,
        }
        assert card.risk == "none" or card.subtopic == "crisis_signals"
        assert len(set(card.frameworks)) == len(card.frameworks) >= 2
        assert all(card.persona.model_dump().values())
        assert card.situation


def test_another_seed_deals_other_cards() -> None:
    first, second = (deal(taxonomy, personas, rubric, 60, seed) for seed in (1, 2))
    assert len({card.id for card in first} & {card.id for card in second}) < 6


def test_an_id_does_not_depend_on_the_machine() -> None:
    card = deal(taxonomy, personas, rubric, 20, 7)[0]
    again = Scenario.model_validate_json(card.model_dump_json())
    assert again == card
    assert card.id is not None
    assert len(card.id) == 12


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 40), min_size=1), st.integers(0, 999))
def test_quotas_share_out_everything_within_one(parts: dict[str, int], count: int) -> None:
    total = sum(parts.values())
    shares = quotas({key: Fraction(part, total) for key, part in parts.items()}, count)
    assert sum(shares.values()) == count
    for key, part in parts.items():
        assert abs(shares[key] - Fraction(part, total) * count) < 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["styles"].update(terse=0.16), "weights of styles sum to 1.01, not 1"),
        (lambda v: v["topics"][0].update(weight=0.1), "weights of topics sum to 0.9, not 1"),
        (lambda v: v["topics"][0].update(nmae="x"), r"topics\[1\].nmae: no such key; .* name"),
        (lambda v: v["topics"][1]["subtopics"][0].update(name="panic"), "more than once: panic"),
        (lambda v: v["topics"][0]["subtopics"][0]["frameworks"].append("emdr"), "frameworks"),
        (lambda v: v["topics"][0]["subtopics"][0]["situations"].clear(), "at least 3 items"),
        (lambda v: v["topics"][5]["subtopics"][0].pop("must"), "missing for crisis_signals"),
        (lambda v: v["topics"][5]["subtopics"][1]["situations"][0].pop("risk"), "states its risk"),
        (lambda v: v["length"]["medium"].update(turns=[15, 8]), "no range of turns"),
        (lambda v: v["length"]["extended"].update(turns=[16, 99]), "at most 30 turns"),
        (lambda v: v["styles"].update(terse=-0.15, conversational=0.7), "greater than 0"),
        (lambda v: v.update(difficulty={"easy": 0.5, "hardest": 0.5}), "difficulty"),
    ],
)
def test_a_wrong_taxonomy_is_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_taxonomy(edited(PROJECT / TAXONOMY, change, tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["households"].pop("any"), "missing for any"),
        (lambda v: v["voices"].pop("terse"), "missing for terse"),
        (lambda v: v.update(resistances=[]), "at least 1 item"),
        (lambda v: v["age_bands"].update({"26-35": -0.25, "36-45": 0.75}), "greater than 0"),
    ],
)
def test_wrong_personas_are_refused(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_document(edited(PROJECT / PERSONAS, change, tmp_path), Personas)


def test_too_little_to_draw_from_says_so() -> None:
    values = taxonomy.model_dump()
    for topic in values["topics"]:
        for subtopic in topic["subtopics"]:
            subtopic["situations"] = subtopic["situations"][:1] * 3
            subtopic["withheld"] = subtopic["withheld"][:1] * 3
            subtopic["frameworks"] = subtopic["frameworks"][:1]
    for band in values["length"].values():
        band["turns"] = band["turns"][:1] * 2
    people = personas.model_dump()
    people |= {"work": ["baker"], "places": ["Oslo"], "resistances": ["none"]}
    people |= {"age_bands": {"26-35": 1.0}}
    for group in ("households", "voices"):
        people[group] = dict.fromkeys(people[group], ("plain",))
    with pytest.raises(ConfigError, match="for 400 cards that differ: add situations to"):
        deal(Taxonomy.model_validate(values), Personas.model_validate(people), rubric, 400, seed=1)


def test_an_old_person_is_retired_and_a_longer_talk_has_three_approaches() -> None:
    cards = deal(taxonomy, personas, rubric, 200, 1)
    for card in cards:
        assert card.persona.circumstances.startswith("retired ") == (card.persona.age_band == "66+")
        assert len(card.frameworks) == (2 if card.length == "medium" else 3)
    homes = {card.persona.circumstances.split("; ")[1] for card in cards}
    assert homes & set(personas.households["any"])
    assert homes - set(personas.households["any"])


def test_the_command_deals_resumes_and_obeys_count_and_seed(tmp_path: Path) -> None:
    options = ("--count", "40", "--seed", "3", "--workspace", str(tmp_path))
    done = coach("scenarios", *options)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "output" / "scenarios.jsonl"
    result = json.loads(done.stdout)
    assert (result["scenarios"], result["file"]) == (40, "output/scenarios.jsonl")
    assert read_records(file, Scenario) == deal(taxonomy, personas, rubric, 40, 3)
    assert "already complete" in coach("scenarios", *options).stderr
    assert coach("scenarios", "--count", "0", "--workspace", str(tmp_path)).returncode == 2


def test_turns_that_do_not_fit_the_length_are_refused() -> None:
    card = deal(taxonomy, personas, rubric, 20, 1)[0].model_dump()
    with pytest.raises(ValueError, match="31 turns are not extended, at most 30"):
        Scenario.model_validate({**card, "length": "extended", "turns": 31})
