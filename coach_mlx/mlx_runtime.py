"""MLX as this machine has it: device, BLAS, and models opened whole or refused.

Call `prepare()` before the first `import mlx`. On Linux it loads OpenBLAS into the global symbol
scope, because MLX's CPU wheel brings the reference BLAS (far slower); see
docs/pitfalls.md.

A CPU gains from nothing but float32 matmuls, so there `open_model` dequantizes the frozen weights
to float32 once: the same numbers as the quantized weights, and much faster. On a
GPU they stay quantized.
"""

import contextlib
import ctypes
import functools
import json
import os
import platform
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx.errors import DataError, ToolError

OPENBLAS = "libopenblas.so.0"
OPENBLAS_HINT = "sudo apt-get install libopenblas0-pthread"
QUIET = {
    # Everything after the download of a base model works on local files: no hub, no telemetry, no
    # adverts.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class LoadedModel(NamedTuple):
    model: Any
    tokenizer: Any
    config: dict[str, Any]


@functools.cache
def prepare() -> bool:
    """Close the hub and load a fast BLAS; false where this Linux has none."""
    os.environ.update(QUIET)
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL(OPENBLAS, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def device() -> str:
    """`metal`, `cuda` or `cpu`: where MLX computes."""
    prepare()
    import mlx.core as mx

    if mx.default_device() == mx.Device(mx.cpu):
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def machine() -> str:
    """The machine in words, for the label of every number measured on it."""
    chip = platform.processor() or platform.machine()
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        chip = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), chip
        )
    elif sys.platform == "darwin":
        chip = _sysctl("machdep.cpu.brand_string") or chip
    return f"{chip}, {os.cpu_count()} cores, {memory_bytes() / 1e9:.0f} GB, MLX on {device()}"


def memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _sysctl(name: str) -> str:
    library = ctypes.CDLL(None)
    size = ctypes.c_size_t(256)
    buffer = ctypes.create_string_buffer(size.value)
    failed = library.sysctlbyname(
        name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)
    )
    return "" if failed else buffer.value.decode()


def open_model(folder: Path, adapter: Path | None = None, as_stored: bool = False) -> LoadedModel:
    """Weights, tokenizer and config of an MLX folder, with a LoRA adapter where one is given;
    `as_stored` leaves them quantized on a CPU too.

    Raises: ToolError where something is missing, DataError where a file is cut short or does not
    fit.
    """
    model, config = open_weights(folder, adapter, as_stored)
    return LoadedModel(model, open_tokenizer(folder, config.get("eos_token_id")), config)


def open_weights(
    folder: Path, adapter: Path | None = None, as_stored: bool = False
) -> tuple[Any, dict[str, Any]]:
    """The same without the tokenizer, for a folder that need not have one."""
    prepare()
    require_whole_model(folder)
    if adapter is not None:
        require_whole_safetensors(adapter / "adapters.safetensors")
    from mlx_lm import utils

    try:
        model, config = utils.load_model(folder, lazy=True)
    except ValueError as error:
        raise DataError(f"MLX cannot open the model in {folder}: {error}") from None
    if device() == "cpu" and not as_stored:
        dequantize(model)
    if adapter is not None:
        try:
            utils.load_adapters(model, str(adapter))
        except (ValueError, KeyError, AttributeError) as error:
            raise DataError(f"The adapter {adapter} does not fit {folder}: {error}") from None
    model.eval()
    return model, config


def hub_folder(name: str, revision: str | None = None) -> Path | None:
    """Where the hub's cache on this machine has a model; nothing is downloaded."""
    prepare()
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None


def open_tokenizer(folder: Path, eos_token_ids: Any = None) -> Any:
    """mlx-lm's tokenizer of a model folder. Raises: DataError where it has no chat template."""
    prepare()
    from huggingface_hub.errors import StrictDataclassError
    from mlx_lm import utils

    if not (folder / "tokenizer.json").is_file():
        raise ToolError(
            f"{folder} has no tokenizer.json, so it is no whole model. Choose another base, or, "
            "where it lies under models/, make it again: coach import --force"
        )
    try:
        tokenizer = utils.load_tokenizer(folder, eos_token_ids=eos_token_ids)
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OSError,
    ) as error:
        raise DataError(
            f"The tokenizer in {folder} cannot be opened: {' '.join(str(error).split())}"
        ) from None
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"The tokenizer in {folder} has no chat template, so nobody can say how a conversation "
            "looks to this "
            "model. Choose an instruction-tuned base: --set base.model=NAME"
        )
    return tokenizer


def dequantize(model: Any) -> None:
    """Replace every quantized layer by a float32 one that holds the same numbers."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in plain words what MLX raises where a file cannot be written. Raises: ToolError."""
    try:
        yield
    except RuntimeError as error:
        if "write" not in str(error) and "open" not in str(error):
            raise
        raise ToolError(
            f"The weights could not be written to {folder} ({error}). Is the disk full? "
            "Make room, or use --workspace DIR on another disk."
        ) from None


def stream_reply(
    model: Any, tokenizer: Any, prompt_ids: Sequence[int], max_tokens: int
) -> Iterator[str]:
    """The likeliest reply in pieces, until the model ends its turn or `max_tokens` are spent."""
    from mlx_lm.generate import stream_generate

    for piece in stream_generate(model, tokenizer, list(prompt_ids), max_tokens=max_tokens):
        yield piece.text


class Completion(NamedTuple):
    """`ended` where the model ended its turn itself."""

    text: str
    tokens: int
    ended: bool


class Memory:
    """What a model has read, for a few talks: the shared beginning of a prompt is read once.

    Talks are told apart by their name, such as the part the model plays; the least recently used
    one is forgotten first.
    """

    def __init__(self, most: int = 3) -> None:
        self._most = most
        self._talks: dict[str, tuple[list[int], Any]] = {}

    def recall(self, model: Any, name: str, prompt_ids: Sequence[int]) -> tuple[Any, int]:
        """A key-value cache, and how many tokens of the prompt are in it already."""
        from mlx_lm.models import cache as caches

        known, cache = self._talks.pop(name, ([], None))
        shared = shared_length(known, prompt_ids[:-1])
        if cache is None or not caches.can_trim_prompt_cache(cache):
            return caches.make_prompt_cache(model), 0
        caches.trim_prompt_cache(cache, cache[0].offset - shared)
        return cache, shared

    def keep(self, name: str, prompt_ids: Sequence[int], cache: Any) -> None:
        self._talks[name] = (list(prompt_ids), cache)
        while len(self._talks) > self._most:
            del self._talks[next(iter(self._talks))]


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens of the common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def complete(
    loaded: LoadedModel,
    prompt_ids: Sequence[int],
    max_tokens: int,
    temperature: float,
    seed: int,
    memory: Memory,
    name: str,
) -> Completion:
    """A whole reply, drawn at this temperature from this seed."""
    import mlx.core as mx
    from mlx_lm.generate import stream_generate
    from mlx_lm.sample_utils import make_sampler

    mx.random.seed(seed)
    cache, shared = memory.recall(loaded.model, name, prompt_ids)
    pieces, last = [], None
    for last in stream_generate(
        loaded.model,
        loaded.tokenizer,
        list(prompt_ids[shared:]),
        max_tokens=max_tokens,
        sampler=make_sampler(temp=temperature),
        prompt_cache=cache,
    ):
        pieces.append(last.text)
    memory.keep(name, prompt_ids, cache)
    if last is None:
        return Completion("", 0, True)
    return Completion("".join(pieces), last.generation_tokens, last.finish_reason == "stop")


def replies_end(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], max_tokens: int
) -> list[bool]:
    """Whether the likeliest reply to each prompt ends by itself within so many tokens."""
    from mlx_lm.generate import batch_generate

    if not prompts:
        return []
    written = batch_generate(
        loaded.model,
        loaded.tokenizer,
        [list(prompt) for prompt in prompts],
        max_tokens=max_tokens,
        return_token_ids=True,
    ).token_ids
    return [len(token_ids) < max_tokens for token_ids in written]


def to_numpy(array: Any) -> Any:
    import numpy as np

    return np.array(array)


def require_whole_model(folder: Path) -> None:
    """Raises: ToolError where the folder holds no model, DataError where a weight file is cut
    short.
    """
    if not (folder / "config.json").is_file():
        raise ToolError(f"There is no model in {folder}.")
    shards = sorted(folder.glob("model*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted({*shards, *(folder / name for name in _shard_names(index))})
    if not shards:
        raise ToolError(f"There are no weights (model*.safetensors) in {folder}.")
    for shard in shards:
        require_whole_safetensors(shard)


def _shard_names(index: Path) -> set[str]:
    """Raises: DataError where the index cannot be read, or names a file elsewhere."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{index} cannot be read: {type(error).__name__} {error}.") from None
    elsewhere = sorted(str(name) for name in names if Path(str(name)).name != name)
    if elsewhere:
        raise DataError(
            f"{index} names files outside its folder ({', '.join(elsewhere[:3])}). A model that "
            "does so is not to be trusted: get it anew from its maker."
        )
    return names


def require_whole_safetensors(path: Path) -> None:
    """Check the length against the header: 8 bytes of header size, the JSON header, then the
    tensors.
    """
    if not path.is_file():
        raise ToolError(f"There is no {path}.")
    size = path.stat().st_size
    try:
        with path.open("rb") as handle:
            (header_size,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(min(header_size, size)))
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"
        ]
        expected = 8 + header_size + max(ends, default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{path} is not a whole safetensors file: its header cannot be read."
        ) from None
    if size != expected:
        raise DataError(
            f"{path} is not whole: it has {size:,} bytes, its header promises {expected:,}. Delete "
            "it and make it again."
        )
