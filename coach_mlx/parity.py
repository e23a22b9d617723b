"""Whether a GGUF file is what was trained: the gate of `coach export`, and `coach verify` alone.

Reads the base, the adapter, the fused folder, the file, the Modelfile and held-out conversations.
Writes parity.json and parity_report.md. From the cheapest check to the dearest: what the file says
of itself, samples of its weights, the text of its template, its tokens, its predictions, and
whether its replies end. Fails: GateFailed with the first difference.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import (
    chat_format,
    console,
    gguf_facts,
    gguf_file,
    gguf_tensors,
    llama_runtime,
    mlx_runtime,
    model_facts,
    parity_cases,
    parity_file,
    parity_numbers,
    parity_tokens,
    template_trial,
)
from coach_mlx.config import Config
from coach_mlx.console import Check
from coach_mlx.errors import GateFailed, ToolError
from coach_mlx.parity_numbers import Answer, Sample
from coach_mlx.parity_tokens import Difference
from coach_mlx.workspace import Workspace, read_conversations, read_system_prompt, write_whole

DIRECT = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Types that are written at once; llama.cpp's quantizer makes the others from 16 bits."""
HALVES = {"float16": "F16", "bfloat16": "BF16"}
ADVERSARIAL = 2000
"""Texts that were made to part the two tokenizers."""
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
    checks = [*_file_checks(gate), *served]
    for step in (_text_checks, _token_checks, _number_checks):
        if all(one.ok for one in checks):
            checks += step(gate)
    return checks


def conclude(checks: Sequence[Check], workspace: Workspace, name: str) -> None:
    """Show and keep what was found. Raises: GateFailed at the first check that does not hold."""
    console.show_checks(f"Is {name} what was trained?", checks)
    facts = {
        "passed": all(one.ok for one in checks),
        "file": name,
        "machine": mlx_runtime.machine(),
        "checks": [one._asdict() for one in checks],
    }
    write_whole(workspace.parity, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    failed = next((one for one in checks if not one.ok), None)
    if failed:
        what = "; ".join(failed.places[:1]) or failed.found
        raise GateFailed(
            f"{name} is not what was trained, so it is not used. {failed.name}: {what}. "
            f"All of it: {workspace.shown(workspace.parity)}"
        )


# --- what the file says and holds


def _file_checks(gate: Gate) -> list[Check]:
    type_ = DIRECT.get(gate.config.export.quantization, "F16")
    with console.spinner("Comparing the file's facts and weights"):
        expected = gguf_facts.describe(gate.folder, gate.tokenizer, gate.config, type_)
        reader = gguf_file.read(gate.served)
        found = gguf_file.read_facts(reader)
        facts = parity_file.different_facts(expected, found, gguf_facts.QUANTIZER_KEYS)
        weights = gguf_tensors.tensors(gate.folder, model_facts.read(gate.folder), "F32")
        tensors = parity_file.different_tensors(weights, reader)
    return [
        _none("facts of the file", facts, f"{len(expected)} keys"),
        _none("weights, samples", tensors, f"{len(weights)} tensors"),
    ]


def _none(name: str, differences: Sequence[str], of: str) -> Check:
    found = f"{of}, {len(differences)} differ" if differences else f"{of}, all the same"
    return Check(name, found, "the same", not differences, tuple(differences))


# --- text and tokens


def _text_checks(gate: Gate) -> list[Check]:
    prompt = _system_prompt(gate)
    template = gguf_file.read_facts(gguf_file.read(gate.served))["tokenizer.chat_template"]
    template_trial.require_end(template, gate.served.name)
    count, different = 0, []
    for system in (prompt, None):
        for messages in parity_cases.conversations(gate.tokenizer, system):
            count += 1
            theirs = render(gate.tokenizer, template, messages)
            ours = chat_format.prompt_text(gate.tokenizer, messages)
            if theirs != ours:
                different.append(f"{len(messages)} messages: {first_difference(ours, theirs)}")
    return [_none("text, by the file's own template", different, f"{count} conversations")]


def _system_prompt(gate: Gate) -> str:
    return read_system_prompt(gate.workspace.find(gate.config.dataset.system_prompt))


def render(tokenizer: Any, template: str, messages: Sequence[dict[str, str]]) -> str:
    """A file's own template as llama.cpp's users run it, in a sandbox; what it refuses as text."""
    from jinja2.exceptions import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
        )
    except (TemplateError, TypeError, ValueError, OverflowError) as error:
        return f"(the template refuses: {error})"


def first_difference(ours: str, theirs: str) -> str:
    """Where two texts part, with what stands around it."""
    place = next(
        (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    start = max(0, place - 20)
    return (
        f"at character {place:,} training has {ours[start : place + 30]!r} and the file "
        f"{theirs[start : place + 30]!r}"
    )


def _token_checks(gate: Gate) -> list[Check]:
    llama = llama_runtime.open_gguf(gate.served, num_ctx=0, vocabulary_only=True)
    spoken = [one.chat() for one in read_conversations(gate.workspace.holdout)]
    markers = parity_tokens.typed_markers(gate.tokenizer)
    texts = [
        *dict.fromkeys(message["content"] for messages in spoken for message in messages),
        *parity_cases.WORDS,
        *parity_tokens.adversarial_texts(ADVERSARIAL, gate.config.seed, markers),
    ]
    with console.spinner("Comparing tokens with training's"):
        found = parity_tokens.first_difference(gate.tokenizer, llama, texts)
        plain = [messages[:-1] for messages in spoken if not _holds(messages, markers)]
        prompt = parity_tokens.first_prompt_difference(gate.tokenizer, llama, plain)
    llama.close()
    return [
        _same_tokens("tokens of words", f"{len(texts):,} texts", found.difference, found.known),
        _same_tokens("tokens of prompts", f"{len(plain)} prompts", prompt, {}),
    ]


def _holds(messages: Sequence[dict[str, str]], markers: Sequence[str]) -> bool:
    return any(marker in message["content"] for message in messages for marker in markers)


def _same_tokens(
    name: str, of: str, difference: Difference | None, known: Mapping[str, Sequence[str]]
) -> Check:
    """`known` is what llama.cpp does otherwise whatever the file says: told, and no failure."""
    excused = "".join(f"; known: {reason}" for reason in known)
    if difference is None:
        return Check(name, f"{of}, all the same{excused}", "the same", True)
    ours, theirs = difference.ours[:12], difference.theirs[:12]
    place = f"{difference.text[:80]!r}: {difference.why}; training {ours}, file {theirs}"
    return Check(name, f"{of}, not all the same{excused}", "the same", False, (place,))


# --- predictions and replies


class Link(NamedTuple):
    """One more step of the way from the adapter to what is served; `limit` is of the KL."""

    name: str
    answer: Callable[[Sample], Answer]
    limit: float | None
    size_bytes: int


def _number_checks(gate: Gate) -> list[Check]:
    settings, workspace = gate.config.verify, gate.workspace
    conversations = [one.chat() for one in read_conversations(workspace.holdout)]
    asked = parity_numbers.sample(
        gate.tokenizer, conversations, settings.tokens, settings.replies, settings.reply_tokens
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
