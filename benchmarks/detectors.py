"""How long the detectors take for a conversation of 60 messages, made from the starters, and the
check for slips for one message of the starters.

Run: .venv/bin/python benchmarks/detectors.py
"""

import statistics
import sys
import time
import timeit

from coach_mlx.config import load_config
from coach_mlx.crisis import load_known
from coach_mlx.detectors import detect
from coach_mlx.records import Conversation, Message
from coach_mlx.slips import client_slip, coach_slip
from coach_mlx.workspace import PROJECT, Workspace, read_conversations

MESSAGES = 60
WORDS = (25, 60)


def median_ms(conversation: list[Message], times: int = 20) -> float:
    config = load_config(None)
    known = load_known(config, Workspace(PROJECT, config))
    seconds = timeit.repeat(lambda: detect(conversation, None, known), number=1, repeat=times)
    return 1000 * statistics.median(seconds)


def wordy(messages: list[Message], role: str) -> list[Message]:
    """Those of ordinary length or longer."""
    low, high = WORDS
    return [one for one in messages if one.role == role and low <= len(one.content.split()) <= high]


def slips_ms(talk: Conversation) -> float:
    """For each message, with all that was said before it."""
    assert talk.scenario is not None
    client: list[str] = []
    coach: list[str] = []
    began = time.perf_counter()
    for number, message in enumerate(talk.messages):
        last = number >= len(talk.messages) - 2
        if message.role == "user":
            client_slip(message.content, talk.scenario, client, coach, last)
            client.append(message.content)
        else:
            coach_slip(message.content, coach, client, last)
            coach.append(message.content)
    return 1000 * (time.perf_counter() - began) / len(talk.messages)


def main() -> None:
    starters = read_conversations(PROJECT / "reference" / "starter-conversations.jsonl")
    every = [message for one in starters for message in one.messages if message.role != "system"]
    turns = zip(wordy(every, "user"), wordy(every, "assistant"), strict=False)
    long = [message for turn in turns for message in turn]
    for name, messages in (("as they are", every), (f"of {WORDS[0]} to {WORDS[1]} words", long)):
        took = [
            median_ms(messages[start : start + MESSAGES])
            for start in range(0, len(messages) - MESSAGES + 1, MESSAGES)
        ]
        sys.stdout.write(
            f"{MESSAGES} messages {name}: median {statistics.median(took):.1f} ms, "
            f"longest {max(took):.1f} ms, of {len(took)} conversations\n"
        )
    took = [slips_ms(talk) for talk in starters]
    sys.stdout.write(
        f"slips, for each message: median {statistics.median(took):.2f} ms, longest mean "
        f"{max(took):.2f} ms, of {len(took)} conversations\n"
    )


if __name__ == "__main__":
    main()
