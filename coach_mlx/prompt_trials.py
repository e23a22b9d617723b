"""A prompt is tried on a scenario card: a conversation is written under it, and judged.

Writes output/optimize/RUN/trials.jsonl, a line a trial as it ends; every answer comes through `ask`
and lies in the ledger, so a trial that was made before is made again for nothing. What fails for a
prompt becomes feedback in words. A card of which no conversation comes is worth nothing, like one
that is unsafe; a judge that gave no usable answer leaves the score missing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from coach_mlx.calls import Answer, Call
from coach_mlx.detectors import OF_FORM, Finding, detect
from coach_mlx.dialogue import Cast, Failure
from coach_mlx.judge import Judge, assess
from coach_mlx.records import SAFETY, Conversation, Record, Scenario, Verdict, content_hash
from coach_mlx.rounds import write_one
from coach_mlx.rubric import Rubric
from coach_mlx.talk import Known
from coach_mlx.workspace import append_line, read_appended

ALL_WELL = "Nothing was found: every question was answered with yes."


class Trial(Record):
    """One prompt on one card."""

    prompt: str
    """Hash of the prompt."""
    card: str
    score: float | None
    """By the rubric, 0 to 1; `None` where the judge's answers cannot be used."""
    unsafe: bool | None
    """`None` where the judge could not say and no detector found anything, or where no conversation
    came of a card with danger in it.
    """
    feedback: str
    conversation: Conversation | None

    @property
    def value(self) -> float:
        """What the search counts: nothing for what is unsafe or missing."""
        return 0.0 if self.unsafe or self.score is None else self.score


def prompt_hash(prompt: str) -> str:
    """Twelve hex digits."""
    return content_hash(prompt)[:12]


class Trials:
    """All trials of one run; each is made once."""

    def __init__(
        self,
        cast: Cast,
        judge: Judge,
        known: Known,
        ask: Callable[[Call], Awaitable[Answer]],
        path: Path,
        width: int,
        done: Callable[[], None],
    ) -> None:
        self._cast, self._judge, self._known, self._ask = cast, judge.asking(ask), known, ask
        self._path, self._done = path, done
        self._room = asyncio.Semaphore(width)
        self._tasks: dict[tuple[str, str], asyncio.Task[Trial]] = {}
        self._kept = {(one.prompt, one.card) for one in read_appended(path, Trial)}

    async def of(self, prompt: str, card: Scenario) -> Trial:
        """Raises what `ask` raises."""
        key = (prompt_hash(prompt), str(card.id))
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._make(prompt, card))
        return await asyncio.shield(self._tasks[key])

    def give_up(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def come_home(self) -> None:
        """Wait until all that is under way is stored, however it ends."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _make(self, prompt: str, card: Scenario) -> Trial:
        async with self._room:
            cast = self._cast._replace(prompts=self._cast.prompts._replace(coach=prompt))
            written = await write_one(card, cast, self._ask)
            if isinstance(written, Failure):
                trial = _unwritten(prompt, card, written)
            else:
                trial = judged(
                    prompt,
                    card,
                    written,
                    await assess(written, self._judge),
                    self._known,
                    self._judge.rubric,
                )
        if (trial.prompt, trial.card) not in self._kept:
            append_line(self._path, trial.model_dump_json())
        self._done()
        return trial


def _unwritten(prompt: str, card: Scenario, failure: Failure) -> Trial:
    return Trial(
        prompt=prompt_hash(prompt),
        card=str(card.id),
        score=0.0,
        unsafe=False if card.risk == "none" else None,
        feedback=f"No conversation came of this card: {failure.detail}.",
        conversation=None,
    )


def judged(
    prompt: str,
    card: Scenario,
    conversation: Conversation,
    verdict: Verdict,
    known: Known,
    rubric: Rubric,
) -> Trial:
    """What a verdict and the detectors say of the prompt that wrote the conversation."""
    found = [
        one for one in detect(conversation.messages, card.risk, known) if one.severity == "hard"
    ]
    harm = [one for one in found if one.code not in OF_FORM]
    silent = verdict.too_short or bool(set(SAFETY) & set(verdict.errors))
    unsafe = True if harm or verdict.unsafe else None if silent else False
    return Trial(
        prompt=prompt_hash(prompt),
        card=str(card.id),
        score=None if verdict.errors else verdict.score,
        unsafe=unsafe,
        feedback=feedback(verdict, found, rubric),
        conversation=conversation,
    )


def feedback(verdict: Verdict, found: list[Finding], rubric: Rubric) -> str:
    """The failed criteria with the judge's reasons, and what the detectors found."""
    lines = [
        f"{name} {rubric.criterion(name).name}: no. {verdict.reasonings[name]}"
        for name in verdict.failed_checks
        if name not in verdict.errors
    ]
    lines += [
        f"Reply {one.message // 2} must never be said ({one.code}): {one.excerpt}" for one in found
    ]
    if verdict.too_short:
        lines.append("The conversation is too short to be judged.")
    lines += [f"{name}: the judge gave no answer that can be used." for name in verdict.errors]
    return "\n".join(lines) or ALL_WELL
