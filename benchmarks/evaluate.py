"""An evaluation's two expensive parts: the replay of held-out conversations, and the statistics.

Replay: 20 starter conversations on the packaged SmolLM2-135M, each reply at most 40 tokens, the
likeliest token each time. One by one with the whole prompt read anew for every reply, against all
side by side with each talk's key-value cache kept. Each talk goes on with its own replies, so the
first one that differs would change all that follow.
Statistics: 200 scenarios, 3 arms, 12 criteria, 5 votes, 10,000 resamples; from made-up votes to
every number of the report.

Run: .venv/bin/python benchmarks/evaluate.py [replay|statistics]
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from coach_mlx import chat_format, importer, mlx_runtime
from coach_mlx.config import EvaluateSection, load_config
from coach_mlx.evidence import Evidence, Seen
from coach_mlx.judgements import Judged, Judgement
from coach_mlx.measures import measure
from coach_mlx.mlx_replies import Asked, Talks
from coach_mlx.mlx_runtime import LoadedModel
from coach_mlx.records import Mark, Vote
from coach_mlx.replay import NOTHING, ReplyRecord, Script, Told
from coach_mlx.rubric import CRITERIA, RUBRIC, Rubric, load_rubric
from coach_mlx.safety import measure_safety
from coach_mlx.talk import Speech
from coach_mlx.workspace import PROJECT, Workspace, read_conversations, read_system_prompt

CONVERSATIONS, TURNS, TOKENS = 20, 6, 40
SCENARIOS, ARMS, VOTES = 200, ("base", "adapter", "served"), 5
Talk = list[dict[str, str]]
Found = TypeVar("Found")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def replay() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(PROJECT / "config" / "demo.yaml")
        workspace = Workspace(Path(folder), config)
        importer.run(config, workspace)
        loaded = mlx_runtime.open_model(workspace.base)
        system = read_system_prompt(PROJECT / config.dataset.system_prompt)
        conversations = read_conversations(PROJECT / "reference" / "starter-conversations.jsonl")
        chosen = [one for one in conversations if one.turns >= TURNS][:CONVERSATIONS]
        said = [
            [line.content for line in one.messages if line.role == "user"][:TURNS] for one in chosen
        ]
        begun = [[{"role": "system", "content": system}] for _ in said]
        say(f"{mlx_runtime.machine()}; {len(said)} conversations of {TURNS} turns")
        alone, alone_seconds = _timed(lambda: _one_by_one(loaded, begun, said))
        batched, batched_seconds = _timed(lambda: _side_by_side(loaded, begun, said))
    replies = [
        (a, b)
        for one, other in zip(alone, batched, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    same = sum(a == b for a, b in replies)
    say(f"one by one, all read anew: {alone_seconds:.1f} s")
    say(f"side by side, caches kept: {batched_seconds:.1f} s")
    say(
        f"{alone_seconds / batched_seconds:.1f} times as fast; {same} of {len(replies)} replies "
        "the same text"
    )


def _timed(work: Callable[[], Found]) -> tuple[Found, float]:
    started = time.monotonic()
    found = work()
    return found, time.monotonic() - started


def _one_by_one(
    loaded: LoadedModel, begun: Sequence[Talk], said: Sequence[Sequence[str]]
) -> list[list[str]]:
    found = []
    for start, words in zip(begun, said, strict=True):
        messages, replies = list(start), []
        for text in words:
            messages.append({"role": "user", "content": text})
            prompt_ids = chat_format.encode_prompt(loaded.tokenizer, messages)
            pieces = mlx_runtime.stream_reply(loaded.model, loaded.tokenizer, prompt_ids, TOKENS)
            replies.append("".join(pieces).strip())
            messages.append({"role": "assistant", "content": replies[-1] or NOTHING})
        found.append(replies)
    return found


def _side_by_side(
    loaded: LoadedModel, begun: Sequence[Talk], said: Sequence[Sequence[str]]
) -> list[list[str]]:
    talks = Talks(loaded, TOKENS, width=CONVERSATIONS)
    histories, found = [list(start) for start in begun], [[""] * TURNS for _ in said]
    for turn in range(TURNS):
        for messages, words in zip(histories, said, strict=True):
            messages.append({"role": "user", "content": words[turn]})
        asked = [Asked(str(place), messages, 0) for place, messages in enumerate(histories)]
        for place, reply in talks.replies(asked):
            found[place][turn] = reply.text
        for place, messages in enumerate(histories):
            messages.append({"role": "assistant", "content": found[place][turn] or NOTHING})
    return found


def statistics() -> None:
    rng = random.Random(7)
    scripts = tuple(
        Script(
            id=f"s{n}", kind="holdout", group=f"topic {n % 6}", system=None, says=("Hello.",) * 12
        )
        for n in range(SCENARIOS)
    )
    rubric = load_rubric(PROJECT / RUBRIC)
    skill = {"base": 0.75, "adapter": 0.84, "served": 0.83}
    seen = {
        (arm, one.id, 0): _seen(one, arm, _votes(rng, skill[arm]), rubric)
        for arm in ARMS
        for one in scripts
    }
    losses = {(arm, one.id): 3 - skill[arm] + rng.gauss(0, 0.1) for arm in ARMS for one in scripts}
    evidence = Evidence(
        scripts, ARMS, seen, losses, rubric, EvaluateSection(resamples=10_000), None, 7
    )
    (numbers, safety), seconds = _timed(lambda: (measure(evidence), measure_safety(evidence)))
    primary = numbers["score"][0]
    say(mlx_runtime.machine())
    say(
        f"{SCENARIOS} scenarios, {len(ARMS)} arms, {len(CRITERIA)} criteria, {VOTES} votes, 10,000 "
        f"resamples: {seconds:.1f} s; score {primary.difference:+.3f} ({primary.low:+.3f} to "
        f"{primary.high:+.3f}), {safety.newly.found} newly unsafe"
    )


def _votes(rng: random.Random, skill: float) -> dict[str, tuple[Vote, ...]]:
    def mark(name: str) -> Mark:
        if name == "CQ9":
            return "NA"
        return "YES" if rng.random() < (0.99 if name == "CQ8" else skill) else "NO"

    return {
        name: tuple(Vote(answer=mark(name), reasoning="x") for _ in range(VOTES))
        for name in CRITERIA
    }


def _seen(script: Script, arm: str, votes: dict[str, tuple[Vote, ...]], rubric: Rubric) -> Seen:
    replies = tuple(
        ReplyRecord(
            arm=arm,
            digest=arm,
            asked=arm,
            script=script.id,
            repeat=0,
            turn=turn,
            said=said,
            reply="That sounds long.",
            ended=True,
            tokens=4,
            seconds=0.0,
            seal="",
        )
        for turn, said in enumerate(script.says, start=1)
    )
    judgement = Judgement(conversation="x", script=script.id, recipe="x", asked="x", votes=votes)
    speeches = tuple(Speech(one.reply) for one in replies)
    told = Told(script, arm, 0, replies)
    return Seen(told, (), Judged(judgement, len(script.says), rubric), speeches)


if __name__ == "__main__":
    wanted = sys.argv[1:] or ["replay", "statistics"]
    if "replay" in wanted:
        replay()
    if "statistics" in wanted:
        statistics()
