"""What can be said of a GGUF file without running it: its facts, weights, template and tokens.

Reads the folder it was made from and the file; writes nothing. From the cheapest to the dearest,
and none of the next where one fails. Fails: DataError for a template that does not end.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import (
    chat_format,
    console,
    gguf_facts,
    gguf_file,
    gguf_tensors,
    llama_runtime,
    model_facts,
    parity_cases,
    parity_file,
    parity_tokens,
    template_trial,
)
from coach_mlx.config import Config
from coach_mlx.console import Check
from coach_mlx.parity_tokens import Difference

DIRECT = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Types that are written at once; llama.cpp's quantizer makes the others from 16 bits."""
ADVERSARIAL = 2000
"""Texts that were made to part the two tokenizers."""


class Content(NamedTuple):
    """`folder` is what the file was made from; `system` the prompt it is served with; `spoken`
    conversations as they are trained on.
    """

    config: Config
    folder: Path
    tokenizer: Any
    served: Path
    system: str
    spoken: list[list[dict[str, str]]]


def checks(content: Content) -> list[Check]:
    found: list[Check] = []
    for step in (compare_file, compare_text, compare_tokens):
        if all(one.ok for one in found):
            found += step(content)
    return found


def compare_file(content: Content) -> list[Check]:
    type_ = DIRECT.get(content.config.export.quantization, "F16")
    with console.spinner("Comparing the file's facts and weights"):
        expected = gguf_facts.describe(content.folder, content.tokenizer, content.config, type_)
        reader = gguf_file.read(content.served)
        found = gguf_file.read_facts(reader)
        facts = parity_file.different_facts(expected, found, gguf_facts.QUANTIZER_KEYS)
        weights = gguf_tensors.tensors(content.folder, model_facts.read(content.folder), "F32")
        tensors = parity_file.different_tensors(weights, reader)
    return [
        _none("facts of the file", facts, f"{len(expected)} keys"),
        _none("weights, samples", tensors, f"{len(weights)} tensors"),
    ]


def _none(name: str, differences: Sequence[str], of: str) -> Check:
    found = f"{of}, {len(differences)} differ" if differences else f"{of}, all the same"
    return Check(name, found, "the same", not differences, tuple(differences))


# --- text and tokens


def compare_text(content: Content) -> list[Check]:
    template = gguf_file.read_facts(gguf_file.read(content.served))["tokenizer.chat_template"]
    template_trial.require_end(template, content.served.name)
    count, different = 0, []
    for system in (content.system, None):
        for messages in parity_cases.conversations(content.tokenizer, system):
            count += 1
            theirs = render(content.tokenizer, template, messages)
            ours = chat_format.prompt_text(content.tokenizer, messages)
            if theirs != ours:
                apart = parity_cases.difference(ours, theirs, "the file")
                different.append(f"{len(messages)} messages: {apart}")
    return [_none("text, by the file's own template", different, f"{count} conversations")]


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


def compare_tokens(content: Content) -> list[Check]:
    llama = llama_runtime.open_gguf(content.served, num_ctx=0, vocabulary_only=True)
    spoken = content.spoken
    markers = parity_tokens.typed_markers(content.tokenizer)
    texts = [
        *dict.fromkeys(message["content"] for messages in spoken for message in messages),
        *parity_cases.WORDS,
        *parity_tokens.adversarial_texts(ADVERSARIAL, content.config.seed, markers),
    ]
    with console.spinner("Comparing tokens with training's"):
        found = parity_tokens.first_difference(content.tokenizer, llama, texts)
        plain = [messages[:-1] for messages in spoken if not _holds(messages, markers)]
        prompt = parity_tokens.first_prompt_difference(content.tokenizer, llama, plain)
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
