"""`coach scenarios`: the taxonomy becomes scenario cards.

Reads: config/input-taxonomy.yaml (what people bring), config/personas.yaml (who they are) and
config/rubric.yaml (which criteria apply).
Writes: output/scenarios.jsonl, one card a line, deterministic in the seed.
Fails: ConfigError with everything that is wrong in the documents, such as weights that do not sum
to 1.

Counts are exact quotas, not draws: topics, the subtopics of each, styles, difficulties and lengths
are each shared out by largest remainder (Hamilton's method) and dealt out in random order. For any
number of cards, every count is within one of its share.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from coach_mlx import console
from coach_mlx.config import Config
from coach_mlx.documents import read_document
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.records import (
    LONGEST,
    AgeBand,
    Difficulty,
    Framework,
    Length,
    Persona,
    Record,
    Risk,
    Scenario,
    Style,
    Topic,
    content_hash,
)
from coach_mlx.rubric import RUBRIC, Rubric, load_rubric
from coach_mlx.workspace import Plan, Workspace, read_records, write_whole

TAXONOMY = "config/input-taxonomy.yaml"
PERSONAS = "config/personas.yaml"
Weight = Annotated[float, Field(gt=0, le=1)]
Lines = Annotated[tuple[str, ...], Field(min_length=1)]
MOST_REDRAWS = 1000
HOUSEHOLD_AGES: dict[AgeBand, Literal["younger", "middle", "older"]] = {
    "26-35": "younger",
    "36-45": "middle",
    "46-55": "middle",
    "56-65": "older",
    "66+": "older",
}


class Situation(Record):
    """The seed of a scenario; a plain line of text has no risk."""

    text: str
    risk: Risk = "none"

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class Subtopic(Record):
    name: str
    description: str
    frameworks: tuple[Framework, ...] = Field(min_length=1)
    situations: tuple[Situation, ...] = Field(min_length=3)
    withheld: tuple[str, ...] = Field(min_length=3)
    must: tuple[str, ...] = ()
    must_not: tuple[str, ...] = ()


class TopicEntry(Record):
    name: Topic
    weight: Weight
    subtopics: tuple[Subtopic, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _edge_cases_are_spelt_out(self) -> "TopicEntry":
        if self.name == "edge_cases":
            bare = [one.name for one in self.subtopics if not (one.must and one.must_not)]
            if bare:
                raise ValueError(f"must and must_not are missing for {', '.join(bare)}")
            silent = [
                situation.text
                for subtopic in self.subtopics
                for situation in subtopic.situations
                if "risk" not in situation.model_fields_set
            ]
            if silent:
                raise ValueError(f"an edge case states its risk: {'; '.join(silent)}")
        return self


class LengthBand(Record):
    weight: Weight
    turns: tuple[int, int]

    @field_validator("turns")
    @classmethod
    def _is_a_range(cls, turns: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= turns[0] <= turns[1]:
            raise ValueError(f"{list(turns)} is no range of turns")
        return turns


class Taxonomy(Record):
    """What people bring, and how often. Every group of weights sums to 1."""

    topics: tuple[TopicEntry, ...]
    styles: dict[Style, Weight]
    difficulty: dict[Difficulty, Weight]
    length: dict[Length, LengthBand]

    @model_validator(mode="after")
    def _adds_up(self) -> "Taxonomy":
        _require_whole("topics", [topic.weight for topic in self.topics])
        _require_whole("styles", self.styles.values())
        _require_whole("difficulty", self.difficulty.values())
        _require_whole("length", [band.weight for band in self.length.values()])
        for name, band in self.length.items():
            if band.turns[1] > LONGEST[name]:
                raise ValueError(f"{name} conversations have at most {LONGEST[name]} turns")
        names: list[str] = [topic.name for topic in self.topics]
        names += [subtopic.name for topic in self.topics for subtopic in topic.subtopics]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"these names stand more than once: {', '.join(twice)}")
        return self

    def subtopics(self) -> Iterator[tuple[TopicEntry, Subtopic]]:
        for topic in self.topics:
            for subtopic in topic.subtopics:
                yield topic, subtopic


class Personas(Record):
    """Whom a card is about: lists to draw from."""

    age_bands: dict[AgeBand, Weight]
    work: Lines
    places: Lines
    households: dict[Literal["any", "younger", "middle", "older"], Lines]
    voices: dict[Style, Lines]
    resistances: Lines

    @field_validator("age_bands")
    @classmethod
    def _whole(cls, bands: dict[AgeBand, float]) -> dict[AgeBand, float]:
        _require_whole("age_bands", bands.values())
        return bands

    @model_validator(mode="after")
    def _has_every_group(self) -> "Personas":
        wanted = {"any", *HOUSEHOLD_AGES.values(), *get_args(Style)}
        missing = sorted(wanted - {*self.households, *self.voices})
        if missing:
            raise ValueError(f"households or voices are missing for {', '.join(missing)}")
        return self


def _require_whole(name: str, weights: Any) -> None:
    total = sum(Fraction(str(weight)) for weight in weights)
    if total != 1:
        raise ValueError(f"the weights of {name} sum to {float(total):g}, not 1")


def load_taxonomy(path: Path) -> Taxonomy:
    return read_document(path, Taxonomy)


def plan(config: Config, workspace: Workspace) -> Plan:
    inputs = tuple(workspace.find(name) for name in (TAXONOMY, PERSONAS, RUBRIC))
    settings = {"seed": config.seed, **config.scenarios.model_dump()}
    return Plan(inputs, (workspace.scenarios,), settings)


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    taxonomy_file, personas_file, rubric_file = plan(config, workspace).inputs
    taxonomy = load_taxonomy(taxonomy_file)
    cards = deal(
        taxonomy,
        read_document(personas_file, Personas),
        load_rubric(rubric_file),
        config.scenarios.count,
        config.seed,
    )
    write_whole(workspace.scenarios, "".join(card.model_dump_json() + "\n" for card in cards))
    console.say("Next: coach generate --quote")
    return {
        "scenarios": len(cards),
        "turns": sum(card.turns for card in cards),
        "topics": {
            topic.name: sum(card.topic == topic.name for card in cards) for topic in taxonomy.topics
        },
        "file": workspace.shown(workspace.scenarios),
    }


def quotas(weights: Mapping[Any, float], count: int) -> dict[Any, int]:
    """`count` shared out by largest remainder; a tie goes to the one named first."""
    exact = {key: Fraction(str(weight)) * count for key, weight in weights.items()}
    shares = {key: int(value) for key, value in exact.items()}
    left = count - sum(shares.values())
    by_remainder = sorted(exact, key=lambda key: shares[key] - exact[key])
    for key in by_remainder[:left]:
        shares[key] += 1
    return shares


def deal(
    taxonomy: Taxonomy, personas: Personas, rubric: Rubric, count: int, seed: int
) -> list[Scenario]:
    """The cards, in random order; no two alike."""
    rng = random.Random(seed)
    columns = zip(
        _deal_subtopics(taxonomy, count, rng),
        _shares(taxonomy.styles, count, rng),
        _shares(taxonomy.difficulty, count, rng),
        _shares({name: band.weight for name, band in taxonomy.length.items()}, count, rng),
        strict=True,
    )
    cards: dict[str | None, Scenario] = {}
    for (topic, subtopic), style, difficulty, length in columns:
        facts = {
            "topic": topic.name,
            "subtopic": subtopic.name,
            "style": style,
            "difficulty": difficulty,
            "length": length,
            "turns": rng.randint(*taxonomy.length[length].turns),
        }
        for _ in range(MOST_REDRAWS):
            card = _card(facts, subtopic, personas, rubric, rng)
            if card.id not in cards:
                break
        else:
            raise ConfigError(
                f"There is too little in {TAXONOMY} and {PERSONAS} for {count} cards that differ: "
                f"add situations to {subtopic.name}, or ask for fewer cards."
            )
        cards[card.id] = card
    return list(cards.values())


def _deal_subtopics(
    taxonomy: Taxonomy, count: int, rng: random.Random
) -> list[tuple[TopicEntry, Subtopic]]:
    """Topics by quota; the subtopics of each share its count, and who gets one more is drawn."""
    shares = quotas({topic.name: topic.weight for topic in taxonomy.topics}, count)
    dealt = []
    for topic in taxonomy.topics:
        order = rng.sample(topic.subtopics, len(topic.subtopics))
        dealt += [(topic, order[place % len(order)]) for place in range(shares[topic.name])]
    rng.shuffle(dealt)
    return dealt


def _shares(weights: Mapping[Any, float], count: int, rng: random.Random) -> list[Any]:
    dealt = [key for key, share in quotas(weights, count).items() for _ in range(share)]
    rng.shuffle(dealt)
    return dealt


def _card(
    facts: dict[str, Any],
    subtopic: Subtopic,
    personas: Personas,
    rubric: Rubric,
    rng: random.Random,
) -> Scenario:
    situation = rng.choice(subtopic.situations)
    facts = {
        **facts,
        "situation": situation.text,
        "frameworks": _choose_frameworks(subtopic.frameworks, facts["length"], rng),
        "persona": _draw_persona(personas, subtopic, facts["style"], rng),
        "risk": situation.risk,
    }
    hashed = {**facts, "persona": facts["persona"].model_dump()}
    return Scenario(
        id=content_hash(hashed)[:12],
        applicability=rubric.conditional(facts["turns"], situation.risk),
        **facts,
    )


def _choose_frameworks(
    fitting: Sequence[Framework], length: Length, rng: random.Random
) -> tuple[Framework, ...]:
    """One leads; a longer talk has room for more."""
    wanted = min(len(fitting), 2 if length == "medium" else 3)
    return tuple(rng.sample(list(fitting), wanted))


def _draw_persona(
    personas: Personas, subtopic: Subtopic, style: Style, rng: random.Random
) -> Persona:
    bands = list(personas.age_bands)
    age_band: AgeBand = rng.choices(bands, list(personas.age_bands.values()))[0]
    households = personas.households["any"] + personas.households[HOUSEHOLD_AGES[age_band]]
    retired = "retired " if age_band == "66+" else ""
    parts = (retired + rng.choice(personas.work), rng.choice(personas.places))
    return Persona(
        age_band=age_band,
        circumstances=f"{', '.join(parts)}; {rng.choice(households)}",
        voice=rng.choice(personas.voices[style]),
        resistance=rng.choice(personas.resistances),
        withheld=rng.choice(subtopic.withheld),
    )


def read_cards(workspace: Workspace) -> list[Scenario]:
    if not workspace.scenarios.is_file():
        raise DataError(
            f"There is no {workspace.scenarios}. Make it with: coach scenarios (and the same "
            "--config and --workspace, where you gave them)"
        )
    cards = read_records(workspace.scenarios, Scenario)
    return [
        card if card.id else card.model_copy(update={"id": content_hash(card.model_dump())[:12]})
        for card in cards
    ]
