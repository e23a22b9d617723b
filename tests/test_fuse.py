import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TinyRun, make_adapter, make_tiny

from coach_mlx import fuse, importer, mlx_runtime, original
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.workspace import Workspace

Project = Callable[..., TinyRun]
LAYER = "model.layers.1.self_attn.q_proj"


def ready(tiny_project: Project, *overrides: str, **adapter: Any) -> tuple[Config, Workspace]:
    """A quantized base and an adapter on it."""
    config, workspace, _ = tiny_project(*overrides)
    importer.run(config, workspace)
    make_adapter(workspace.base, workspace.adapter, **adapter)
    return config, workspace


def numbers(folder: Path, adapter: Path | None = None) -> dict[str, Any]:
    """Every tensor of a model in float32."""
    from mlx.utils import tree_flatten

    model, _ = mlx_runtime.open_weights(folder, adapter)
    mlx_runtime.dequantize(model)
    return {name: np.array(one) for name, one in dict(tree_flatten(model.parameters())).items()}


def learned(workspace: Workspace) -> Any:
    """What the adapter adds to `LAYER`; its scale is 1."""
    found = numbers(workspace.base, workspace.adapter)
    return (found[f"{LAYER}.lora_a"] @ found[f"{LAYER}.lora_b"]).T


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a model with some weights changed."""
    import mlx.core as mx

    shutil.copytree(source, target)
    weights: Any = mx.load(str(target / "model.safetensors"))
    change(weights)
    mx.eval(weights)
    mx.save_safetensors(str(target / "model.safetensors"), weights)
    return target


@pytest.mark.parametrize("onto", ["quantized", "original"])
def test_the_adapter_is_added_to_the_chosen_weights(
    tiny_project: Project, tiny: Path, onto: str
) -> None:
    config, workspace = ready(tiny_project, f"fuse.onto={onto}")
    result = fuse.run(config, workspace)
    source = {"quantized": workspace.base, "original": tiny}[onto]
    assert result["onto"] == workspace.shown(source)
    expected, found = numbers(source), numbers(workspace.fused)
    assert set(found) == set(expected)
    expected[f"{LAYER}.weight"] += learned(workspace)
    for name in (f"{LAYER}.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert np.allclose(found[name], expected[name], rtol=1e-3, atol=1e-6)
    assert "quantization" not in json.loads((workspace.fused / "config.json").read_text())
    assert (workspace.fused / "tokenizer.json").read_bytes() == (
        workspace.base / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize("onto", ["quantized", "original"])
def test_dora_multiplies_rows_by_what_it_multiplied_them_by_in_training(
    tiny_project: Project, tiny: Path, onto: str
) -> None:
    config, workspace = ready(tiny_project, f"fuse.onto={onto}", dora=True)
    fuse.run(config, workspace)
    tuned = numbers(workspace.base, workspace.adapter)
    delta = learned(workspace)
    lengths = np.linalg.norm(tuned[f"{LAYER}.linear.weight"] + delta, axis=1)
    gains = tuned[f"{LAYER}.m"] / lengths  # (out,)
    assert np.abs(gains - 1).max() > 0.05
    source = {"quantized": workspace.base, "original": tiny}[onto]
    expected = gains[:, None] * (numbers(source)[f"{LAYER}.weight"] + delta)
    found = numbers(workspace.fused)[f"{LAYER}.weight"]
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_an_untrained_dora_leaves_the_original_as_it_was(tiny_project: Project, tiny: Path) -> None:
    import mlx.core as mx

    config, workspace = ready(tiny_project, "fuse.onto=original", dora=True)
    weights: Any = mx.load(str(workspace.adapter_weights))
    untrained = {
        name: 0 * array if name.endswith("lora_b") else array for name, array in weights.items()
    }
    mx.eval(untrained)
    mx.save_safetensors(str(workspace.adapter_weights), untrained)
    fuse.run(config, workspace)
    before, after = numbers(tiny), numbers(workspace.fused)
    assert np.allclose(after[f"{LAYER}.weight"], before[f"{LAYER}.weight"], rtol=1e-3, atol=1e-6)


def test_a_model_in_many_files_is_the_same_model(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = ready(tiny_project, "fuse.onto=quantized")
    fuse.run(config, workspace)
    whole = numbers(workspace.fused)
    monkeypatch.setattr(fuse, "SHARD_GB", 0)
    fuse.run(config, workspace)
    files = sorted(path.name for path in workspace.fused.glob("*.safetensors"))
    assert len(files) == len(whole)
    mlx_runtime.require_whole_model(workspace.fused)
    found = numbers(workspace.fused)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


def test_another_adapter_makes_another_index(tiny_project: Project) -> None:
    """Sizes and names are the same; the export must see that it has something new to read."""
    config, workspace = ready(tiny_project, "fuse.onto=quantized")
    index = workspace.fused / fuse.INDEX
    fuse.run(config, workspace)
    before = index.read_text()
    make_adapter(workspace.base, workspace.adapter, scale=2.0)
    fuse.run(config, workspace)
    assert index.read_text() != before


def test_another_original_is_fused_onto_anew(
    tmp_path: Path, tiny_project: Project, tiny: Path
) -> None:
    own = shutil.copytree(tiny, tmp_path / "own")
    config, workspace = ready(tiny_project, f"base.original={own}", "fuse.onto=original")
    plan = fuse.plan(config, workspace)
    workspace.record("fuse", plan, 1, 1.0, fuse.run(config, workspace))
    assert workspace.complete("fuse", fuse.plan(config, workspace))
    own.joinpath("config.json").write_text((tiny / "config.json").read_text() + "\n")
    assert workspace.complete("fuse", fuse.plan(config, workspace)) is None


def test_where_the_original_is_asks_for_no_new_import(tiny_project: Project, tiny: Path) -> None:
    config, workspace, _ = tiny_project()
    workspace.record(
        "import", importer.plan(config, workspace), 1, 1.0, importer.run(config, workspace)
    )
    named, _, _ = tiny_project(f"base.original={tiny}")
    assert workspace.complete("import", importer.plan(named, workspace))


def other_norm(weights: dict[str, Any]) -> None:
    weights["model.layers.0.input_layernorm.weight"] *= 1.02


def other_layer(weights: dict[str, Any]) -> None:
    weights[f"{LAYER}.weight"] = weights[f"{LAYER}.weight"][::-1]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_norm, r"model\.layers\.0\.input_layernorm\.weight has other numbers"),
        (other_layer, rf"{LAYER}\.weight is 1\d\d\.\d% away, where quantizing makes \d"),
    ],
)
def test_another_model_is_refused_before_training(
    tmp_path: Path,
    tiny_project: Project,
    tiny: Path,
    change: Callable[[dict[str, Any]], None],
    why: str,
) -> None:
    other = changed(tiny, tmp_path / "other", change)
    config, workspace = ready(tiny_project, f"base.original={other}")
    for act in (fuse.preflight, fuse.run):
        with pytest.raises(DataError, match=f"not the one that .* was made from: {why}"):
            act(config, workspace)
    assert not workspace.fused.exists()


def test_another_shape_is_refused_by_its_name(
    tmp_path: Path, tiny_project: Project, smollm2: Path
) -> None:
    other = make_tiny(tmp_path / "other", smollm2, intermediate_size=96)
    config, workspace = ready(tiny_project, f"base.original={other}")
    with pytest.raises(DataError, match="intermediate_size is 128 there and 96 here"):
        fuse.run(config, workspace)


def test_an_original_that_is_not_there_is_said(tiny_project: Project, smollm2: Path) -> None:
    packaged, workspace, _ = tiny_project("base.model=smollm2", "fuse.onto=original")
    with pytest.raises(ToolError, match=r"no 16-bit model in .*--set fuse\.onto=quantized"):
        fuse.plan(packaged, workspace)
    assert original.find(packaged, workspace) is None
    for name, error, why in (
        ("./nowhere", ToolError, r"base\.original: There is no 16-bit model in .*nowhere"),
        ("someone/absent", ToolError, "someone/absent in the hub's cache"),
        (str(smollm2), DataError, "is quantized itself"),
    ):
        config, _, _ = tiny_project(f"base.original={name}")
        with pytest.raises(error, match=why):
            fuse.plan(config, workspace)
    config, _, _ = tiny_project("base.original=./nowhere", "fuse.onto=quantized")
    assert fuse.plan(config, workspace).inputs == (
        workspace.base_marker,
        workspace.adapter_weights,
    )


def test_what_the_hub_gave_is_found_without_it(
    tmp_path: Path, tiny_project: Project, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(tiny, folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    config, workspace, _ = tiny_project("base.original=someone/tiny")
    found = original.find(config, workspace)
    assert found == folder / "snapshots" / ("a" * 40)
