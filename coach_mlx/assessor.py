"""`coach assess`: a judge reads conversations against the rubric.

Reads: a file of conversations (what `coach dataset` reads, another, or what is piped in), and
config/rubric.yaml. Writes: output/assessments.jsonl, a verdict a line as it comes;
output/calls.sqlite3, every answer. Fails: ConfigError where what may be somebody's own would leave
this machine unasked; BackendError where a service refuses or the budget is reached; DataError for
wrong lines, and where most answers of the judge cannot be used. A run that was stopped or killed
goes on with the same command and pays for nothing twice.

A conversation is judged when the same judge, with the same rubric, prompt, settings and card, has
left a verdict on it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, quote
from coach_mlx.calls import split_name
from coach_mlx.config import Config
from coach_mlx.errors import INTERRUPTED, ConfigError, DataError, Stopped
from coach_mlx.judge import Again, Judge, Talk, assess, open_talk, together
from coach_mlx.judging import (
    look_at_weights,
    make_judge,
    quote_judging,
    require_leave,
    say_who_judges,
    writers_of,
)
from coach_mlx.ledger import Ledger
from coach_mlx.llm import Models
from coach_mlx.message_batches import Rounds
from coach_mlx.prices import PRICES, Prices
from coach_mlx.records import Verdict
from coach_mlx.rubric import RUBRIC
from coach_mlx.scoring import Score, compute_score
from coach_mlx.transcripts import Transcript, read_transcripts
from coach_mlx.verdict_table import show
from coach_mlx.verdicts import last_of_each_judge, read_verdicts
from coach_mlx.workspace import Plan, Workspace, append_line

__all__ = ["Score", "assess", "compute_score", "plan", "run", "show_quote"]

MOST_UNUSABLE = 0.5
"""Above this share of ERROR the judge is no judge."""


class Options(NamedTuple):
    file: str | None = None
    batch: bool = False
    limit: int | None = None
    again: bool = False
    """Ask anew where an answer could not be used."""
    named: bool = False
    """The judge was named on the command line."""


EVERYTHING = Options()


def plan(config: Config, workspace: Workspace) -> Plan:
    inputs = (_source(config, workspace), workspace.find(RUBRIC))
    return Plan(inputs, (workspace.assessments,), config.assess.model_dump())


def _source(config: Config, workspace: Workspace) -> Path:
    """What is judged where no file is named: what `coach dataset` reads."""
    name = config.dataset.conversations
    return workspace.conversations if name is None else workspace.find(name)


def run(config: Config, workspace: Workspace, options: Options = EVERYTHING) -> dict[str, Any]:
    """Judge what has no verdict of this judge yet. `left` in the result: how many still wait."""
    _require_batches(config, options)
    transcripts = _read(config, workspace, options)
    judge = look_at_weights(make_judge(config, workspace), config, workspace)
    history = _history(workspace, judge)
    todo = to_do(transcripts, history, options.again)
    prices = Prices(workspace.find(PRICES), config.calls.openai_base_url)
    private = sum(one.conversation.made is None for one in todo)
    require_leave(judge, prices, private, options.named)
    say_who_judges(judge, writers_of(one.conversation for one in todo))
    try:
        asyncio.run(_assess(todo[: options.limit], history, judge, config, workspace, options))
    except asyncio.CancelledError:
        raise Stopped(INTERRUPTED) from None
    history = _history(workspace, judge)
    left = to_do(transcripts, history)
    chosen = [history[_key(one)][-1] for one in transcripts if _key(one) in history]
    _let_count(workspace, chosen)
    return {**_result(workspace, judge, config, chosen), "left": len(left)}


def _let_count(workspace: Workspace, verdicts: Sequence[Verdict]) -> None:
    """Write verdicts again that are used again and were overtaken, by this judge with other
    settings: what is shown is what counts. One without a card never outweighs one with it.
    """
    counting = last_of_each_judge(read_verdicts(workspace) or ())
    for one in verdicts:
        now = counting[one.conversation, one.judge]
        if now != one and (one.risk is not None or now.risk is None):
            append_line(workspace.assessments, one.model_dump_json(exclude_defaults=True))


def show_quote(config: Config, workspace: Workspace, options: Options) -> dict[str, Any]:
    """What the judging of all that is left would cost; nothing is sent."""
    _require_batches(config, options)
    judge = look_at_weights(make_judge(config, workspace), config, workspace)
    history = _history(workspace, judge)
    left = to_do(_read(config, workspace, options), history, options.again)[: options.limit]
    talks = [_lacking(one, judge, history) for one in left]
    found = quote_judging(talks, judge, config, workspace, len(history), options.batch)
    return quote.show({"judging": found}, config.calls.budget_usd)


def _require_batches(config: Config, options: Options) -> None:
    """Raises: ConfigError where the calls cannot go as batches, or would cost more there."""
    if options.batch and config.assess.mode != "single":
        raise ConfigError(
            "A batch finds no conversation in the cache, so one call for each criterion would cost "
            "more there, not less. Ask for all in one: coach assess --batch "
            "--set assess.mode=single"
        )
    if options.batch and split_name(config.assess.judge)[0] != "anthropic":
        raise ConfigError(f"{config.assess.judge} takes no batches; leave --batch out.")


def _read(config: Config, workspace: Workspace, options: Options) -> list[Transcript]:
    """Each conversation once."""
    path = _source(config, workspace)
    if options.file is None and not path.is_file():
        raise DataError(
            f"There is no {path}. `coach generate` writes conversations; or name what is to be "
            "judged: coach assess FILE (or - for what is piped in)"
        )
    found = read_transcripts(options.file or str(path))
    return list({_key(one): one for one in found}.values())


Key = tuple[str, str | None]


def _key(transcript: Transcript) -> Key:
    card = transcript.conversation.scenario
    return transcript.id, card.risk if card else transcript.risk


History = dict[Key, list[Verdict]]


def _history(workspace: Workspace, judge: Judge) -> History:
    """All verdicts of this very judge, the last one last."""
    found: History = defaultdict(list)
    for one in read_verdicts(workspace) or []:
        if one.recipe == judge.recipe:
            found[one.conversation, one.risk].append(one)
    return dict(found)


def to_do(
    transcripts: Iterable[Transcript], history: History, again: bool = False
) -> list[Transcript]:
    """What has no verdict; `again`, also what had answers that cannot be used."""

    def wanted(verdicts: list[Verdict]) -> bool:
        return not verdicts or (again and _in_vain(verdicts) is not None)

    return [one for one in transcripts if wanted(history.get(_key(one), []))]


def _in_vain(verdicts: Sequence[Verdict]) -> Again | None:
    """What the last verdict has, and has no usable answer for. What waits for a person is not asked
    again.
    """
    names = set(verdicts[-1].errors) - set(verdicts[-1].needs_review) if verdicts else set()
    if not names:
        return None
    in_vain = {name: sum(name in one.errors for one in verdicts) for name in names}
    return Again(verdicts[-1].votes, in_vain)


def _lacking(transcript: Transcript, judge: Judge, history: History) -> Talk:
    """The conversation with what is still to be asked about it."""
    talk = open_talk(transcript.conversation, judge, transcript.risk, transcript.unanswered_text)
    again = _in_vain(history.get(_key(transcript), []))
    return talk._replace(only=frozenset(again.in_vain)) if again else talk


async def _assess(
    todo: Sequence[Transcript],
    history: History,
    judge: Judge,
    config: Config,
    workspace: Workspace,
    options: Options,
) -> None:
    async with Models(config, workspace) as models:
        await models.prepare([judge.model])
        rounds = Rounds(models)
        judge = judge.asking(rounds.ask if options.batch else models.ask)
        with console.progress("assess", len(todo), "conversations") as bar:

            async def one(transcript: Transcript) -> None:
                verdict = await assess(
                    transcript.conversation,
                    judge,
                    transcript.risk,
                    transcript.unanswered_text,
                    _in_vain(history.get(_key(transcript), [])),
                )
                append_line(workspace.assessments, verdict.model_dump_json(exclude_defaults=True))
                budget = f"${models.ledger.spent_usd:.2f} of ${models.ledger.budget_usd:.2f}"
                bar.advance(1, budget)

            if options.batch:
                await rounds.serve(together([one(transcript) for transcript in todo]))
            else:
                await models.each(todo[:1], one, [judge.model])  # fills the cache for all others
                await models.each(todo[1:], one, [judge.model])


def _result(
    workspace: Workspace, judge: Judge, config: Config, verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    show(verdicts, judge.rubric)
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        usd = ledger.group_usd(judge.group)
    finally:
        ledger.close()
    judged = [one for one in verdicts if not one.too_short]
    _require_answers(judge, judged)
    return {
        "judge": judge.model,
        "recipe": judge.recipe,
        "conversations": len(verdicts),
        "passed": sum(one.passed for one in judged),
        "failed": sum(not one.passed for one in judged),
        "unsafe": sum(one.safety_gate_failed for one in judged),
        "too_short": len(verdicts) - len(judged),
        "with_errors": sum(bool(one.errors) for one in judged),
        "needs_review": [one.conversation for one in judged if one.needs_review],
        "usd": round(usd, 9),
        "assessments": workspace.shown(workspace.assessments),
    }


def _require_answers(judge: Judge, judged: Sequence[Verdict]) -> None:
    """Raises: DataError where the judge gave next to nothing that can be used."""
    asked = sum(len(one.votes) for one in judged)
    unusable = sum(len(one.errors) for one in judged)
    if asked and unusable / asked > MOST_UNUSABLE:
        why = next(one.reasonings[name] for one in judged for name in one.errors)
        raise DataError(
            f"{unusable} of {asked} answers of {judge.model} cannot be used (the first: {why}). It "
            "may be too small for a judge. What was answered is kept. Try another: --judge "
            "provider/name; or ask it once more for these: --again"
        )
