import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import chat_format, mlx_runtime, turn_shapes
from coach_mlx.errors import DataError
from coach_mlx.records import Conversation

MARKERS = ["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "{{ x }}", "{% raw %}", "<s>"]
# SmolLM2's vocabulary lacks the bytes of control characters and of the planes nobody writes in.
letters = st.characters(codec="utf-8", max_codepoint=0x1FFFF, exclude_categories=["C"])
pieces = st.one_of(
    st.text(letters, max_size=20), st.sampled_from([*MARKERS, "it's 2026!", "\n\n", "🫂 è 東"])
)
words = st.lists(pieces, min_size=1, max_size=4).map(lambda found: "".join(found).strip())
said = words.filter(bool)


def chat(turns: list[tuple[str, str]], system: str | None) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": system}] if system else []
    for user, assistant in turns:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": assistant})
    return messages


chats = st.builds(
    chat, st.lists(st.tuples(said, said), min_size=1, max_size=4), st.one_of(st.none(), said)
)


@given(chats)
def test_the_loss_lies_on_every_assistant_turn_and_its_end_and_nowhere_else(
    tokenizer: Any, messages: list[dict[str, str]]
) -> None:
    encoded = chat_format.encode_conversation(tokenizer, messages)
    chat_format.check_mask(tokenizer, messages, encoded)
    end = chat_format.end_of_turn(tokenizer).token_id
    text, targets = "", []
    for token, target in zip(*encoded, strict=True):
        if target:
            targets.append(token)
        if target and token == end:
            text += tokenizer.decode(targets[:-1]) + "\0"
            targets = []
    wanted = [message["content"] for message in messages if message["role"] == "assistant"]
    assert text.split("\0")[:-1] == wanted
    assert targets == []


@given(chats)
def test_a_marker_that_somebody_types_is_never_a_control_token(
    tokenizer: Any, messages: list[dict[str, str]]
) -> None:
    token_ids = chat_format.encode_conversation(tokenizer, messages).token_ids
    ends = token_ids.count(chat_format.end_of_turn(tokenizer).token_id)
    opening = 0 if messages[0]["role"] == "system" else 1  # this template adds a system prompt
    assert ends == len(messages) + opening
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    assert tokenizer.decode(token_ids) == rendered


def test_without_typed_markers_the_tokens_are_the_tokenizers_own(
    tokenizer: Any, starters: list[Conversation]
) -> None:
    for one in starters:
        messages = one.with_system("Listen first.").chat()
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        own = tokenizer.encode(rendered, add_special_tokens=False)
        assert chat_format.encode_conversation(tokenizer, messages).token_ids == own
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
        own = tokenizer.encode(prompt, add_special_tokens=False)
        assert chat_format.encode_prompt(tokenizer, messages[:-1]) == own


def test_context_is_repeated_without_loss(tokenizer: Any) -> None:
    messages = chat([("one", "first"), ("two", "second")], "Listen.")
    encoded = chat_format.encode_conversation(tokenizer, messages, context=3)
    targets = [token for token, target in zip(*encoded, strict=True) if target]
    assert tokenizer.decode(targets) == "second<|im_end|>"
    whole = chat_format.encode_conversation(tokenizer, messages)
    assert whole.token_ids == encoded.token_ids


@given(st.integers(260, 900), st.integers(0, 3), st.integers(0, 24))
def test_splitting_loses_nothing_and_repeats_only_context(
    tokenizer: Any, starters: list[Conversation], limit: int, context: int, number: int
) -> None:
    messages = starters[number].with_system("Listen first.").chat()
    parts = chat_format.split_conversation(tokenizer, messages, limit, context)
    supervised = [message for part in parts for message in part.messages[part.context :]]
    assert (
        [messages[0], *supervised] == messages if parts[0].context else supervised == messages[1:]
    )
    for place, part in enumerate(parts):
        assert len(chat_format.encode_conversation(tokenizer, part.messages).token_ids) <= limit
        assert part.messages[0] == messages[0]
        assert part.context <= 1 + 2 * context
        assert (part.context == 1) or place > 0


def test_one_turn_that_is_too_long_is_said_not_cut(tokenizer: Any) -> None:
    messages = chat([("short", "fine"), ("word " * 300, "long")], None)
    with pytest.raises(DataError, match="Turn 2 alone is longer than 200 tokens"):
        chat_format.split_conversation(tokenizer, messages, 200, 1)


def changed_tokenizer(tokenizer: Any, smollm2: Path, tmp_path: Path, template: str) -> Any:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((smollm2 / name).read_bytes())
    facts = json.loads((tmp_path / "tokenizer_config.json").read_text())
    facts["chat_template"] = template
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(facts))
    return mlx_runtime.open_tokenizer(tmp_path)


LOOP = "{% for message in messages %}%s{% endfor %}"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("{{ message.content }}\n", "would never stop"),
        ("{{ message.role }}: {{ message.content }}", "writes nothing after an assistant turn"),
        ("{{ message.content | upper }}<|im_end|>", "changes or drops"),
        (
            "{% if message.role != 'user' %}{{ message.content }}<|im_end|>{% endif %}",
            "drops, repeats or moves message 1",
        ),
    ],
)
def test_a_template_that_cannot_teach_stopping_is_refused(
    tokenizer: Any, smollm2: Path, tmp_path: Path, body: str, why: str
) -> None:
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, LOOP.replace("%s", body))
    messages = chat([("hello", "there")], None)
    with pytest.raises(DataError, match=why):
        found = chat_format.encode_conversation(changed, messages)
        chat_format.check_mask(changed, messages, found)


def test_a_wrong_mask_is_found_before_the_first_step(tokenizer: Any) -> None:
    messages = chat([("hello", "there you are"), ("yes", "good")], None)
    right = chat_format.encode_conversation(tokenizer, messages)
    first = right.is_target.index(True)
    for place, value in ((first, False), (first - 1, True), (len(right.is_target) - 2, False)):
        wrong = right._replace(is_target=[*right.is_target])
        wrong.is_target[place] = value
        with pytest.raises(DataError, match="loss mask"):
            chat_format.check_mask(tokenizer, messages, wrong)
    everything = right._replace(is_target=[True] * len(right.is_target))
    with pytest.raises(DataError, match="loss mask"):
        chat_format.check_mask(tokenizer, messages, everything)
    with pytest.raises(DataError, match="loss mask"):
        chat_format.check_mask(tokenizer, [*messages, messages[1]], right)


def test_ollamas_template_is_read_off_the_models_own(tokenizer: Any) -> None:
    template = turn_shapes.ollama_template(tokenizer)
    assert template is not None
    assert template.startswith(
        '{{ range $number, $_ := .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n'
    )
    assert template.endswith("{{ end }}{{ end }}<|im_start|>assistant\n")


def test_a_template_without_a_fixed_shape_has_no_go_twin(
    tokenizer: Any, smollm2: Path, tmp_path: Path
) -> None:
    body = "{{ loop.index }}{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, LOOP.replace("%s", body))
    assert turn_shapes.ollama_template(changed) is None
