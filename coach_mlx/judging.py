"""The judge that a config names, and what its judging costs.

Reads: config/rubric.yaml, config/prices.yaml and the ledger; sends nothing. Fails: ConfigError for
a name that is no chat model, and for all that is wrong in the rubric.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from coach_mlx import console, quote
from coach_mlx.calls import split_name
from coach_mlx.config import Config
from coach_mlx.errors import BackendError, ConfigError, DataError, ToolError
from coach_mlx.judge import Judge, Talk, planned_calls
from coach_mlx.ledger import Ledger
from coach_mlx.llm import Models
from coach_mlx.prices import PRICES, Prices
from coach_mlx.records import Conversation
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.workspace import Workspace

ANSWER_WORDS = 80
"""Of a judge's answer to one question: quotations, reasoning, and the JSON around them."""
ENOUGH_JUDGED = 20
FILES = ("mlx", "gguf", "scripted")
NOT_THERE = "not there"
"""Of a model that cannot be looked at: no passport holds for it."""


def make_judge(config: Config, workspace: Workspace) -> Judge:
    """It has nobody to ask yet: see `Judge.asking`."""
    split_name(config.assess.judge)
    rubric = load_rubric(workspace.find(RUBRIC))
    return Judge(config.assess.judge, rubric, config.assess, _nobody)


async def _nobody(_: Any) -> Any:
    raise AssertionError("nobody was to be asked")


def look_at_weights(
    judge: Judge, config: Config, workspace: Workspace, files_only: bool = False
) -> Judge:
    """The judge, told from others of its name. A service does not say, and what is not there has no
    weights; `files_only` opens no connection either.
    """
    provider = split_name(judge.model)[0]
    if provider == "openai":
        return replace(judge, weights=config.calls.openai_base_url)
    if provider == "anthropic" or (files_only and provider not in FILES):
        return judge

    async def look() -> str:
        async with Models(config, workspace) as models:
            return await models.identity(judge.model)

    try:
        return replace(judge, weights=asyncio.run(look()))
    except (ToolError, BackendError, DataError):
        return replace(judge, weights=NOT_THERE)


def quote_judging(
    talks: Sequence[Talk],
    judge: Judge,
    config: Config,
    workspace: Workspace,
    judged: int = 0,
    batch: bool = False,
) -> quote.Quote:
    """What it costs to judge these; so many were judged the same way before."""
    prices = Prices(workspace.find(PRICES), config.calls.openai_base_url)
    turns = sum(talk.turns for talk in talks)
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        if judged >= ENOUGH_JUDGED and quote.can_be_measured(ledger, judge.group, batch):
            basis = f"what {judged} verdicts of this judge did cost"
            factor = len(talks) / judged
            return quote.measured(len(talks), turns, factor, ledger, judge.group, basis)
        calls = [estimated(talk) for talk in talks]
        return quote.lay_out(calls, turns, [judge.model], prices, ledger, batch)
    finally:
        ledger.close()


def estimated(talk: Talk) -> Iterator[quote.Estimated]:
    for call, answers in planned_calls(talk):
        yield quote.Estimated(call, answers * ANSWER_WORDS)


def require_leave(judge: Judge, prices: Prices, private: int, named: bool) -> None:
    """Raises: ConfigError where conversations that may be somebody's own would leave this machine,
    and nobody has named the judge that they would go to.
    """
    if not private or named or prices.is_free(judge.model):
        return
    raise ConfigError(
        f"{private} of these conversations were not written by `coach generate`: they may be "
        f"somebody's own, and {judge.model} does not run on this machine. To keep them here: "
        "--judge ollama/NAME (or mlx/FOLDER, gguf/FILE). If they may be sent, name who reads them: "
        f"--judge {judge.model}"
    )


def say_who_judges(judge: Judge, writers: Iterable[str]) -> None:
    """What must be known of the judge: that it is none, or of the writers' own family."""
    if split_name(judge.model)[0] == "scripted":
        console.say(f"{judge.model} is no judge: its answers come out of a file.")
    kin = sorted({writer for writer in writers if family(writer) == family(judge.model)})
    if kin:
        console.say(
            f"{judge.model} judges what its own family wrote ({', '.join(kin)}). Judges are kinder "
            "to their own: compare with another family's now and then, --judge ollama/NAME."
        )


def writers_of(conversations: Iterable[Conversation]) -> set[str]:
    """The models that spoke for the coach, where models did."""
    return {one.made.coach for one in conversations if one.made}


def family(model: str) -> str:
    """The first word of a model's name: claude, qwen, llama."""
    name = model.rstrip("/").split("/")[-1].lower()
    return name[: next((at for at, letter in enumerate(name) if not letter.isalpha()), None)]
