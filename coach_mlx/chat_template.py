"""A conversation as the chat template writes it, with one shape for all turns.

A template is rendered with a private mark in the place of each message, which tells its own text
from the people's words. Three things that templates do would make training and serving differ:

* They drop, move or refuse a system message. Then it is put before the first user's words here.
* They write the last turn unlike the earlier ones (a thinking block). Every turn gets the shape of
  an earlier one, in which a model reads each turn but the last anyway. So a conversation is always
  rendered with more turns behind it, which are cut off again.
* They read the clock. They are given one fixed day.

Fails: DataError, by name, where words are changed or dropped, or every turn opens a thinking block.
"""

import datetime
import itertools
import re
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

from coach_mlx.errors import DataError

Messages = Sequence[dict[str, str]]
FIRST_MARK = 0xF0000  # a private-use plane: no text uses these characters
CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
DAY = datetime.date(2026, 1, 1)
FOLD = "\n\n"  # between a system prompt and the first user's words
NEXT_ROLES = {"system": ("user", "assistant", "user"), "user": ("assistant", "user")}
THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<thinking>", "</thinking>"))


class Piece(NamedTuple):
    """Rendered text: the template's own (`message` is None) or the words of a message."""

    text: str
    message: int | None


def render(tokenizer: Any, messages: Messages) -> list[Piece]:
    """A conversation, up to what the template writes after its last message."""
    pieces = _as_history(tokenizer, messages)
    last = _pieces(tokenizer, messages)[-1]
    return pieces if last.message is not None else [*pieces, last]


def render_prompt(tokenizer: Any, messages: Messages) -> list[Piece]:
    """A conversation, up to where the assistant's words begin; the last piece is a reply's."""
    return _as_history(tokenizer, [*messages, {"role": "assistant", "content": "Yes"}])


def _as_history(tokenizer: Any, messages: Messages) -> list[Piece]:
    """Up to the words of the last message, all in the shape of turns that others follow."""
    roles = NEXT_ROLES.get(messages[-1]["role"], ("user",))
    pieces = _pieces(tokenizer, [*messages, *({"role": role, "content": "Hi"} for role in roles)])
    end = next(n for n, piece in enumerate(pieces) if piece.message == len(messages) - 1)
    for before, piece in itertools.pairwise(pieces[: end + 1]):
        if piece.message is not None and messages[piece.message]["role"] == "assistant":
            _require_no_open_thinking(tokenizer, before.text)
    return pieces[: end + 1]


def _require_no_open_thinking(tokenizer: Any, before: str) -> None:
    own = getattr(tokenizer, "think_start", None), getattr(tokenizer, "think_end", None)
    for start, end in (*THINKING, own):
        if start and end and before.rfind(start) > before.rfind(end):
            raise DataError(
                f"This model's chat template opens a thinking block ({start}) before every reply, "
                "so the coach's words would be learned as thoughts that nobody reads. Choose "
                "another base model: --set base.model=NAME"
            )


def _pieces(tokenizer: Any, messages: Messages) -> list[Piece]:
    """Raises: DataError unless each message stands there once, in order, with nothing changed."""
    marks = [chr(FIRST_MARK + number) for number in range(len(messages))]
    text = _template_text(tokenizer, messages, marks)
    pieces = [
        Piece(messages[ord(part) - FIRST_MARK]["content"], ord(part) - FIRST_MARK)
        if part in marks
        else Piece(part, None)
        for part in re.split(f"([{marks[0]}-{marks[-1]}])", text)
        if part
    ]
    found = [piece.message for piece in pieces if piece.message is not None]
    if found != [*range(len(messages))]:
        lost = next((n for n in range(len(messages)) if found.count(n) != 1), 0)
        raise _changed(f"drops, repeats or moves message {lost + 1} ({messages[lost]['role']})")
    words = [message["content"] for message in messages]
    if "".join(piece.text for piece in pieces) != _template_text(tokenizer, messages, words):
        raise _changed(_what_changes(tokenizer, messages, marks, text))
    return pieces


def _changed(what: str) -> DataError:
    return DataError(
        f"This model's chat template {what}, so training and serving would differ. Change that "
        "message, or choose another base model: --set base.model=NAME"
    )


def _what_changes(tokenizer: Any, messages: Messages, marks: list[str], text: str) -> str:
    """The first message that comes out otherwise than it went in, and the likely reason."""
    for number, (message, mark) in enumerate(zip(messages, marks, strict=True)):
        words = message["content"]
        contents = [*marks[:number], words, *marks[number + 1 :]]
        if _template_text(tokenizer, messages, contents) != text.replace(mark, words):
            which = f"message {number + 1} ({message['role']})"
            tag = next((tag for pair in THINKING for tag in pair if tag in words), None)
            if tag:
                return f"takes the {tag!r} in {which} for its own mark of thinking and cuts there"
            if words != words.strip():
                return f"changes or drops white space at an edge of {which}"
            return f"changes or drops words of {which}"
    return "changes or drops some of the words"


def _template_text(tokenizer: Any, messages: Messages, contents: Sequence[str]) -> str:
    """What the template makes of these messages with these contents. Raises: DataError where it
    refuses.
    """
    if messages[0]["role"] == "system" and _folds_system(tokenizer):
        if len(messages) == 1 or messages[1]["role"] != "user":
            raise DataError(
                "This model's chat template knows no system prompt, and there is no user message "
                "right behind it to put it into. Choose another base model: --set base.model=NAME"
            )
        contents = [f"{contents[0]}{FOLD}{contents[1]}", *contents[2:]]
        messages = messages[1:]
    return _apply(tokenizer, messages, contents)


_folding: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _folds_system(tokenizer: Any) -> bool:
    """Whether this template drops, moves or refuses the system message of a longer conversation."""
    if tokenizer not in _folding:
        roles = ("system", "user", "assistant", "user", "assistant", "user")
        marks = [chr(FIRST_MARK + number) for number in range(len(roles))]
        try:
            text = _apply(tokenizer, [{"role": role} for role in roles], marks)
        except DataError:
            text = ""
        found = [letter for letter in text if letter in marks]
        # What is wrong with other messages is not mended by folding; it is found and named later.
        _folding[tokenizer] = marks[0] not in found or found.index(marks[0]) > 0
    return _folding[tokenizer]


def _apply(tokenizer: Any, messages: Messages, contents: Sequence[str]) -> str:
    from jinja2.exceptions import TemplateError

    chat = [
        {**message, "content": content} for message, content in zip(messages, contents, strict=True)
    ]
    options: dict[str, Any] = {
        "tokenize": False,
        "add_generation_prompt": False,
        "enable_thinking": False,
    }
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and CLOCK.search(template):
        options["chat_template"] = CLOCK.sub(lambda call: repr(DAY.strftime(call[2])), template)
    try:
        return str(tokenizer.apply_chat_template(chat, **options))
    except (TemplateError, TypeError, ValueError) as error:
        raise DataError(
            f"This model's chat template refuses the conversation ({error}). Choose another base "
            "model: --set base.model=NAME"
        ) from None


def begin_of_text(tokenizer: Any) -> str:
    """The token that a server puts before every prompt by itself: the tokenizer asks for it, and
    the chat template begins with it.
    """
    added = tokenizer.backend_tokenizer.encode("").ids
    begin = str(getattr(tokenizer, "bos_token", None) or "") if added else ""
    first = render(tokenizer, [{"role": "user", "content": "Hi"}])[0]
    return begin if first.message is None and first.text.startswith(begin) else ""
