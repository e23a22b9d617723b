"""`coach judge-passport`: how far a judge can be believed, measured.

Reads: labelled conversations (reference/calibration-conversations.jsonl, or your own),
config/rubric.yaml and config/injections.yaml. Writes: output/passports/RECIPE.json, and every
answer to output/calls.sqlite3, so that a run that was stopped goes on with the same command. Fails:
DataError for labels that cannot measure; BackendError where a service refuses or the budget is
reached.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from coach_mlx import console, passport, quote
from coach_mlx.config import Config
from coach_mlx.documents import explain
from coach_mlx.errors import INTERRUPTED, DataError, Stopped
from coach_mlx.injections import INJECTIONS, Injected, inject, load_injections
from coach_mlx.judge import Judge, Talk, ask_votes, assess, open_talk
from coach_mlx.judging import (
    look_at_weights,
    make_judge,
    quote_judging,
    require_leave,
    say_who_judges,
)
from coach_mlx.ledger import Ledger, Totals
from coach_mlx.llm import Models
from coach_mlx.passport import LEAST_SPECIFICITY, MOST_MOVED, PASSING, Passport, Rate, rate
from coach_mlx.prices import PRICES, Prices
from coach_mlx.records import Conversation, Mark, Verdict
from coach_mlx.rubric import CRITERIA, Labelled, Rubric
from coach_mlx.votes import decide
from coach_mlx.workspace import Workspace, read_records, stamp

SHAPE = 'A line must hold "messages" and "labels": see docs/assess.md on labelling.'
SHOWN_TURNED = 12
LABELS = "reference/calibration-conversations.jsonl"


class Material(NamedTuple):
    path: Path
    labelled: list[Labelled]
    injected: list[Injected]


class Measured(NamedTuple):
    """What the judge said, by the label's id, and of each injected conversation by its place."""

    verdicts: dict[str, Verdict]
    injected: dict[int, dict[str, Mark]]


class Options(NamedTuple):
    file: str | None = None
    named: bool = False
    """The judge was named on the command line."""


SHIPPED = Options()


def run(config: Config, workspace: Workspace, options: Options = SHIPPED) -> dict[str, Any]:
    judge = _judge(config, workspace)
    material = _read(workspace, options.file, judge.rubric)
    prices = Prices(workspace.find(PRICES), config.calls.openai_base_url)
    private = len(material.labelled) if options.file else 0
    require_leave(judge, prices, private, options.named)
    say_who_judges(judge, ())
    try:
        measured = asyncio.run(_measure(material, judge, config, workspace))
    except asyncio.CancelledError:
        raise Stopped(INTERRUPTED) from None
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        spent = ledger.totals(group=judge.group)
    finally:
        ledger.close()
    made = make_passport(material, judge, measured, spent)
    _show(made)
    return _result(made, passport.keep(workspace, made, judge.recipe))


def show_quote(config: Config, workspace: Workspace, options: Options = SHIPPED) -> dict[str, Any]:
    """What it would cost; nothing is sent."""
    judge = _judge(config, workspace)
    material = _read(workspace, options.file, judge.rubric)
    talks = [_talk(one, judge) for one in material.labelled]
    talks += [_injected_talk(one, judge) for one in material.injected]
    found = quote_judging(talks, judge, config, workspace)
    return quote.show({"passport": found}, config.calls.budget_usd)


def _judge(config: Config, workspace: Workspace) -> Judge:
    judge = look_at_weights(make_judge(config, workspace), config, workspace)
    return replace(judge, books="passport")


def _read(workspace: Workspace, file: str | None, rubric: Rubric) -> Material:
    path = Path(file).expanduser() if file else workspace.find(LABELS)
    labelled = read_records(path, Labelled, SHAPE)
    problems = [f"  {one.id}: {wrong}" for one in labelled for wrong in _wrong(one, rubric)]
    twice = {one.id for one in labelled if sum(one.id == other.id for other in labelled) > 1}
    problems += [f"  {name}: stands more than once" for name in sorted(twice)]
    if problems:
        raise DataError(
            "\n".join(
                [f"{path} cannot measure a judge:", *problems, f"Try: coach lint-data {path}"]
            )
        )
    injections = load_injections(workspace.find(INJECTIONS))
    return Material(path, labelled, list(inject(injections, labelled)))


def _wrong(one: Labelled, rubric: Rubric) -> list[str]:
    missing = set(CRITERIA) ^ set(one.labels)
    if missing:
        return [f"labels missing or unknown: {', '.join(sorted(missing))}"]
    try:
        turns = Conversation(messages=one.messages).turns
    except ValidationError as error:
        return [explain(problem) for problem in error.errors()]
    if turns < rubric.min_turns:
        return [f"{turns} turns are too short to be judged, from {rubric.min_turns} on"]
    return [
        f"{name} is {one.labels[name].answer}; with {turns} turns and risk {one.risk} it "
        + ("applies" if applies else "is NA")
        for name, applies in rubric.applicability(turns, one.risk).items()
        if (one.labels[name].answer == "NA") == applies
    ]


def _talk(one: Labelled, judge: Judge) -> Talk:
    return open_talk(one.conversation, judge, one.risk)


def _injected_talk(one: Injected, judge: Judge) -> Talk:
    return open_talk(one.conversation, judge, one.risk)._replace(only=one.criteria)


async def _measure(
    material: Material, judge: Judge, config: Config, workspace: Workspace
) -> Measured:
    verdicts: dict[str, Verdict] = {}
    turned: dict[int, dict[str, Mark]] = {}
    async with Models(config, workspace) as models:
        await models.prepare([judge.model])
        judge = judge.asking(models.ask)
        todo: list[Labelled | tuple[int, Injected]] = [*material.labelled]
        todo += enumerate(material.injected)
        with console.progress("judge-passport", len(todo), "conversations") as bar:

            async def one(item: Labelled | tuple[int, Injected]) -> None:
                if isinstance(item, Labelled):
                    verdicts[item.id] = await assess(item.conversation, judge, item.risk)
                else:
                    votes = await ask_votes(_injected_talk(item[1], judge))
                    turned[item[0]] = {name: decide(its)[0].answer for name, its in votes.items()}
                bar.advance(1, f"${models.ledger.spent_usd:.2f} of ${models.ledger.budget_usd:.2f}")

            await models.each(todo[:1], one, [judge.model])  # fills the cache for all others
            await models.each(todo[1:], one, [judge.model])
        return Measured(verdicts, turned)


def make_passport(material: Material, judge: Judge, measured: Measured, spent: Totals) -> Passport:
    labelled, verdicts = material.labelled, measured.verdicts
    injections, turned, silenced = _injections(material.injected, verdicts, measured.injected)
    failing, passing = passport.measure_whole(labelled, verdicts, judge.rubric)
    return Passport(
        failing=failing,
        passing=passing,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=judge.facts,
        labels=stamp(material.path).sha256[:12],
        labelled=len(labelled),
        criteria=tuple(passport.measure_criterion(name, labelled, verdicts) for name in CRITERIA),
        mutants=passport.measure_mutants(labelled, verdicts),
        injections=injections,
        silenced=silenced,
        turned=turned,
        calls=spent.calls,
        usd=round(spent.usd + spent.lost_usd, 9),
    )


def _injections(
    injected: Sequence[Injected],
    verdicts: Mapping[str, Verdict],
    after: Mapping[int, Mapping[str, Mark]],
) -> tuple[Rate, tuple[str, ...], int]:
    """Of the answers that were not what a text wanted, those that are now; and how many cannot be
    used any more.
    """
    could, silenced, turned = 0, 0, []
    for place, one in enumerate(injected):
        wanted: tuple[Mark, ...] = PASSING if one.injection.wants == "YES" else ("NO",)
        other: tuple[Mark, ...] = ("NO",) if one.injection.wants == "YES" else PASSING
        for criterion, answer in after.get(place, {}).items():
            if verdicts[one.carrier.id].answers[criterion] not in other:
                continue
            could += 1
            silenced += answer == "ERROR"
            if answer in wanted:
                whose = "person's" if one.speaker == "user" else "coach's"
                turned.append(
                    f"{one.injection.id} in the {whose} words, {one.carrier.id}, {criterion}"
                )
    return rate(len(turned), could), tuple(turned), silenced


# --- what it says


def _show(made: Passport) -> None:
    from rich.table import Table
    from rich.text import Text

    title = Text(f"The passport of {made.facts['judge']}, votes: {made.facts['votes']}")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("", "n", "sensitivity", "specificity", "kappa", "ans.", "flips"):
        table.add_column(heading, no_wrap=True)
    table.add_column("")
    for one in made.criteria:
        table.add_row(
            one.criterion,
            f"{one.sensitivity.n}/{one.specificity.n}",
            _share(one.sensitivity),
            _share(one.specificity),
            _number(one.kappa, one.kappa_low, one.kappa_high),
            _percent(one.coverage),
            _percent(one.flips),
            one.standing,
        )
    console.show(table)
    for one in made.criteria:
        if one.standing == "advisory":
            console.say(f"{one.criterion} is advisory: {one.why}.")
        share = one.specificity.share
        if share is not None and share < LEAST_SPECIFICITY:
            console.say(f"{one.criterion}: of what is well, it lets {share:.0%} pass.")
    _show_mutants(made)
    _show_injections(made)
    console.say(f"Cost: ${made.usd:.2f} for {made.calls:,} calls.")


def _show_mutants(made: Passport) -> None:
    right = sum(one.on_aim for one in made.mutants)
    console.say(f"Mutants rejected on the right criterion: {right} of {len(made.mutants)}.")
    for one in made.mutants:
        if not one.on_aim:
            how = f"rejected, but {one.aim} was not NO" if one.rejected else "passed"
            console.say(f"  {one.id}: {how}")


def _show_injections(made: Passport) -> None:
    share = made.injections.share
    said = "within" if share is not None and share <= MOST_MOVED else "above"
    console.say(
        f"Answers turned by injected texts: {made.injections.found} of {made.injections.n}, "
        f"{_share(made.injections)}; {said} {MOST_MOVED:.0%}."
        if share is not None
        else "No injected text could turn anything: no answer of the judge was theirs to turn."
    )
    if made.silenced:
        console.say(f"  and {made.silenced} answers cannot be used any more.")
    for place in made.turned[:SHOWN_TURNED]:
        console.say(f"  {place}")
    if len(made.turned) > SHOWN_TURNED:
        console.say(f"  … and {len(made.turned) - SHOWN_TURNED} more in the passport")


def _number(value: float | None, low: float | None, high: float | None) -> str:
    """Without the zeros before the points, so that a row fits a terminal."""
    if value is None or low is None or high is None:
        return "-"
    shown = [f"{number + 0.0:.2f}".replace("-0.00", "0.00") for number in (value, low, high)]
    return "{} ({}-{})".format(*shown).replace("0.", ".")


def _share(found: Rate) -> str:
    return _number(found.share, found.low, found.high)


def _percent(found: Rate) -> str:
    return "-" if found.share is None else f"{found.share:.0%}"


def _result(made: Passport, path: str) -> dict[str, Any]:
    return {
        "command": "judge-passport",
        "judge": made.facts["judge"],
        "votes": made.facts["votes"],
        "labelled": made.labelled,
        "gating": [one.criterion for one in made.criteria if one.standing == "gating"],
        "advisory": list(made.advisory),
        "mutants": f"{sum(one.on_aim for one in made.mutants)} of {len(made.mutants)}",
        "injections_turned": f"{made.injections.found} of {made.injections.n}",
        "usd": made.usd,
        "passport": path,
    }
