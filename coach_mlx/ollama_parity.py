"""Whether a model in Ollama reads and answers as the one that was trained.

`compare` asks for the text that Ollama would give it, for 1 to 30 turns of whatever people type;
`talk` has a short talk with it. Both know what training had. Writes nothing.
Fails: GateFailed at the first difference, ToolError where this Ollama is too old to be asked.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from coach_mlx import chat_format, chat_template, parity_cases
from coach_mlx.errors import GateFailed, ToolError
from coach_mlx.ollama_server import Server

Chat = list[dict[str, str]]
ANOTHER_SYSTEM = 'Be "brief". {{ .Nothing }} {% raw %} Say 早安 🌱.'
TALK = (
    "I slept badly, and tomorrow worries me.",
    "What could I do in the next ten minutes?",
    "Thank you. I will try that.",
)
REPLY_TOKENS = 40


class Talk(NamedTuple):
    """`equal_counts`: turns whose prompt had as many tokens in Ollama as in training; `None` where
    this Ollama does not count what it had in memory already.
    """

    replies: list[str]
    equal_counts: int | None
    seconds: float


def compare(server: Server, name: str, tokenizer: Any, system: str | None) -> int:
    """How many conversations Ollama renders as training does, without a system message (Ollama puts
    the Modelfile's first) and with another one.
    """
    begin = chat_template.begin_of_text(tokenizer)
    chats = parity_cases.conversations(tokenizer, None)
    chats += parity_cases.conversations(tokenizer, ANOTHER_SYSTEM)
    for chat in chats:
        expected = chat_format.prompt_text(tokenizer, with_system(chat, system))
        found = server.rendered(name, chat)
        if found is None:
            raise ToolError(
                "This Ollama cannot say what it would give the model, so nothing proves that it is "
                "what training had. Bring it up to date: ollama.com/download"
            )
        if found != expected.removeprefix(begin):
            raise GateFailed(
                "Ollama would give the model another text than training did: "
                + parity_cases.difference(expected.removeprefix(begin), found, "Ollama")
            )
    return len(chats)


def with_system(chat: Chat, system: str | None) -> Chat:
    """What Ollama makes of a talk that brings no system message along."""
    if not system or chat[0]["role"] == "system":
        return chat
    return [{"role": "system", "content": system}, *chat]


def talk(server: Server, name: str, tokenizer: Any, system: str | None) -> Talk:
    """Three turns, with the likeliest words. Raises: GateFailed where it answers nothing, speaks
    in markers, or Ollama makes other tokens of a prompt than training does.
    """
    started = time.monotonic()
    chat: Chat = []
    counts: list[tuple[int, int]] = []
    for said in TALK:
        chat.append({"role": "user", "content": said})
        answer = server.chat(name, chat, temperature=0.0, num_predict=REPLY_TOKENS)
        reply = (answer.message.content or "").strip()
        _require_words(reply, control_tokens(tokenizer), len(chat) // 2 + 1)
        ours = len(chat_format.encode_prompt(tokenizer, with_system(chat, system)))
        counts.append((ours, answer.prompt_eval_count or 0))
        chat.append({"role": "assistant", "content": reply})
    equal = None
    if _counts_whole_prompts(server, name, chat[:1]):
        _require_equal(counts)
        equal = len(counts)
    seconds = time.monotonic() - started
    return Talk([message["content"] for message in chat[1::2]], equal, seconds)


def control_tokens(tokenizer: Any) -> list[str]:
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    return [token.content for token in added if token.special]


def _require_words(reply: str, control: Sequence[str], turn: int) -> None:
    if not reply:
        raise GateFailed(f"In turn {turn} of a short talk the model answered nothing.")
    markers = [token for token in control if token in reply]
    if markers:
        raise GateFailed(
            f"In turn {turn} of a short talk the model said {markers[0]!r}, which is a marker and "
            f"no word: {reply[:200]!r}"
        )


def _counts_whole_prompts(server: Server, name: str, chat: Chat) -> bool:
    """Whether the count of a prompt stays the same when all of it is in memory already."""
    counts = {
        server.chat(name, chat, temperature=0.0, num_predict=1).prompt_eval_count for _ in range(2)
    }
    return len(counts) == 1


def _require_equal(counts: Sequence[tuple[int, int]]) -> None:
    for turn, (ours, theirs) in enumerate(counts, start=1):
        if ours != theirs:
            raise GateFailed(
                f"In turn {turn} of a short talk Ollama made {theirs} tokens of the prompt, and "
                f"training makes {ours} of the same text."
            )
