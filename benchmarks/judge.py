"""Judging against a local server that speaks the Messages API: how fast, what is billed; scoring.

`throughput`: `coach assess` on 1,000 conversations of 10 turns, 12 calls of 1 s each, 100 at once,
against the ideal of 120 s. `cache`: what the server bills for the input of one conversation of 30
turns, with its cache and without, at the starters' lengths and at the specification's 200 tokens a
message. `scoring`: `compute_score` 100,000 times.

Run: .venv/bin/python benchmarks/judge.py throughput|cache|scoring
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from coach_mlx.config import load_config
from coach_mlx.records import Conversation, Message
from coach_mlx.rubric import CRITERIA
from coach_mlx.scoring import compute_score
from coach_mlx.workspace import PROJECT, Workspace

sys.path.insert(0, str(PROJECT / "tests"))
from claude_server import ClaudeServer
from judges import reply_by, yes
from local_http import serve
from writers import some_words

CONVERSATIONS, AT_ONCE = 1000, 100
CALLS = 12
IDEAL_SECONDS = CONVERSATIONS * CALLS / AT_ONCE


def a_talk(rng: random.Random, turns: int, words: tuple[int, int]) -> Conversation:
    """Made up, the person's and the coach's messages of about so many words."""
    messages = []
    for _ in range(turns):
        messages.append(Message(role="user", content=some_words(rng, words[0])))
        messages.append(Message(role="assistant", content=some_words(rng, words[1])))
    return Conversation(messages=tuple(messages))


def put(folder: str, conversations: list[Conversation]) -> None:
    path = Workspace(Path(folder), load_config(None)).conversations
    path.parent.mkdir(parents=True)
    path.write_text("".join(one.training_line() + "\n" for one in conversations))


def assess(folder: str, *settings: str) -> None:
    command = [sys.executable, "-m", "coach_mlx.cli", "assess", "--workspace", folder]
    command += ["--judge", "anthropic/claude-sonnet-5-5"]  # named: else nothing leaves
    for setting in ("calls.budget_usd=10000", *settings):
        command += ["--set", setting]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def throughput() -> None:
    server = subprocess.Popen(
        [sys.executable, __file__, "server"], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    os.environ["ANTHROPIC_BASE_URL"] = json.loads(server.stdout.readline())["url"]
    os.environ["ANTHROPIC_API_KEY"] = "local"
    rng = random.Random(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            put(folder, [a_talk(rng, 10, (30, 22)) for _ in range(CONVERSATIONS)])
            started = time.perf_counter()
            assess(folder, f"calls.concurrency={AT_ONCE}")
            seconds = time.perf_counter() - started
    finally:
        server.kill()
        server.wait()
    say(
        f"{CONVERSATIONS:,} conversations x {CALLS} calls of 1 s, {AT_ONCE} at once: {seconds:.1f} "
        f"s, {seconds / IDEAL_SECONDS:.3f} x the ideal {IDEAL_SECONDS:.0f} s"
    )


def server() -> None:
    serve(ClaudeServer(reply=reply_by(yes), latency=1.0, min_cache=512))


def cache() -> None:
    os.environ["ANTHROPIC_API_KEY"] = "local"
    for name, words in (("the starters' lengths", (30, 22)), ("200 tokens a message", (150, 150))):
        costs = []
        for least in (512, 10**9):
            with (
                ClaudeServer(reply=reply_by(yes), min_cache=least) as local,
                tempfile.TemporaryDirectory() as folder,
            ):
                os.environ["ANTHROPIC_BASE_URL"] = local.url
                put(folder, [a_talk(random.Random(2), 30, words)])
                assess(folder)
                costs.append(local.input_usd)
        say(
            f"30 turns, {name}: input ${costs[0]:.4f} with the cache, ${costs[1]:.4f} without: "
            f"{costs[0] / costs[1]:.1%}"
        )


def scoring() -> None:
    rng = random.Random(3)
    sheets = [
        dict(zip(CRITERIA, rng.choices(("YES", "NO", "NA", "ERROR"), k=12), strict=True))
        for _ in range(100_000)
    ]
    compute_score({}, 10)
    started = time.perf_counter()
    for sheet in sheets:
        compute_score(sheet, 10)
    say(f"compute_score 100,000 times: {time.perf_counter() - started:.2f} s")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"throughput": throughput, "cache": cache, "scoring": scoring, "server": server}[sys.argv[1]]()
