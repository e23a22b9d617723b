"""How many tokens of a talk the coach holds, and what they cost in memory.

Computed from the longest training conversation, what the model was made for and what this machine
has; a server left alone would take 4,096 and drop what is older without a word. Reads the training
data, the weights' size and the model's shapes; writes nothing.
"""

import heapq
import json
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import chat_format, memory_fit, mlx_runtime
from coach_mlx.config import Config
from coach_mlx.model_facts import cache_bytes_per_token
from coach_mlx.records import Conversation
from coach_mlx.workspace import Workspace, parse_records

LEAST = 4096
STEP = 1024
WITHOUT_DATA = 16384
"""30 turns need about 14,000."""
HEADROOM = 1 / 8
"""A person may write more than anybody in the training data."""
WORKING_BYTES = 2**29
"""What llama.cpp computes in, beside weights and cache; reckoned."""
CANDIDATES = 32
"""The longest lines, among which the longest conversation by tokens is looked for."""


class Size(NamedTuple):
    """`reason` says which limit was binding; `longest` is None without training data."""

    tokens: int
    cache_bytes: int
    weight_bytes: int
    longest: int | None
    reason: str

    @property
    def words(self) -> str:
        cost = f"{_gb(self.cache_bytes)} beside {_gb(self.weight_bytes)} of weights"
        return f"{self.tokens:,} tokens: {cost} ({self.reason})"


def compute(config: Config, workspace: Workspace, tokenizer: Any) -> Size:
    """For the file that is served or, before there is one, for the base model."""
    folder = workspace.fused if workspace.fused.is_dir() else workspace.base
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = _weight_bytes(workspace, folder)
    longest = _longest(tokenizer, workspace.training_data)
    place = memory_fit.here()
    token_bytes = cache_bytes_per_token(facts)
    room = max(0, place.limit - weights - WORKING_BYTES) // token_bytes
    if config.serve.num_ctx is not None:
        tokens, reason = config.serve.num_ctx, "serve.num_ctx says so"
    else:
        needed = None if longest is None else longest + config.serve.max_reply_tokens
        tokens, reason = choose(needed, int(facts["max_position_embeddings"]), room)
    return Size(tokens, tokens * token_bytes, weights, longest, reason)


def choose(needed: int | None, model_limit: int, memory_limit: int) -> tuple[int, str]:
    """Tokens, and the limit that was binding. `needed` is the longest conversation with a reply."""
    if needed is None:
        tokens, reason = WITHOUT_DATA, "no training data here: enough for 30 turns"
    else:
        tokens = _rounded_up(int(needed * (1 + HEADROOM)))
        reason = "the longest training conversation, a reply, and an eighth more"
    if tokens < LEAST:
        tokens, reason = LEAST, "every training conversation is shorter; less is never set"
    if tokens > model_limit:
        tokens, reason = model_limit, "the model was made for no more"
    if tokens > memory_limit:
        tokens = max(STEP, memory_limit // STEP * STEP)
        reason = "this machine's memory takes no more beside the weights"
    return min(tokens, model_limit), reason


def _rounded_up(tokens: int) -> int:
    return -(-tokens // STEP) * STEP


def _weight_bytes(workspace: Workspace, folder: Path) -> int:
    if workspace.gguf.is_file():
        return workspace.gguf.stat().st_size
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _longest(tokenizer: Any, path: Path) -> int | None:
    """In tokens, with the system prompt; `None` where there is no training data."""
    if not path.is_file():
        return None
    return max(
        len(chat_format.encode_conversation(tokenizer, one.chat()).token_ids)
        for one in read_longest(path)
    )


def read_longest(path: Path) -> list[Conversation]:
    """The longest lines of training data, among which the longest conversation by tokens is."""
    lines = heapq.nlargest(CANDIDATES, path.read_bytes().split(b"\n"), key=len)
    return parse_records(b"\n".join(lines), f"{path}, its longest lines first", Conversation)


def check(config: Config, workspace: Workspace) -> str | None:
    """In words, for `coach doctor`; `None` before there is a model."""
    folder = workspace.fused if workspace.fused.is_dir() else workspace.base
    if not (folder / "config.json").is_file():
        return None
    return compute(config, workspace, mlx_runtime.open_tokenizer(folder)).words


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
