"""The models that an evaluation compares: where they lie, what tells them apart, how they answer.

Reads the base, the adapter and the GGUF file, or what `evaluate.base` and `evaluate.served` name;
writes nothing. All are decoded alike: the same cap, temperature and seeds, and no penalty on
repeated words. Fails: ToolError naming the stage that makes what is missing, DataError where two of
them are the same.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from coach_mlx import chat_format, llama_runtime, losses, memory_fit, mlx_runtime
from coach_mlx.calls import split_name
from coach_mlx.chat_format import Encoded
from coach_mlx.config import Config
from coach_mlx.errors import ConfigError, DataError, ToolError
from coach_mlx.llm_local import Line, fingerprint, pick
from coach_mlx.mlx_replies import Asked, Reply, Talks
from coach_mlx.model_facts import cache_bytes_per_token
from coach_mlx.ollama_server import Server
from coach_mlx.records import Record, content_hash
from coach_mlx.workspace import Workspace, read_records, stamp

SPARE_TOKENS = 8
WORKING_SHARE = 0.7
"""Of the memory beside the weights, for the keys and values of talks; the rest is computed in."""
FLOAT32 = 2
"""Times the 16 bits that keys and values take elsewhere."""
STANDS = "Nothing of it was changed; what was answered is kept."


class Decoding(Record):
    """How every arm is asked."""

    temperature: float
    max_tokens: int
    seed: int

    @property
    def words(self) -> str:
        how = "the likeliest token" if not self.temperature else f"temperature {self.temperature:g}"
        return f"{how}, at most {self.max_tokens} tokens a reply, seed {self.seed}"


class OpenArm(Protocol):
    """A model that answers."""

    width: int
    """Talks answered side by side."""

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        """Each as it ends, with its place in `asked`."""

    def forget(self, talk: str) -> None:
        """This talk is over."""

    def mean_loss(self, parts: Sequence[Encoded]) -> float | None:
        """Nats a target; `None` where it does not say."""


class ArmSource(NamedTuple):
    """An arm that is not open yet; `open` is told how many tokens its longest talk may take."""

    name: str
    """base, adapter or served."""
    meaning: str
    digest: str
    served_by: str
    open: Callable[[int], AbstractContextManager[OpenArm]]
    has_losses: bool = False


def find_arms(config: Config, workspace: Workspace, decoding: Decoding) -> list[ArmSource]:
    """The base first, what is served last. Raises: ToolError, ConfigError."""
    settings = config.evaluate
    found = []
    if settings.base is None:
        found += _trained(config, workspace, decoding)
    else:
        found.append(named_arm("base", settings.base, workspace, decoding, settings.width))
    if settings.served is None:
        found.append(_exported(workspace, decoding))
    else:
        found.append(named_arm("served", settings.served, workspace, decoding, settings.width))
    return found


def require_different(sources: Sequence[ArmSource]) -> None:
    """Raises: DataError where a model would be compared with itself."""
    for place, one in enumerate(sources):
        for other in sources[:place]:
            if one.digest == other.digest:
                raise DataError(
                    f"{other.name} and {one.name} are the same model ({one.digest[:12]}): "
                    f"{other.meaning}; {one.meaning}. There is nothing to compare."
                )


def _require(path: Path, stage: str) -> None:
    if not path.is_file():
        raise ToolError(f"There is no {path}. Type: coach {stage}")


# --- what the pipeline made


def _trained(config: Config, workspace: Workspace, decoding: Decoding) -> list[ArmSource]:
    """The base, and the base with its adapter."""
    _require(workspace.base_marker, "import")
    _require(workspace.adapter_weights, "train")
    base, adapter = stamp(workspace.base_marker).sha256, stamp(workspace.adapter_weights).sha256
    width = config.evaluate.width

    def opener(folder: Path | None) -> Callable[[int], AbstractContextManager[OpenArm]]:
        return lambda tokens: _open_mlx(workspace.base, folder, decoding, width, tokens)

    return [
        ArmSource(
            "base",
            "the base model, quantized as it was trained on",
            base,
            "MLX",
            opener(None),
            True,
        ),
        ArmSource(
            "adapter",
            "the base model with the LoRA adapter",
            content_hash([base, adapter]),
            "MLX",
            opener(workspace.adapter),
            True,
        ),
    ]


def _exported(workspace: Workspace, decoding: Decoding) -> ArmSource:
    _require(workspace.gguf, "export")
    _require(workspace.parity, "export")
    return ArmSource(
        "served",
        "the fused and quantized file that is served",
        stamp(workspace.gguf).sha256,
        "llama.cpp",
        lambda tokens: _open_gguf(workspace, decoding, tokens),
        True,
    )


class MLXArm:
    """A model in MLX, many talks side by side."""

    def __init__(self, loaded: mlx_runtime.LoadedModel, decoding: Decoding, width: int) -> None:
        self.width = width
        self._loaded = loaded
        self._talks = Talks(loaded, decoding.max_tokens, decoding.temperature, width)

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        return self._talks.replies(asked)

    def forget(self, talk: str) -> None:
        self._talks.forget(talk)

    def mean_loss(self, parts: Sequence[Encoded]) -> float | None:
        total = sum(losses.score(self._loaded.model, part) for part in parts)
        return total / _targets(parts)


@contextlib.contextmanager
def _open_mlx(
    folder: Path, adapter: Path | None, decoding: Decoding, width: int, tokens: int
) -> Iterator[OpenArm]:
    import mlx.core as mx

    loaded = mlx_runtime.open_model(folder, adapter)
    try:
        yield MLXArm(loaded, decoding, fitting_width(loaded.config, width, tokens))
    finally:
        del loaded
        mx.clear_cache()


def fitting_width(facts: dict[str, Any], most: int, tokens: int) -> int:
    """So many talks as this machine's memory holds beside the weights, at least one."""
    import mlx.core as mx

    place = memory_fit.here()
    talk_bytes = tokens * cache_bytes_per_token(facts) * (FLOAT32 if place.kind == "cpu" else 1)
    room = (place.limit - mx.get_active_memory()) * WORKING_SHARE
    return max(1, min(most, int(room / talk_bytes)))


class GGUFArm:
    """The exported file under training's own tokenizer and template, a talk at a time."""

    width = 1

    def __init__(self, llama: Any, tokenizer: Any, decoding: Decoding) -> None:
        self._llama, self._tokenizer, self._decoding = llama, tokenizer, decoding

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        for place, one in enumerate(asked):
            yield place, self._reply(one)

    def _reply(self, one: Asked) -> Reply:
        most = self._decoding.max_tokens
        prompt_ids = chat_format.encode_prompt(self._tokenizer, one.messages)
        pieces = list(
            llama_runtime.stream_reply(
                self._llama, prompt_ids, most, self._decoding.temperature, seed=one.seed
            )
        )
        return Reply("".join(pieces).strip(), len(pieces) < most, len(pieces))

    def forget(self, talk: str) -> None:
        """llama.cpp keeps the last talk, and compares it with the next one."""

    def mean_loss(self, parts: Sequence[Encoded]) -> float | None:
        found = [llama_runtime.token_losses(self._llama, *part).sum() for part in parts]
        return float(sum(found)) / _targets(parts)


@contextlib.contextmanager
def _open_gguf(workspace: Workspace, decoding: Decoding, tokens: int) -> Iterator[OpenArm]:
    tokenizer = mlx_runtime.open_tokenizer(workspace.base)
    llama = llama_runtime.open_gguf(workspace.gguf, num_ctx=tokens + SPARE_TOKENS)
    try:
        yield GGUFArm(llama, tokenizer, decoding)
    finally:
        llama.close()


def _targets(parts: Sequence[Encoded]) -> int:
    return sum(sum(part.is_target) for part in parts)


# --- what a person named instead


def named_arm(
    name: str,
    model: str,
    workspace: Workspace,
    decoding: Decoding,
    width: int,
    said_by: str | None = None,
) -> ArmSource:
    """Any chat model that runs on this machine, by itself without losses: it has its own tokenizer.
    `said_by` is what names it, for what is wrong with the name.
    """
    said_by = said_by or f"evaluate.{name}"
    provider, rest = split_name(model)
    place = workspace.root / Path(rest).expanduser()
    if provider == "ollama":
        return _ollama(name, rest, workspace, decoding, said_by)
    if provider == "mlx" and place.is_dir():
        return folder_arm(name, model, place, decoding, width)
    if provider == "gguf" and place.is_file():
        return ArmSource(
            name,
            model,
            fingerprint([place]),
            "llama.cpp",
            lambda tokens: _open_chat(place, decoding, tokens),
        )
    if provider == "scripted" and place.is_file():
        lines = read_records(place, Line)
        return ArmSource(
            name,
            model,
            stamp(place).sha256,
            "a file",
            lambda _: contextlib.nullcontext(ScriptedArm(lines)),
        )
    if provider in ("mlx", "gguf", "scripted"):
        raise ToolError(f"There is no {place}, which {said_by} names.")
    raise ConfigError(
        f"{said_by} is {model}, and coaches are compared on this machine only. Write "
        "ollama/NAME, mlx/FOLDER or gguf/FILE."
    )


def folder_arm(name: str, meaning: str, folder: Path, decoding: Decoding, width: int) -> ArmSource:
    """An MLX folder, wherever it lies."""
    return ArmSource(
        name,
        meaning,
        fingerprint([*folder.glob("*.safetensors"), *folder.glob("*.json")]),
        "MLX",
        lambda tokens: _open_mlx(folder, None, decoding, width, tokens),
    )


class ChatArm:
    """A GGUF file under its own chat template."""

    width = 1

    def __init__(self, llama: Any, decoding: Decoding) -> None:
        self._llama, self._decoding = llama, decoding

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        for place, one in enumerate(asked):
            done = llama_runtime.complete(
                self._llama,
                one.messages,
                self._decoding.max_tokens,
                self._decoding.temperature,
                one.seed,
            )
            yield place, Reply(done.text.strip(), done.ended, done.written)

    def forget(self, talk: str) -> None:
        """llama.cpp keeps the last talk, and compares it with the next one."""

    def mean_loss(self, parts: Sequence[Encoded]) -> float | None:
        return None


@contextlib.contextmanager
def _open_chat(path: Path, decoding: Decoding, tokens: int) -> Iterator[OpenArm]:
    llama = llama_runtime.open_gguf(path, num_ctx=tokens + SPARE_TOKENS)
    try:
        yield ChatArm(llama, decoding)
    finally:
        llama.close()


def _ollama(
    name: str, model: str, workspace: Workspace, decoding: Decoding, said_by: str
) -> ArmSource:
    """Raises: ToolError where no server answers, or it has no such model."""
    server = Server(workspace.egress, STANDS)
    try:
        digests = server.digests()
    finally:
        server.close()
    known = model if ":" in model else f"{model}:latest"
    if known not in digests:
        raise ToolError(
            f"Ollama has no {model}, which {said_by} names. Type: coach deploy, or ollama pull "
            f"{model}"
        )
    return ArmSource(
        name,
        f"{known}, as the Ollama on this machine serves it",
        digests[known],
        "Ollama",
        lambda tokens: _open_ollama(known, workspace, decoding, tokens),
    )


class OllamaArm:
    """The live server; its own parameters give way to the evaluation's."""

    width = 1

    def __init__(self, server: Server, model: str, decoding: Decoding, tokens: int) -> None:
        self._server, self._model = server, model
        self._options = {
            "temperature": decoding.temperature,
            "num_predict": decoding.max_tokens,
            "num_ctx": tokens + SPARE_TOKENS,
            "repeat_penalty": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
        }

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        for place, one in enumerate(asked):
            found = self._server.chat(self._model, one.messages, **self._options, seed=one.seed)
            text = (found.message.content or "").strip()
            yield place, Reply(text, found.done_reason == "stop", found.eval_count or 0)

    def forget(self, talk: str) -> None:
        """The server keeps what it likes."""

    def mean_loss(self, parts: Sequence[Encoded]) -> float | None:
        return None


@contextlib.contextmanager
def _open_ollama(
    model: str, workspace: Workspace, decoding: Decoding, tokens: int
) -> Iterator[OpenArm]:
    server = Server(workspace.egress, STANDS)
    try:
        yield OllamaArm(server, model, decoding, tokens)
    finally:
        server.close()


class ScriptedArm:
    """Answers out of a file: of the lines that fit the last words, one drawn by the seed."""

    width = 1

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = lines

    def replies(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Reply]]:
        for place, one in enumerate(asked):
            line = pick(self._lines, one.messages[-1]["content"], one.seed)
            text = line.text.strip() if line else ""
            yield place, Reply(text, True, len(text.split()))

    def forget(self, talk: str) -> None:
        """It remembers nothing."""

    def mean_loss(self, parts: Sequence[Encoded]) -> float | None:
        return None
