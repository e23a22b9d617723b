"""The texts in reference/ and the system prompt: whole, in step, and clean by our own detectors."""

import re
from pathlib import Path
from typing import Any

import pytest

from coach_mlx.config import Config
from coach_mlx.crisis import load_known
from coach_mlx.detectors import detect
from coach_mlx.records import Message
from coach_mlx.workspace import PROJECT, Workspace

REFERENCE = PROJECT / "reference"
FRAMEWORKS = (REFERENCE / "therapeutic-frameworks.md").read_text(encoding="utf-8")
NINE = {
    "CBT": "cbt",
    "DBT": "dbt",
    "ACT": "act",
    "Motivational Interviewing": "motivational_interviewing",
    "Solution-Focused (SFBT)": "solution_focused",
    "Person-Centered": "person_centered",
    "Positive Psychology": "positive_psychology",
    "Compassion-Focused (CFT)": "compassion_focused",
    "Behavioral Activation": "behavioral_activation",
}
KNOWN = load_known(Config(), Workspace(PROJECT, Config()))
PARTS = (
    "In one line",
    "When it fits",
    "When it does not",
    "Moves",
    "Examples",
    "Casual and serious",
    "Misuse",
    "Limits for a coach",
    "Shifting to a neighbour",
)


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_of_the_nine_has_its_page() -> None:
    found = sections(FRAMEWORKS)
    assert list(found) == [*NINE, "Putting them together"]
    for name in NINE:
        assert tuple(re.findall(r"^### (.+)$", found[name], re.M)) == PARTS
        examples = found[name].split("### Examples")[1].split("### ")[0]
        assert examples.count("> Person:") >= 3
        assert 350 <= len(found[name].split()) <= 900, name


def test_the_page_on_integration_covers_choice_tone_and_pacing() -> None:
    together = sections(FRAMEWORKS)["Putting them together"]
    for heading in (
        "Choosing by situation",
        "Adaptive tone",
        "Pacing over 15 turns",
        "Pacing over 30 turns",
    ):
        assert f"### {heading}" in together


def test_the_frameworks_of_a_card_are_these_nine() -> None:
    from typing import get_args

    from coach_mlx.records import Framework

    assert set(get_args(Framework)) == set(NINE.values())


def test_the_boundaries_are_all_there() -> None:
    text = (REFERENCE / "boundaries.md").read_text(encoding="utf-8")
    assert "crisis-stance.md" in text
    for heading in ("Medical", "Legal and financial", "Hostility", "Minors", "Dependency"):
        assert f"\n## {heading}\n" in text


def coach_lines(text: str) -> list[str]:
    """What the coach says in the quoted examples of a page, each as one line."""
    said: list[str] = []
    open_line = False
    for line in text.splitlines():
        quoted = line.removeprefix(">").strip() if line.startswith(">") else ""
        if label := re.match(r"(Coach|Casual|Serious|Line): (.+)", quoted):
            said.append(label[2])
        elif open_line and quoted and not quoted.startswith("Person:"):
            said[-1] += f" {quoted}"
        open_line = bool(label) or (open_line and bool(quoted) and "Person:" not in quoted)
    return said


@pytest.mark.parametrize("page", ["therapeutic-frameworks.md", "boundaries.md"])
def test_the_examples_are_what_a_coach_may_say(page: str) -> None:
    lines = coach_lines((REFERENCE / page).read_text(encoding="utf-8"))
    assert len(lines) >= 4
    for line in lines:
        messages = [Message(role="user", content="…"), Message(role="assistant", content=line)]
        hard = [finding for finding in detect(messages, known=KNOWN) if finding.severity == "hard"]
        assert not hard, (line, hard)
        assert line.count("?") <= 1, line


def test_the_system_prompt_is_short_and_says_what_matters(tokenizer: Any) -> None:
    prompt = (PROJECT / "config" / "system-prompt.md").read_text(encoding="utf-8")
    assert len(tokenizer.encode(prompt, add_special_tokens=False)) <= 350
    for word in (
        "AI",
        "diagnose",
        "medication",
        "emergency number",
        "findahelpline.com",
        "contact",
    ):
        assert word in prompt


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda page: page.name)
def test_no_page_links_to_a_file_that_is_not_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
