"""One conversation as the tokens a model sees: the prompt and the loss mask.

Everything comes from the tokenizer's own chat template, as `chat_template` renders it: in pieces
that tell the template's own text from the people's words. So a marker that somebody *types* is
never a control token, and the loss lies where it is wanted: on every assistant turn's words and on
the token that ends it. The prompt for a reply is, token for token, what stands before that reply in
a conversation that is trained on.
"""

import bisect
import contextlib
import re
import unicodedata
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from coach_mlx.chat_template import Messages, Piece, render, render_prompt
from coach_mlx.errors import DataError


class Encoded(NamedTuple):
    """Token ids and, for each, whether the loss counts it; both (T,)."""

    token_ids: list[int]
    is_target: list[bool]


class Token(NamedTuple):
    """A token and the message it belongs to; one that is `astride` two belongs to the template."""

    token_id: int
    message: int | None
    astride: bool = False


class Part(NamedTuple):
    """Messages that fit, of which the first `context` are repeated without loss."""

    messages: list[dict[str, str]]
    context: int


def encode_conversation(tokenizer: Any, messages: Messages, context: int = 0) -> Encoded:
    """Targets are the words of each assistant turn from message `context` on, and their end token.

    Raises: DataError where the template changes a message or does not end the assistant's turn.
    """
    pieces = _with_leads(render(tokenizer, messages), messages, reply_lead(tokenizer))
    targets = {
        number
        for number, message in enumerate(messages)
        if message["role"] == "assistant" and number >= context
    }
    token_ids: list[int] = []
    is_target: list[bool] = []
    previous: int | None = None
    for token, message, _ in _tokens(tokenizer, pieces):
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
    return [token.token_id for token in _tokens(tokenizer, _prompt(tokenizer, messages))]


def prompt_text(tokenizer: Any, messages: Messages) -> str:
    """The text of that prompt."""
    return "".join(piece.text for piece in _prompt(tokenizer, messages))


def _prompt(tokenizer: Any, messages: Messages) -> list[Piece]:
    with_reply = [*messages, {"role": "assistant", "content": ""}]
    return _with_leads(render_prompt(tokenizer, messages), with_reply, reply_lead(tokenizer))[:-1]


_leads: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def reply_lead(tokenizer: Any) -> str:
    """White space of the template that becomes one token with the first word of a reply.

    Mistral's `[/INST] Yes` is such a case: the model says " Yes" in one token, so the blank is part
    of what it learns to say, and no prompt ends with it.
    """
    if tokenizer not in _leads:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
        pieces = render_prompt(tokenizer, messages[:1])
        before = pieces[-2].text if pieces[-2].message is None else ""
        blank = before[len(before.rstrip()) :]
        leads = (blank[len(blank) - length :] for length in range(len(blank) + 1))

        def apart(lead: str) -> bool:
            end = _with_leads(pieces[-2:], messages, lead)
            return not any(token.astride for token in _tokens(tokenizer, end))

        _leads[tokenizer] = next(filter(apart, leads), "")
    return _leads[tokenizer]


def _with_leads(pieces: Sequence[Piece], messages: Messages, lead: str) -> list[Piece]:
    """Moves `lead` from the template's text to the assistant's words behind it."""
    moved: list[Piece] = []
    for piece in pieces:
        spoken = piece.message is not None and messages[piece.message]["role"] == "assistant"
        if lead and spoken and moved and moved[-1].text.endswith(lead):
            moved[-1] = Piece(moved[-1].text.removesuffix(lead), moved[-1].message)
            piece = Piece(lead + piece.text, piece.message)
        moved.append(piece)
    return moved


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


def _tokens(tokenizer: Any, pieces: Sequence[Piece]) -> Iterator[Token]:
    """Split only at the control tokens the template wrote itself."""
    backend = tokenizer.backend_tokenizer
    control = {
        token.content: number
        for number, token in backend.get_added_tokens_decoder().items()
        if token.special
    }
    pattern = "|".join(re.escape(text) for text in sorted(control, key=len, reverse=True))
    stretch: list[Piece] = []
    first = True
    for piece in pieces:
        if piece.message is not None or not pattern:
            stretch.append(piece)
            continue
        for text in re.split(f"({pattern})", piece.text):
            if text in control:
                yield from _plain_tokens(backend, stretch, first)
                stretch, first = [], False
                yield Token(control[text], None)
            elif text:
                stretch.append(Piece(text, None))
    yield from _plain_tokens(backend, stretch, first)


def _plain_tokens(backend: Any, stretch: Sequence[Piece], first: bool) -> Iterator[Token]:
    """Tokens of text in which nothing is a control token."""
    text = "".join(piece.text for piece in stretch)
    if not text:
        return
    owner = [piece.message for piece in stretch for _ in piece.text]
    with _as_plain_text(backend, first):
        encoding = backend.encode(text, add_special_tokens=False)
    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        owners = set(owner[start : max(end, start + 1)])
        astride = len(owners) > 1
        yield Token(token, None if astride else owners.pop(), astride)


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Words alone, as they are behind a control token: no marker in them is one."""
    backend = tokenizer.backend_tokenizer
    with _as_plain_text(backend, first=False):
        return list(backend.encode(text, add_special_tokens=False).ids)


@contextlib.contextmanager
def _as_plain_text(backend: Any, first: bool) -> Iterator[None]:
    """No control tokens; and a SentencePiece tokenizer that puts a blank before the first word of a
    text does so only there.
    """
    split = backend.pre_tokenizer
    scheme = getattr(split, "prepend_scheme", None)
    before, backend.encode_special_tokens = backend.encode_special_tokens, True
    if scheme == "first" and not first:
        split.prepend_scheme = "never"
    try:
        yield
    finally:
        backend.encode_special_tokens = before
        if scheme == "first":
            split.prepend_scheme = scheme


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
    lead = reply_lead(tokenizer)
    wrong = [
        number
        for number, (text, reply) in enumerate(zip(read, wanted, strict=False))
        if _composed(text) not in (_composed(reply), _composed(lead + reply))
    ]
    if wrong or len(read) != len(wanted) or not ended:
        turn = wrong[0] if wrong else 0
        raise DataError(
            f"The loss mask does not cover the assistant's words: reply {turn + 1} of "
            f"{len(wanted)} reads {read[turn] if read else ''!r} instead of "
            f"{wanted[turn] if wanted else ''!r}."
        )


def _composed(text: str) -> str:
    """Qwen's tokenizer writes a letter and its accent as one character: the same words."""
    return unicodedata.normalize("NFC", text)
