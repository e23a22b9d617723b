"""Model folders of every family as GGUF files: the same numbers, or a refusal by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_tiny

from coach_mlx import (
    chat_format,
    gguf_file,
    gguf_tensors,
    importer,
    llama_runtime,
    losses,
    mlx_runtime,
    model_facts,
)
from coach_mlx.config import Config, load_config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.records import Conversation

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = {"sliding_window": 64, "head_dim": 16, "query_pre_attn_scalar": 16}


def sharpened(folder: Path) -> Path:
    """Queries and keys so large that it matters who stands where."""
    import mlx.core as mx

    path = folder / "model.safetensors"
    weights: Any = mx.load(str(path))
    for name in weights:
        if any(part in name for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
            weights[name] = weights[name] * 4 + (1 if name.endswith("norm.weight") else 0)
    mx.eval(weights)
    mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})
    return folder


def written(folder: Path, target: Path, type_: str = "F16") -> Path:
    gguf_file.write_model(folder, mlx_runtime.open_tokenizer(folder), Config(), type_, target)
    return target


def mlx_losses(folder: Path, parts: list[chat_format.Encoded]) -> list[float]:
    model = mlx_runtime.open_model(folder).model
    return [losses.target_losses(model, [part]).mean().item() for part in parts]


def gguf_losses(path: Path, parts: list[chat_format.Encoded]) -> list[float]:
    llama = llama_runtime.open_gguf(path, num_ctx=1024)
    return [float(llama_runtime.token_losses(llama, *part).mean()) for part in parts]


def encoded(tokenizer: Any, starters: list[Conversation]) -> list[chat_format.Encoded]:
    return [chat_format.encode_conversation(tokenizer, one.chat()[:6]) for one in starters[:3]]


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4, "attention_bias": True}),
        ("llama", {"rope_scaling": LLAMA3, "head_dim": 32}),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": False}),
        ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        ("qwen3", {"head_dim": 32}),
        ("gemma3_text", {**GEMMA, "num_hidden_layers": 7}),
        ("gemma3_text", {**GEMMA, "sliding_window_pattern": 2}),
        (
            "gemma3_text",
            {
                **GEMMA,
                "sliding_window_pattern": 2,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
        ),
    ],
)
def test_llama_cpp_computes_what_mlx_computes(
    tmp_path: Path,
    smollm2: Path,
    tokenizer: Any,
    starters: list[Conversation],
    family: str,
    facts: dict[str, Any],
) -> None:
    folder = make_tiny(tmp_path / "model", smollm2, family, **facts)
    if facts.get("num_hidden_layers", 2) == 2:  # through more, a rounding grows beyond bounds
        sharpened(folder)
    parts = encoded(tokenizer, starters)
    found = gguf_losses(written(folder, tmp_path / "model.gguf"), parts)
    assert found == pytest.approx(mlx_losses(folder, parts), abs=4e-3)


@pytest.mark.parametrize("type_", ["F32", "BF16", "Q8_0"])
def test_every_type_that_is_written_at_once_opens(
    tmp_path: Path, tiny: Path, tokenizer: Any, starters: list[Conversation], type_: str
) -> None:
    parts = encoded(tokenizer, starters)
    found = gguf_losses(written(tiny, tmp_path / "model.gguf", type_), parts)
    assert found == pytest.approx(mlx_losses(tiny, parts), abs=1e-2)


@pytest.mark.parametrize("quantization", ["q6_k", "q5_k_m", "q4_k_m", "q4_k_s"])
def test_every_quantization_makes_a_file_that_opens(
    tmp_path: Path, tiny: Path, tokenizer: Any, starters: list[Conversation], quantization: str
) -> None:
    half, target = written(tiny, tmp_path / "half.gguf"), tmp_path / "small.gguf"
    llama_runtime.quantize(half, target, quantization)
    assert target.stat().st_size < half.stat().st_size
    parts = encoded(tokenizer, starters)
    assert gguf_losses(target, parts) == pytest.approx(gguf_losses(half, parts), abs=0.2)


def test_a_quantizer_that_cannot_write_says_so(tmp_path: Path, tiny: Path) -> None:
    half = written(tiny, tmp_path / "half.gguf")
    with pytest.raises(ToolError, match="could not write"):
        llama_runtime.quantize(half, tmp_path / "no" / "folder.gguf", "q4_k_m")


def test_a_quantized_mlx_folder_keeps_its_numbers(
    tmp_path: Path, tiny: Path, tokenizer: Any, starters: list[Conversation]
) -> None:
    source = load_config(None, [f"base.model={tiny}", "base.group_size=32"]).base
    folder = tmp_path / "base"
    folder.mkdir()
    importer.import_folder(tiny, folder, source)
    parts = encoded(tokenizer, starters)
    found = gguf_losses(written(folder, tmp_path / "model.gguf"), parts)
    assert found == pytest.approx(mlx_losses(folder, parts), abs=4e-3)


def test_the_packaged_model_comes_out_as_it_went_in(tmp_path: Path, smollm2: Path) -> None:
    """Where the type allows it, byte for byte: norms in F32, the embedding in Q8_0."""
    import gguf
    import numpy as np

    before = {one.name: one for one in gguf.GGUFReader(importer.packaged_gguf()).tensors}
    after = gguf.GGUFReader(written(smollm2, tmp_path / "model.gguf", "Q8_0")).tensors
    assert {one.name for one in after} == set(before)
    same = [one for one in after if one.tensor_type == before[one.name].tensor_type]
    assert len(same) == 62
    for one in same:
        assert np.array_equal(one.data.view(np.uint8), before[one.name].data.view(np.uint8))
    half = gguf.GGUFReader(written(smollm2, tmp_path / "half.gguf")).tensors
    for one in half[:40]:
        ours = gguf.quants.dequantize(one.data, one.tensor_type)
        theirs = gguf.quants.dequantize(before[one.name].data, before[one.name].tensor_type)
        assert np.array_equal(ours, theirs.astype(one.data.dtype))


def test_perplexity_is_the_same_within_a_thousandth(
    tmp_path: Path, smollm2: Path, tokenizer: Any, starters: list[Conversation]
) -> None:
    import math

    parts = encoded(tokenizer, starters)
    ours = math.exp(sum(mlx_losses(smollm2, parts)) / len(parts))
    theirs = math.exp(sum(gguf_losses(written(smollm2, tmp_path / "m.gguf"), parts)) / len(parts))
    assert theirs == pytest.approx(ours, rel=1e-3)


# --- what is refused


def changed_config(folder: Path, **facts: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **facts}))


@pytest.fixture
def copy(tmp_path: Path, tiny: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"model_type": "phi3"}, "of the family 'phi3'; the export knows gemma3, gemma3_text"),
        ({"model_type": ["llama"]}, "cannot be opened"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, r"positions \(dynamic\)"),
        ({"vocab_size": -4}, "vocab_size is -4"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": "64"}, "cannot be opened: .*hidden_size"),
        ({"num_hidden_layers": 3}, r"layers\.2\.input_layernorm\.weight is missing"),
        ({"num_hidden_layers": 1}, r"layers\.1\.input_layernorm\.weight belongs to no such model"),
        ({"intermediate_size": 96}, r"down_proj\.weight is 64 x 128, not 64 x 96"),
    ],
)
def test_a_config_that_is_not_the_models_is_refused_by_name(
    copy: Path, tmp_path: Path, facts: dict[str, Any], why: str
) -> None:
    changed_config(copy, **facts)
    with pytest.raises(DataError, match=why):
        written(copy, tmp_path / "no.gguf")


def test_a_config_without_a_fact_is_refused_by_name(copy: Path, tmp_path: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    del settings["rms_norm_eps"]
    (copy / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="rms_norm_eps is missing"):
        written(copy, tmp_path / "no.gguf")


def changed_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    import mlx.core as mx

    path = folder / "model.safetensors"
    weights: Any = mx.load(str(path))
    change(weights)
    mx.eval(weights)
    mx.save_safetensors(str(path), weights, metadata={"format": "mlx"})


UP = "model.layers.0.mlp.up_proj.weight"


def with_number(value: float) -> Callable[[dict[str, Any]], None]:
    def change(weights: dict[str, Any]) -> None:
        weights[UP][3, 5] = value

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda weights: weights.pop(UP), f"{UP} is missing"),
        (lambda weights: weights.update({"model.extra": weights[UP]}), "model.extra belongs to no"),
        (lambda weights: weights.update({UP: weights[UP].T}), r"is 64 x 128, not 128 x 64"),
        (with_number(float("nan")), f"{UP} holds a number that is not finite"),
        (with_number(7e4), f"{UP} holds a number that is not finite, or too large for F16"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    copy: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    changed_weights(copy, change)
    with pytest.raises(DataError, match=why):
        written(copy, tmp_path / "no.gguf")


def test_numbers_too_large_for_one_half_fit_into_the_other(copy: Path, tmp_path: Path) -> None:
    changed_weights(copy, with_number(7e4))
    assert written(copy, tmp_path / "model.gguf", "BF16").stat().st_size > 0


def test_an_index_that_climbs_out_of_its_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    index = {"weight_map": {UP: "../../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="files outside its folder"):
        written(copy, tmp_path / "no.gguf")


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": 3}', "[" * 100_000])
def test_an_index_that_is_none_is_refused(copy: Path, tmp_path: Path, index: str) -> None:
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match="cannot be read"):
        written(copy, tmp_path / "no.gguf")


@pytest.mark.parametrize("config", ["[]", "{", "7", "[" * 100_000])
def test_a_config_that_is_none_is_refused(copy: Path, config: str) -> None:
    (copy / "config.json").write_text(config)
    with pytest.raises(DataError, match=r"config\.json"):
        model_facts.read(copy)


@pytest.mark.parametrize("size", [0, 3, 200, 5000, 2_000_000])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, tiny: Path, size: int) -> None:
    path = written(tiny, tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="cut short"):
        gguf_file.read(path)


def test_a_file_whose_keys_are_no_text_is_refused(tmp_path: Path, tiny: Path) -> None:
    path = written(tiny, tmp_path / "model.gguf")
    whole = path.read_bytes()
    assert whole.count(b"general.name") == 1
    path.write_bytes(
        whole.replace(
            b"general.name\x08\0\0\0\x05\0\0\0\0\0\0\0coach",
            b"general.name\x08\0\0\0\x05\0\0\0\0\0\0\0\xff\xffach",
        )
    )
    with pytest.raises(DataError, match="damaged"):
        gguf_file.read_facts(gguf_file.read(path))


def test_a_full_disk_says_so(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ToolError, match="could not be written"):
        written(tiny, Path("/dev/full"))


def test_memory_holds_a_piece_and_not_the_model(tiny: Path) -> None:
    """The largest array alive is a piece, or one tensor whose rows change places."""
    tensors = gguf_tensors.tensors(tiny, model_facts.read(tiny), "F16")
    embedding = next(one for one in tensors if one.name == "token_embd.weight")
    assert embedding.step * embedding.shape[1] <= gguf_tensors.PIECE
    queries = next(one for one in tensors if one.name == "blk.0.attn_q.weight")
    assert queries.step == queries.shape[0]


def test_newer_configs_say_where_positions_turn_in_another_place() -> None:
    nested = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0}}
    plain = model_facts.plain_rope(nested)
    assert plain["rope_theta"] == 500000.0
    assert plain["rope_scaling"]["rope_type"] == "llama3"
    gemma = {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    plain = model_facts.plain_rope(gemma)
    assert (plain["rope_theta"], plain["rope_local_base_freq"]) == (1e6, 1e4)
    assert "rope_scaling" not in plain
