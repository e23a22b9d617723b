"""llama.cpp as this machine has it: GGUF files opened whole or refused, read, scored and quantized.

The library's own messages are collected instead of printed; the last ones go into the error that
needs them. A long C call runs in a thread, so that Ctrl-C is answered at once.
"""

import codecs
import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx.errors import DataError, ToolError

_messages: deque[str] = deque(maxlen=40)
FILE_TYPES = {"q4_k_s": "Q4_K_S", "q4_k_m": "Q4_K_M", "q5_k_m": "Q5_K_M", "q6_k": "Q6_K"}
BATCH = 512


@functools.cache
def library() -> Any:
    """The module `llama_cpp`, silenced."""
    import llama_cpp

    def collect(level: int, text: bytes, _: Any) -> None:
        if level in (3, 4):
            _messages.append(text.decode("utf-8", "replace").strip())

    # The C side keeps a pointer to the callback: it must live as long as the module.
    llama_cpp.coach_mlx_log = llama_cpp.llama_log_callback(collect)
    llama_cpp.llama_log_set(llama_cpp.coach_mlx_log, ctypes.c_void_p(0))
    return llama_cpp


def open_gguf(path: Path, num_ctx: int, vocabulary_only: bool = False) -> Any:
    """A `llama_cpp.Llama` with `num_ctx` tokens of context, on the GPU where there is one.

    Raises: ToolError where there is no such file, DataError where llama.cpp refuses it (cut short,
    not GGUF).
    """
    if not path.is_file():
        raise ToolError(f"There is no {path}. Make it with: coach export")
    llama_cpp = library()
    _messages.clear()
    options: dict[str, Any] = {**_threads(), "verbose": False}
    if not vocabulary_only:
        options |= {"n_ctx": num_ctx, "n_batch": BATCH, "n_gpu_layers": -1}
    try:
        return llama_cpp.Llama(str(path), vocab_only=vocabulary_only, **options)
    except ValueError:
        reason = next((text for text in _messages if "error" in text or "invalid" in text), "")
        why = f" ({reason})" if reason else ""
        raise DataError(
            f"llama.cpp refuses {path}: it is cut short or not a GGUF file{why}."
        ) from None


def _threads() -> dict[str, int]:
    """Its threads spin while they wait for each other: for a reply, where they meet hundreds of
    times a token, one core is left to the rest of the machine. A Mac's GPU does the work there.
    """
    cores = os.cpu_count()
    if sys.platform != "linux" or cores is None:
        return {}
    return {"n_threads": max(1, cores - 1), "n_threads_batch": cores}


def require_whole_gguf(path: Path) -> None:
    """Open header and vocabulary; llama.cpp checks that every tensor lies inside the file."""
    open_gguf(path, num_ctx=0, vocabulary_only=True).close()


def control_tokens(llama: Any) -> set[int]:
    """Tokens that llama.cpp takes for control tokens, some by their names alone."""
    llama_cpp = library()
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    return {
        token
        for token in range(llama.n_vocab())
        if llama_cpp.llama_vocab_is_control(vocabulary, token)
    }


def token_losses(llama: Any, token_ids: Sequence[int], is_target: Sequence[bool]) -> Any:
    """Negative log-likelihood of each target token given all tokens before it.

    Shapes: token_ids and is_target (T,) -> float64 array (K,), K targets. The first token has
    nothing before it and is never a target.
    Units: nats.
    """
    import numpy as np

    wanted = [token for token, target in zip(token_ids[1:], is_target[1:], strict=True) if target]
    losses = []
    for token, logits in zip(wanted, target_logits(llama, token_ids, is_target), strict=True):
        top = logits.max()
        total = top + np.log(np.exp(logits - top).sum())
        losses.append(total - logits[token])
    return np.asarray(losses)


def target_logits(llama: Any, token_ids: Sequence[int], is_target: Sequence[bool]) -> Iterator[Any]:
    """What the model says at each target, (V,) in 64 bits."""
    for _, logits in _logits(llama, token_ids, [*is_target[1:], False]):
        yield logits


def likeliest_tokens(llama: Any, token_ids: Sequence[int]) -> Any:
    """The token each position would be followed by, (T,) -> (T,)."""
    import numpy as np

    wanted = [True] * len(token_ids)
    return np.asarray([int(logits.argmax()) for _, logits in _logits(llama, token_ids, wanted)])


def _logits(
    llama: Any, token_ids: Sequence[int], wanted: Sequence[bool]
) -> Iterator[tuple[int, Any]]:
    """Position and float64 logits (V,) wherever `wanted` says so, from an empty context."""
    import numpy as np

    if len(token_ids) > llama.n_ctx():
        raise DataError(f"{len(token_ids)} tokens do not fit into a context of {llama.n_ctx()}.")
    llama_cpp, context, shape = library(), llama.ctx, (llama.n_vocab(),)
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
    try:
        for start in range(0, len(token_ids), BATCH):
            _fill(batch, token_ids[start : start + BATCH], start, wanted[start : start + BATCH])
            if llama_cpp.llama_decode(context, batch):
                raise DataError("llama.cpp could not decode a conversation.")
            for row in range(batch.n_tokens):
                if wanted[start + row]:
                    pointer = llama_cpp.llama_get_logits_ith(context, row)
                    yield start + row, np.ctypeslib.as_array(pointer, shape).astype(np.float64)
    finally:
        llama_cpp.llama_batch_free(batch)
        llama.reset()


def _fill(batch: Any, token_ids: Sequence[int], first: int, wanted: Sequence[bool]) -> None:
    batch.n_tokens = len(token_ids)
    for row, token in enumerate(token_ids):
        batch.token[row] = token
        batch.pos[row] = first + row
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = 0
        batch.logits[row] = wanted[row]


def stream_reply(
    llama: Any,
    prompt_ids: Sequence[int],
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repeat_penalty: float = 1.0,
    seed: int | None = None,
) -> Iterator[str]:
    """Pieces of text until the model ends its turn or `max_tokens` are spent; the shared prefix is
    not read again.
    """
    if seed is not None:
        llama.set_seed(seed)
    vocabulary = library().llama_model_get_vocab(llama.model)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    tokens = llama.generate(
        prompt_ids, temp=temperature, top_p=top_p, top_k=0, min_p=0.0, repeat_penalty=repeat_penalty
    )
    with contextlib.closing(tokens):
        for count, token in enumerate(tokens, start=1):
            if library().llama_vocab_is_eog(vocabulary, token):
                return
            yield decoder.decode(llama.detokenize([token]))
            if count >= max_tokens:
                return


def reply_ends(llama: Any, prompt_ids: Sequence[int], max_tokens: int) -> bool:
    """Whether the likeliest reply ends by itself within so many tokens."""
    vocabulary = library().llama_model_get_vocab(llama.model)
    tokens = llama.generate(prompt_ids, temp=0.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
    with contextlib.closing(tokens):
        for token, _ in zip(tokens, range(max_tokens), strict=False):
            if library().llama_vocab_is_eog(vocabulary, token):
                return True
    return False


class Completion(NamedTuple):
    """`ended` where the model ended its turn itself; tokens read and written."""

    text: str
    ended: bool
    read: int
    written: int


def complete(
    llama: Any,
    messages: Sequence[dict[str, str]],
    max_tokens: int,
    temperature: float,
    seed: int,
    schema: dict[str, Any] | None = None,
) -> Completion:
    """A whole reply through the file's own chat template; with a schema, llama.cpp's grammar holds
    it to that.

    Raises: ValueError where the prompt does not fit into the context.
    """
    shape = {"type": "json_object", "schema": schema} if schema else None
    answer = llama.create_chat_completion(
        messages=list(messages),
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        response_format=shape,
    )
    choice, used = answer["choices"][0], answer["usage"]
    return Completion(
        choice["message"]["content"] or "",
        choice["finish_reason"] == "stop",
        used["prompt_tokens"],
        used["completion_tokens"],
    )


def quantize(source: Path, target: Path, quantization: str) -> None:
    """llama.cpp's own quantizer, from F16. Raises: ToolError where it fails (a full disk)."""
    llama_cpp = library()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{FILE_TYPES[quantization]}")
    _messages.clear()
    code = _in_thread(
        lambda: llama_cpp.llama_model_quantize(
            str(source).encode(), str(target).encode(), ctypes.byref(params)
        )
    )
    if code:
        said = " ".join(_messages) or "no reason given"
        raise ToolError(f"llama.cpp could not write {target}: {said}. Is the disk full?")


def _in_thread(call: Callable[[], int]) -> int:
    codes: list[int] = []
    worker = threading.Thread(target=lambda: codes.append(call()), daemon=True)
    worker.start()
    while worker.is_alive():
        worker.join(0.1)
    return codes[0] if codes else 1
