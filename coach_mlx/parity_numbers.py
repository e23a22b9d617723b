"""How far two models' predictions are apart, and whether their replies end.

Reads the models it is given and held-out conversations; writes nothing. Each model is opened alone
and its predictions are kept, so that no two are in memory at once.
"""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import chat_format, llama_runtime, losses, mlx_runtime
from coach_mlx.chat_format import Encoded

MOST_NUMBERS = 2**26
"""Log-probabilities kept of a model: 268 MB."""


class Sample(NamedTuple):
    """`parts`: conversations whose targets are compared; `prompts`: what is answered greedily."""

    parts: list[Encoded]
    prompts: list[list[int]]
    reply_tokens: int

    @property
    def longest(self) -> int:
        return max(
            *(len(part.token_ids) for part in self.parts),
            *(len(prompt) + self.reply_tokens for prompt in self.prompts),
            1,
        )


class Answer(NamedTuple):
    """What one model said: `predictions` (K, V) log-probabilities, and which replies ended."""

    predictions: Any
    ended: list[bool]


class Distance(NamedTuple):
    """`kl`: mean over tokens, nats; `same_top`: share with the same likeliest token."""

    kl: float
    same_top: float


def sample(
    tokenizer: Any,
    conversations: Sequence[Sequence[dict[str, str]]],
    tokens: int,
    replies: int,
    reply_tokens: int,
) -> Sample:
    """The longest conversations first, because wrong positions show late; cut between turns."""
    parts, left = [], tokens
    for messages in sorted(conversations, key=_words, reverse=True):
        found = _part(tokenizer, messages, left)
        if found is not None:
            parts.append(found)
            left -= len(found.token_ids)
    most = max(1, MOST_NUMBERS // len(tokenizer))
    prompts = [
        chat_format.encode_prompt(tokenizer, _asked(messages, number))
        for number, messages in enumerate(conversations[:replies])
    ]
    return Sample(_thinned(parts, most), prompts, reply_tokens)


def _words(messages: Sequence[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _part(tokenizer: Any, messages: Sequence[dict[str, str]], tokens: int) -> Encoded | None:
    """As many turns from the beginning as fit."""
    last = len(messages)
    while last > 1:
        found = chat_format.encode_conversation(tokenizer, messages[:last])
        if len(found.token_ids) <= tokens:
            return found
        last -= 2
    return None


def _thinned(parts: Sequence[Encoded], most: int) -> list[Encoded]:
    """At most so many targets, evenly spread."""
    every = -(-sum(sum(part.is_target) for part in parts) // most)
    seen = iter(range(sum(len(part.token_ids) for part in parts)))
    return [
        Encoded(part.token_ids, [target and next(seen) % every == 0 for target in part.is_target])
        for part in parts
    ]


def _asked(messages: Sequence[dict[str, str]], number: int) -> Sequence[dict[str, str]]:
    """Up to the first, second or third thing the person says, in turn."""
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    return messages[: users[min(number % 3, len(users) - 1)] + 1]


def of_mlx(folder: Path, adapter: Path | None, asked: Sample) -> Answer:
    """What training's own view of a model says."""
    loaded = mlx_runtime.open_model(folder, adapter)
    rows = (
        row
        for part in asked.parts
        for piece in losses.target_logits(loaded.model, part)
        for row in mlx_runtime.to_numpy(piece)
    )
    predictions = _log_probabilities(rows, asked)
    ended = mlx_runtime.replies_end(loaded, asked.prompts, asked.reply_tokens)
    del loaded, rows
    gc.collect()
    return Answer(predictions, ended)


def of_gguf(path: Path, asked: Sample) -> Answer:
    """What llama.cpp says of a file."""
    llama = llama_runtime.open_gguf(path, num_ctx=asked.longest + 8)
    rows = (row for part in asked.parts for row in llama_runtime.target_logits(llama, *part))
    predictions = _log_probabilities(rows, asked)
    ended = [
        llama_runtime.reply_ends(llama, prompt, asked.reply_tokens) for prompt in asked.prompts
    ]
    llama.close()
    return Answer(predictions, ended)


def _log_probabilities(rows: Iterator[Any], asked: Sample) -> Any:
    """(K, V) in 32 bits, filled row by row. `rows` may be longer than the vocabulary: padding."""
    import numpy as np

    count = sum(sum(part.is_target[1:]) for part in asked.parts)
    found = None
    for number, logits in enumerate(rows):
        if found is None:
            found = np.empty((count, len(logits)), dtype=np.float32)
        top = logits.max()
        found[number] = logits - (top + np.log(np.exp(logits - top, dtype=np.float64).sum()))
    return found


def distance(before: Any, after: Any) -> Distance:
    """Kullback-Leibler divergence of `after` from `before`: sum of p (log p - log q).

    Shapes: (K, V) log-probabilities each.
    """
    import numpy as np

    total, same = 0.0, 0
    for one, other in zip(before, after, strict=True):
        chances = np.exp(one, dtype=np.float64)
        total += float((chances * (one.astype(np.float64) - other)).sum())
        same += int(one.argmax() == other.argmax())
    return Distance(total / len(before), same / len(before))


def stops_less(expected: Sequence[bool], found: Sequence[bool]) -> bool:
    """Whether replies that ended in training's view end too seldom now: never, or fewer by more
    than chance (one-sided sign test at 0.05, on replies that differ).
    """
    from scipy.stats import binomtest

    lost = sum(a and not b for a, b in zip(expected, found, strict=True))
    won = sum(b and not a for a, b in zip(expected, found, strict=True))
    if sum(found) >= sum(expected):
        return False
    chance = binomtest(lost, lost + won, 0.5, alternative="greater").pvalue
    return not any(found) or bool(chance < 0.05)
