"""Whether a GGUF file is what was trained: the gate of `coach export`, and `coach verify` alone.

Reads the base, the adapter, the fused folder, the file and held-out conversations. Writes
parity.json, or verified.json for `coach verify`. From the cheapest check to the dearest: what the
file says of itself, samples of its weights, the text of its template, its tokens, its predictions,
and whether its replies end. Fails: GateFailed with the first difference.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import (
    console,
    gguf_file,
    llama_runtime,
    mlx_runtime,
    parity_content,
    parity_numbers,
)
from coach_mlx.config import Config
from coach_mlx.console import Check
from coach_mlx.errors import GateFailed, ToolError
from coach_mlx.parity_content import DIRECT, Content
from coach_mlx.parity_numbers import Answer, Sample
from coach_mlx.workspace import Workspace, read_conversations, read_system_prompt, write_whole

HALVES = {"float16": "F16", "bfloat16": "BF16"}
USABLE_FRACTION = 0.7
"""Of the memory, for a model that is only compared."""


@dataclasses.dataclass
class Gate:
    """What is compared: `half` is the 16-bit file that `served` was quantized from, if any."""

    config: Config
    workspace: Workspace
    tokenizer: Any
    served: Path
    half: Path | None

    @property
    def folder(self) -> Path:
        return self.workspace.fused


def require_inputs(workspace: Workspace) -> None:
    if not workspace.fused.is_dir():
        raise ToolError(f"There is no fused model in {workspace.fused}. Type: coach fuse")
    if not workspace.adapter_weights.is_file():
        raise ToolError(f"There is no adapter in {workspace.adapter}. Type: coach train")


@contextlib.contextmanager
def half_file(config: Config, workspace: Workspace, tokenizer: Any) -> Iterator[Path | None]:
    """The fused model in 16 bits as a GGUF file that is gone afterwards; `None` where none is on
    the way to what is served.
    """
    if config.export.quantization in DIRECT:
        yield None
        return
    path = workspace.gguf.with_name(workspace.gguf.name + ".half.partial")
    try:
        with console.spinner("Writing the GGUF file in 16 bits"):
            gguf_file.write_model(
                workspace.fused, tokenizer, config, HALVES[config.fuse.dtype], path
            )
        yield path
    finally:
        path.unlink(missing_ok=True)


def check(gate: Gate, served: Sequence[Check] = ()) -> list[Check]:
    """Every check that makes sense: none is dearer than a look while a cheaper one fails. `served`
    is what is known of what serves the file.
    """
    workspace = gate.workspace
    system = read_system_prompt(workspace.find(gate.config.dataset.system_prompt))
    spoken = [one.chat() for one in read_conversations(workspace.holdout)]
    checks = parity_content.checks(
        Content(gate.config, gate.folder, gate.tokenizer, gate.served, system, spoken)
    )
    checks += served
    return [*checks, *compare_numbers(gate)] if all(one.ok for one in checks) else checks


def conclude(checks: Sequence[Check], workspace: Workspace, name: str, path: Path) -> None:
    """Show what was found and keep it in `path`. Raises: GateFailed at the first check that does
    not hold.
    """
    console.show_checks(f"Is {name} what was trained?", checks)
    facts = {
        "passed": all(one.ok for one in checks),
        "file": name,
        "machine": mlx_runtime.machine(),
        "checks": [one._asdict() for one in checks],
    }
    write_whole(path, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    require(checks, name, f" All of it: {workspace.shown(path)}")


def require(checks: Sequence[Check], name: str, more: str = "") -> None:
    failed = next((one for one in checks if not one.ok), None)
    if failed:
        what = "; ".join(failed.places[:1]) or f"{failed.found} (wanted: {failed.wanted})"
        raise GateFailed(
            f"{name} is not what it was made from, so it is not used. {failed.name}: {what}.{more}"
        )


# --- predictions and replies


class Link(NamedTuple):
    """One more step of the way from the adapter to what is served; `limit` is of the KL."""

    name: str
    answer: Callable[[Sample], Answer]
    limit: float | None
    size_bytes: int


def compare_numbers(gate: Gate) -> list[Check]:
    settings, workspace = gate.config.verify, gate.workspace
    conversations = [one.chat() for one in read_conversations(workspace.holdout)]
    longest = settings.reply_tokens or gate.config.serve.max_reply_tokens
    asked = parity_numbers.sample(
        gate.tokenizer, conversations, settings.tokens, settings.replies, longest
    )
    with console.spinner("Reading held-out conversations: adapter"):
        first = parity_numbers.of_mlx(workspace.base, workspace.adapter, asked)
    before, name, checks = first, "adapter", []
    for link in _links(gate):
        if link.size_bytes > USABLE_FRACTION * mlx_runtime.memory_bytes():
            why = f"not measured: it needs {link.size_bytes / 1e9:.0f} GB of memory"
            checks.append(Check(f"numbers, {name} to {link.name}", why, "", True))
            continue
        with console.spinner(f"Reading held-out conversations: {link.name}"):
            answer = link.answer(asked)
        checks.append(_distance(gate, asked, f"{name} to {link.name}", before, answer, link.limit))
        before, name = answer, link.name
    checks.append(_distance(gate, asked, f"adapter to {name}", first, before, None))
    return [*checks, _stopping(first.ended, before.ended)]


def _links(gate: Gate) -> list[Link]:
    settings, fused = gate.config.verify, gate.folder
    size = sum(file.stat().st_size for file in fused.glob("*.safetensors"))
    as_floats = 2 * size if mlx_runtime.device() == "cpu" else size
    links = [
        Link(
            "fused",
            lambda asked: parity_numbers.of_mlx(fused, None, asked),
            settings.kl_half if _is_onto_its_base(fused) else None,
            as_floats,
        )
    ]
    if gate.half is not None:
        half = gate.half
        name = f"GGUF {HALVES[gate.config.fuse.dtype]}"
        answer = _gguf_answer(half)
        links.append(Link(name, answer, settings.kl_half, half.stat().st_size))
    name = f"GGUF {gate.config.export.quantization.upper()}"
    return [*links, Link(name, _gguf_answer(gate.served), _limit(gate), 0)]


def _is_onto_its_base(fused: Path) -> bool:
    """Not where the adapter went onto the 16-bit original, which training never saw: the distance
    is then what 4 bits had done to the base, and is told, not limited.
    """
    index = json.loads((fused / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return bool(index["metadata"].get("onto") != "original")


def _gguf_answer(path: Path) -> Callable[[Sample], Answer]:
    return lambda asked: parity_numbers.of_gguf(path, asked)


def _limit(gate: Gate) -> float:
    settings = gate.config.verify
    direct = {"f16": settings.kl_half, "bf16": settings.kl_half, "q8_0": settings.kl_q8_0}
    return direct.get(gate.config.export.quantization, settings.kl_quantized)


def _distance(
    gate: Gate, asked: Sample, name: str, before: Answer, after: Answer, limit: float | None
) -> Check:
    found = parity_numbers.distance(before.predictions, after.predictions)
    text = f"KL {found.kl:.2g}, same first choice {found.same_top:.1%}"
    if limit is None:
        return Check(f"numbers, {name}", text, "no limit", True)
    wanted = f"KL < {limit:g}"
    if found.kl >= limit and limit == gate.config.verify.kl_quantized:
        limit = max(limit, gate.config.verify.base_factor * _base_loss(gate, asked))
        wanted = f"KL < {limit:.2g}, by the base's own"
    return Check(f"numbers, {name}", text, wanted, found.kl < limit)


def _base_loss(gate: Gate, asked: Sample) -> float:
    """What the same quantization costs the base: KL from its numbers to its own GGUF file's."""
    base, model = gate.workspace.base, gate.workspace.model
    half, small = model / "base.half.partial", model / "base.partial"
    try:
        with console.spinner("Measuring what this quantization costs the base"):
            kind = HALVES[gate.config.fuse.dtype]
            gguf_file.write_model(base, gate.tokenizer, gate.config, kind, half)
            llama_runtime.quantize(half, small, gate.config.export.quantization)
            asked = asked._replace(prompts=[])
            before = parity_numbers.of_mlx(base, None, asked)
            after = parity_numbers.of_gguf(small, asked)
    finally:
        for path in (half, small):
            path.unlink(missing_ok=True)
    return parity_numbers.distance(before.predictions, after.predictions).kl


def _stopping(expected: Sequence[bool], found: Sequence[bool]) -> Check:
    counts = f"{sum(found)} of {len(found)} replies end, training's {sum(expected)}"
    ok = not parity_numbers.stops_less(expected, found)
    return Check("stopping", counts, "as many, but for chance", ok)
