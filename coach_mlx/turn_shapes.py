"""What stands before and after a message of each role, and the templates served made of it.

The shapes are read off conversations that `chat_template` rendered, and must write 1 to 30 turns as
training has them; a model whose turns have no fixed shape gets no template. Reads and writes no
file.
"""

import itertools
import json
from typing import Any, NamedTuple

from coach_mlx.chat_format import prompt_text, reply_lead
from coach_mlx.chat_template import Messages, Piece, begin_of_text, render
from coach_mlx.errors import DataError

ROLES = ("system", "user", "assistant")


class TurnShape(NamedTuple):
    """What the chat template writes around a message of one role."""

    before: str
    after: str


class TurnShapes(NamedTuple):
    """`first_user`: what stands before the user's words right behind the system prompt; `prompt`:
    what stands at the end, before a reply that is still to come.
    """

    system: TurnShape
    user: TurnShape
    assistant: TurnShape
    first_user: str
    prompt: str


def ollama_template(tokenizer: Any) -> str | None:
    """The chat template in Ollama's Go syntax; `None` where turns have no fixed shape (use the
    GGUF's own then).

    Ollama puts the Modelfile's SYSTEM first and llama.cpp adds a begin-of-text token itself, so the
    shape is read off conversations that open with a system prompt, without that token, and must
    reproduce 1 to 30 turns.
    """
    shapes = _turn_shapes(tokenizer)
    if shapes is None or any("{{" in text for text in _texts(shapes)):
        return None
    system, user, assistant, first_user, _ = shapes
    cases = {"system": system, "user": user, "assistant": assistant}
    numbered = first_user != user.before
    if numbered:
        before = f"{{{{ if eq $number 1 }}}}{first_user}{{{{ else }}}}{user.before}{{{{ end }}}}"
        cases["user"] = TurnShape(before, user.after)
    body = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}'
        for role, (before, after) in cases.items()
    )
    head = "range $number, $_ := .Messages" if numbered else "range .Messages"
    return f"{{{{ {head} }}}}{{{{ {body}{{{{ end }}}}{{{{ end }}}}" + shapes.prompt


def gguf_template(tokenizer: Any) -> str:
    """The chat template in Jinja, of the same shapes, for the GGUF file.

    Ollama sets a TEMPLATE aside for the file's own where that one mentions tools or thinking, as
    Qwen's does. The two must write the same. Where turns have no fixed shape, it is the
    tokenizer's.
    """
    shapes = _turn_shapes(tokenizer)
    if shapes is None:
        return str(tokenizer.chat_template)
    before = {role: json.dumps(getattr(shapes, role).before) for role in ROLES}
    if shapes.first_user != shapes.user.before:
        first = json.dumps(shapes.first_user)
        before["user"] = f"({first} if loop.index0 == 1 else {before['user']})"
    cases = "{%- el".join(
        f"if message['role'] == '{role}' %}}{{{{- {before[role]} + message['content'] + "
        f"{json.dumps(getattr(shapes, role).after)} }}}}"
        for role in ROLES
    )
    begin = "{{- bos_token }}" if begin_of_text(tokenizer) else ""
    loop = f"{{%- for message in messages %}}{{%- {cases}{{%- endif %}}{{%- endfor %}}"
    prompt = f"{{{{- {json.dumps(shapes.prompt)} }}}}"
    return f"{begin}{loop}{{%- if add_generation_prompt %}}{prompt}{{%- endif %}}"


def _texts(shapes: TurnShapes) -> list[str]:
    return [*shapes.system, *shapes.user, *shapes.assistant, shapes.first_user, shapes.prompt]


def _turn_shapes(tokenizer: Any) -> TurnShapes | None:
    chat = [{"role": "system", "content": "S"}]
    for number in range(30):
        chat += [
            {"role": "user", "content": f"U{number}"},
            {"role": "assistant", "content": f"A{number}"},
        ]
    try:
        shapes = _read_shapes(tokenizer, chat[:5])
        begin = begin_of_text(tokenizer)
        whole = all(
            begin + _shaped(shapes, chat[:length]) == prompt_text(tokenizer, chat[:length])
            for length in range(2, 61, 2)
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
    return TurnShapes(
        TurnShape(between[0].removeprefix(begin), after_system),
        TurnShape(user, after_user),
        TurnShape(assistant, after_assistant),
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
    text = ""
    for number, message in enumerate(messages):
        before, after = getattr(shapes, message["role"])
        text += (shapes.first_user if number == 1 else before) + message["content"] + after
    return text + shapes.prompt
