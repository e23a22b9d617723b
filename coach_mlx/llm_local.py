"""Models in this process: an MLX folder, a GGUF file, and answers out of a file.

They open no connection and cost nothing. A model takes one call at a time, in a thread of its own,
so that the rest of the program stays awake. Raises BackendError, ToolError, DataError.
"""

import asyncio
import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from coach_mlx import chat_format, llama_runtime, mlx_runtime
from coach_mlx.calls import Call, Outcome, Reply, Usage
from coach_mlx.errors import BackendError, ToolError
from coach_mlx.records import Record
from coach_mlx.workspace import read_records

Result = TypeVar("Result")
SAMPLED_BYTES = 1 << 20
DEFAULT_TEMPERATURE = 0.7


def _chat(call: Call) -> list[dict[str, str]]:
    """The messages, and what the answer must look like, where a schema is wanted."""
    messages = call.chat()
    if call.schema:
        wanted = json.dumps(call.schema.model_json_schema())
        messages[-1]["content"] += f"\n\nAnswer with one JSON object of this schema only:\n{wanted}"
    return messages


def fingerprint(files: list[Path]) -> str:
    """Tells one set of weights from another without reading gigabytes: names, sizes, and the first
    and last of each.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(SAMPLED_BYTES))
            handle.seek(max(0, size - SAMPLED_BYTES))
            digest.update(handle.read(SAMPLED_BYTES))
    return digest.hexdigest()


class InProcess:
    """One worker thread that opens the model and answers with it."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def _work(self, task: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._worker, task)

    async def close(self) -> None:
        self._worker.shutdown(wait=True)


class MLXBackend(InProcess):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._loaded: Any = None
        self._memory = mlx_runtime.Memory()

    async def identity(self) -> str:
        if not self._folder.is_dir():
            raise ToolError(f"There is no model folder {self._folder}.")
        return fingerprint([*self._folder.glob("*.safetensors"), *self._folder.glob("*.json")])

    async def send(self, call: Call, seed: int) -> Reply:
        return await self._work(lambda: self._answer(call, seed))

    def _answer(self, call: Call, seed: int) -> Reply:
        if self._loaded is None:
            self._loaded = mlx_runtime.open_model(self._folder)
        prompt_ids = chat_format.encode_prompt(self._loaded.tokenizer, _chat(call))
        temperature = DEFAULT_TEMPERATURE if call.temperature is None else call.temperature
        done = mlx_runtime.complete(
            self._loaded,
            prompt_ids,
            call.max_tokens,
            temperature,
            seed,
            self._memory,
            call.purpose,
        )
        usage = Usage(input=len(prompt_ids), output=done.tokens)
        return _reply(done.text, done.ended, self._folder.name, usage)


class GGUFBackend(InProcess):
    def __init__(self, path: Path, num_ctx: int) -> None:
        super().__init__()
        self._path, self._num_ctx = path, num_ctx
        self._llama: Any = None

    async def identity(self) -> str:
        if not self._path.is_file():
            raise ToolError(f"There is no GGUF file {self._path}.")
        return f"{fingerprint([self._path])}:{self._num_ctx}"

    async def send(self, call: Call, seed: int) -> Reply:
        return await self._work(lambda: self._answer(call, seed))

    def _answer(self, call: Call, seed: int) -> Reply:
        if self._llama is None:
            self._llama = llama_runtime.open_gguf(self._path, self._num_ctx)
        schema = call.schema.model_json_schema() if call.schema else None
        temperature = DEFAULT_TEMPERATURE if call.temperature is None else call.temperature
        try:
            text, ended, read, written = llama_runtime.complete(
                self._llama, _chat(call), call.max_tokens, temperature, seed, schema
            )
        except ValueError as error:
            raise BackendError(
                f"{self._path.name}: {error}. Raise calls.num_ctx, or shorten the prompts."
            ) from None
        return _reply(text, ended, self._path.name, Usage(input=read, output=written))

    async def close(self) -> None:
        await super().close()
        if self._llama is not None:
            self._llama.close()


class Line(Record):
    """One line of a scripted model's file."""

    text: str = ""
    """{found} in it stands for what `find` finds."""
    when: str | tuple[str, ...] | None = None
    """Only where the last message or the note contains this, or all of these."""
    find: str | None = None
    """A regular expression with one group, looked for in the last message."""
    outcome: Outcome = "ok"
    seconds: float = Field(default=0.0, ge=0)

    @field_validator("find")
    @classmethod
    def _has_one_group(cls, find: str | None) -> str | None:
        try:
            groups = 1 if find is None else re.compile(find).groups
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError("needs one group in brackets")
        return find

    def fits(self, asked: str) -> bool:
        wanted = (self.when,) if isinstance(self.when, str) else self.when or ()
        return all(part in asked for part in wanted)

    def filled(self, asked: str) -> str:
        """The text, with what it quotes of the question."""
        found = re.search(self.find, asked) if self.find else None
        return self.text.replace("{found}", found[1]) if found else self.text


def pick(lines: Sequence[Line], asked: str, seed: int) -> Line | None:
    """Of the lines that fit, one drawn by the seed; those with a `when` come first."""
    special = [line for line in lines if line.when is not None and line.fits(asked)]
    fitting = special or [line for line in lines if line.when is None]
    return random.Random(seed).choice(fitting) if fitting else None


class ScriptedBackend:
    """Answers out of a JSONL file: of the lines that fit a call, one drawn by the call's seed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = read_records(path, Line, 'A line must be {"text": "…"}.')

    async def identity(self) -> str:
        return hashlib.sha256(self._path.read_bytes()).hexdigest()

    async def close(self) -> None:
        return None

    async def send(self, call: Call, seed: int) -> Reply:
        last = f"{call.messages[-1].content}\n{call.note or ''}"
        line = pick(self._lines, last, seed)
        if line is None:
            raise BackendError(f"{self._path} has no line that fits a call for {call.purpose}.")
        await asyncio.sleep(line.seconds)
        text = line.filled(last).strip()
        outcome = "empty" if line.outcome == "ok" and not text else line.outcome
        usage = Usage(input=call.prompt_bytes // 4, output=len(text.encode()) // 4)
        return Reply(text, outcome, line.outcome, self._path.name, usage)


def _reply(text: str, ended: bool, model: str, usage: Usage) -> Reply:
    text = text.strip()
    outcome: Outcome = "max_tokens" if not ended else "ok" if text else "empty"
    return Reply(text, outcome, "stop" if ended else "length", model, usage)
