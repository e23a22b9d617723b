"""What was made, what it cost, what failed: the report of `coach generate`.

Reads conversations, failures, verdicts and the ledger; writes output/generation_report.json and
output/failed_examples.jsonl, whole, at every end of a run.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from coach_mlx.dialogue import Failure
from coach_mlx.ledger import Ledger
from coach_mlx.pilot import Pilot
from coach_mlx.rates import wilson_interval
from coach_mlx.records import Conversation
from coach_mlx.verdicts import Standing
from coach_mlx.workspace import Workspace, write_whole

GROUPS = ("topic", "style", "difficulty", "length", "risk")


def write_report(
    workspace: Workspace,
    conversations: Sequence[Conversation],
    failures: Sequence[Failure],
    judged: Mapping[str, Standing],
    ledger: Ledger,
    pilot: Pilot,
    recipe: str,
) -> dict[str, Any]:
    """The report, also as a value."""
    report = {
        "recipe": recipe,
        "conversations": len(conversations),
        "turns": sum(one.turns for one in conversations),
        "judged": sum(one.id in judged for one in conversations),
        "passed": sum(judged[one.id].passed for one in conversations if one.id in judged),
        "pilot": {**pilot._asdict(), "reason": pilot.reason},
        "by": {group: _by(group, conversations, failures, judged) for group in GROUPS},
        "failures": dict(Counter(failure.kind for failure in failures)),
        "refusals_by_topic": _refusals(failures),
        "writers": dict(Counter(one.made.coach for one in conversations if one.made)),
        "calls": _calls(ledger),
        "history": _history(workspace, conversations, judged, ledger),
    }
    text = json.dumps(report, ensure_ascii=False, indent=2, default=str)
    write_whole(workspace.generation_report, text + "\n")
    write_whole(workspace.failed_examples, "".join(_failed(conversations, failures, judged)))
    return report


def _by(
    group: str,
    conversations: Sequence[Conversation],
    failures: Sequence[Failure],
    judged: Mapping[str, Standing],
) -> dict[str, Any]:
    """Counts and pass rates by one property of the card."""
    found: dict[str, Any] = {}
    carded = [(one, getattr(one.scenario, group)) for one in conversations if one.scenario]
    unwritten = Counter(getattr(failure.scenario, group) for failure in failures)
    for value in sorted({value for _, value in carded} | set(unwritten)):
        ids = [one.id for one, its in carded if its == value]
        its_own = [judged[name] for name in ids if name in judged]
        passed = sum(standing.passed for standing in its_own)
        found[value] = {
            "conversations": len(ids),
            "failures": unwritten[value],
            **rate(passed, len(its_own)),
        }
    return found


def _refusals(failures: Sequence[Failure]) -> dict[str, int]:
    refused = (one.scenario for one in failures if one.kind == "refusal")
    return dict(Counter(f"{card.topic}/{card.subtopic}" for card in refused))


def _calls(ledger: Ledger) -> dict[str, Any]:
    total = ledger.totals()
    return {
        "usd": round(total.usd, 9),
        "maybe_billed_for_nothing_usd": round(total.lost_usd, 9),
        "maybe_billed_for_nothing": total.lost,
        "answers": ledger.outcomes(),
        "by_model": {model: _of_model(ledger, model) for model in ledger.models()},
    }


def _of_model(ledger: Ledger, model: str) -> dict[str, Any]:
    total = ledger.totals(model)
    return {"calls": total.calls, "usd": round(total.usd, 9), **total.usage._asdict()}


def _history(
    workspace: Workspace,
    conversations: Sequence[Conversation],
    judged: Mapping[str, Standing],
    ledger: Ledger,
) -> list[dict[str, Any]]:
    """The recipes in the order in which they were first used."""
    history = []
    for recipe in dict.fromkeys(one.made.recipe for one in conversations if one.made):
        ids = [one.id for one in conversations if one.made and one.made.recipe == recipe]
        its_own = [judged[name] for name in ids if name in judged]
        history.append(
            {
                "recipe": recipe,
                **_kept(workspace, recipe),
                "conversations": len(ids),
                **rate(sum(standing.passed for standing in its_own), len(its_own)),
                "usd": round(ledger.group_usd(recipe), 9),
            }
        )
    return history


def _kept(workspace: Workspace, recipe: str) -> dict[str, Any]:
    path = workspace.recipes / f"{recipe}.json"
    if not path.is_file():
        return {}
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {name: facts[name] for name in ("mode", "coach", "client", "planner", "prompts")}


def _failed(
    conversations: Sequence[Conversation],
    failures: Iterable[Failure],
    judged: Mapping[str, Standing],
) -> Iterator[str]:
    """A line for each conversation that did not come about, and each that was judged unfit."""
    for failure in failures:
        yield failure.model_dump_json() + "\n"
    for one in conversations:
        standing = judged.get(one.id)
        if standing is not None and not standing.passed:
            facts = {
                "kind": "judged unfit",
                "detail": ", ".join(standing.failed_checks),
                "verdicts": [verdict.model_dump(mode="json") for verdict in standing.verdicts],
                **one.model_dump(mode="json"),
            }
            yield json.dumps(facts, ensure_ascii=False) + "\n"


def rate(passed: int, judged: int) -> dict[str, Any]:
    """A share with its interval; nothing of nothing."""
    if not judged:
        return {"judged": 0, "passed": 0, "rate": None}
    low, high = wilson_interval(passed, judged)
    return {
        "judged": judged,
        "passed": passed,
        "rate": round(passed / judged, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
