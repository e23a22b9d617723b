"""The models compared: found, told apart, and all asked alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coaches import good_coach, labelled, mutant_coach
from conftest import TinyRun, make_adapter, prepare_tiny

from coach_mlx import arms
from coach_mlx.arms import Decoding
from coach_mlx.chat_format import encode_conversation
from coach_mlx.config import Config, load_config
from coach_mlx.errors import ConfigError, DataError, ToolError
from coach_mlx.mlx_replies import Asked
from coach_mlx.mlx_runtime import open_tokenizer
from coach_mlx.workspace import Workspace

DECODING = Decoding(temperature=0.0, max_tokens=6, seed=7)
HELLO = [{"role": "user", "content": "I cannot sleep."}]


def found(root: Path, **settings: Any) -> list[arms.ArmSource]:
    config = load_config(None, [f"evaluate.{key}={value}" for key, value in settings.items()])
    return arms.find_arms(config, Workspace(root, config), DECODING)


def test_a_model_is_not_compared_with_itself(tmp_path: Path) -> None:
    good = good_coach(tmp_path / "good.jsonl", labelled()[:2])
    bad = mutant_coach(tmp_path / "bad.jsonl", "null")
    arms.require_different(found(tmp_path, base=bad, served=good))
    with pytest.raises(DataError, match="base and served are the same model"):
        arms.require_different(found(tmp_path, base=good, served=good))


@pytest.mark.parametrize("model", ["anthropic/claude-sonnet-5-5", "openai/gpt"])
def test_no_arm_runs_somewhere_else(tmp_path: Path, model: str) -> None:
    bad = mutant_coach(tmp_path / "bad.jsonl", "null")
    with pytest.raises(ConfigError, match="on this machine only"):
        found(tmp_path, base=bad, served=model)


@pytest.mark.parametrize("model", ["mlx/nowhere", "gguf/nothing.gguf", "scripted/none.jsonl"])
def test_a_named_model_that_is_not_there_is_named(tmp_path: Path, model: str) -> None:
    bad = mutant_coach(tmp_path / "bad.jsonl", "null")
    with pytest.raises(ToolError, match=r"evaluate\.served names"):
        found(tmp_path, base=bad, served=model)
    with pytest.raises(ConfigError, match="is no chat model"):
        found(tmp_path, base="just-a-name")


def test_what_was_not_made_yet_names_its_stage(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="coach import"):
        found(tmp_path)
    bad = mutant_coach(tmp_path / "bad.jsonl", "null")
    with pytest.raises(ToolError, match="coach export"):
        found(tmp_path, base=bad)


def test_the_adapter_is_an_arm_of_its_own(tiny_project: Callable[..., TinyRun]) -> None:
    config, workspace, _ = prepare_tiny(tiny_project())
    make_adapter(workspace.base, workspace.adapter)
    base, adapter, served = arms.find_arms(_served_as(config, workspace), workspace, DECODING)
    assert (base.name, adapter.name, served.name) == ("base", "adapter", "served")
    assert len({base.digest, adapter.digest, served.digest}) == 3
    assert base.has_losses and adapter.has_losses and not served.has_losses
    chat = [*HELLO, {"role": "assistant", "content": "Since when?"}]
    part = encode_conversation(open_tokenizer(workspace.base), chat)
    losses, texts = [], []
    for source in (base, adapter, served):
        with source.open(200) as arm:
            losses.append(arm.mean_loss([part, part]))
            [(place, reply)] = arm.replies([Asked("a", HELLO, 1)])
            texts.append(reply.text)
            assert (place, reply.tokens) == (0, 6)
            arm.forget("a")
    assert losses[0] != losses[1]
    assert texts[0] == texts[2] != texts[1]  # the served one here is the base under another name


def _served_as(config: Config, workspace: Workspace) -> Config:
    changed = config.evaluate.model_copy(update={"served": f"mlx/{workspace.base}"})
    return config.model_copy(update={"evaluate": changed})


def test_a_scripted_coach_answers_by_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [{"text": "Tell me more."}, {"when": "sleep", "text": "Since when?"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bad = mutant_coach(tmp_path / "bad.jsonl", "null")
    _, served = found(tmp_path, base=bad, served=f"scripted/{path}")
    with served.open(100) as arm:
        asked = [Asked("a", HELLO, 1), Asked("b", [{"role": "user", "content": "Hi."}], 1)]
        assert [reply.text for _, reply in arm.replies(asked)] == ["Since when?", "Tell me more."]


def test_as_many_talks_go_side_by_side_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"num_attention_heads": 32, "hidden_size": 4096, "num_hidden_layers": 32}
    place = arms.memory_fit.Place("metal", 12 * 2**30, "this Mac")
    monkeypatch.setattr(arms.memory_fit, "here", lambda: place)
    assert arms.fitting_width(facts, 16, 100) == 16
    assert 1 < arms.fitting_width(facts, 16, 4000) < 16
    assert arms.fitting_width(facts, 16, 10**6) == 1


def test_the_decoding_is_said_in_words() -> None:
    assert DECODING.words == "the likeliest token, at most 6 tokens a reply, seed 7"
    warm = DECODING.model_copy(update={"temperature": 0.7})
    assert warm.words.startswith("temperature 0.7")


def test_repeats_need_a_temperature() -> None:
    with pytest.raises(ConfigError, match="every repeat is the same"):
        load_config(None, ["evaluate.repeats=3"])
    assert load_config(None, ["evaluate.repeats=3", "evaluate.temperature=0.7"])
