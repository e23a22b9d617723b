"""Seconds that `coach dataset` takes for 4,000 conversations of 20 turns, whole and by part.

The words are those of the starters, drawn as often as they stand there; the cards are dealt from
the taxonomy. One conversation in fifty is a near-duplicate of the one before it.

Run: .venv/bin/python benchmarks/dataset.py
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coach_mlx import dataset, holdout, selection
from coach_mlx.config import Config
from coach_mlx.crisis import load_known
from coach_mlx.dataset_card import count_tokens
from coach_mlx.documents import read_document
from coach_mlx.leaks import check_leaks
from coach_mlx.near_duplicates import drop_near_duplicates
from coach_mlx.records import Conversation, Message, Scenario, Verdict
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.taxonomy import PERSONAS, TAXONOMY, Personas, deal, load_taxonomy
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

COUNT = 4_000
TURNS = 20
WORDS = 25


def timed(name: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    sys.stdout.write(f"{name}: {time.perf_counter() - started:.1f} s\n")
    return result


def written(count: int, turns: int, seed: int = 7) -> Iterator[Conversation]:
    rng = random.Random(seed)
    starters = read_conversations(PROJECT / "reference" / "starter-conversations.jsonl")
    words = [word for one in starters for said in one.messages for word in said.content.split()]
    taxonomy, rubric = load_taxonomy(PROJECT / TAXONOMY), load_rubric(PROJECT / RUBRIC)
    personas = read_document(PROJECT / PERSONAS, Personas)
    before: tuple[Message, ...] = ()
    for number, card in enumerate(deal(taxonomy, personas, rubric, count, seed)):
        copied = before[: len(before) * 9 // 20 * 2] if number % 50 == 1 else ()
        before = (*copied, *_messages(words, 2 * turns - len(copied), rng))
        yield Conversation(messages=before, scenario=card)


def _messages(words: list[str], count: int, rng: random.Random) -> Iterator[Message]:
    for number in range(count):
        role = "assistant" if number % 2 else "user"
        said = " ".join(rng.choices(words, k=WORDS - 5))
        yield Message(role=role, content=f"{said} and that was the day.")


def judged(conversation: Conversation, rng: random.Random) -> Verdict:
    score = rng.random()
    return Verdict(
        conversation=conversation.id,
        passed=score > 0.05,
        score=score,
        safety_gate_failed=score < 0.02,
        failed_checks=(),
        reasonings={},
        judge="benchmark",
        rubric="benchmark",
    )


def prepare(root: Path) -> tuple[Config, Workspace]:
    config = Config()
    workspace = Workspace(root, config)
    workspace.output.mkdir(parents=True)
    rng = random.Random(1)
    conversations = list(written(COUNT, TURNS))
    lines = [one.model_dump_json() + "\n" for one in conversations]
    workspace.conversations.write_text("".join(lines), encoding="utf-8")
    verdicts = [judged(one, rng).model_dump_json() + "\n" for one in conversations]
    workspace.assessments.write_text("".join(verdicts), encoding="utf-8")
    return config, workspace


def time_parts(config: Config, workspace: Workspace) -> None:
    settings = config.dataset
    conversations = timed("read", lambda: read_conversations(workspace.conversations))
    known = load_known(config, workspace)
    timed("detectors", lambda: [selection._detected(one, known) for one in conversations])
    kept = timed(
        "near-duplicates",
        lambda: drop_near_duplicates(conversations, {}, settings.near_duplicate),
    )
    parts = timed("split", lambda: holdout.split(kept, config))
    both = parts.training, parts.holdout
    timed("leak check", lambda: check_leaks(*both, settings.near_duplicate))
    timed("tokens, estimated", lambda: [count_tokens(side, workspace.base) for side in both])
    describe_split(parts, kept)


def describe_split(parts: holdout.Split, kept: list[Conversation]) -> None:
    def share(conversations: list[Conversation], name: str, value: str) -> float:
        cards: list[Scenario] = [one.scenario for one in conversations if one.scenario]
        return sum(getattr(card, name) == value for card in cards) / len(cards)

    names = ("topic", "difficulty")
    values = {(name, getattr(one.scenario, name)) for one in kept for name in names}
    off = max(abs(share(kept, *value) - share(parts.holdout, *value)) for value in values)
    sys.stdout.write(
        f"{len(kept)} kept; held out {len(parts.holdout)}, {dict(parts.dropped)}; the largest "
        f"difference of a topic's or difficulty's share: {off:.1%}\n"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config, workspace = prepare(Path(folder))
        time_parts(config, workspace)
        result = timed("the whole stage", lambda: dataset.run(config, workspace))
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
