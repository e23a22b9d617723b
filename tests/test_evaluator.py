import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import TinyRun

from coach_mlx import dataset, evaluator, fuse, gguf, importer, trainer
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.stats import PairedComparison
from coach_mlx.workspace import Workspace, read_jsonl


def difference(mean: float, p: float | None) -> PairedComparison:
    return PairedComparison(6, 3.0, 3.0 + mean, mean, -4.0, p, mean - 0.1, mean + 0.1)


@pytest.mark.parametrize(
    ("adapter", "served", "passed", "reason"),
    [
        ((-0.3, 0.001), (-0.2, 0.01), True, "served file finds the coach's words likelier"),
        ((0.1, 0.001), (-0.2, 0.01), False, "adapter's held-out loss is not below"),
        ((-0.3, 0.05), (-0.2, 0.01), False, "adapter's lower loss could be chance"),
        ((-0.3, 0.001), (0.0, 0.01), False, "served file's held-out loss is not below"),
        ((-0.3, 0.001), (-0.2, 0.2), False, "served file's lower loss could be chance"),
        ((-0.3, None), (-0.2, 0.01), False, "p = unknown"),
    ],
)
def test_the_decision_needs_both_and_neither_by_chance(
    adapter: tuple[float, float | None],
    served: tuple[float, float | None],
    passed: bool,
    reason: str,
) -> None:
    found = evaluator.decide(difference(*adapter), difference(*served), 0.05)
    assert found[0] is passed
    assert reason in found[1]


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Config, Workspace]:
    from conftest import shortened

    root = tmp_path_factory.mktemp("exported")
    starters = request.getfixturevalue("starters")
    tiny = request.getfixturevalue("tiny")
    source = root / "conversations.jsonl"
    source.write_text("".join(shortened(starters[:14], 2)), encoding="utf-8")
    from coach_mlx.config import load_config

    config = load_config(
        None,
        [
            "name=tiny",
            f"base.model={tiny}",
            "base.group_size=32",
            f"dataset.conversations={source}",
            "dataset.min_holdout=5",
            "train.steps=8",
            "train.learning_rate=1e-2",
            "evaluate.replies=2",
            "evaluate.reply_turn=1",
            "evaluate.reply_tokens=4",
            "serve.num_ctx=1024",
        ],
    )
    workspace = Workspace(root, config)
    for stage in (dataset, importer, trainer, fuse, gguf):
        stage.run(config, workspace)
    return config, workspace


def test_the_report_says_the_same_thrice_and_asks_nothing_of_the_network(
    exported: tuple[Config, Workspace],
) -> None:
    config, workspace = exported
    result = evaluator.run(config, workspace)
    facts = json.loads((workspace.reports / "comparison_report.json").read_text(encoding="utf-8"))
    text = (workspace.reports / "comparison_report.md").read_text(encoding="utf-8")
    page = (workspace.reports / "comparison_report.html").read_text(encoding="utf-8")
    assert facts["verdict"] == result["verdict"]
    assert len(facts["conversations"]) == 5
    assert len(facts["replies"]) == 2
    for label, found in facts["comparisons"].items():
        assert f"| {label} |" in text
        assert f"{found['mean_difference']:+.3f}" in text
        assert f"{found['mean_difference']:+.3f}" in page
    before = [one["base"] for one in facts["conversations"]]
    after = [one["adapter"] for one in facts["conversations"]]
    mean = sum(b - a for a, b in zip(before, after, strict=True)) / 5
    assert facts["comparisons"]["adapter - base"]["mean_difference"] == pytest.approx(mean)
    command = "ollama create tiny -f models/tiny/Modelfile && ollama run tiny"
    assert text.rstrip().removesuffix("```").rstrip().endswith(command)
    assert page.count("<svg") == 2
    for outside in ("src=", "@import", "<link", "<script", "url(http"):
        assert outside not in page
    assert "nothing about whether they help people" in text
    assert facts["machine"] in text


def test_a_killed_evaluation_repeats_no_result(
    exported: tuple[Config, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = exported
    evaluator.run(config, workspace)
    file = workspace.output / "evaluation.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == 3 * (5 + 2)
    opened: list[str] = []
    real = evaluator._open

    def watched(config: Config, workspace: Workspace, name: str, *rest: Any) -> Any:
        opened.append(name)
        return real(config, workspace, name, *rest)

    monkeypatch.setattr(evaluator, "_open", watched)
    file.write_text(
        "".join(lines[:9]) + lines[9][:30]
    )  # killed in the adapter's third conversation
    evaluator.run(config, workspace)
    assert opened == ["adapter", "gguf"]
    again = file.read_text().splitlines(keepends=True)
    assert again[:9] == lines[:9]
    assert sorted(again) == sorted(lines)


def test_results_never_cross_settings(exported: tuple[Config, Workspace]) -> None:
    config, workspace = exported
    evaluator.run(config, workspace)
    count = len(read_jsonl(workspace.output / "evaluation.jsonl"))
    settings = config.evaluate.model_copy(update={"context_turns": 1})
    evaluator.run(config.model_copy(update={"evaluate": settings}), workspace)
    assert len(read_jsonl(workspace.output / "evaluation.jsonl")) == 2 * count


def test_what_is_missing_names_the_stage(tiny_project: Callable[..., TinyRun]) -> None:
    config, workspace, _ = tiny_project()
    with pytest.raises(ToolError, match="coach dataset"):
        evaluator.run(config, workspace)
    dataset.run(config, workspace)
    importer.run(config, workspace)
    with pytest.raises(ToolError, match="coach train"):
        evaluator.run(config, workspace)


def test_a_model_compared_with_itself_is_refused(
    exported: tuple[Config, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = exported
    monkeypatch.setattr(
        evaluator, "content_hash", lambda value: value[0]
    )  # adapter counted for nothing
    with pytest.raises(DataError, match="the same file"):
        evaluator.run(config, workspace)
