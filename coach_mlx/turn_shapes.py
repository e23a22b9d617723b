"""What stands before and after a message of each role, and templates for others made of it.

The shapes are read off conversations that `chat_template` rendered, and must write 1 to 30 turns as
training has them, with a system prompt and without; a model whose turns have no fixed shape gets no
template. What is served gets these and not the maker's own: that one may read the clock, open a
thinking block or refuse a system prompt, and training had none of it. Reads and writes no file.
"""

import itertools
import json
from typing import Any, NamedTuple

from coach_mlx.chat_format import prompt_text, reply_lead
from coach_mlx.chat_template import Messages, Piece, begin_of_text, render
from coach_mlx.errors import DataError


class TurnShape(NamedTuple):
    """What the chat template writes around a message of one role."""

    before: str
    after: str


class TurnShapes(NamedTuple):
    """`begin`: the token that a server adds by itself; `opening`: what stands before the user's
    words where there is no system prompt; `first_user`: the same right behind one; `prompt`: what
    stands at the end, before a reply that is still to come.
    """

    begin: str
    system: TurnShape
    user: TurnShape
    assistant: TurnShape
    opening: str
    first_user: str
    prompt: str


def ollama_template(tokenizer: Any) -> str | None:
    """The chat template in Ollama's Go syntax, without the begin-of-text token, which llama.cpp
    adds itself; `None` where turns have no fixed shape.
    """
    shapes = turn_shapes(tokenizer)
    if shapes is None or any("{{" in text for text in _texts(shapes)):
        return None
    system, user, assistant = shapes.system, shapes.user, shapes.assistant
    cases = {"system": system, "user": user, "assistant": assistant}
    firsts = [
        f"if eq $number {number} }}}}{text}{{{{ else "
        for number, text in enumerate((shapes.opening, shapes.first_user))
        if text != user.before
    ]
    if firsts:
        before = f"{{{{ {''.join(firsts)}}}}}{user.before}{{{{ end }}}}"
        cases["user"] = TurnShape(before, user.after)
    body = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
        for role, (before, after) in cases.items()
    )
    head = "range $number, $_ := .Messages" if firsts else "range .Messages"
    return f"{{{{ {head} }}}}{{{{ {body}{{{{ end }}}}{{{{ end }}}}" + shapes.prompt


def jinja_template(tokenizer: Any) -> str | None:
    """The same in Jinja, as a GGUF file carries it, with the begin-of-text token; `None` where
    turns have no fixed shape.
    """
    shapes = turn_shapes(tokenizer)
    if shapes is None:
        return None
    text = {
        name: json.dumps(value, ensure_ascii=False)
        for name, value in (
            ("opening", shapes.opening),
            ("first", shapes.first_user),
            ("user", shapes.user.before),
        )
    }
    before_user = (
        f"({text['opening']} if loop.first else {text['first']} "
        f"if loop.index0 == 1 and messages[0]['role'] == 'system' else {text['user']})"
    )
    parts = [_literal(shapes.begin), "{%- for message in messages -%}"]
    for number, role in enumerate(("system", "user", "assistant")):
        shape = getattr(shapes, role)
        before = before_user if role == "user" else json.dumps(shape.before, ensure_ascii=False)
        after = json.dumps(shape.after, ensure_ascii=False)
        parts.append(
            f"{{%- {'el' if number else ''}if message['role'] == '{role}' -%}}"
            f"{{{{- {before} + message['content'] + {after} -}}}}"
        )
    parts += ["{%- endif -%}", "{%- endfor -%}"]
    if shapes.prompt:
        parts += ["{%- if add_generation_prompt -%}", _literal(shapes.prompt), "{%- endif -%}"]
    return "\n".join(part for part in parts if part)


def _literal(text: str) -> str:
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}" if text else ""


def _texts(shapes: TurnShapes) -> list[str]:
    return [text for part in shapes for text in ([part] if isinstance(part, str) else part)]


def turn_shapes(tokenizer: Any) -> TurnShapes | None:
    """`None` where turns have no fixed shape."""
    chat = [{"role": "system", "content": "S"}]
    for number in range(30):
        chat += [
            {"role": "user", "content": f"U{number}"},
            {"role": "assistant", "content": f"A{number}"},
        ]
    try:
        shapes = _read_shapes(tokenizer, chat[:5])
        whole = all(
            _shaped(shapes, chat[first:length]) == prompt_text(tokenizer, chat[first:length])
            for length in range(2, 61, 2)
            for first in (0, 1)
        )
    except DataError:
        return None
    return shapes if whole else None


def _read_shapes(tokenizer: Any, chat: Messages) -> TurnShapes:
    """From system, user, assistant, user, assistant: the text between two messages is what stands
    after the one and before the other.
    """
    between = [""] * len(chat)
    for before, piece in itertools.pairwise([Piece("", None), *render(tokenizer, chat)]):
        if piece.message is not None and before.message is None:
            between[piece.message] = before.text
    begin = begin_of_text(tokenizer)
    after_assistant, user = _divided(between[3], _after_last(tokenizer, chat[:3]))
    after_user, assistant = _divided(between[2], _after_last(tokenizer, chat[:2]))
    after_system, first_user = _divided(between[1], between[1].removesuffix(user))
    opening = render(tokenizer, chat[1:4])[0]
    return TurnShapes(
        begin,
        TurnShape(between[0].removeprefix(begin), after_system),
        TurnShape(user, after_user),
        TurnShape(assistant, after_assistant),
        opening.text.removeprefix(begin) if opening.message is None else "",
        first_user,
        assistant.removesuffix(reply_lead(tokenizer)),
    )


def _after_last(tokenizer: Any, messages: Messages) -> str:
    last = render(tokenizer, messages)[-1]
    return last.text if last.message is None else ""


def _divided(text: str, first: str) -> tuple[str, str]:
    """`text` as `first` and the rest; all of it and nothing where it does not begin so."""
    return (first, text[len(first) :]) if text.startswith(first) else (text, "")


def _shaped(shapes: TurnShapes, messages: Messages) -> str:
    text = shapes.begin
    given = messages[0]["role"] == "system"
    for number, message in enumerate(messages):
        before, after = getattr(shapes, message["role"])
        if number == given:
            before = shapes.first_user if given else shapes.opening
        text += before + message["content"] + after
    return text + shapes.prompt
