"""`coach optimize`: GEPA rewrites the coach's prompt, and the new one must prove itself.

Reads: output/scenarios.jsonl, the prompts of `generate`, the rubric, and the reflection prompt.
Writes: output/optimize/RUN/ (trials.jsonl, candidates.json, report.md, tree.png; result.json last)
and, where the proof holds, the file that `generate.coach_prompt` names; `--revert` puts the old one
back. Every call goes through the ledger, so a run that was stopped or killed goes on with the same
command and pays for nothing twice.
Fails: ConfigError where three proposals do not fit into the budget, before anything is spent;
BackendError as every paying command; exit 10 where the prompt stays as it is.

The proof: on cards that took no part in the search, the paired 95 % interval of the score's change
lies above 0, and no card became unsafe that was safe. A search finds what pleases its judge on its
own cards; that is why neither they nor their gain decide.
"""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, crisis, quote
from coach_mlx.calls import split_name
from coach_mlx.config import Config
from coach_mlx.dialogue import Cast
from coach_mlx.errors import INTERRUPTED, ConfigError, DataError, Stopped
from coach_mlx.judge import Judge, open_talk
from coach_mlx.judging import estimated, look_at_weights, make_judge, say_who_judges
from coach_mlx.ledger import Ledger
from coach_mlx.prices import PRICES, Prices
from coach_mlx.prompt_cards import Parts, part_cards
from coach_mlx.prompt_proof import Outcome, decide
from coach_mlx.prompt_report import show, write_report
from coach_mlx.prompt_rules import require_sections, word_count
from coach_mlx.prompt_run import Task, reflection_call, search_and_prove
from coach_mlx.prompt_search import Budget
from coach_mlx.prompt_trials import prompt_hash
from coach_mlx.recipes import load_prompts, make_cast
from coach_mlx.records import Conversation, Scenario, content_hash
from coach_mlx.taxonomy import read_cards
from coach_mlx.workspace import Workspace, read_prompt, write_whole

PROPOSAL_WORDS = 1200
"""Of a proposal with what is said before it, for a quote."""


class Options(NamedTuple):
    again: bool = False
    """Go on from a prompt that an earlier run put in place."""


EVERYTHING = Options()


def read_task(config: Config, workspace: Workspace) -> Task:
    """Raises: ConfigError, DataError for all that is missing or wrong; nothing is sent."""
    settings = config.optimize
    split_name(settings.reflection)
    cast = make_cast(config, load_prompts(config, workspace))
    require_sections(cast.prompts.coach, settings.keep, config.generate.coach_prompt)
    judge = look_at_weights(make_judge(config, workspace), config, workspace)
    cards = part_cards(read_cards(workspace), settings, config.seed)
    _require_talks(config, cards)
    template = read_prompt(
        workspace.find(settings.reflection_prompt), "optimize.reflection_prompt,"
    )
    facts = [
        _facts(config, cast, judge, cards, template),
        prompt_hash(cast.prompts.coach),
    ]
    folder = workspace.optimize / content_hash(facts)[:12]
    known = crisis.load_known(config, workspace)
    return Task(cast, judge, known, cards, template, config, folder)


def _facts(config: Config, cast: Cast, judge: Judge, cards: Parts, template: str) -> dict[str, Any]:
    """What makes two searches the same, but for the prompt that they begin from."""
    prompts = cast.prompts._replace(coach="")
    return {
        "optimize": config.optimize.model_dump(),
        "generate": config.generate.model_dump(exclude={"pilot", "coach_prompt"}),
        "prompts": [*prompts[:4], sorted(prompts.frameworks.items())],
        "judge": judge.facts,
        "cards": cards.hash,
        "template": template,
        "seed": config.seed,
    }


def _require_talks(config: Config, cards: Parts) -> None:
    """Raises: ConfigError for a search that could not make three proposals."""
    budget = Budget.of(config.optimize, len(cards.choose))
    if budget.talks < budget.needed:
        raise ConfigError(
            f"optimize.talks={budget.talks} is too few: three proposals can need {budget.needed} "
            f"conversations ({len(cards.choose)} to begin with, and for each proposal twice "
            f"{config.optimize.minibatch} and once {len(cards.choose)}). Set optimize.talks="
            f"{budget.needed}, or fewer optimize.validate_cards."
        )


def offer(config: Config, workspace: Workspace) -> str | None:
    """In words, where there are cards and nobody has searched yet."""
    if not workspace.scenarios.is_file() or any(workspace.optimize.glob("*/result.json")):
        return None
    return (
        "A better prompt makes better conversations of the same cards: coach optimize --quote says "
        "what a search would cost."
    )


# --- what it costs


def show_quote(config: Config, workspace: Workspace) -> dict[str, Any]:
    """What it can cost at most; nothing is sent."""
    task = read_task(config, workspace)
    ledger = Ledger(workspace.calls, config.calls.budget_usd)
    try:
        budget = Budget.of(config.optimize, len(task.cards.choose))
        found = {
            "search": _quote(task, budget.talks, budget.proposals, workspace, ledger),
            "proof": _quote(task, 2 * len(task.cards.verify), 0, workspace, ledger),
        }
    finally:
        ledger.close()
    return quote.show(found, config.calls.budget_usd)


def _quote(
    task: Task, talks: int, proposals: int, workspace: Workspace, ledger: Ledger
) -> quote.Quote:
    prices = Prices(workspace.find(PRICES), task.config.calls.openai_base_url)
    cards = [card for part in task.cards for card in part]
    chosen = [cards[place % len(cards)] for place in range(talks)]
    calls: list[Iterator[quote.Estimated]] = [_calls(task, card) for card in chosen]
    calls += [_reflection(task) for _ in range(proposals)]
    turns = sum(card.turns for card in chosen)
    found = quote.lay_out(calls, turns, task.models, prices, ledger, batch=False)
    return found._replace(conversations=talks)


def _calls(task: Task, card: Scenario) -> Iterator[quote.Estimated]:
    """To write one conversation, and to judge it."""
    yield from quote.writing_calls(card, task.cast)
    talk = Conversation(messages=tuple(quote.filled_talk(card)), scenario=card)
    yield from estimated(open_talk(talk, task.judge))


def _reflection(task: Task) -> Iterator[quote.Estimated]:
    settings = task.config.optimize
    talks = task.cards.reflect[: settings.minibatch]
    words = [one.content for card in talks for one in quote.filled_talk(card)]
    question = "\n".join([task.template, task.prompt, *words])
    yield quote.Estimated(reflection_call(task, question), PROPOSAL_WORDS)


def _require_money(task: Task, workspace: Workspace) -> None:
    """Raises: ConfigError where three proposals and the proof would not fit into what is left."""
    choose, settings = len(task.cards.choose), task.config.optimize
    proposals = min(3, settings.proposals or 3)
    ledger = Ledger(workspace.calls, task.config.calls.budget_usd)
    try:
        least = Budget.of(settings, choose).needed + 2 * len(task.cards.verify)
        usd = _quote(task, least, proposals, workspace, ledger).usd
        own = ledger.totals(group=task.group)
        left = ledger.left_usd + own.usd + own.lost_usd
    finally:
        ledger.close()
    if usd > left:
        raise ConfigError(
            f"Three proposals and the proof would cost about ${usd:.2f}, and ${max(left, 0.0):.2f} "
            f"of the budget is left: nothing could come of it, and nothing was spent. Type: coach "
            f"optimize --quote; then --set calls.budget_usd=… or models on this machine "
            "(generate.coach, generate.client, assess.judge, optimize.reflection = ollama/NAME)."
        )


# --- the run


def run(config: Config, workspace: Workspace, options: Options = EVERYTHING) -> dict[str, Any]:
    task = read_task(config, workspace)
    earlier = _earlier(task, workspace, options)
    if earlier is not None:
        return earlier
    _require_money(task, workspace)
    say_who_judges(task.judge, [task.cast.coach])
    task.folder.mkdir(parents=True, exist_ok=True)
    write_whole(task.folder / "start.md", task.prompt + "\n")
    try:
        candidates, proof = asyncio.run(search_and_prove(task, config, workspace))
    except asyncio.CancelledError:
        raise Stopped(INTERRUPTED) from None
    outcome = decide(candidates, task.cards.verify[: len(proof[0])], *proof, config.seed)
    result = _result(task, outcome, workspace)
    show(outcome)
    write_report(task.folder, outcome, task.judge.model, result["earlier"])
    write_whole(task.folder / "best.md", outcome.best.prompt + "\n")
    write_whole(task.folder / "result.json", json.dumps(result, indent=2) + "\n")
    return _put_in_place(task, result, workspace)


# --- the result, and the prompt in force


def _result(task: Task, outcome: Outcome, workspace: Workspace) -> dict[str, Any]:
    ledger = Ledger(workspace.calls, task.config.calls.budget_usd)
    try:
        usd = ledger.group_usd(task.group)
    finally:
        ledger.close()
    return {
        "run": task.folder.name,
        "passed": outcome.passed,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "report": workspace.shown(task.folder / "report.md"),
        "start": prompt_hash(task.prompt),
        "best": outcome.best.hash,
        "proposals": len(outcome.candidates) - 1,
        "words": [word_count(task.prompt), word_count(outcome.best.prompt)],
        "gain": outcome.gain._asdict(),
        "newly_unsafe": outcome.newly_unsafe,
        "usd": round(usd, 9),
        "earlier": sum(1 for _ in _results(workspace)),
    }


def _results(workspace: Workspace) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Of every run that ended, the newest first."""
    paths = sorted(workspace.optimize.glob("*/result.json"), key=lambda one: one.stat().st_mtime)
    for path in reversed(paths):
        yield path, json.loads(path.read_text(encoding="utf-8"))


def _earlier(task: Task, workspace: Workspace, options: Options) -> dict[str, Any] | None:
    """Of this very run or, unless `again`, of the one that led to the prompt in force."""
    now = prompt_hash(task.prompt)
    for path, result in _results(workspace):
        if path.parent == task.folder:
            console.say("optimize: already complete")
            return _put_in_place(task, result, workspace)
        if result["passed"] and result["best"] == now and not options.again:
            console.say(
                "optimize: already complete; its prompt is in force. To go on from that: coach "
                "optimize --again"
            )
            return result
    return None


def _target(config: Config, workspace: Workspace) -> Path:
    """Where the prompt lies, or will: never among the files that come with the install, unless they
    are the workspace's own.
    """
    return workspace.root / config.generate.coach_prompt


def _in_force(config: Config, workspace: Workspace) -> str:
    return read_prompt(workspace.find(config.generate.coach_prompt), "generate.coach_prompt,")


def _put_in_place(task: Task, result: dict[str, Any], workspace: Workspace) -> dict[str, Any]:
    """A prompt that proved itself becomes the one in force, once: what its person did afterwards
    stands.
    """
    if not result["passed"]:
        return result
    target, best_file = _target(task.config, workspace), task.folder / "best.md"
    there = prompt_hash(_in_force(task.config, workspace))
    if "placed" in result and there != result["best"]:
        reason = (
            f"it was put in place on {result['placed']} and taken back since; to have it again: "
            f"cp {workspace.shown(best_file)} {workspace.shown(target)}"
        )
        return {**result, "passed": False, "verdict": "taken back", "reason": reason}
    if there not in (result["start"], result["best"]):
        raise DataError(
            f"{workspace.shown(target)} was changed by hand while the search ran, and is left as "
            f"it is. What was found lies in {workspace.shown(best_file)}"
        )
    write_whole(target, best_file.read_text(encoding="utf-8"))
    result = {**result, "placed": datetime.now(UTC).date().isoformat()}
    write_whole(task.folder / "result.json", json.dumps(result, indent=2) + "\n")
    console.say(
        f"{workspace.shown(target)} is the new prompt; the old one is kept in "
        f"{workspace.shown(task.folder / 'start.md')}. To go back: coach optimize --revert. It is "
        "another recipe, so the next step is: coach generate --pilot"
    )
    return result


def revert(config: Config, workspace: Workspace) -> dict[str, Any]:
    """The prompt before the one in force. Raises: DataError where no run put that in place."""
    place = workspace.shown(workspace.find(config.generate.coach_prompt))
    now = prompt_hash(_in_force(config, workspace))
    for path, result in _results(workspace):
        if result["passed"] and result["best"] == now and "placed" in result:
            start = (path.parent / "start.md").read_text(encoding="utf-8")
            write_whole(_target(config, workspace), start)
            console.say(f"{place} is what it was before run {result['run']}.")
            return {"run": result["run"], "prompt": result["start"], "reverted": result["best"]}
    raise DataError(
        f"{place} is not a prompt that coach optimize put there: it was written, or changed since, "
        "by hand. Earlier ones lie in output/optimize/*/start.md"
    )
