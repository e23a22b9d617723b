"""A file that is not what was trained is named, with the culprit."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyRun
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from coach_mlx import (
    chat_format,
    dataset,
    fuse,
    gguf,
    gguf_facts,
    gguf_file,
    gguf_tensors,
    importer,
    mlx_runtime,
    model_facts,
    parity,
    parity_cases,
    parity_content,
    parity_file,
    parity_numbers,
    trainer,
)
from coach_mlx.config import Config
from coach_mlx.errors import DataError, GateFailed, ToolError
from coach_mlx.parity import Gate
from coach_mlx.parity_content import Content
from coach_mlx.workspace import Workspace


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Config, Workspace]:
    make: Callable[..., TinyRun] = request.getfixturevalue("tiny_project_module")
    root = tmp_path_factory.mktemp("trained")
    config, workspace, _ = make("export.quantization=f16", root=root)
    for stage in (dataset, importer, trainer, fuse, gguf):
        stage.run(config, workspace)
    return config, workspace


def rewritten(
    trained: tuple[Config, Workspace],
    target: Path,
    change: Callable[[dict[str, Any]], None] = lambda facts: None,
    tensors: Callable[[list[gguf_tensors.Tensor]], list[gguf_tensors.Tensor]] = lambda all_: all_,
) -> Path:
    """The served file with something broken on purpose."""
    config, workspace = trained
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    facts = gguf_facts.describe(workspace.fused, tokenizer, config, "F16")
    change(facts)
    found = gguf_tensors.tensors(workspace.fused, model_facts.read(workspace.fused), "F16")
    gguf_file.write(target, facts, tensors(found))
    return target


def verified(trained: tuple[Config, Workspace], served: Path) -> str:
    """What the gate says of a file that takes the served one's place."""
    config, workspace = trained
    whole = workspace.gguf.read_bytes()
    workspace.gguf.write_bytes(served.read_bytes())
    try:
        with pytest.raises(GateFailed) as failed:
            gguf.verify(config, workspace)
    finally:
        workspace.gguf.write_bytes(whole)
    return str(failed.value)


def test_what_was_exported_passes(trained: tuple[Config, Workspace]) -> None:
    config, workspace = trained
    assert gguf.verify(config, workspace)["passed"]
    found = json.loads(workspace.verified.read_text())
    assert found["passed"]
    assert found["file"] == workspace.gguf.name
    names = [one["name"] for one in found["checks"]]
    for part in ("facts", "weights", "text", "tokens", "adapter to fused", "fused to GGUF", "stop"):
        assert any(part in name for name in names), part


def test_a_wrong_rope_value_is_named(trained: tuple[Config, Workspace], tmp_path: Path) -> None:
    served = rewritten(
        trained, tmp_path / "m.gguf", lambda facts: facts.update({"llama.rope.freq_base": 9999.0})
    )
    said = verified(trained, served)
    assert "llama.rope.freq_base: 9999.0 in the file, 10000.0 in the model" in said


def test_a_wrong_template_is_named(trained: tuple[Config, Workspace], tmp_path: Path) -> None:
    def forgetful(facts: dict[str, Any]) -> None:
        key = "tokenizer.chat_template"
        facts[key] = facts[key].replace("<|im_end|>\\n", "\\n", 1)

    said = verified(trained, rewritten(trained, tmp_path / "m.gguf", forgetful))
    assert "tokenizer.chat_template" in said


def test_a_tokenizer_that_lost_merges_is_named(
    trained: tuple[Config, Workspace], tmp_path: Path
) -> None:
    def shortened(facts: dict[str, Any]) -> None:
        facts["tokenizer.ggml.merges"] = facts["tokenizer.ggml.merges"][:20_000]

    said = verified(trained, rewritten(trained, tmp_path / "m.gguf", shortened))
    assert "tokenizer.ggml.merges: 20,000 entries in the file, 48,900 in the model" in said


def test_another_split_of_words_is_named(trained: tuple[Config, Workspace], tmp_path: Path) -> None:
    served = rewritten(
        trained, tmp_path / "m.gguf", lambda facts: facts.update({"tokenizer.ggml.pre": "gpt-2"})
    )
    said = verified(trained, served)
    assert "tokenizer.ggml.pre: 'gpt-2' in the file, 'smollm' in the model" in said


@pytest.mark.parametrize("part", ["attn_q", "attn_k"])
def test_swapped_rows_are_named(
    trained: tuple[Config, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    right = gguf_tensors.permuted_heads
    monkeypatch.setattr(
        gguf_tensors,
        "permuted_heads",
        lambda name, model: 0 if f".{part}." in name else right(name, model),
    )
    served = rewritten(trained, tmp_path / "m.gguf")
    monkeypatch.undo()
    said = verified(trained, served)
    assert f"blk.0.{part}.weight" in said
    assert "the q/k permutation" in said


def test_a_lost_and_a_foreign_tensor_are_named(
    trained: tuple[Config, Workspace], tmp_path: Path
) -> None:
    _, workspace = trained
    expected = gguf_tensors.tensors(workspace.fused, model_facts.read(workspace.fused), "F32")
    reader = gguf_file.read(workspace.gguf)
    assert parity_file.different_tensors(expected, reader) == []
    assert parity_file.different_tensors(expected[1:], reader) == [
        f"{expected[0].name} belongs to no such model"
    ]
    lost = [tensor for tensor in reader.tensors if tensor.name != expected[2].name]
    reader.tensors = lost
    assert parity_file.different_tensors(expected, reader) == [f"{expected[2].name} is missing"]


# --- what the file says of itself may be right, and what it does be wrong


@pytest.fixture
def gate(trained: tuple[Config, Workspace]) -> Iterator[Gate]:
    config, workspace = trained
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    yield Gate(config, workspace, tokenizer, workspace.gguf, None)


def test_weights_that_are_other_weights_are_seen_in_the_numbers(
    gate: Gate, trained: tuple[Config, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_tensors, "permuted_heads", lambda name, model: 0)
    gate.served = rewritten(trained, tmp_path / "m.gguf")
    failed = [one for one in parity.compare_numbers(gate) if not one.ok]
    assert failed[0].name == "numbers, fused to GGUF F16"


def test_a_template_that_loops_is_refused(
    trained: tuple[Config, Workspace], tmp_path: Path
) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    config, workspace = trained
    served = rewritten(
        trained, tmp_path / "m.gguf", lambda facts: facts.update({"tokenizer.chat_template": loop})
    )
    tokenizer = mlx_runtime.open_tokenizer(workspace.fused)
    content = Content(config, workspace.fused, tokenizer, served, "Listen.", [])
    with pytest.raises(DataError, match="does not come to an end"):
        parity_content.compare_text(content)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
        "{% for %}",
        "{{ raise_exception('no') }}",
        "{{ messages[99].content }}",
    ],
)
def test_a_template_that_reaches_out_or_breaks_is_another_text(
    template: str, tokenizer: Any
) -> None:
    messages = parity_cases.conversations(tokenizer, None)[0]
    found = parity_content.render(tokenizer, template, messages)
    assert found != chat_format.prompt_text(tokenizer, messages)
    assert "class" not in found or "refuses" in found


def test_missing_inputs_name_the_stage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, Config())
    with pytest.raises(ToolError, match="coach fuse"):
        gguf.verify(Config(), workspace)
    workspace.fused.mkdir(parents=True)
    with pytest.raises(ToolError, match="coach train"):
        gguf.verify(Config(), workspace)


# --- the numbers


LOGITS = arrays.arrays("float32", (3, 5), elements=st.floats(-20, 20, width=32))


def normalised(logits: Any) -> Any:
    import numpy as np

    return (logits - np.log(np.exp(logits.astype("f8")).sum(axis=1, keepdims=True))).astype("f4")


@given(LOGITS, LOGITS)
def test_the_distance_is_never_negative_and_nought_from_oneself(one: Any, other: Any) -> None:
    from scipy.stats import entropy

    a, b = normalised(one), normalised(other)
    import numpy as np

    found = parity_numbers.distance(a, b)
    expected = entropy(np.exp(a.astype("f8")), np.exp(b.astype("f8")), axis=1).mean()
    assert found.kl == pytest.approx(expected, abs=1e-4)
    assert found.kl > -1e-5
    assert parity_numbers.distance(a, a) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("expected", "found", "less"),
    [
        ([True] * 6, [True] * 6, False),
        ([True] * 6, [True] * 5 + [False], False),
        ([True] * 6, [False] * 5 + [True], True),
        ([True, False, False], [False, False, False], True),
        ([False] * 4, [False] * 4, False),
        ([False] * 4, [True] * 4, False),
        ([True, False] * 5, [False, True] * 5, False),
        ([], [], False),
    ],
)
def test_fewer_endings_than_chance_makes_are_seen(
    expected: list[bool], found: list[bool], less: bool
) -> None:
    assert parity_numbers.stops_less(expected, found) is less


def test_the_sample_is_of_the_coachs_words_and_within_its_bounds(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = [
        [
            {"role": role, "content": f"{number} " * 20}
            for _ in range(turns)
            for role in ("user", "assistant")
        ]
        for number, turns in enumerate((3, 8, 5))
    ]
    whole = parity_numbers.sample(tokenizer, chats, 600, 2, 7)
    assert sum(len(part.token_ids) for part in whole.parts) <= 600
    assert len(whole.prompts) == 2
    assert whole.longest >= max(len(part.token_ids) for part in whole.parts)
    monkeypatch.setattr(parity_numbers, "MOST_NUMBERS", 50 * len(tokenizer))
    few = parity_numbers.sample(tokenizer, chats, 600, 2, 7)
    assert 25 <= sum(sum(part.is_target) for part in few.parts) <= 50
    every = {
        (number, place)
        for number, part in enumerate(whole.parts)
        for place, target in enumerate(part.is_target)
        if target
    }
    for number, part in enumerate(few.parts):
        assert all((number, place) in every for place, yes in enumerate(part.is_target) if yes)


def test_an_edited_template_in_the_modelfile_is_named(trained: tuple[Config, Workspace]) -> None:
    config, workspace = trained
    written = workspace.modelfile.read_text()
    workspace.modelfile.write_text(written.replace("<|im_start|>user", "<|im_start|>usr"))
    try:
        with pytest.raises(GateFailed, match="text, by the Modelfile") as failed:
            gguf.verify(config, workspace)
    finally:
        workspace.modelfile.write_text(written)
    assert "usr" in str(failed.value)


def test_a_look_leaves_the_export_as_complete_as_it_was(trained: tuple[Config, Workspace]) -> None:
    config, workspace = trained
    plan = gguf.plan(config, workspace)
    workspace.record("export", plan, 1, 1.0, {})
    gguf.verify(config, workspace)
    assert workspace.complete("export", plan)
