"""`coach chat`: a private talk in the terminal with the file that is served.

Reads: the quantized GGUF, the tokenizer it was made with, and the system prompt. Writes nothing:
what is said here is gone when the window closes.
Fails: ToolError where there is no GGUF yet. Ctrl-C stops a reply; at the prompt, Ctrl-C or Ctrl-D
ends the talk.
"""

import contextlib
import sys
import unicodedata
from typing import Any

from coach_mlx import chat_format, console, llama_runtime, mlx_runtime, num_ctx
from coach_mlx.config import Config
from coach_mlx.errors import ToolError
from coach_mlx.workspace import Workspace, read_system_prompt

WELCOME = """This is a coach for everyday self-care, and it is an AI: it can be wrong.
It is not a therapist or a doctor, and not for a crisis: in danger, call your local emergency
number, or find people to talk to at findahelpline.com.
Nothing you write leaves this machine, and nothing is saved. Ctrl-D ends the talk."""


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    folder = workspace.fused if workspace.fused.is_dir() else workspace.base
    if not workspace.gguf.is_file() or not folder.is_dir():
        raise ToolError(f"There is no {workspace.gguf} to talk to. Make it with: coach run")
    with console.spinner("Opening the coach"):
        tokenizer = mlx_runtime.open_tokenizer(folder)
        context = num_ctx.compute(config, workspace, tokenizer)
        llama = llama_runtime.open_gguf(workspace.gguf, context.tokens)
    system = {
        "role": "system",
        "content": read_system_prompt(workspace.find(config.dataset.system_prompt)),
    }
    console.say(WELCOME)
    messages = [system]
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            said = _ask()
            if said:
                messages = _answer(
                    config, tokenizer, llama, [*messages, {"role": "user", "content": said}]
                )
    console.say("")
    return {"turns": (len(messages) - 1) // 2, "saved": False}


def _ask() -> str:
    """Accents composed, as in every conversation that was trained on."""
    line = input("\n> ") + "\n" if sys.stdin.isatty() else sys.stdin.readline()
    if not line:
        raise EOFError
    return unicodedata.normalize("NFC", line.strip())


def _answer(
    config: Config, tokenizer: Any, llama: Any, messages: list[dict[str, str]]
) -> list[dict[str, str]]:
    """Stream one reply; the conversation with it, or, where nothing was said, as it was before the
    question.
    """
    serve = config.serve
    messages = fit(tokenizer, messages, llama.n_ctx() - serve.max_reply_tokens)
    pieces: list[str] = []
    with contextlib.suppress(KeyboardInterrupt):
        for piece in llama_runtime.stream_reply(
            llama,
            chat_format.encode_prompt(tokenizer, messages),
            serve.max_reply_tokens,
            serve.temperature,
            serve.top_p,
            serve.repeat_penalty,
        ):
            pieces.append(piece)
            console.write(piece)
    console.write("\n")
    reply = "".join(pieces).strip()
    return [*messages, {"role": "assistant", "content": reply}] if reply else messages[:-1]


def fit(tokenizer: Any, messages: list[dict[str, str]], max_tokens: int) -> list[dict[str, str]]:
    """Set the oldest turns aside, and say so, until the prompt fits; the system prompt and the last
    words stay.
    """
    kept = messages
    while len(kept) > 2 and len(chat_format.encode_prompt(tokenizer, kept)) > max_tokens:
        kept = [kept[0], *kept[3:]]
    if len(kept) < len(messages):
        console.say(
            "(The talk is longer than the coach can hold: the oldest "
            f"{(len(messages) - len(kept)) // 2} turns are set aside.)"
        )
    if len(chat_format.encode_prompt(tokenizer, kept)) > max_tokens:
        raise ToolError(
            "That message alone is longer than the coach can hold. Raise serve.num_ctx, or say it "
            "in parts."
        )
    return kept
