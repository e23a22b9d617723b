"""Conversations that an export must carry unchanged, whatever a person writes in them.

1 to 30 turns, with quotation marks, braces, template syntax, emoji, several scripts, white space
inside a text, and the model's own markers typed by hand. Reads and writes no file.
"""

from typing import Any

TURNS = range(1, 31)
WORDS = (
    "I can't sleep. It's 3:45 again.",
    "She said \"you're lazy\", and I said 'fine', and “left”…",
    "{{ .Content }} {% if true %} {# a #} {%- endif %} ${HOME} %s \\n {0}",
    "😀 then 👩‍👩‍👧 and 🫂, où ça, 東京で, здесь, سلام, ภาษาไทย",
    "One thing.\n\n  - a list\n\tand a tab, two  blanks.\n\n\nThree lines on.",
    "<b>bold</b> & `code` | a # heading $ 5 % and ~ / \\ ^",
    'assistant: is this you? """ and \'\'\' and """',
)
SHOWN = 60
"""Characters shown around a difference."""
REPLIES = ("That sounds heavy. What would help tonight?", "Yes.", "Both can be true, I think. 🫂")


def conversations(tokenizer: Any, system: str | None) -> list[list[dict[str, str]]]:
    """One of each length, each ending with the user's words; the next reply is the coach's."""
    said = [*WORDS, *(f"I typed {marker} by hand" for marker in control_tokens(tokenizer))]
    return [_conversation(said, turns, system) for turns in TURNS]


def control_tokens(tokenizer: Any) -> list[str]:
    """The markers of a vocabulary that its chat template may use, in order of their ids."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    template = str(tokenizer.chat_template)
    written = [added[number].content for number in sorted(added) if added[number].special]
    used = [text for text in written if text in template]
    return [*used, *(text for text in written if text not in used)][:24]


def _conversation(said: list[str], turns: int, system: str | None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system is not None else []
    for turn in range(turns):
        # Each length begins elsewhere, so that every text stands at every place.
        words = said[(turn + turns) % len(said)]
        messages.append({"role": "user", "content": words})
        messages.append({"role": "assistant", "content": REPLIES[turn % len(REPLIES)]})
    return messages[:-1]


def difference(expected: str, found: str, where: str) -> str:
    """The first place where two texts part, with what stands around it."""
    pairs = zip(expected, found, strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(found)))
    around = slice(max(0, place - SHOWN // 2), place + SHOWN)
    return (
        f"they part at character {place + 1} (of {len(expected)} and {len(found)}): training has "
        f"{expected[around]!r}, {where} {found[around]!r}"
    )
