"""One conversation as the tokens a model sees: the prompt, the loss mask, and Ollama's template.

Everything comes from the tokenizer's own chat template. It is rendered with a private mark in the
place of each message, which tells the template's own text from the people's words. So a marker that
somebody *types* is never a control token, and the loss lies where it is wanted: on every assistant
turn's words and on the token that ends it.
"""

import bisect
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from coach_mlx.errors import DataError

Messages = Sequence[dict[str, str]]
FIRST_MARK = 0xF0000  # a private-use plane: no text uses these characters


class Encoded(NamedTuple):
    """Token ids and, for each, whether the loss counts it; both (T,)."""

    token_ids: list[int]
    is_target: list[bool]


class Piece(NamedTuple):
    """Rendered text: the template's own (`message` is None) or the words of a message."""

    text: str
    message: int | None


class Part(NamedTuple):
    """Messages that fit, of which the first `context` are repeated without loss."""

    messages: list[dict[str, str]]
    context: int


def encode_conversation(tokenizer: Any, messages: Messages, context: int = 0) -> Encoded:
    """Targets are the words of each assistant turn from message `context` on, and their end token.

    Raises: DataError where the template changes a message or does not end the assistant's turn.
    """
    pieces = _render(tokenizer, messages)
    targets = {
        number
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and number >= context
    }
    token_ids: list[int] = []
    is_target: list[bool] = []
    previous: int | None = None
    for token, message in _tokens(tokenizer, pieces):
        ends_turn = message is None and previous in targets
        token_ids.append(token)
        is_target.append(message in targets or ends_turn)
        if ends_turn and token not in end_of_turn_ids(tokenizer):
            raise DataError(
                f"After an assistant turn this chat template writes {tokenizer.decode([token])!r}, "
                "which does not "
                "end a reply: a model trained on it would never stop. Choose another base model."
            )
        previous = message
    if previous in targets:
        raise DataError(
            "This chat template writes nothing after an assistant turn: a model could not learn to "
            "stop."
        )
    return Encoded(token_ids, is_target)


def encode_prompt(tokenizer: Any, messages: Messages) -> list[int]:
    """The tokens after which the assistant speaks."""
    return [
        token
        for token, _ in _tokens(tokenizer, _render(tokenizer, messages, add_generation_prompt=True))
    ]


def end_of_turn_ids(tokenizer: Any) -> set[int]:
    """Tokens that end a reply."""
    ids = getattr(tokenizer, "eos_token_ids", None)
    return set(ids) if ids else {tokenizer.eos_token_id}


class EndOfTurn(NamedTuple):
    token_id: int
    text: str


def end_of_turn(tokenizer: Any) -> EndOfTurn:
    """The token that this chat template writes after an assistant turn: what training teaches and
    serving stops at.
    """
    encoded = encode_conversation(
        tokenizer, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    )
    token = [token for token, target in zip(*encoded, strict=True) if target][-1]
    return EndOfTurn(token, tokenizer.decode([token]))


def split_conversation(
    tokenizer: Any, messages: Messages, max_tokens: int, context_turns: int
) -> list[Part]:
    """Parts of at most `max_tokens`, cut between turns, each after the system prompt and the turns
    before the cut.

    Raises: DataError where one turn alone is too long.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    spoken = list(messages[len(system) :])
    turns = [spoken[start : start + 2] for start in range(0, len(spoken), 2)]
    parts: list[Part] = []
    first = 0
    while first < len(turns):
        for context in range(min(context_turns, first), -1, -1):
            head = [*system, *_flat(turns[first - context : first])]
            length = _fitting_turns(tokenizer, head, turns[first:], max_tokens)
            if length:
                break
        else:
            raise DataError(
                f"Turn {first + 1} alone is longer than {max_tokens} tokens. "
                "Raise train.max_seq_length, or shorten that message."
            )
        parts.append(Part([*head, *_flat(turns[first : first + length])], len(head)))
        first += length
    return parts


def _flat(turns: Sequence[Sequence[dict[str, str]]]) -> list[dict[str, str]]:
    return [message for turn in turns for message in turn]


def _fitting_turns(
    tokenizer: Any, head: list[dict[str, str]], turns: list[list[dict[str, str]]], max_tokens: int
) -> int:
    """The largest number of turns after `head` that fits; token counts only grow, so bisect."""

    def too_long(count: int) -> bool:
        encoded = encode_conversation(tokenizer, [*head, *_flat(turns[:count])])
        return len(encoded.token_ids) > max_tokens

    if not too_long(len(turns)):
        return len(turns)
    return bisect.bisect_left(range(1, len(turns)), True, key=too_long)


def _render(tokenizer: Any, messages: Messages, add_generation_prompt: bool = False) -> list[Piece]:
    marks = {chr(FIRST_MARK + number): number for number in range(len(messages))}
    marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
    options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    pattern = f"([{chr(FIRST_MARK)}-{chr(FIRST_MARK + max(len(messages) - 1, 0))}])"
    pieces = []
    for text in re.split(pattern, tokenizer.apply_chat_template(marked, **options)):
        if text in marks:
            pieces.append(Piece(messages[marks[text]]["content"], marks[text]))
        elif text:
            pieces.append(Piece(text, None))
    if "".join(piece.text for piece in pieces) != tokenizer.apply_chat_template(
        list(messages), **options
    ):
        raise DataError(
            "This model's chat template changes or drops some of the words (a system prompt it "
            "does not know, or "
            "white space at an edge), so training and serving would differ. Choose another base "
            "model."
        )
    return pieces


def _tokens(tokenizer: Any, pieces: Sequence[Piece]) -> Iterator[tuple[int, int | None]]:
    """Each token with the message it belongs to, split only at the control tokens the template
    wrote itself.
    """
    backend = tokenizer.backend_tokenizer
    control = {
        token.content: number
        for number, token in backend.get_added_tokens_decoder().items()
        if token.special
    }
    pattern = "|".join(re.escape(text) for text in sorted(control, key=len, reverse=True))
    stretch: list[Piece] = []
    for piece in pieces:
        if piece.message is not None or not pattern:
            stretch.append(piece)
            continue
        for text in re.split(f"({pattern})", piece.text):
            if text in control:
                yield from _plain_tokens(backend, stretch)
                stretch = []
                yield control[text], None
            elif text:
                stretch.append(Piece(text, None))
    yield from _plain_tokens(backend, stretch)


def _plain_tokens(backend: Any, stretch: Sequence[Piece]) -> Iterator[tuple[int, int | None]]:
    """Tokens of text in which nothing is a control token; a token astride two pieces belongs to the
    template.
    """
    text = "".join(piece.text for piece in stretch)
    if not text:
        return
    owner = [piece.message for piece in stretch for _ in piece.text]
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = before
    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        owners = set(owner[start : max(end, start + 1)])
        yield token, owners.pop() if len(owners) == 1 else None


def check_mask(tokenizer: Any, messages: Messages, encoded: Encoded, context: int = 0) -> None:
    """Read the targets back and compare them with the assistant's words. Raises: DataError at the
    first difference.
    """
    spans: list[list[int]] = []
    previous = False
    for token, target in zip(*encoded, strict=True):
        if target and not previous:
            spans.append([])
        if target:
            spans[-1].append(token)
        previous = target
    wanted = [
        message["content"] for message in messages[context:] if message["role"] == "assistant"
    ]
    read = [tokenizer.decode(span[:-1]) for span in spans]
    ended = all(span[-1] in end_of_turn_ids(tokenizer) for span in spans)
    if read != wanted or not ended:
        turn = next(
            (n for n, pair in enumerate(zip(read, wanted, strict=False)) if pair[0] != pair[1]), 0
        )
        raise DataError(
            f"The loss mask does not cover the assistant's words: reply {turn + 1} of "
            f"{len(wanted)} reads "
            f"{read[turn] if read else ''!r} instead of {wanted[turn] if wanted else ''!r}."
        )


class TurnShape(NamedTuple):
    """What the chat template writes around a message of one role."""

    before: str
    after: str


def ollama_template(tokenizer: Any) -> str | None:
    """The chat template in Ollama's Go syntax; `None` where turns have no fixed shape (use the
    GGUF's own then).

    Ollama puts the Modelfile's SYSTEM first and llama.cpp adds a begin-of-text token itself, so the
    shape is read off conversations that open with a system prompt, without that token, and must
    reproduce 1 to 30 turns.
    """
    shapes = _turn_shapes(tokenizer)
    if shapes is None or any("{{" in text for shape in shapes.values() for text in shape):
        return None
    cases = [
        f'if eq .Role "{role}" }}}}{a}{{{{ .Content }}}}{z}' for role, (a, z) in shapes.items()
    ]
    body = "{{ else ".join(cases)
    loop = f"{{{{ range .Messages }}}}{{{{ {body}{{{{ end }}}}{{{{ end }}}}"
    return loop + shapes["assistant"].before


def _turn_shapes(tokenizer: Any) -> dict[str, TurnShape] | None:
    from jinja2.exceptions import TemplateError

    chat = [{"role": "system", "content": "S"}]
    for number in range(30):
        chat += [
            {"role": "user", "content": f"U{number}"},
            {"role": "assistant", "content": f"A{number}"},
        ]
    try:
        texts = [
            [piece.text for piece in _render(tokenizer, chat[:length])] for length in (1, 2, 3)
        ]
        begin = getattr(tokenizer, "bos_token", None) or ""
        begin = begin if getattr(tokenizer, "add_bos_token", False) else ""
        shapes, end = {}, begin
        for number, role in enumerate(("system", "user", "assistant")):
            before, after = texts[number][2 * number], texts[number][2 * number + 2]
            shapes[role] = TurnShape(before.removeprefix(end), after)
            end = after
        whole = all(
            tokenizer.apply_chat_template(chat[:length], tokenize=False, add_generation_prompt=True)
            == begin + _shaped(shapes, chat[:length])
            for length in range(2, 61, 2)
        )
    except (TemplateError, DataError, IndexError):
        return None
    return shapes if whole else None


def _shaped(shapes: dict[str, TurnShape], messages: Messages) -> str:
    turns = [shapes[m["role"]].before + m["content"] + shapes[m["role"]].after for m in messages]
    return "".join(turns) + shapes["assistant"].before
