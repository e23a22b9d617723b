"""One search for a better prompt and its proof, under way: GEPA, the writers, the judge.

Writes candidates.json in the run's folder whenever the tree grows. GEPA works in a thread of its
own and waits there for what this loop brings; whatever fails ends both, once all that was under way
is stored. Fails as chat models do.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from coach_mlx import console, supervisor
from coach_mlx.calls import Call, split_name
from coach_mlx.config import Config
from coach_mlx.dialogue import Cast
from coach_mlx.errors import INTERRUPTED, Stopped
from coach_mlx.judge import Judge, together
from coach_mlx.llm import IN_PROCESS, Models
from coach_mlx.prompt_cards import Parts
from coach_mlx.prompt_search import Budget, Candidate, Halt, best, search
from coach_mlx.prompt_trials import Trial, Trials
from coach_mlx.records import Message, Scenario
from coach_mlx.talk import Known
from coach_mlx.workspace import Workspace, write_whole

Made = TypeVar("Made")


class Task(NamedTuple):
    """All that determines a run."""

    cast: Cast
    judge: Judge
    known: Known
    cards: Parts
    template: str
    config: Config
    folder: Path

    @property
    def prompt(self) -> str:
        return self.cast.prompts.coach

    @property
    def group(self) -> str:
        """Under which the ledger counts what its calls cost."""
        return f"optimize:{self.folder.name}"

    @property
    def models(self) -> list[str]:
        names = [*self.cast.writers(), self.judge.model, self.config.optimize.reflection]
        fallback = self.cast.settings.fallback_model
        return list(dict.fromkeys([*names, *([fallback] if fallback else [])]))


def reflection_call(task: Task, question: str, sample: int = 0) -> Call:
    settings = task.config.optimize
    return Call(
        model=settings.reflection,
        purpose="optimize:reflect",
        messages=(Message(role="user", content=question),),
        max_tokens=settings.reflection_tokens,
        sample=sample,
        once=True,
        effort=task.config.generate.effort,
        group=task.group,
    )


async def search_and_prove(
    task: Task, config: Config, workspace: Workspace
) -> tuple[list[Candidate], tuple[list[Trial], list[Trial]]]:
    """The candidates, and the trials of the first and the best one on the cards of the proof."""
    async with Models(config, workspace) as models:
        await models.prepare(task.models)
        with supervisor.watch(models.stop):
            world = Run(task, models)
            try:
                candidates = await world.search()
                return candidates, await world.prove(best(candidates).prompt)
            except asyncio.CancelledError:  # a second Ctrl-C gives up what is under way
                world.trials.give_up()
                raise
            finally:
                await world.trials.come_home()


class Run:
    """One search under way: GEPA works in a thread of its own and waits for this loop."""

    def __init__(self, task: Task, models: Models) -> None:
        self._task, self._models = task, models
        self._loop = asyncio.get_running_loop()
        self._asked: Counter[str] = Counter()
        self._error: BaseException | None = None
        local = any(split_name(name)[0] in IN_PROCESS for name in task.models)
        self._bar: console.Progress | None = None
        self.trials = Trials(
            task.cast,
            task.judge,
            task.known,
            lambda call: models.ask(call._replace(group=task.group)),
            task.folder / "trials.jsonl",
            1 if local else task.config.calls.concurrency,
            self._advance,
        )

    async def search(self) -> list[Candidate]:
        task, settings = self._task, self._task.config.optimize
        budget = Budget.of(settings, len(task.cards.choose))
        total = budget.talks
        try:
            with console.progress("optimize", total, "conversations at most") as self._bar:
                return await asyncio.to_thread(
                    search,
                    task.prompt,
                    task.cards.reflect,
                    task.cards.choose,
                    settings,
                    task.judge.rubric,
                    task.template,
                    self,
                    task.config.seed,
                )
        except Halt:
            assert self._error is not None
            raise self._error from None

    async def prove(self, prompt: str) -> tuple[list[Trial], list[Trial]]:
        cards = self._task.cards.verify
        if prompt == self._task.prompt:
            return [], []
        pairs = [(text, card) for text in (self._task.prompt, prompt) for card in cards]
        with console.progress("prove", len(pairs), "conversations") as self._bar:
            tried = await together([self.trials.of(text, card) for text, card in pairs])
        return tried[: len(cards)], tried[len(cards) :]

    def _advance(self) -> None:
        ledger = self._models.ledger
        if self._bar is not None:
            self._bar.advance(1, f"${ledger.spent_usd:.2f} of ${ledger.budget_usd:.2f}")

    # What GEPA's thread calls.

    def try_out(self, prompt: str, card: Scenario) -> Trial:
        return self._wait(self.trials.of(prompt, card))

    def reflect(self, question: str) -> str:
        """The same question asked once more is asked anew."""
        sample = self._asked[question]
        self._asked[question] += 1
        call = reflection_call(self._task, question, sample)
        return self._wait(self._models.ask(call)).text or ""

    def changed(self, candidates: Sequence[Candidate]) -> None:
        """GEPA swallows what a callback raises, and a full disk must end the search: so this is
        waited for like the rest.
        """
        self._wait(self._write_down(candidates))

    async def _write_down(self, candidates: Sequence[Candidate]) -> None:
        lines = [one.model_dump(mode="json") for one in candidates]
        text = json.dumps(lines, ensure_ascii=False, indent=1)
        write_whole(self._task.folder / "candidates.json", text + "\n")
        last = candidates[-1]
        if last.fate not in ("start", "under way"):
            console.say(f"Proposal {last.number}, {last.fate}: {last.why}.")

    def _wait(self, work: Coroutine[Any, Any, Made]) -> Made:
        """Raises: Halt, once anything has failed."""
        if self._error is not None:
            work.close()
            raise Halt
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> NoReturn:
        """The first error is the one that is said. Raises: Halt."""
        self._error = self._error or error
        self._loop.call_soon_threadsafe(self._models.stop, _as_exception(error))
        raise Halt from None


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else Stopped(INTERRUPTED)
