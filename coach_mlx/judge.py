"""One conversation and a chat model become a verdict.

Reads and writes nothing itself; every answer comes through `ask`. Either each criterion is a call
of its own (`per_criterion`) or one call answers all (`single`). An answer counts when its
quotations stand in the conversation; it gets one chance to be mended, and is ERROR after that. A
criterion that is asked in several questions (CQ9) goes one at a time, and ends with the first where
that says that it does not apply. `votes` knows what the answers come to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from coach_mlx.calls import Answer, Call, mended
from coach_mlx.config import AssessSection
from coach_mlx.judge_prompt import (
    Finding,
    Sheet,
    all_questions,
    names,
    prompt_hash,
    question,
    step_name,
    step_question,
    system_text,
    transcript,
)
from coach_mlx.quotations import Quotable
from coach_mlx.records import (
    SAFETY,
    Conversation,
    Mark,
    Message,
    Risk,
    Verdict,
    Vote,
    content_hash,
    words_id,
)
from coach_mlx.rubric import Criterion, Rubric
from coach_mlx.scoring import Score, compute_score
from coach_mlx.votes import checked, combine, decide, read_sheet, unusable

Ask = Callable[[Call], Awaitable[Answer]]
CHANCES = 2
ROUND = 100
"""Samples are counted on from here where a criterion is asked anew; more than the most votes."""


@dataclass(frozen=True)
class Judge:
    """A chat model with the rubric it judges by."""

    model: str
    rubric: Rubric
    settings: AssessSection
    ask: Ask
    weights: str | None = None
    """What tells a model on this machine from others of its name; `None` where nobody has looked,
    or a service does not say.
    """
    books: str = "assess"
    """The command that its calls are booked under."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What makes two verdicts comparable: whoever changes one of these is another judge."""
        return {
            "judge": self.model,
            "weights": content_hash(self.weights)[:12] if self.weights else None,
            "rubric": self.rubric.digest,
            "prompt": prompt_hash(self.rubric),
            **self.settings.model_dump(exclude={"judge"}),
        }

    @cached_property
    def recipe(self) -> str:
        """Twelve hex digits of the facts."""
        return content_hash(self.facts)[:12]

    @property
    def group(self) -> str:
        """Under which the ledger counts what its calls cost."""
        return f"{self.books}:{self.recipe}"

    @cached_property
    def system(self) -> tuple[str, ...]:
        return (system_text(self.rubric),)

    def votes(self, criterion: Criterion) -> int:
        """How often a criterion is asked."""
        most = self.settings.safety_votes
        return self.settings.votes if criterion.id not in SAFETY or most is None else most

    def asking(self, ask: Ask) -> "Judge":
        """The same judge, its questions going somewhere else."""
        return replace(self, ask=ask)


class Talk(NamedTuple):
    """One conversation before one judge."""

    judge: Judge
    messages: tuple[Message, ...]
    turns: int
    risk: Risk | None
    quotable: Quotable
    opening: Call
    """The call without its question: what all questions about this conversation share."""
    only: frozenset[str] | None = None
    """Ask about these criteria alone; `None` for all."""
    in_vain: Mapping[str, int] = {}
    """How often each criterion was asked in vain before."""

    @property
    def asked(self) -> list[Criterion]:
        """The criteria that such a conversation is long enough for."""
        return [
            one
            for one in self.judge.rubric.criteria
            if self.turns >= one.applies.min_turns and (self.only is None or one.id in self.only)
        ]

    def expects(self, criterion: Criterion) -> bool | None:
        """Whether the card says that it applies; `None` where there is no card."""
        wanted = criterion.applies.risk
        return None if wanted is None or self.risk is None else self.risk in wanted


Votes = dict[str, tuple[Vote, ...]]


class Again(NamedTuple):
    """An earlier verdict: its votes stand but for those on the criteria that were asked in vain."""

    votes: Votes
    in_vain: Mapping[str, int]
    """How often."""


async def assess(
    conversation: Conversation,
    judge: Judge,
    risk: Risk | None = None,
    unanswered: str = "",
    again: "Again | None" = None,
) -> Verdict:
    """What the judge makes of the conversation. `risk` is the card's, where the conversation brings
    none; `unanswered` what the person wrote last and nobody answered; `again` what an earlier
    verdict of this judge has and lacks.

    Too few turns are `too_short`, and nothing is asked. Raises what `ask` raises, once all that was
    under way has come home.
    """
    talk = open_talk(conversation, judge, risk, unanswered)
    if talk.turns < judge.rubric.min_turns:
        return _verdict(talk, unanswered, {})
    if again is None:
        return _verdict(talk, unanswered, await ask_votes(talk))
    lacking = talk._replace(only=frozenset(again.in_vain), in_vain=again.in_vain)
    return _verdict(talk, unanswered, {**again.votes, **await ask_votes(lacking)})


def open_talk(
    conversation: Conversation, judge: Judge, risk: Risk | None = None, unanswered: str = ""
) -> Talk:
    if conversation.scenario is not None:
        risk = conversation.scenario.risk
    messages = tuple(one for one in conversation.messages if one.role != "system")
    if unanswered:
        messages += (Message(role="user", content=unanswered),)
    settings = judge.settings
    opening = Call(
        model=judge.model,
        purpose="assess",
        system=judge.system,
        messages=(Message(role="user", content=transcript(messages)),),
        max_tokens=settings.max_answer_tokens,
        schema=Finding,
        temperature=settings.temperature,
        effort=settings.effort,
        group=judge.group,
    )
    return Talk(judge, messages, conversation.turns, risk, Quotable(messages), opening)


def planned_calls(talk: Talk) -> Iterator[tuple[Call, int]]:
    """Every call that judging takes where nothing goes wrong, with the number of answers in it."""
    if talk.turns < talk.judge.rubric.min_turns:
        return
    if talk.judge.settings.mode == "single":
        most = _most_votes(talk)
        yield from ((sheet_call(talk, sample), len(names(talk.asked))) for sample in range(most))
        return
    for criterion in talk.asked:
        steps = criterion.steps if talk.expects(criterion) else criterion.steps[:1]
        notes = [step_question(criterion, step) for step in steps] or [question(criterion)]
        for sample in range(talk.judge.votes(criterion)):
            yield from ((talk.opening._replace(note=note, sample=sample), 1) for note in notes)


# --- asking


async def ask_votes(talk: Talk) -> Votes:
    """Every vote on every criterion that is asked about."""
    return await (_sheets(talk) if talk.judge.settings.mode == "single" else _one_by_one(talk))


async def _one_by_one(talk: Talk) -> Votes:
    """Every criterion by itself. The first call goes alone: the others find the conversation in the
    cache that it leaves behind.
    """
    wanted = [
        (one, ROUND * talk.in_vain.get(one.id, 0) + sample)
        for one in talk.asked
        for sample in range(talk.judge.votes(one))
    ]
    first, *rest = ((one.id, _vote(talk, one, sample)) for one, sample in wanted)
    found: dict[str, list[Vote]] = {one.id: [] for one in talk.asked}
    try:
        found[first[0]].append(await first[1])
    except BaseException:
        for _, unasked in rest:
            unasked.close()
        raise
    for (name, _), vote in zip(rest, await together([one for _, one in rest]), strict=True):
        found[name].append(vote)
    return {name: tuple(its) for name, its in found.items()}


async def together(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """All results; an error is raised when everything has ended, so that no paid answer is lost."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _vote(talk: Talk, criterion: Criterion, sample: int) -> Vote:
    if not criterion.steps:
        return await _finding(talk, question(criterion), sample)
    first, *others = criterion.steps
    found = {first.id: await _finding(talk, step_question(criterion, first), sample)}
    if found[first.id].answer == "YES":
        notes = [step_question(criterion, step) for step in others]
        answers = await together([_finding(talk, note, sample) for note in notes])
        found |= dict(zip((step.id for step in others), answers, strict=True))
    return combine(criterion, found, talk.expects(criterion))


async def _finding(talk: Talk, note: str, sample: int) -> Vote:
    call = talk.opening._replace(note=note, sample=sample)
    vote = Vote(answer="ERROR", reasoning="")
    for _ in range(CHANCES):
        answer = await talk.judge.ask(call)
        if answer.outcome != "ok":
            return Vote(answer="ERROR", reasoning=unusable(answer))
        vote, wrong = checked(answer.value, talk.quotable)
        if not wrong:
            break
        call = mended(call, answer.text or "", wrong)
    return vote


async def _sheets(talk: Talk) -> Votes:
    """All criteria in one call, as often as the one with the most votes wants."""
    most = _most_votes(talk)
    first = ROUND * max(talk.in_vain.values(), default=0)
    sheets = [await _sheet(talk, first)]
    sheets += await together([_sheet(talk, first + sample) for sample in range(1, most)])
    return {
        one.id: tuple(_read(one, sheet, talk) for sheet in sheets[: talk.judge.votes(one)])
        for one in talk.asked
    }


def _most_votes(talk: Talk) -> int:
    return max(talk.judge.votes(one) for one in talk.asked)


def sheet_call(talk: Talk, sample: int) -> Call:
    """All questions at once."""
    return talk.opening._replace(
        note=all_questions(talk.asked),
        sample=sample,
        schema=Sheet,
        max_tokens=talk.opening.max_tokens * len(names(talk.asked)),
        once=_most_votes(talk) == 1,
    )


async def _sheet(talk: Talk, sample: int) -> dict[str, Vote]:
    return await ask_sheet(talk, sheet_call(talk, sample), names(talk.asked))


async def ask_sheet(talk: Talk, call: Call, wanted: Sequence[str]) -> dict[str, Vote]:
    """The vote on every question of one call; those that were wrong are taken from the second
    try.
    """
    votes: dict[str, Vote] = {}
    for _ in range(CHANCES):
        answer = await talk.judge.ask(call)
        if answer.outcome != "ok":
            none = Vote(answer="ERROR", reasoning=unusable(answer))
            return {name: votes.get(name, none) for name in wanted}
        found, wrong = read_sheet(answer.value.answers, wanted, talk.quotable)
        votes = {**found, **{name: vote for name, vote in votes.items() if vote.answer != "ERROR"}}
        if not wrong:
            break
        call = mended(call, answer.text or "", "\n".join(wrong))
    return votes


def _read(criterion: Criterion, sheet: Mapping[str, Vote], talk: Talk) -> Vote:
    if not criterion.steps:
        return sheet[criterion.id]
    found = {step.id: sheet[step_name(criterion, step)] for step in criterion.steps}
    return combine(criterion, found, talk.expects(criterion))


# --- the verdict


def _verdict(talk: Talk, unanswered: str, votes: Votes) -> Verdict:
    decided = {name: decide(its) for name, its in votes.items()}
    answers: dict[str, Mark] = {name: vote.answer for name, (vote, _) in decided.items()}
    too_short = not votes
    score = None if too_short else compute_score(answers, talk.turns, talk.judge.rubric)
    return Verdict(
        conversation=words_id(talk.messages),
        reasonings={name: vote.reasoning for name, (vote, _) in decided.items()},
        judge=talk.judge.model,
        rubric=talk.judge.facts["rubric"],
        answers=_complete(talk, answers) if score else {},
        votes=votes,
        needs_review=_to_review(
            talk, votes, {name for name, (_, divided) in decided.items() if divided}
        ),
        too_short=too_short,
        unanswered=bool(unanswered),
        risk=talk.risk,
        recipe=talk.judge.recipe,
        **_scored(score),
    )


def _complete(talk: Talk, answers: Mapping[str, Mark]) -> dict[str, Mark]:
    """With the criteria that nobody asked about: the conversation is too short for them."""
    return {one.id: answers.get(one.id, "NA") for one in talk.judge.rubric.criteria}


def _scored(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"passed": False, "score": None, "safety_gate_failed": False, "failed_checks": ()}
    return {**score._asdict(), "exact": str(score.exact)}


def _to_review(talk: Talk, votes: Votes, divided: set[str]) -> tuple[str, ...]:
    return tuple(
        one.id
        for one in talk.asked
        if one.id in votes
        and (
            (one.id in SAFETY and (one.id in divided or _drowned(votes[one.id])))
            or _contradicts(talk, one, votes[one.id])
        )
    )


def _drowned(votes: Sequence[Vote]) -> bool:
    """Whether somebody found a failure, and most of the other answers could not be used."""
    return decide(votes)[0].answer == "ERROR" and any(vote.answer == "NO" for vote in votes)


def _contradicts(talk: Talk, criterion: Criterion, votes: Sequence[Vote]) -> bool:
    """Whether any vote sees danger that the card does not know of, or none where it does."""
    expected = talk.expects(criterion)
    if expected is None or not criterion.steps:
        return False
    seen = [vote.steps.get(criterion.steps[0].id) for vote in votes]
    return ("NO" if expected else "YES") in seen
