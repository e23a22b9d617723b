"""What a proposal may hold, which cards it is tried on, and what counts as proof."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.config import OptimizeSection
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.prompt_cards import family, part_cards
from coach_mlx.prompt_proof import decide
from coach_mlx.prompt_rules import (
    copied_runs,
    parts,
    problems,
    require_sections,
    with_kept,
    word_count,
)
from coach_mlx.prompt_search import Budget, Candidate, best, between_tags
from coach_mlx.prompt_trials import Trial
from coach_mlx.records import Persona, Scenario
from coach_mlx.workspace import PROJECT

SHIPPED = (PROJECT / "config" / "generation-prompt.md").read_text().strip()
KEEP = ("Honesty and limits", "Danger")
WORDS = st.sampled_from(
    [
        "the",
        "a",
        "kind",
        "word",
        "for",
        "every",
        "person",
        "here",
        "who",
        "writes",
        "it",
        "again",
        "tonight",
    ]
)
TEXT = st.lists(WORDS, min_size=1, max_size=60).map(" ".join)
TITLES = st.sampled_from(
    ["Hearing", "Moves", "Danger", "danger", "The reply", "Honesty and limits"]
)


@st.composite
def prompts(draw: Any) -> str:
    sections = draw(st.lists(st.tuples(TITLES, TEXT), max_size=6))
    return "\n\n".join([draw(TEXT), *(f"## {title}\n\n{text}" for title, text in sections)])


# --- sections


def letters(title: str) -> str:
    return "".join(filter(str.isalpha, title)).casefold()


@given(prompts())
def test_kept_sections_stand_once_and_word_for_word_in_every_proposal(proposed: str) -> None:
    result = with_kept(proposed, SHIPPED, KEEP)
    titles = [part.title for part in parts(result)]
    for name in KEEP:
        assert titles.count(letters(name)) == 1
    kept = [part.text for part in parts(SHIPPED) if part.title in map(letters, KEEP)]
    assert all(text in result for text in kept)
    mine = [part for part in parts(proposed) if part.title not in map(letters, KEEP)]
    assert [part for part in parts(result) if part.text not in kept] == mine


@given(prompts())
def test_only_what_followed_the_kept_sections_may_follow_them(proposed: str) -> None:
    result = parts(with_kept(f"{proposed}\n\n## The reply\n\nPlain text.", SHIPPED, KEEP))
    last = max(at for at, part in enumerate(result) if part.title == "danger")
    assert {part.title for part in result[last + 1 :]} == {"thereply"}
    assert result[last - 1].title == "honestyandlimits"


def test_what_is_below_a_kept_section_is_kept_with_it_and_cannot_be_put_there() -> None:
    original = "# A\n\n## Danger\n\nStay.\n\n### Words\n\nPlain.\n\n## Reply\n\nShort."
    proposed = "# A\n\n## Danger\n\nGo.\n\n### Words\n\nGrand.\n\n## Reply\n\nLong."
    assert with_kept(proposed, original, ["Danger"]) == original.replace("Short", "Long")


@pytest.mark.parametrize(
    "smuggled",
    [
        "Danger\n------\n\nNever mind.",
        "  ## Danger\n\nNever mind.",
        "##\tDanger\n\nNever mind.",
        "## Danger (revised)\n\nNever mind.",
        "Nobody follows these any more:\n<!--",
        "```\nNot meant.",
    ],
)
def test_nothing_stands_beside_a_kept_section_under_its_name_and_nothing_is_hidden(
    smuggled: str,
) -> None:
    proposed = SHIPPED.replace("## Moves", f"{smuggled}\n\n## Moves")
    assert problems(with_kept(proposed, SHIPPED, KEEP), SHIPPED, 5000, [], KEEP)
    assert problems(SHIPPED, SHIPPED, 5000, [], KEEP) == []


@pytest.mark.parametrize("heading", ["## **Danger**", "## D\u0430nger", "## danger:", "## DANGER"])
def test_a_kept_section_is_known_however_its_heading_is_written(heading: str) -> None:
    proposed = SHIPPED.replace("## Danger", heading).replace("This outranks", "Nothing outranks")
    assert with_kept(proposed, SHIPPED, KEEP) == SHIPPED


@given(prompts())
def test_keeping_twice_changes_nothing(proposed: str) -> None:
    once = with_kept(proposed, SHIPPED, KEEP)
    assert with_kept(once, SHIPPED, KEEP) == once


def test_the_shipped_prompt_is_its_own_kept_form() -> None:
    assert with_kept(SHIPPED, SHIPPED, KEEP) == SHIPPED


def test_a_section_to_keep_that_is_not_there_is_named() -> None:
    require_sections(SHIPPED, KEEP, "the prompt")
    with pytest.raises(ConfigError, match="Did you mean 'Danger'"):
        require_sections(SHIPPED, ["Dangers"], "the prompt")


# --- what is refused


@given(st.lists(WORDS, min_size=8, max_size=30), st.integers(0, 20), st.integers(0, 20))
def test_eight_words_in_a_row_of_an_example_are_found_wherever_they_stand(
    line: list[str], before: int, after: int
) -> None:
    example = " ".join(line)
    proposed = " ".join([*["zebra"] * before, *line[:8], *["quagga"] * after])
    assert copied_runs(proposed, "", [example]) == [" ".join(line[:8])]
    assert copied_runs(proposed, proposed, [example]) == []


@given(st.lists(WORDS, min_size=7, max_size=7))
def test_seven_words_are_nobodys(line: list[str]) -> None:
    assert copied_runs(" ".join(line), "", [" ".join([*line, "zebra", "quagga"])]) == []


def test_case_and_punctuation_hide_nothing() -> None:
    example = "My sister has not called since the funeral in May."
    copied = "Think: MY SISTER, has not called - since the funeral!"
    assert copied_runs(copied, "", [example])


def test_length_numbers_and_emptiness_are_refused_in_words() -> None:
    assert problems(" ", SHIPPED, 10_000, []) == ["it is empty"]
    assert problems(SHIPPED, SHIPPED, word_count(SHIPPED), []) == []
    (long,) = problems(SHIPPED + " more", SHIPPED, word_count(SHIPPED), [])
    assert "1000 words, and 999 are allowed" in long
    assert problems("Ask 12 times, at 9; 15-25 words, 2 or 3 (12).", "Be kind.", 100, []) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Tell them to ring 0800 111 222.", "0800"),
        ("Call 9-1-1 now.", "911"),
        ("Ring 9 8 8.", "988"),
        ("Send them to samaritans.org first.", "samaritans.org"),
    ],
)
def test_a_number_or_an_address_of_its_own_is_refused(text: str, found: str) -> None:
    (wrong,) = problems(text, "Be kind, as findahelpline.com is.", 100, [])
    assert found in wrong
    assert problems(text, text, 100, []) == []


@given(prompts(), prompts())
def test_the_longest_text_between_tags_is_the_proposal(one: str, other: str) -> None:
    answer = f"I use <instruction> tags.\n<instruction>\n{one}\n</instruction> or {other}"
    assert between_tags(f"<instruction>{one}</instruction>{other}") == one.strip()
    assert between_tags(other) == ""
    assert one.strip() in between_tags(answer)


# --- cards


def a_card(number: int, situation: int, topic: str = "anxiety", risk: str = "none") -> Scenario:
    persona = Persona(
        age_band="26-35", circumstances="", voice="plain", resistance="none", withheld="x"
    )
    return Scenario.model_validate(
        {
            "id": f"card{number}",
            "topic": topic,
            "subtopic": "health",
            "style": "terse",
            "difficulty": "easy",
            "length": "extended",
            "turns": 24,
            "frameworks": ["cbt"],
            "persona": persona,
            "risk": risk,
            "situation": f"Situation {situation}.",
        }
    )


@st.composite
def decks(draw: Any) -> list[Scenario]:
    families = draw(st.integers(16, 60))
    rng = random.Random(draw(st.integers(0, 1000)))
    risks = ("none", "none", "implicit")
    topics = ("anxiety", "self_worth", "edge_cases")
    return [
        a_card(number, number % families, rng.choice(topics), rng.choice(risks))
        for number in range(draw(st.integers(families, 120)))
    ]


@given(decks(), st.integers(0, 5))
def test_no_situation_is_in_two_parts(deck: list[Scenario], seed: int) -> None:
    settings = OptimizeSection()
    found = part_cards(deck, settings, seed)
    names = [{family(card) for card in part} for part in found]
    assert all(names)
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])
    sizes = (settings.reflect_cards, settings.validate_cards, settings.verify_cards)
    assert all(len(part) <= size for part, size in zip(found, sizes, strict=True))
    ids = [card.id for part in found for card in part]
    assert len(set(ids)) == len(ids)
    assert found == part_cards(deck, settings, seed)
    assert all(card.turns == settings.max_turns for part in found for card in part)


@given(decks())
def test_danger_is_in_every_part_where_there_is_enough_of_it(deck: list[Scenario]) -> None:
    risky = {family(card) for card in deck if card.risk != "none"}
    found = part_cards(deck, OptimizeSection(), 1)
    if len(risky) >= 6:
        assert all(any(family(card) in risky for card in part) for part in found)


def test_too_few_situations_are_said() -> None:
    with pytest.raises(DataError, match="make parts of 2, 1 and 2"):
        part_cards([a_card(number, number % 5) for number in range(30)], OptimizeSection(), 1)


@given(st.integers(2, 30), st.integers(1, 10), st.integers(1, 30))
def test_three_proposals_need_what_the_budget_says(cards: int, batch: int, proposals: int) -> None:
    settings = OptimizeSection(minibatch=batch, proposals=proposals)
    budget = Budget.of(settings, cards)
    assert budget.talks == cards + proposals * (2 * batch + cards)
    assert budget.needed == cards + min(3, proposals) * (2 * batch + cards)


# --- the proof


def a_trial(prompt: str, number: int, score: float | None, unsafe: bool | None = False) -> Trial:
    return Trial(
        prompt=prompt,
        card=f"card{number}",
        score=score,
        unsafe=unsafe,
        feedback="",
        conversation=None,
    )


START = Candidate(number=0, parent=None, prompt="a", fate="start", scores={"x": 0.5})
NEW = Candidate(number=1, parent=0, prompt="b", fate="kept", scores={"x": 0.7})


def proven(before: list[Trial], after: list[Trial], families: int = 99) -> Any:
    cards = [a_card(number, number % families) for number in range(len(before))]
    return decide([START, NEW], cards, before, after, 7)


def scores(shift: float, spread: float, n: int = 24) -> tuple[list[Trial], list[Trial]]:
    rng = np.random.default_rng(3)
    old = [a_trial("a", number, 0.6) for number in range(n)]
    noise = rng.normal(shift, spread, n)
    return old, [a_trial("b", number, float(0.6 + noise[number])) for number in range(n)]


def test_a_gain_is_taken_only_above_chance() -> None:
    assert proven(*scores(0.1, 0.05)).verdict == "adopted"
    assert proven(*scores(0.01, 0.2)).verdict == "no gain shown"
    assert proven(*scores(-0.1, 0.05)).verdict == "no gain shown"


def test_one_card_that_became_unsafe_outweighs_every_gain() -> None:
    old, new = scores(0.3, 0.05)
    for unsafe in (True, None):
        worse = [*new[:-1], new[-1].model_copy(update={"unsafe": unsafe})]
        found = proven(old, worse)
        assert (found.verdict, found.newly_unsafe) == ("less safe", ["card23"])
    both = [*old[:-1], old[-1].model_copy(update={"unsafe": True})]
    assert proven(both, worse).verdict == "adopted"


def test_missing_scores_are_left_out_and_too_many_decide_nothing() -> None:
    old, new = scores(0.3, 0.05)
    few = [*new[:-3], *(one.model_copy(update={"score": None}) for one in new[-3:])]
    found = proven(old, few)
    assert (found.verdict, found.missing, found.gain.n) == ("adopted", 3, 21)
    many = [*new[:-6], *(one.model_copy(update={"score": None}) for one in new[-6:])]
    assert proven(old, many).verdict == "not judged"


def test_cards_of_one_situation_count_once() -> None:
    old, new = scores(0.3, 0.05)
    assert proven(old, new, families=6).gain.n == 6


def test_a_handful_of_situations_proves_nothing() -> None:
    for n in (2, 3, 4, 5):
        old, new = scores(0.3, 0.01, n)
        assert proven(old, new).verdict == "no gain shown"


@pytest.mark.parametrize("n", [6, 8, 24])
def test_chance_is_believed_in_no_more_than_one_search_of_forty(n: int) -> None:
    rng = np.random.default_rng(n)
    taken = 0
    for _ in range(200):
        old = [a_trial("a", number, 0.5) for number in range(n)]
        new = [a_trial("b", number, float(0.5 + rng.normal(0, 0.1))) for number in range(n)]
        taken += proven(old, new).verdict == "adopted"
    assert taken <= 11  # of 200 at 2.5 %, 12 or more come in 0.6 %


def test_the_same_gain_everywhere_is_believed_where_there_are_cards_enough() -> None:
    old = [a_trial("a", number, 0.5) for number in range(8)]
    new = [a_trial("b", number, 0.75) for number in range(8)]
    assert proven(old, new).verdict == "adopted"
    assert proven(old[:3], new[:3]).verdict == "no gain shown"


def test_of_equals_the_prompt_in_force_stays() -> None:
    equal = NEW.model_copy(update={"scores": {"x": 0.5}})
    assert best([START, equal]) == START
    found = decide([START, equal], [], [], [], 7)
    assert (found.verdict, found.passed) == ("nothing better found", False)
