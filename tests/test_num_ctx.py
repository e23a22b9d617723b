import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun, prepare_tiny

from coach_mlx import chat_format, doctor, memory_fit, mlx_runtime, model_facts, num_ctx
from coach_mlx.config import load_config
from coach_mlx.workspace import Workspace, read_conversations

QWEN_7B = {
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 3584,
    "max_position_embeddings": 32768,
}


@pytest.mark.parametrize(
    ("needed", "model", "memory", "tokens", "why"),
    [
        (None, 32768, 10**6, 16384, "no training data"),
        (13000, 32768, 10**6, 15360, "longest training conversation"),
        (900, 32768, 10**6, 4096, "shorter"),
        (900, 2048, 10**6, 2048, "the model was made for no more"),
        (13000, 8192, 10**6, 8192, "the model was made for no more"),
        (13000, 32768, 9000, 8192, "memory takes no more"),
        (13000, 32768, 0, 1024, "memory takes no more"),
        (13000, 512, 0, 512, "memory takes no more"),
    ],
)
def test_the_least_of_the_limits_binds_and_is_named(
    needed: int | None, model: int, memory: int, tokens: int, why: str
) -> None:
    found, reason = num_ctx.choose(needed, model, memory)
    assert found == tokens
    assert why in reason


def test_the_cache_costs_two_vectors_a_layer_and_head() -> None:
    assert model_facts.cache_bytes_per_token(QWEN_7B) == 2 * 28 * 4 * 128 * 2
    assert model_facts.cache_bytes_per_token({**QWEN_7B, "head_dim": 64}) == 2 * 28 * 4 * 64 * 2


def test_it_comes_from_the_longest_conversation_and_the_memory_of_this_machine(
    tiny_project: Callable[..., TinyRun], tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, workspace, options = prepare_tiny(tiny_project())
    settings = [one for one in options[4:] if "=" in one and not one.startswith("serve.num_ctx")]
    config = load_config(None, settings)
    found = num_ctx.compute(config, workspace, tokenizer)
    chats = [one.chat() for one in read_conversations(workspace.training_data)]
    lengths = [len(chat_format.encode_conversation(tokenizer, chat).token_ids) for chat in chats]
    assert found.longest == max(lengths)
    assert (found.tokens, found.reason) == (2048, "the model was made for no more")
    assert found.cache_bytes == 2048 * 2 * 2 * 2 * 16 * 2
    little = memory_fit.Place("cpu", found.weight_bytes + num_ctx.WORKING_BYTES + 200_000, "here")
    monkeypatch.setattr(memory_fit, "here", lambda: little)
    assert num_ctx.compute(config, workspace, tokenizer).tokens == 1024
    said = num_ctx.check(config, workspace)
    assert said is not None
    assert said.startswith("1,024 tokens: 0.3 MB beside")
    assert "memory takes no more" in said


def test_a_person_may_say_it(tiny_project: Callable[..., TinyRun], tokenizer: Any) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    found = num_ctx.compute(config, workspace, tokenizer)
    assert (found.tokens, found.reason) == (1024, "serve.num_ctx says so")


def test_the_doctor_says_what_a_talk_costs(tiny_project: Callable[..., TinyRun]) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    row = doctor._context(config, workspace)
    assert row.ok
    assert "1,024 tokens: " in row.found
    workspace.training_data.write_text("{\n", encoding="utf-8")
    assert doctor._context(config, workspace).ok is False


def test_before_there_is_a_model_nothing_is_said(tmp_path: Path) -> None:
    config = load_config(None)
    row = doctor._context(config, Workspace(tmp_path, config))
    assert (row.ok, row.found) == (None, "no model yet")
    assert json.loads(json.dumps(row._asdict()))["hint"] == "coach import"
    assert mlx_runtime.memory_bytes() > 0
