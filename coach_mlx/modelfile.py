"""The Modelfile that Ollama makes a model from: written by the export, read back by the deploy.

A person may edit it in between, so it is read by Ollama's own rules for lines and quotation marks,
and what this does not know is refused by name. Reads and writes no file.
Fails: DataError, with the line, for an instruction or a parameter that would be lost on the way.
"""

import difflib
import re
from typing import Any, NamedTuple

from coach_mlx import chat_format, turn_shapes
from coach_mlx.config import Config
from coach_mlx.errors import DataError

QUOTES = '"""'
WHOLE = (
    "draft_num_predict",
    "main_gpu",
    "num_batch",
    "num_ctx",
    "num_gpu",
    "num_keep",
    "num_predict",
    "num_thread",
    "repeat_last_n",
    "seed",
    "top_k",
)
FRACTIONS = (
    "frequency_penalty",
    "min_p",
    "presence_penalty",
    "repeat_penalty",
    "temperature",
    "top_p",
    "typical_p",
)
PARAMETERS = (*WHOLE, *FRACTIONS, "stop", "use_mmap")
REMEDIES = {
    "MESSAGE": "The coach is trained on talks that begin with the person's words: take it out.",
    "RENDERER": "The text must be the TEMPLATE's, as in training: take it out.",
    "PARSER": "Replies must be read as in training: take it out.",
}


class Modelfile(NamedTuple):
    """`weights` is what FROM names; a parameter that stands twice has two entries."""

    weights: str
    template: str | None = None
    system: str | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    license: str | None = None
    adapter: str | None = None

    def options(self) -> dict[str, Any]:
        """The parameters as Ollama's API takes them: numbers, yes or no, and a list of stops.

        Raises: DataError, naming every one that has no such value.
        """
        found: dict[str, Any] = {}
        wrong = []
        for name, text in self.parameters:
            value = _value(name, text)
            if value is None:
                wrong.append(f"  PARAMETER {name} {text}")
            elif name == "stop":
                found["stop"] = [*found.get("stop", []), value]
            else:
                found[name] = value
        if wrong:
            raise DataError(
                "\n".join(["These lines of the Modelfile have no value that fits:", *wrong])
            )
        return found


def render(config: Config, tokenizer: Any, system_prompt: str, gguf_path: str, num_ctx: int) -> str:
    """What `ollama create coach -f Modelfile` reads; `gguf_path` is relative to the Modelfile's own
    folder.
    """
    serve = config.serve
    parameters = (
        ("num_ctx", f"{num_ctx}"),
        ("num_predict", f"{serve.max_reply_tokens}"),
        ("temperature", f"{serve.temperature:g}"),
        ("top_p", f"{serve.top_p:g}"),
        ("repeat_penalty", f"{serve.repeat_penalty:g}"),
        ("stop", chat_format.end_of_turn(tokenizer).text),
    )
    licence = f"{config.base.license}, of the base model {config.base.model}."
    template = turn_shapes.ollama_template(tokenizer)
    name = config.name
    heading = (
        f"# {name}: a private self-care coach. It is not a therapist, and not for a crisis.\n"
        f"# Written by `coach export`. Serve it with: ollama create {name} -f Modelfile\n"
    )
    return heading + to_text(Modelfile(gguf_path, template, system_prompt, parameters, licence))


def to_text(modelfile: Modelfile) -> str:
    """Raises: DataError for a text that Ollama would read as another."""
    weights, template, system, parameters, licence, adapter = modelfile
    texts = {"TEMPLATE": template, "SYSTEM": system, "LICENSE": licence}
    for name, text in texts.items():
        require_writable(f"The text of {name}", text or "")
    lines = [f"FROM {weights}"]
    lines += [f"ADAPTER {adapter}"] if adapter is not None else []
    lines += [_block(name, texts[name]) for name in ("TEMPLATE", "SYSTEM") if texts[name]]
    lines += [f"PARAMETER {name} {_quoted(name, text)}" for name, text in parameters]
    lines += [_block("LICENSE", licence)] if licence else []
    return "\n".join(lines) + "\n"


def require_writable(what: str, text: str) -> None:
    """Ollama ends a text at three quotation marks, and drops characters that have no shape.

    Raises: DataError for either.
    """
    if QUOTES in text:
        raise DataError(f'{what} holds """, which a Modelfile cannot. Take it out.')
    lost = sorted({letter for letter in text if not (letter.isprintable() or letter in "\n\t")})
    if lost:
        shown = ", ".join(f"U+{ord(letter):04X}" for letter in lost)
        raise DataError(
            f"{what} holds {shown}: invisible, and `ollama create` drops it from a Modelfile. "
            "Take it out (an emoji made of several is such a case)."
        )


def _block(name: str, text: str | None) -> str:
    return f"{name} {QUOTES}{text}{QUOTES}"


def _quoted(name: str, text: str) -> str:
    return f'"{text}"' if name == "stop" else text


def parse(text: str) -> Modelfile:
    """Raises: DataError with all wrong lines at once."""
    single: dict[str, str] = {}
    parameters = []
    wrong = []
    for line, name, value in _instructions(text.removeprefix("\ufeff")):
        if name == "PARAMETER":
            key, _, rest = re.sub(r"[ \t]+", " ", value.lstrip(" \t"), count=1).partition(" ")
            parameters.append((key, _unquoted(rest.strip()) or ""))
            wrong += _unknown_parameter(line, key)
        elif name not in ("FROM", "ADAPTER", "TEMPLATE", "SYSTEM", "LICENSE"):
            wrong.append(f"  line {line}: {name}. {REMEDIES.get(name, 'Take it out.')}")
        elif name in single:
            wrong.append(f"  line {line}: a second {name}. Keep one.")
        else:
            single[name] = _unquoted(value.strip()) or ""
    if not single.get("FROM"):
        wrong.append("  there is no FROM, which names the weights. Write it again: coach export")
    if wrong:
        raise DataError("\n".join(["The Modelfile holds what `coach deploy` cannot use:", *wrong]))
    return Modelfile(
        single["FROM"],
        single.get("TEMPLATE"),
        single.get("SYSTEM"),
        tuple(parameters),
        single.get("LICENSE"),
        single.get("ADAPTER"),
    )


def _unknown_parameter(line: int, key: str) -> list[str]:
    if key in PARAMETERS:
        return []
    near = difflib.get_close_matches(key, PARAMETERS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ". Take it out."
    return [f"  line {line}: Ollama knows no parameter {key!r}{hint}"]


def _instructions(text: str) -> list[tuple[int, str, str]]:
    """Line, name and value of each, as Ollama divides them: a value goes on until its quotation
    marks are closed at the end of a line.
    """
    found = []
    pieces = re.split(r"(\r\n|\r|\n)", text)
    lines = [*zip(pieces[::2], [*pieces[1::2], ""], strict=True)]
    number = 0
    while number < len(lines):
        first = number
        name, _, value = re.sub(r"[ \t]+", " ", lines[number][0].lstrip(), count=1).partition(" ")
        end = lines[number][1]
        number += 1
        if not name or name.startswith("#"):
            continue
        while _unquoted(_value_of(name, value)) is None:
            if number == len(lines):
                raise DataError(
                    f"The Modelfile, line {first + 1}: the quotation marks after {name.upper()} "
                    "are never closed. Close them, or write it again: coach export"
                )
            value += end + lines[number][0]
            end = lines[number][1]
            number += 1
        found.append((first + 1, name.upper(), value))
    return found


def _value_of(name: str, value: str) -> str:
    """What may stand in quotation marks: of a parameter, what follows its name."""
    stripped = value.strip()
    if name.upper() != "PARAMETER":
        return stripped
    return re.sub(r"^\S+[ \t]*", "", stripped)


def _unquoted(text: str) -> str | None:
    """`None` where the quotation marks are not closed yet."""
    for marks in (QUOTES, '"'):
        if text.startswith(marks):
            whole = len(text) >= 2 * len(marks) and text.endswith(marks)
            return text[len(marks) : -len(marks)] if whole else None
    return text


def _value(name: str, text: str) -> Any:
    """`None` where it is none of that kind."""
    try:
        if name in WHOLE:
            return int(text)
        if name in FRACTIONS:
            return float(text)
    except ValueError:
        return None
    if name == "use_mmap":
        return {"true": True, "false": False}.get(text.lower())
    return text
