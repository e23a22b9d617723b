"""The bases that people choose: each family's vocabulary, template and layers, random weights."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TinyRun
from families import (
    FAMILIES,
    GEMMA2,
    QWEN3,
    VARIANTS,
    Chat,
    Family,
    folded,
    go,
    make_base,
    save_tokenizer,
)
from hypothesis import given
from test_chat_format import changed_tokenizer, chats

from coach_mlx import (
    chat_format,
    chat_template,
    gguf_file,
    importer,
    llama_runtime,
    losses,
    mlx_runtime,
    parity_cases,
    parity_content,
    trainer,
    turn_shapes,
)
from coach_mlx.config import Config
from coach_mlx.errors import DataError
from coach_mlx.workspace import read_jsonl

REPLIES = ["I'm here. What hurts?", "Cafe\u0301, 1,250 nights…", "🫂 Slowly, then.", "OK\n\n- rest"]


class Base(NamedTuple):
    family: Family
    folder: Path
    tokenizer: Any


def conversation(turns: int, system: str | None = "Listen first.\nNever judge.") -> Chat:
    messages = [{"role": "system", "content": system}] if system else []
    for number in range(turns):
        user = f"It's night {number}, and [INST] </s> <|im_end|> I can't sleep"
        messages += [
            {"role": "user", "content": user},
            {"role": "assistant", "content": REPLIES[number % len(REPLIES)]},
        ]
    return messages


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = make_base(request.param, tmp_path_factory.mktemp(request.param.name))
    end = request.param.control[request.param.end]
    return Base(request.param, folder, mlx_runtime.open_tokenizer(folder, end))


def require_as_written(family: Family, tokenizer: Any) -> None:
    for messages in (conversation(4), conversation(3, system=None), conversation(1)):
        token_ids, is_target = [], []
        for text, spoken in family.written(messages):
            control = family.control.get(text)
            found = family.spell(text) if control is None else [control]
            token_ids += found
            is_target += [spoken] * len(found)
        encoded = chat_format.encode_conversation(tokenizer, messages)
        assert encoded.token_ids == token_ids
        assert encoded.is_target == is_target
        chat_format.check_mask(tokenizer, messages, encoded)


def require_prompts_are_prefixes(tokenizer: Any, messages: Chat) -> None:
    whole = chat_format.encode_conversation(tokenizer, messages)
    chat_format.check_mask(tokenizer, messages, whole)
    for place, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = chat_format.encode_prompt(tokenizer, messages[:place])
            assert whole.token_ids[: len(prompt)] == prompt
            assert whole.is_target[len(prompt) - 1 : len(prompt) + 1] == [False, True]


def require_ollama_sends_the_prompt(tokenizer: Any) -> None:
    template = turn_shapes.ollama_template(tokenizer)
    assert template is not None
    begin = chat_template.begin_of_text(tokenizer)
    for turns in range(1, 31):
        messages = conversation(turns)[:-1]
        assert begin + go(template, messages) == chat_format.prompt_text(tokenizer, messages)
    # A server finds control tokens in the whole text, so without typed ones:
    messages = [{**message, "content": "Go on"} for message in conversation(3)[:-1]]
    sent = tokenizer.encode(begin + go(template, messages), add_special_tokens=False)
    assert sent == chat_format.encode_prompt(tokenizer, messages)


def test_every_token_and_its_loss_is_where_the_familys_format_has_it(base: Base) -> None:
    require_as_written(base.family, base.tokenizer)


def test_what_is_prompted_is_what_was_trained_on(base: Base) -> None:
    for system in ("Listen first.", None):
        require_prompts_are_prefixes(base.tokenizer, conversation(4, system))


def test_ollama_sends_what_was_trained_on_for_thirty_turns(base: Base) -> None:
    require_ollama_sends_the_prompt(base.tokenizer)


def test_the_files_template_writes_the_same_and_names_neither_tools_nor_thinking(
    base: Base,
) -> None:
    """Ollama sets a Modelfile's TEMPLATE aside for a file's own that does."""
    jinja = turn_shapes.jinja_template(base.tokenizer)
    assert jinja is not None
    assert not {"tool", "<think>"} & set(re.findall("tool|<think>", jinja))
    for turns in range(1, 31):
        messages = conversation(turns)[:-1]
        text = base.tokenizer.apply_chat_template(
            messages, chat_template=jinja, tokenize=False, add_generation_prompt=True
        )
        assert text == chat_format.prompt_text(base.tokenizer, messages)


def test_its_gguf_file_says_and_computes_the_same(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "base.gguf"
    gguf_file.write_model(base.folder, base.tokenizer, Config(), "F16", path)
    template = gguf_file.read_facts(gguf_file.read(path))["tokenizer.chat_template"]
    llama = llama_runtime.open_gguf(path, num_ctx=1024)
    for system in ("Listen first.\nNever judge.", None):
        for messages in parity_cases.conversations(base.tokenizer, system)[::7]:
            text = chat_format.prompt_text(base.tokenizer, messages)
            assert parity_content.render(base.tokenizer, template, messages) == text
    plain = [{**one, "content": "It is late, and I can't sleep."} for one in conversation(3)[:-1]]
    ids = chat_format.encode_prompt(base.tokenizer, plain)
    text = chat_format.prompt_text(base.tokenizer, plain)
    assert llama.tokenize(text.encode(), add_bos=False, special=True) == ids
    encoded = chat_format.encode_conversation(base.tokenizer, conversation(2))
    model = mlx_runtime.open_model(base.folder).model
    ours = losses.target_losses(model, [encoded]).mean().item()
    theirs = llama_runtime.token_losses(llama, *encoded).mean()
    assert theirs == pytest.approx(ours, abs=4e-3)


def test_the_server_adds_the_first_token_where_the_format_has_one(base: Base) -> None:
    assert chat_template.begin_of_text(base.tokenizer) == base.family.begin


def test_the_server_adds_no_token_that_the_format_does_not_have(tmp_path: Path) -> None:
    family = FAMILIES[1]._replace(template=FAMILIES[1].template.replace("{{- bos_token }}", ""))
    tokenizer = mlx_runtime.open_tokenizer(save_tokenizer(family, tmp_path / "other"), [2])
    assert tokenizer.encode("Hi")[0] == family.control[family.begin]
    assert chat_template.begin_of_text(tokenizer) == ""


def test_the_loss_falls_and_plain_mlx_lm_opens_the_adapter(
    base: Base, tiny_project: Callable[..., TinyRun]
) -> None:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx_lm

    config, workspace, _ = tiny_project(
        f"base.model={base.folder}",
        "train.steps=8",
        "train.learning_rate=3e-2",
        "train.batch_size=1",
        "train.dropout=0",
        "train.validation_fraction=0",
    )
    importer.run(config, workspace)
    messages = conversation(2)
    workspace.training_data.parent.mkdir(parents=True, exist_ok=True)
    workspace.training_data.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    trainer.run(config, workspace)
    trained = [line["loss"] for line in read_jsonl(workspace.metrics) if line["loss"] is not None]
    assert trained[-1] < trained[0] - 1.5

    encoded = chat_format.encode_conversation(base.tokenizer, messages)
    inputs = mx.array([encoded.token_ids])
    ours = mlx_runtime.open_model(workspace.base, workspace.adapter).model
    theirs, _ = mlx_lm.load(str(workspace.base), adapter_path=str(workspace.adapter))
    logits = theirs(inputs)  # (1, T, V)
    assert mx.allclose(ours(inputs), logits, atol=2e-3)
    each = nn.losses.cross_entropy(logits[0, :-1], inputs[0, 1:])  # (T - 1,)
    counted = mx.array(encoded.is_target[1:])
    loss = (each * counted).sum().item()
    assert loss / counted.sum().item() < trained[0] - 1.5
    # The evaluation reads over a key-value cache, which slides in Gemma.
    assert losses.score(ours, encoded) == pytest.approx(loss, rel=1e-3)


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda family: family.name)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = save_tokenizer(request.param, tmp_path_factory.mktemp("variant") / "tokenizer")
    end = request.param.control[request.param.end]
    return Base(request.param, folder, mlx_runtime.open_tokenizer(folder, end))


def test_another_format_of_a_family_is_read_as_it_is_written(variant: Base) -> None:
    require_as_written(variant.family, variant.tokenizer)
    require_ollama_sends_the_prompt(variant.tokenizer)


@given(messages=chats)
def test_any_words_are_learned_right_behind_their_prompt(variant: Base, messages: Chat) -> None:
    require_prompts_are_prefixes(variant.tokenizer, messages)


def test_the_templates_have_the_quirks_that_are_mended(base: Base) -> None:
    own = base.tokenizer.apply_chat_template(conversation(2), tokenize=False, enable_thinking=False)
    ours = "".join(piece.text for piece in chat_template.render(base.tokenizer, conversation(2)))
    if base.family.name == "mistral":
        assert "Never judge." not in own
        assert "Never judge." in ours
    elif base.family.name == "qwen3":
        assert own.count("<think>") == 1
        assert ours == own.replace("<think>\n\n</think>\n\n", "")
    elif base.family.name == "llama":
        assert re.sub("Today Date: .*", "", own) == re.sub("Today Date: .*", "", ours)
    else:
        assert own == ours


TURN = "<|im_start|>{{ m.role }}\n"
CHATML = "{% for m in messages %}" + TURN + "{{ m.content }}<|im_end|>\n{% endfor %}"


def in_assistants_turn(text: str) -> str:
    return CHATML.replace(TURN, TURN + "{% if m.role == 'assistant' %}" + text + "{% endif %}")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (in_assistants_turn("<think>\n"), r"opens a thinking block \(<think>\) before every reply"),
        (CHATML.replace("m.content", "m.content | upper"), r"drops words of message 1 \(system\)"),
        (CHATML.replace("<|im_end|>", ""), "does not end a reply"),
        (CHATML.replace("m.content", "m.content * 2"), r"repeats or moves message 1 \(system\)"),
        (
            CHATML.replace(
                "{{ m.content }}", "{% if m.role != 'user' %}{{ m.content }}{% endif %}"
            ),
            r"drops, repeats or moves message 2 \(user\)",
        ),
        (CHATML + "{{ raise_exception('Not today') }}", r"refuses the conversation \(Not today\)"),
    ],
)
def test_a_template_that_cannot_be_trained_on_is_refused_by_name(
    smollm2: Path, tokenizer: Any, tmp_path: Path, template: str, why: str
) -> None:
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, template)
    with pytest.raises(DataError, match=why):
        chat_format.encode_conversation(changed, conversation(2))


def test_words_that_a_template_trims_are_named(
    smollm2: Path, tokenizer: Any, tmp_path: Path
) -> None:
    trimming = CHATML.replace("m.content", "m.content | trim")
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, trimming)
    messages = conversation(2)
    assert chat_format.encode_conversation(changed, messages)
    messages[2]["content"] += "\n"
    with pytest.raises(DataError, match=r"white space at an edge of message 3 \(assistant\)"):
        chat_format.encode_conversation(changed, messages)


def test_a_mark_of_thinking_in_a_reply_is_refused_and_in_a_question_is_text(
    smollm2: Path, tokenizer: Any, tmp_path: Path
) -> None:
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, QWEN3)
    messages = conversation(2)
    messages[1]["content"] = "What is </think>?"
    assert chat_format.encode_conversation(changed, messages)
    messages[2]["content"] = "I was thinking </think> of you"
    with pytest.raises(DataError, match=r"takes the '</think>' in message 3 \(assistant\)"):
        chat_format.encode_conversation(changed, messages)


def test_a_thinking_block_that_every_turn_closes_stands_before_the_reply(
    smollm2: Path, tokenizer: Any, tmp_path: Path
) -> None:
    closed = in_assistants_turn("<think>\n\n</think>\n")
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, closed)
    require_prompts_are_prefixes(changed, conversation(4))
    prompt = chat_format.encode_prompt(changed, conversation(1)[:-1])
    assert changed.decode(prompt).endswith("<think>\n\n</think>\n")


def test_a_prompt_opens_no_thoughts_that_earlier_turns_do_not_have(
    smollm2: Path, tokenizer: Any, tmp_path: Path
) -> None:
    opens = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, CHATML + opens)
    prompt = chat_format.encode_prompt(changed, conversation(1)[:-1])
    assert changed.decode(prompt).endswith("<|im_start|>assistant\n")


def test_what_one_template_needs_is_not_done_to_another(
    smollm2: Path, tokenizer: Any, tmp_path: Path
) -> None:
    refusing = GEMMA2.replace("<start_of_turn>", "<|im_start|>").replace(
        "<end_of_turn>", "<|im_end|>"
    )
    changed = changed_tokenizer(tokenizer, smollm2, tmp_path, refusing)
    for _ in range(2):
        for one, same in ((changed, folded(conversation(1))), (tokenizer, conversation(1))):
            plain = chat_format.encode_conversation(one, same)
            assert chat_format.encode_conversation(one, conversation(1)) == plain
    with pytest.raises(DataError, match="no user message right behind"):
        chat_format.encode_conversation(changed, conversation(1)[::2])


def test_a_blank_before_a_whole_text_is_not_put_before_each_turn(tmp_path: Path) -> None:
    """SentencePiece vocabularies with turns that begin with a control token and no blank."""
    turns = CHATML.replace("<|im_start|>", "[INST]").replace("<|im_end|>", "</s>")
    family = FAMILIES[1]._replace(template="{{ bos_token }}" + turns)
    tokenizer = mlx_runtime.open_tokenizer(save_tokenizer(family, tmp_path / "other"), [2])
    messages = [{**m, "content": "Go on"} for m in conversation(2)]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    own = tokenizer.encode(rendered, add_special_tokens=False)
    encoded = chat_format.encode_conversation(tokenizer, messages)
    assert encoded.token_ids == own
    chat_format.check_mask(tokenizer, messages, encoded)
