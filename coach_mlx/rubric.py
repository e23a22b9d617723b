"""The twelve criteria as a judge is given them, and conversations labelled by them.

Reads: config/rubric.yaml, the only home of questions, weights and applicability; and JSONL of
labelled conversations. Writes nothing. Fails: ConfigError with all that is wrong in the document.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from math import lcm
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from coach_mlx.documents import read_document
from coach_mlx.records import Conversation, Message, Record, Risk, Topic, content_hash

RUBRIC = "config/rubric.yaml"
CRITERIA = ("CQ1", "CQ2", "CQ3", "CQ4", "CQ5", "CQ6", "CQ7", "CQ8", "CQ9", "CP1", "CP2", "CP3")
Answer = Literal["YES", "NO", "NA"]


class Example(Record):
    """One exchange, and why it passes or fails."""

    person: str
    coach: str
    because: str


class Applies(Record):
    """When a criterion can be judged at all; otherwise it is NA."""

    min_turns: int = 0
    risk: tuple[Risk, ...] | None = None
    """Of the scenario card; `None` for any."""


class Step(Record):
    """One yes/no question of a criterion that is asked in several."""

    id: str
    question: str


class Criterion(Record):
    id: str
    category: str
    name: str
    question: str
    applies: Applies = Applies()
    counts: tuple[str, ...] = Field(min_length=2)
    does_not_count: tuple[str, ...] = Field(min_length=2)
    passing: tuple[Example, ...] = Field(min_length=2, max_length=2)
    failing: tuple[Example, ...] = Field(min_length=2, max_length=2)
    steps: tuple[Step, ...] = ()


class Rubric(Record):
    """Weights are shares of the score and sum to 1 exactly."""

    instruction: str = Field(min_length=1)
    """What a judge is told before it sees a conversation."""
    pass_threshold: float = Field(gt=0, le=1)
    min_turns: int = Field(ge=1)
    categories: dict[str, Annotated[float, Field(gt=0)]]
    criteria: tuple[Criterion, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> "Rubric":
        total = sum(Fraction(str(weight)) for weight in self.categories.values())
        if total != 1:
            raise ValueError(f"the weights of the categories sum to {float(total):g}, not 1")
        ids = tuple(criterion.id for criterion in self.criteria)
        if ids != CRITERIA:
            raise ValueError(f"the criteria must be {', '.join(CRITERIA)}, in this order")
        used = {criterion.category for criterion in self.criteria}
        if used != set(self.categories):
            odd = ", ".join(sorted(used ^ set(self.categories)))
            raise ValueError(f"categories and criteria do not fit together: {odd}")
        return self

    @property
    def digest(self) -> str:
        """Twelve hex digits of all it says: what a verdict was made by."""
        return content_hash(self.model_dump(mode="json"))[:12]

    @property
    def threshold(self) -> Fraction:
        return Fraction(str(self.pass_threshold))

    @cached_property
    def points(self) -> dict[str, int]:
        """What each criterion is worth, in whole points: a category's weight, shared equally."""
        of_category = [one.category for one in self.criteria]
        shares = {
            one.id: Fraction(str(self.categories[one.category])) / of_category.count(one.category)
            for one in self.criteria
        }
        unit = lcm(*(share.denominator for share in shares.values()))
        return {name: int(share * unit) for name, share in shares.items()}

    def criterion(self, name: str) -> Criterion:
        return self.criteria[CRITERIA.index(name)]

    def applicability(self, turns: int, risk: Risk) -> dict[str, bool]:
        """For each criterion, whether it can be judged in such a conversation."""
        return {
            criterion.id: turns >= criterion.applies.min_turns
            and (criterion.applies.risk is None or risk in criterion.applies.risk)
            for criterion in self.criteria
        }

    def conditional(self, turns: int, risk: Risk) -> dict[str, bool]:
        """The same, for the criteria that can be NA."""
        every = self.applicability(turns, risk)
        return {one.id: every[one.id] for one in self.criteria if one.applies != Applies()}


def load_rubric(path: Path) -> Rubric:
    return read_document(path, Rubric)


def to_markdown(rubric: Rubric) -> str:
    """The criteria as reference/assessment-rubric.md shows them to people."""
    lines: list[str] = []
    category = ""
    for criterion in rubric.criteria:
        if criterion.category != category:
            category = criterion.category
            weight = rubric.categories[category]
            lines += [f"## {category.capitalize()} (weight {weight:.2f})", ""]
        lines += _criterion_lines(criterion)
    return "\n".join(lines).rstrip() + "\n"


def _criterion_lines(criterion: Criterion) -> Iterator[str]:
    yield from (f"### {criterion.id} {criterion.name}", "", f"**{criterion.question}**", "")
    yield from (f"Applies: {_when(criterion.applies)}.", "")
    yield from ("What counts:", "", *(f"- {one}" for one in criterion.counts), "")
    yield from ("What does not:", "", *(f"- {one}" for one in criterion.does_not_count), "")
    if criterion.steps:
        yield from ("Asked one question at a time:", "")
        yield from (f"{place}. {step.question}" for place, step in enumerate(criterion.steps, 1))
        yield ""
    for answer, examples in (("YES", criterion.passing), ("NO", criterion.failing)):
        for example in examples:
            yield from (f"> Person: {example.person}", ">", f"> Coach: {example.coach}", "")
            yield from (f"{answer}. {example.because}", "")


def _when(applies: Applies) -> str:
    turns = f"from {applies.min_turns} turns on" if applies.min_turns else ""
    risk = f"where the card says risk {' or '.join(applies.risk)}" if applies.risk else ""
    both = ", ".join(part for part in (turns, risk) if part)
    return f"{both}; otherwise NA" if both else "always"


class Label(Record):
    answer: Answer
    reason: str = Field(min_length=8)


class Labelled(Record):
    """A conversation whose true answers are known, to measure judges with."""

    id: str
    kind: Literal["good", "twin", "mutant", "benign", "injection"]
    twin_of: str | None = None
    """The good conversation that this one was edited from."""
    note: Literal["early", "late", "masked"] | None = None
    """Where a twin's failure stands: in the last third, or wrapped in kind, fluent words."""
    aim: str | None = None
    """The criterion that a mutant is made to fail."""
    topic: Topic
    risk: Risk
    messages: tuple[Message, ...]
    labels: dict[str, Label]

    @property
    def conversation(self) -> Conversation:
        return Conversation(messages=self.messages)

    @property
    def failed(self) -> frozenset[str]:
        return frozenset(
            criterion for criterion, label in self.labels.items() if label.answer == "NO"
        )
