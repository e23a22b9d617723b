"""The judge on what the arms said: blinded, in random order, with votes.

Reads the arms' talks; writes output/evaluation/judgements.jsonl, a line a talk as it comes, and
every answer to the ledger, so a killed run pays for nothing twice. The judge sees a talk and
nothing of who spoke; talks of the same words are judged once. Held-out talks are asked about by all
criteria, probes by those of safety and by their own musts and must-nots. A missing answer stays
missing.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from coach_mlx import console
from coach_mlx.config import Config
from coach_mlx.errors import INTERRUPTED, DataError, Stopped
from coach_mlx.judge import Judge, Talk, ask_votes, open_talk
from coach_mlx.judging import estimated, look_at_weights, make_judge
from coach_mlx.ledger import Ledger
from coach_mlx.llm import Models
from coach_mlx.prices import PRICES, Prices
from coach_mlx.quote import Estimated, Quote, lay_out
from coach_mlx.records import SAFETY, Conversation, Mark, Message, Record, Vote, content_hash
from coach_mlx.replay import SEAL_DIGITS, Script, Told
from coach_mlx.requirements import ask_requirements, questions, requirement_call
from coach_mlx.rubric import CRITERIA, Rubric
from coach_mlx.scoring import compute_score, settled
from coach_mlx.votes import decide
from coach_mlx.workspace import Workspace, append_line, read_appended

REQUIREMENT_WORDS = 40
"""Of an answer to one of a probe's questions."""
LEAST_UNANIMOUS = 3
REPLY_WORDS = 60
"""Of a reply, for a quote; a coach in writing says 15 to 45."""


class Judgement(Record):
    """Every vote on one talk."""

    conversation: str
    """Its words' id."""
    script: str
    recipe: str
    """Of the judge."""
    asked: str
    """Hash of the questions that are the script's own, and of its risk."""
    votes: dict[str, tuple[Vote, ...]]
    seal: str = ""
    """Hash of all the rest."""

    @property
    def own_seal(self) -> str:
        return content_hash(self.model_dump(mode="json", exclude={"seal"}))[:SEAL_DIGITS]


Key = tuple[str, str, str, str]


class Judged(NamedTuple):
    """A judgement, as the numbers need it."""

    judgement: Judgement
    turns: int
    rubric: Rubric

    @property
    def answers(self) -> dict[str, Mark]:
        """What counts, by criterion: the majority of the votes."""
        votes = self.judgement.votes
        decided = {name: decide(votes[name])[0].answer for name in CRITERIA if name in votes}
        criteria = (self.rubric.criterion(name) for name in decided)
        return {one.id: settled(one, decided[one.id], self.turns) for one in criteria}

    @property
    def errors(self) -> tuple[str, ...]:
        return tuple(name for name, mark in self.answers.items() if mark == "ERROR")

    def score(self, errors_as: Mark | None = None) -> float | None:
        """Of all criteria; `None` where one of them has no usable answer, unless it is to count as
        something.
        """
        answers = {**self.answers}
        for name in self.errors:
            if errors_as is None:
                return None
            answers[name] = errors_as
        return compute_score(answers, self.turns, self.rubric).score

    def passed(self, threshold: float | None = None) -> bool | None:
        """By the rubric, or by another threshold; `None` where an answer is missing."""
        if self.errors:
            return None
        found = compute_score(self.answers, self.turns, self.rubric)
        if threshold is None:
            return found.passed
        return found.score >= threshold - 1e-9 and not found.safety_gate_failed

    @property
    def safe(self) -> bool | None:
        """By CQ8 and CQ9; `None` where the judge could not say."""
        marks = [self.answers.get(name, "ERROR") for name in SAFETY]
        if "NO" in marks:
            return False
        return None if "ERROR" in marks else True

    def unanimous(self, name: str) -> bool:
        """Three votes or more, all NO."""
        votes = self.judgement.votes.get(name, ())
        return len(votes) >= LEAST_UNANIMOUS and all(vote.answer == "NO" for vote in votes)

    def reasoning(self, name: str) -> str:
        return decide(self.judgement.votes[name])[0].reasoning

    def quotes(self, name: str) -> tuple[str, ...]:
        return decide(self.judgement.votes[name])[0].quotes

    @property
    def requirements(self) -> dict[str, Mark]:
        """Of a probe's own questions."""
        votes = self.judgement.votes
        return {name: decide(votes[name])[0].answer for name in votes if name not in CRITERIA}

    @property
    def flips(self) -> tuple[int, int]:
        """Criteria whose votes differ, of those with several usable votes."""
        several = [
            {vote.answer for vote in votes} - {"ERROR"}
            for votes in self.judgement.votes.values()
            if len(votes) > 1
        ]
        usable = [answers for answers in several if answers]
        return sum(len(answers) > 1 for answers in usable), len(usable)


class Panel:
    """The judge of an evaluation."""

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        files_only: bool = False,
        folder: Path | None = None,
        books: str = "evaluate",
    ) -> None:
        """`folder` holds its judgements, `books` is what the ledger calls them. Raises: ConfigError
        where `evaluate.judge` names no chat model.
        """
        settings = config.evaluate
        asked = {
            "judge": settings.judge,
            "votes": settings.votes,
            "safety_votes": settings.safety_votes,
        }
        self._config = config.model_copy(update={"assess": config.assess.model_copy(update=asked)})
        self._workspace = workspace
        judge = look_at_weights(
            make_judge(self._config, workspace), self._config, workspace, files_only
        )
        self.judge: Judge = replace(judge, books=books)
        self._path = (folder or workspace.evaluation) / "judgements.jsonl"

    @cached_property
    def prices(self) -> Prices:
        return Prices(self._workspace.find(PRICES), self._config.calls.openai_base_url)

    def read(self, told: Sequence[Told]) -> dict[tuple[str, str, int], Judged]:
        """What is judged already, by arm, script and repeat."""
        done = self._done()
        found = {}
        for one in told:
            judgement = done.get(self._key(one))
            if judgement is not None:
                turns = len(one.script.says)
                found[one.arm, one.script.id, one.repeat] = Judged(
                    judgement, turns, self.judge.rubric
                )
        return found

    def require(self) -> None:
        """Look whether the judge can be asked at all, before anything hangs on it. Raises:
        ToolError, BackendError, ConfigError.
        """

        async def look() -> None:
            async with Models(self._config, self._workspace) as models:
                await models.prepare([self.judge.model])

        asyncio.run(look())

    def run(self, told: Sequence[Told]) -> None:
        """Judge what is not judged. Raises: BackendError where the judge or the budget ends."""
        todo = self.to_do(told)
        if not todo:
            return
        try:
            asyncio.run(self._judge(todo))
        except asyncio.CancelledError:
            raise Stopped(INTERRUPTED) from None

    def to_do(self, told: Sequence[Told]) -> list[Told]:
        """Each talk once, in an order that tells nothing of the arm."""
        done = self._done()
        waiting = {self._key(one): one for one in told if self._long_enough(one.script)}
        left = [one for key, one in sorted(waiting.items()) if key not in done]
        random.Random(self._config.seed).shuffle(left)
        return left

    def _long_enough(self, script: Script) -> bool:
        return len(script.says) >= self.judge.rubric.min_turns

    def _key(self, one: Told) -> Key:
        asked = content_hash([questions(one.script), one.script.worst_risk])[:12]
        return one.conversation.id, one.script.id, self.judge.recipe, asked

    def _done(self) -> dict[Key, Judgement]:
        lines = read_appended(self._path, Judgement)
        for number, one in enumerate(lines, start=1):
            if one.seal != one.own_seal:
                raise DataError(
                    f"{self._path}:{number}: this is not what the judge said: the line was "
                    f"changed. Type: rm {self._path}, and the same command takes the answers out "
                    "of the ledger again, at no cost."
                )
        return {(one.conversation, one.script, one.recipe, one.asked): one for one in lines}

    async def _judge(self, todo: Sequence[Told]) -> None:
        async with Models(self._config, self._workspace) as models:
            await models.prepare([self.judge.model])
            asking = self.judge.asking(models.ask)
            with console.progress("judge", len(todo), "talks") as bar:

                async def one(told: Told) -> None:
                    votes = await _votes(asking, told)
                    name, script, recipe, asked = self._key(told)
                    line = Judgement(
                        conversation=name, script=script, recipe=recipe, asked=asked, votes=votes
                    )
                    sealed = line.model_copy(update={"seal": line.own_seal})
                    append_line(self._path, sealed.model_dump_json(exclude_defaults=True))
                    spent = models.ledger.spent_usd
                    bar.advance(1, f"${spent:.2f} of ${models.ledger.budget_usd:.2f}")

                await models.each(todo[:1], one, [self.judge.model])  # fills the cache
                await models.each(todo[1:], one, [self.judge.model])

    def say_price(self, told: Sequence[Told]) -> None:
        """Before anything is sent."""
        left = self.to_do(told)
        if not left or self.prices.is_free(self.judge.model):
            return
        words = sum(len(one.reply.split()) for each in left for one in each.replies)
        mean = words / max(1, sum(len(each.replies) for each in left))
        found = self.quote([one.script for one in left], 1, mean)
        console.say(
            f"{len(left)} talks are judged by {self.judge.model}: about ${found.usd:.2f}, "
            f"and never more than calls.budget_usd (${self._config.calls.budget_usd:.2f})."
        )

    def quote(self, scripts: Sequence[Script], arms: int, words: float) -> Quote:
        """What judging these would cost where each reply has so many words; nothing is sent."""
        calls = [
            list(self._planned(script, filler(script, words)))
            for script in scripts
            for _ in range(arms)
        ]
        return self.lay_out(calls, arms * sum(len(one.says) for one in scripts))

    def lay_out(self, calls: Sequence[Sequence[Estimated]], turns: int) -> Quote:
        ledger = Ledger(self._workspace.calls, self._config.calls.budget_usd)
        try:
            return lay_out(calls, turns, [self.judge.model], self.prices, ledger, False)
        finally:
            ledger.close()

    def _planned(self, script: Script, messages: Sequence[Message]) -> Iterator[Estimated]:
        talk = _open(self.judge, script, messages)
        yield from estimated(talk)
        wanted = len(questions(script))
        if wanted:
            for sample in range(self.judge.settings.votes):
                call = requirement_call(talk, script, sample)
                yield Estimated(call, wanted * REQUIREMENT_WORDS)

    def usd(self) -> tuple[int, float]:
        """Calls and dollars of this judge in evaluations."""
        ledger = Ledger(self._workspace.calls, self._config.calls.budget_usd)
        try:
            spent = ledger.totals(group=self.judge.group)
            return spent.calls, round(spent.usd + spent.lost_usd, 6)
        finally:
            ledger.close()


def filler(script: Script, words: float) -> list[Message]:
    """The script with replies of so many words, for a quote."""
    reply = " ".join(["word"] * max(1, round(words)))
    pairs = ((("user", said), ("assistant", reply)) for said in script.says)
    return [
        Message.model_validate({"role": role, "content": text})
        for pair in pairs
        for role, text in pair
    ]


def _open(judge: Judge, script: Script, messages: Sequence[Message]) -> Talk:
    talk = open_talk(Conversation(messages=tuple(messages)), judge, script.worst_risk)
    return talk._replace(only=frozenset(SAFETY)) if script.kind == "probe" else talk


async def _votes(judge: Judge, told: Told) -> dict[str, tuple[Vote, ...]]:
    talk = _open(judge, told.script, told.messages)
    votes = await ask_votes(talk)
    if questions(told.script):
        votes |= await ask_requirements(talk, told.script, judge.settings.votes)
    return votes
