"""What an evaluation will compare and how it will decide, fixed before the first reply.

Reads and writes reports/NAME/plan.json; one that gave way to another stays as plan-HASH.json.
Fails: DataError where the file was edited, and where the same models are to be judged by other
rules than were fixed before their replies were seen.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from coach_mlx import console
from coach_mlx.errors import DataError
from coach_mlx.power import minimum_detectable_effect
from coach_mlx.rates import least_scenarios
from coach_mlx.records import Record, content_hash
from coach_mlx.workspace import write_whole

HASH_DIGITS = 12
MATERIAL = ("arms", "scripts", "decoding", "loss")
"""What is compared; with other material it is another evaluation, and a plan of its own."""


class EvaluationPlan(Record):
    plan: str
    """Hash of the facts."""
    made: str
    facts: dict[str, Any] = Field(min_length=1)
    detectable: str
    """The smallest effects that this holdout can show."""


def hash_of(facts: Mapping[str, Any]) -> str:
    return content_hash(facts)[:HASH_DIGITS]


def fix(folder: Path, facts: dict[str, Any], seen: bool, anew: bool) -> EvaluationPlan:
    """The plan in force, written now unless it stands already. `seen`: replies were generated;
    `anew`: the person accepts another plan after that.
    """
    path = folder / "plan.json"
    standing = read(path)
    if standing is not None and standing.facts == json.loads(json.dumps(facts)):
        return standing
    if standing is not None:
        if seen and not anew:
            _require_other_material(path, standing, facts)
        path.replace(folder / f"plan-{standing.plan}.json")
    made = EvaluationPlan(
        plan=hash_of(facts),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        facts=facts,
        detectable=detectable(facts),
    )
    write_whole(path, json.dumps(made.model_dump(), indent=2, ensure_ascii=False) + "\n")
    console.say(f"The plan is fixed: {made.plan} ({path}). {made.detectable}")
    return made


def read(path: Path) -> EvaluationPlan | None:
    """Raises: DataError where it was edited."""
    if not path.is_file():
        return None
    try:
        plan = EvaluationPlan.model_validate_json(path.read_bytes())
    except ValidationError:
        plan = None
    if plan is None or plan.plan != hash_of(plan.facts):
        raise DataError(
            f"{path} is not as it was written: its hash does not fit. A plan that was changed is "
            f"none. Type: rm {path}, and coach evaluate fixes a new one."
        )
    return plan


def earlier(folder: Path, plan: EvaluationPlan) -> int:
    """How many other plans there were for the same models."""
    kept = (read(path) for path in sorted(folder.glob("plan-*.json")))
    arms = plan.facts["arms"]
    others = {one.plan for one in kept if one is not None and one.facts.get("arms") == arms}
    return len(others - {plan.plan})


def _require_other_material(path: Path, standing: EvaluationPlan, facts: dict[str, Any]) -> None:
    """Raises: DataError where only the rules changed. A judge may join where there was none, and
    leave: without one nothing is decided.
    """
    if any(standing.facts.get(key) != facts[key] for key in MATERIAL):
        return
    changed = changes(standing.facts, facts)
    if standing.facts.get("judge") is None or facts["judge"] is None:
        changed = [one for one in changed if not one.startswith("judge")]
    if changed:
        raise DataError(
            "\n".join(
                [
                    f"{path} was fixed at {standing.made}, before these models' replies were "
                    "seen, and says otherwise:",
                    *(f"  {one}" for one in changed),
                    "Go back to it, or fix another plan, which the report will say: "
                    "coach evaluate --new-plan",
                ]
            )
        )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs, one key a line."""
    one, other = dict(_flat(before)), dict(_flat(after))
    keys = sorted(one.keys() | other.keys())
    return [
        f"{key}: {one.get(key, 'not there')} in the plan, {other.get(key, 'not there')} now"
        for key in keys
        if one.get(key) != json.loads(json.dumps(other.get(key)))
    ]


def _flat(facts: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in facts.items():
        found += (
            _flat(value, f"{before}{key}.") if isinstance(value, dict) else [(before + key, value)]
        )
    return found


def detectable(facts: Mapping[str, Any]) -> str:
    """In words, for n scenarios: what can be shown, and what cannot."""
    holdout, probes = facts["scripts"]["holdout"], facts["scripts"]["probes"]
    effect = minimum_detectable_effect(holdout["n"]).value
    if effect is None:
        shown = f"{holdout['n']} held-out conversations can show no difference"
    else:
        shown = (
            f"{holdout['n']} held-out conversations can show a difference of {effect:.2f} standard "
            "deviations with 80 % power"
        )
    total, margin = holdout["n"] + probes["n"], facts["margins"]["safety"]
    least = least_scenarios(margin)
    safe = (
        f"{total} scenarios can show that failures do not rise by more than {margin:.0%}"
        if total >= least
        else f"to show that failures do not rise by more than {margin:.0%} takes {least} "
        f"scenarios without one new failure, and there are {total}"
    )
    return f"{shown}; {safe}."


def digest_of(items: Sequence[Record]) -> str:
    return content_hash([one.model_dump(mode="json") for one in items])[:HASH_DIGITS]
