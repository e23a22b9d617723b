"""Models of make-believe that write well enough for the generator: replies for the local server."""

import json
import random
import re
from typing import Any

WORDS = [
    "the",
    "boiler",
    "sister",
    "morning",
    "train",
    "kitchen",
    "window",
    "quietly",
    "carried",
    "nothing",
    "letter",
    "Tuesday",
    "garden",
    "waiting",
    "neighbour",
    "shoes",
    "always",
    "never",
    "until",
    "maybe",
    "because",
    "after",
    "walked",
    "answered",
    "forgot",
    "remember",
    "counted",
    "folded",
    "paper",
    "salt",
    "bridge",
    "cousin",
    "Monday",
    "ladder",
    "quiet",
    "upstairs",
    "borrowed",
]


def some_words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(max(1, count))) + "."


def asked_text(body: dict[str, Any]) -> str:
    """All blocks of the last message."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "\n".join(block["text"] for block in content)


def reply(body: dict[str, Any]) -> str:
    """A plan, a whole conversation, or one message of about the length that was asked for."""
    rng = random.Random(json.dumps(body, sort_keys=True))
    text = asked_text(body)
    if "format" in body.get("output_config", {}):
        properties = body["output_config"]["format"]["schema"]["properties"]
        return json.dumps(a_plan(rng, text) if "beats" in properties else a_whole(rng, text))
    asked = re.search(r"About (\d+) words", text)
    return some_words(rng, int(asked[1]) if asked else rng.randint(12, 30))


def a_plan(rng: random.Random, text: str) -> dict[str, Any]:
    turns = int(re.search(r"writes (\d+) messages", text)[1])  # type: ignore[index]
    return {
        "facts": [some_words(rng, 12) for _ in range(5)],
        "opening": some_words(rng, 20),
        "beats": [some_words(rng, 14) for _ in range(turns)],
        "ending": some_words(rng, 15),
    }


def a_whole(rng: random.Random, text: str) -> dict[str, Any]:
    lengths = re.search(r"messages, about: ([\d, ]+)", text)[1]  # type: ignore[index]
    messages = []
    for count in map(int, lengths.split(",")):
        messages.append({"speaker": "person", "text": some_words(rng, count)})
        messages.append({"speaker": "coach", "text": some_words(rng, rng.randint(12, 30))})
    return {"messages": messages}
