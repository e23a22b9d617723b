"""`coach generate`: scenario cards become conversations.

Reads: output/scenarios.jsonl, the prompts of `generate` in the config, output/assessments.jsonl
where there is one. Writes: output/conversations.jsonl and generation_failures.jsonl, a line at a
time; output/calls.sqlite3, every answer; recipes/, generation_report.json, failed_examples.jsonl.
Fails: BackendError where a service refuses, or the budget is reached; GateFailed without a passed
pilot. A run that was stopped or killed goes on with the same command and pays for nothing twice.

A card is done when it has a conversation, of whatever recipe; in a pilot, when it has one of the
present recipe. A card that failed is tried again when recipe or fallback model have changed.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, quote, rounds
from coach_mlx.calls import split_name
from coach_mlx.config import Config
from coach_mlx.dialogue import Cast, Failure
from coach_mlx.errors import (
    INTERRUPTED,
    CoachError,
    ConfigError,
    DataError,
    GateFailed,
    Stopped,
)
from coach_mlx.generation_report import write_report
from coach_mlx.ledger import Ledger
from coach_mlx.llm import Models
from coach_mlx.pilot import Pilot, decide
from coach_mlx.prices import PRICES, Prices
from coach_mlx.recipes import keep, load_prompts, make_cast
from coach_mlx.records import Conversation, Scenario
from coach_mlx.taxonomy import read_cards
from coach_mlx.verdicts import Standing, read_verdicts, standings
from coach_mlx.workspace import (
    Plan,
    Workspace,
    append_line,
    drop_torn_line,
    read_conversations,
    read_records,
    write_whole,
)

SHOWN_CRITERIA = 3


class Options(NamedTuple):
    pilot: bool = False
    batch: bool = False
    force: bool = False
    limit: int | None = None


EVERYTHING = Options()


class Written(NamedTuple):
    """What is there so far."""

    conversations: list[Conversation]
    failures: list[Failure]
    judged: dict[str, Standing]


def plan(config: Config, workspace: Workspace) -> Plan:
    section = config.generate
    names = [section.coach_prompt, section.frameworks]
    names += (
        [section.whole_prompt]
        if section.mode == "whole"
        else [section.client_prompt, section.planner_prompt]
    )
    inputs = (workspace.scenarios, *(workspace.find(name) for name in names))
    outputs = (workspace.conversations, workspace.generation_report)
    return Plan(inputs, outputs, section.model_dump())


def run(config: Config, workspace: Workspace, options: Options = EVERYTHING) -> dict[str, Any]:
    """Write what is wanted and not there yet. `left` in the result: cards not done."""
    cards = read_cards(workspace)
    cast = make_cast(config, load_prompts(config, workspace))
    _require_batches(config, options)
    for path in (workspace.conversations, workspace.failures):
        drop_torn_line(path)
    written = _written(workspace)
    if not options.pilot:
        _require_pilot(config, workspace, cards, written, cast, options)
    todo = to_do(cards, written, cast, config, options)
    keep(workspace, cast)
    ended = False
    try:
        asyncio.run(_generate(todo, cast, config, workspace, options))
        ended = True
    except asyncio.CancelledError:
        raise Stopped(INTERRUPTED) from None
    finally:
        if not ended:  # what stopped it is what must be said, not that there is no report
            with contextlib.suppress(CoachError, OSError):
                _report(config, workspace, cards, cast, options)
    result = _report(config, workspace, cards, cast, options)
    if not result["conversations"]:
        raise DataError(
            f"Not one card became a conversation: {_counted(result['failures'])}. "
            f"{workspace.failed_examples} holds what was written. Another model or prompt may do "
            "better; a card that failed is tried again when one of them has changed."
        )
    return result


def _require_batches(config: Config, options: Options) -> None:
    """Raises: ConfigError where the calls cannot go as batches."""
    if options.batch and config.generate.mode != "whole":
        raise ConfigError(
            "A batch takes whole conversations: coach generate --batch --set generate.mode=whole"
        )
    if options.batch and split_name(config.generate.coach)[0] != "anthropic":
        raise ConfigError(f"{config.generate.coach} takes no batches; leave --batch out.")


def _counted(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(failures.items())) or "none tried"


def complete(config: Config, workspace: Workspace, options: Options) -> dict[str, Any] | None:
    """The result of an earlier run that left nothing to do."""
    manifest = None if options.pilot else workspace.complete("generate", plan(config, workspace))
    if manifest is None:
        return None
    console.say("generate: already complete")
    return dict(manifest.result)


def to_do(
    cards: Sequence[Scenario], written: Written, cast: Cast, config: Config, options: Options
) -> list[Scenario]:
    """The cards that this run is to write, in their order."""
    chosen = cards[: config.generate.pilot] if options.pilot else cards
    done = {
        one.scenario.id
        for one in written.conversations
        if one.scenario and not (options.pilot and _recipe(one) != cast.recipe)
    }
    done |= {
        failure.scenario.id
        for failure in written.failures
        if failure.recipe == cast.recipe and failure.fallback == config.generate.fallback_model
    }
    return [card for card in chosen if card.id not in done][: options.limit]


def find_pilot(config: Config, cards: Sequence[Scenario], cast: Cast, written: Written) -> Pilot:
    """The pilot of the present recipe, as far as it has come."""
    chosen = {card.id for card in cards[: config.generate.pilot]}
    of_pilot = [
        one
        for one in written.conversations
        if one.scenario and one.scenario.id in chosen and _recipe(one) == cast.recipe
    ]
    unwritten = sum(
        failure.scenario.id in chosen and failure.recipe == cast.recipe
        for failure in written.failures
    )
    return decide(of_pilot, written.judged, unwritten, len(chosen))


def show_quote(config: Config, workspace: Workspace, options: Options) -> dict[str, Any]:
    """What the pilot, and all that is left, would cost; nothing is sent."""
    cards = read_cards(workspace)
    cast = make_cast(config, load_prompts(config, workspace))
    written = _written(workspace)
    prices = Prices(workspace.find(PRICES), config.calls.openai_base_url)
    made = sum(one.turns for one in written.conversations if _recipe(one) == cast.recipe)
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        found = {}
        for name, pilot in (("pilot", True), ("all", False)):
            left = to_do(cards, written, cast, config, options._replace(pilot=pilot))
            found[name] = quote.quote(left, cast, prices, ledger, made, options.batch)
    finally:
        ledger.close()
    return quote.show(found, config.calls.budget_usd)


def passed_mark(workspace: Workspace, cast: Cast) -> Path:
    """Written when a pilot says proceed: its recipe stays passed, whatever is dealt later."""
    return workspace.recipes / f"{cast.recipe}.passed.json"


def _recipe(conversation: Conversation) -> str | None:
    return conversation.made.recipe if conversation.made else None


def _written(workspace: Workspace) -> Written:
    def there(path: Path) -> bool:
        return path.is_file() and path.stat().st_size > 0

    found, failed = workspace.conversations, workspace.failures
    conversations = read_conversations(found) if there(found) else []
    made = {(one.scenario.id, _recipe(one)) for one in conversations if one.scenario}
    tried = read_records(failed, Failure) if there(failed) else []
    last = {failure.scenario.id: failure for failure in tried}
    failures = [one for name, one in last.items() if (name, one.recipe) not in made]
    return Written(conversations, failures, standings(read_verdicts(workspace) or ()))


def _require_pilot(
    config: Config,
    workspace: Workspace,
    cards: Sequence[Scenario],
    written: Written,
    cast: Cast,
    options: Options,
) -> None:
    """Raises: GateFailed where thousands would be written from an untried recipe."""
    if options.force or len(cards) <= config.generate.pilot:
        return
    pilot = find_pilot(config, cards, cast, written)
    if pilot.decision == "proceed" or passed_mark(workspace, cast).exists():
        return
    others = {_recipe(one) for one in written.conversations} - {None, cast.recipe}
    changed = (
        " It is not the one that wrote what is there: prompts, models or mode have changed."
        if others
        else ""
    )
    raise GateFailed(
        f"The pilot of this recipe ({cast.recipe}) has not passed ({pilot.decision}: "
        f"{pilot.reason}).{changed}\nType the same command with --pilot, or, to write all the "
        "same, with --force."
    )


async def _generate(
    todo: Sequence[Scenario], cast: Cast, config: Config, workspace: Workspace, options: Options
) -> None:
    async with Models(config, workspace) as models:
        fallback = cast.settings.fallback_model
        await models.prepare(cast.writers() + ([fallback] if fallback else []))
        with console.progress("generate", len(todo), "cards") as bar:

            def done(conversation: Conversation | Failure) -> None:
                kept = isinstance(conversation, Conversation)
                path = workspace.conversations if kept else workspace.failures
                append_line(path, conversation.model_dump_json(exclude_none=kept))
                budget = f"${models.ledger.spent_usd:.2f} of ${models.ledger.budget_usd:.2f}"
                bar.advance(1, budget)

            if cast.settings.mode == "whole":
                await rounds.write_whole(todo, cast, models, done, options.batch)
                return

            async def one(card: Scenario) -> None:
                done(await rounds.write_one(card, cast, models.ask))

            await models.each(todo, one, cast.writers())


def _report(
    config: Config, workspace: Workspace, cards: Sequence[Scenario], cast: Cast, options: Options
) -> dict[str, Any]:
    written = _written(workspace)
    pilot = find_pilot(config, cards, cast, written)
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        report = write_report(
            workspace,
            written.conversations,
            written.failures,
            written.judged,
            ledger,
            pilot,
            cast.recipe,
        )
    finally:
        ledger.close()
    left = to_do(cards, written, cast, config, options._replace(limit=None))
    kinds = Counter(one.kind for one in written.failures if one.recipe == cast.recipe)
    if kinds:
        console.say(f"Not written so far: {_counted(kinds)}.")
    if kinds["refusal"]:
        console.say(
            f"Refused, by topic: {_counted(report['refusals_by_topic'])}. A model on this machine "
            "can write them: --set generate.fallback_model=ollama/NAME"
        )
    if options.pilot and not left:
        price = _card_price(report, written, cast)
        _show_pilot(pilot, price, len(cards))
        _settle_pilot(workspace, cast, pilot, price * len(cards))
    elif not left:
        console.say("Next: coach assess, then coach dataset")
    return {
        "conversations": report["conversations"],
        "turns": report["turns"],
        "failures": report["failures"],
        "left": len(left),
        "usd": report["calls"]["usd"],
        "pilot": pilot.decision,
        **_verdict(pilot, options),
        "recipe": cast.recipe,
        "report": workspace.shown(workspace.generation_report),
    }


def _verdict(pilot: Pilot, options: Options) -> dict[str, Any]:
    """Whether the gate holds, once a pilot was judged."""
    if not options.pilot or pilot.decision == "not judged":
        return {}
    return {
        "passed": pilot.decision == "proceed",
        "verdict": pilot.decision,
        "reason": pilot.reason,
    }


def _card_price(report: dict[str, Any], written: Written, cast: Cast) -> float:
    """What this recipe cost for each card it was tried on, in USD."""
    tried = sum(_recipe(one) == cast.recipe for one in written.conversations)
    tried += sum(failure.recipe == cast.recipe for failure in written.failures)
    spent = sum(entry["usd"] for entry in report["history"] if entry["recipe"] == cast.recipe)
    return float(spent) / max(tried, 1)


def _show_pilot(pilot: Pilot, price: float, cards: int) -> None:
    """The decision, what it rests on, and what scaling would bring."""
    console.say(f"Pilot: {pilot.decision}. {pilot.reason}.")
    if pilot.decision == "not judged":
        console.say(
            "The decision needs a verdict on each of them in output/assessments.jsonl. Type: coach "
            "assess (with --quote first, to see what it costs); then the same command again. Or "
            "read some, and if you are content, type it with --force instead of --pilot."
        )
    console.say(
        f"Cost: ${price * pilot.wanted:.2f} for {pilot.wanted} cards; all {cards} at this price: "
        f"${price * cards:.2f}."
    )
    if pilot.passed:
        console.say(
            f"Kept: {pilot.passed}, at ${price * pilot.wanted / pilot.passed:.3f} each; of all "
            f"{cards} cards about {pilot.passed / pilot.wanted * cards:,.0f}."
        )
    for failing in pilot.failing[:SHOWN_CRITERIA]:
        console.say(f"{failing.criterion} fails in {failing.conversations}:")
        for example in failing.examples:
            console.say(f"  {example}")


def _settle_pilot(workspace: Workspace, cast: Cast, pilot: Pilot, price: float) -> None:
    """Keep a passed pilot, and say what comes next."""
    if pilot.decision != "proceed":
        return
    facts = {**pilot._asdict(), "reason": pilot.reason}
    write_whole(passed_mark(workspace, cast), json.dumps(facts, indent=2, default=str) + "\n")
    console.say(
        "Next: the same command without --pilot. It needs a budget of about "
        f"${price:.0f} for all: --set calls.budget_usd={price * 1.1:.0f}. Judging comes on top: "
        "coach assess --quote"
    )
