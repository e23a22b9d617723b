"""Generation against a local server that speaks the Messages API: how fast, and what kills cost.

`throughput`: 1,000 calls of 1 s at 50 at once, against the ideal of 20 s (best of 3).
`kills`: a run of 150 conversations killed with -9 until 200 kills have hit it; then by the server's
own books: every conversation there, no call billed twice.

Run: .venv/bin/python benchmarks/generate.py throughput|kills
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from coach_mlx.calls import Call
from coach_mlx.config import load_config
from coach_mlx.llm import Models
from coach_mlx.records import Message
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

sys.path.insert(0, str(PROJECT / "tests"))
from claude_server import ClaudeServer
from writers import reply

SYSTEM = "Listen first, and answer in a line or two. " * 120
KILLS = 200


def throughput() -> None:
    server = subprocess.Popen(
        [sys.executable, str(PROJECT / "tests" / "claude_server.py"), "--latency", "1.0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    os.environ["ANTHROPIC_BASE_URL"] = json.loads(server.stdout.readline())["url"]
    os.environ["ANTHROPIC_API_KEY"] = "local"
    try:
        seconds = [asyncio.run(a_thousand_calls()) for _ in range(3)]
    finally:
        server.kill()
        server.wait()
    say(
        f"1,000 calls of 1 s, 50 at once: {min(seconds):.2f} s, {min(seconds) / 20:.3f} x the ideal"
    )


async def a_thousand_calls() -> float:
    config = load_config(None, ["calls.concurrency=50", "calls.budget_usd=1000"])
    with tempfile.TemporaryDirectory() as folder:
        async with Models(config, Workspace(Path(folder), config)) as models:

            async def one(number: int) -> None:
                message = Message(role="user", content=f"Message {number}: it rains again.")
                call = Call("anthropic/claude-sonnet-5-5", (message,), 300, "benchmark")
                answer = await models.ask(call._replace(system=(SYSTEM,)))
                assert answer.text

            started = time.perf_counter()
            await models.each(range(1000), one)
            return time.perf_counter() - started


def kills() -> None:
    rng, hit, begun = random.Random(5), 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ClaudeServer(reply=reply, latency=0.05) as server:
        os.environ |= {"ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "local"}
        coach = [sys.executable, "-m", "coach_mlx.cli"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        deal = [*coach, "scenarios", "--count", "150", "--workspace", folder]
        subprocess.run(deal, check=True, **quiet)  # type: ignore[call-overload]
        command = [*coach, "generate", "--force", "--workspace", folder]
        command += ["--set", "calls.concurrency=6", "--set", "calls.budget_usd=1000"]
        while True:
            process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
            try:
                code = process.wait(timeout=rng.uniform(0.3, 1.6) if hit < KILLS else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                hit += 1
        place = Workspace(Path(folder), load_config(None))
        written = read_conversations(place.conversations)
        cards = {one.scenario.id for one in written if one.scenario}
        say(
            f"{hit} kills in {time.perf_counter() - begun:.0f} s, exit {code}: {len(written)} "
            f"conversations of {len(cards)} cards, {len(server.calls)} calls, billed more than "
            f"once: {sum(count > 1 for count in server.billed_by_hash.values())}, answers to "
            f"nobody: {sum(not call.connected for call in server.calls)}"
        )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    {"throughput": throughput, "kills": kills}[sys.argv[1]]()
