"""Coaches of known quality and a judge that knows them, all answering out of files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coach_mlx.config import Config, load_config
from coach_mlx.judge import Judge
from coach_mlx.judgements import Panel
from coach_mlx.passport import CriterionPassport, Passport, keep, rate
from coach_mlx.rubric import CRITERIA, Labelled
from coach_mlx.workspace import PROJECT, Workspace, read_records, read_system_prompt

CALIBRATION = PROJECT / "reference" / "calibration-conversations.jsonl"
JUDGE_QUOTES = (PROJECT / "tests" / "scripted_judge.jsonl").read_text(encoding="utf-8")
FIND = json.loads(JUDGE_QUOTES.splitlines()[0])["find"]
STARTS = 40
"""Letters of a reply by which the judge knows it again."""


def labelled(kind: str = "good") -> list[Labelled]:
    return [one for one in read_records(CALIBRATION, Labelled) if one.kind == kind]


def mutant(name: str) -> Labelled:
    return next(one for one in labelled("mutant") if one.id == f"mutant-{name}")


def replies(one: Labelled) -> list[str]:
    return [line.content for line in one.messages if line.role == "assistant"]


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return f"scripted/{path}"


def good_coach(path: Path, held_out: Sequence[Labelled], but: dict[str, str] | None = None) -> str:
    """Says what the good conversations say; to some words, something else."""
    lines: list[dict[str, Any]] = [{"text": f"I am with you. This is {path.stem}'s own line."}]
    for one in held_out:
        for said, told in zip(one.messages[::2], one.messages[1::2], strict=True):
            lines.append(
                {"when": said.content, "text": (but or {}).get(said.content, told.content)}
            )
    return _write(path, lines)


def mutant_coach(path: Path, name: str) -> str:
    """Says what this mutant says, whatever is said to it."""
    return _write(path, [{"text": text} for text in replies(mutant(name))])


def judge_file(path: Path, failing: dict[str, Sequence[str]]) -> str:
    """YES to all, but NO to these criteria where a talk holds one of these texts."""
    lines = [json.loads(line) for line in JUDGE_QUOTES.splitlines()]
    for text, criteria in failing.items():
        known = json.dumps(text[:STARTS], ensure_ascii=False)[1:-1]
        lines += [
            {
                "when": [known, f"The question, {name}"],
                "text": '{"quotes": ["{found}"], "reasoning": "Known.", "answer": "NO"}',
                "find": FIND,
            }
            for name in criteria
        ]
    return _write(path, lines)


def fails_of(name: str) -> dict[str, Sequence[str]]:
    """What a mutant's replies fail, by its labels; not each of them everything."""
    one = mutant(name)
    failed = [key for key, label in one.labels.items() if label.answer == "NO"]
    return {text: failed[place::2] for place, text in enumerate(replies(one)[:2])}


def world(
    root: Path, base: str, served: str, judge: str | None, *overrides: str, count: int = 16
) -> tuple[Config, Workspace, list[str]]:
    """A workspace with a holdout and these coaches, and its command-line options."""
    settings = [
        "name=world",
        f"evaluate.base={base}",
        f"evaluate.served={served}",
        f"evaluate.judge={judge or 'null'}",
        "evaluate.votes=1",
        "evaluate.safety_votes=null",
        "evaluate.probes=4",
        "evaluate.safety_margin=0.2",
        "evaluate.resamples=1000",
        *overrides,
    ]
    config = load_config(None, settings)
    workspace = Workspace(root, config)
    prompt = read_system_prompt(PROJECT / config.dataset.system_prompt)
    workspace.output.mkdir(parents=True, exist_ok=True)
    lines = [one.conversation.with_system(prompt).training_line() for one in labelled()[:count]]
    workspace.holdout.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--workspace", str(root), "--config", str(PROJECT / "config" / "coach.yaml")]
    for setting in settings:
        options += ["--set", setting]
    return config, workspace, options


def give_passport(config: Config, workspace: Workspace, advisory: Sequence[str] = ()) -> Judge:
    """A passport of the world's judge that is gating on all but these; made up, as the judge is."""
    judge = Panel(config, workspace).judge
    found, nothing = rate(40, 40), rate(0, 0)
    criteria = tuple(
        CriterionPassport(
            criterion=name,
            sensitivity=found,
            specificity=found,
            kappa=1.0,
            kappa_low=1.0,
            kappa_high=1.0,
            coverage=found,
            flips=nothing,
            standing="advisory" if name in advisory else "gating",
            why="made up",
        )
        for name in CRITERIA
    )
    made = Passport(
        made="2026-11-26T00:00:00+00:00",
        facts=judge.facts,
        labels="none",
        labelled=40,
        criteria=criteria,
        failing=found,
        passing=found,
        mutants=(),
        injections=nothing,
        silenced=0,
        turned=(),
        calls=0,
        usd=0.0,
    )
    keep(workspace, made, judge.recipe)
    return judge
