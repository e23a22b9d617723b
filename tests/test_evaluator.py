"""The evaluation as a person runs it: coaches of known quality, and the real chain of models."""

import io
import json
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claude_server import ClaudeServer
from coaches import (
    fails_of,
    give_passport,
    good_coach,
    judge_file,
    labelled,
    mutant,
    mutant_coach,
    replies,
    world,
)
from conftest import TinyRun, shortened, start
from judges import reply_by, yes

from coach_mlx import (
    answers,
    cli,
    dataset,
    evaluator,
    fuse,
    gguf,
    importer,
    spot_check,
    supervisor,
    trainer,
)
from coach_mlx.comparison import Comparison
from coach_mlx.config import Config
from coach_mlx.errors import ConfigError, DataError, ToolError
from coach_mlx.records import Conversation
from coach_mlx.workspace import PROJECT, Workspace, read_jsonl

World = tuple[Config, Workspace, list[str]]
SCRIPTED_JUDGE = f"scripted/{PROJECT / 'tests' / 'scripted_judge.jsonl'}"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a worker, which a test could not look into."""
    monkeypatch.setenv(supervisor.LIFELINE, "-1:")


def report_of(workspace: Workspace) -> Comparison:
    text = (workspace.reports / "comparison_report.json").read_text(encoding="utf-8")
    return Comparison.model_validate_json(text)


def evaluate(one: World, *options: str) -> tuple[int, Comparison]:
    code = cli._run(["evaluate", *one[2], *options])
    return code, report_of(one[1])


def make(root: Path, kind: str, *overrides: str, coaches_in: Path | None = None) -> World:
    """base -> served: mutant -> good, good -> good, mutant -> better but unsafe, good -> mutant."""
    world_in, root = root, coaches_in or root
    held_out = labelled()[:16]
    good = good_coach(root / "good.jsonl", held_out)
    bad = mutant_coach(root / "bad.jsonl", "lecturer")
    failing = fails_of("lecturer")
    unsafe_line = replies(mutant("romantic"))[0]
    failing[unsafe_line] = ["CQ8"]
    judge = judge_file(root / "judge.jsonl", failing)
    slip = {held_out[4].messages[4].content: unsafe_line}
    coaches = {
        "better": lambda: (bad, good),
        "equal": lambda: (good, good_coach(root / "twin.jsonl", held_out)),
        "unsafe": lambda: (bad, good_coach(root / "slipping.jsonl", held_out, slip)),
        "worse": lambda: (good, bad),
    }
    base, served = coaches[kind]()
    one = world(world_in, base, served, judge, *overrides)
    if one[0].evaluate.judge:
        give_passport(one[0], one[1])
    return one


@pytest.mark.parametrize(
    ("kind", "code", "word", "reason"),
    [
        ("better", 0, "deploy", "better by the margin and no less safe"),
        ("equal", 10, "iterate", "out of reach"),
        ("unsafe", 10, "unsafe", "a confirmed failure of safety"),
        ("worse", 10, "iterate", "worse than the base"),
    ],
)
def test_a_coach_of_known_quality_gets_its_word(
    tmp_path: Path, kind: str, code: int, word: str, reason: str
) -> None:
    found = evaluate(make(tmp_path, kind))
    assert (found[0], found[1].decision.word) == (code, word)
    assert reason in found[1].decision.reason
    primary = found[1].score[0]
    assert (primary.before, primary.after) == ("base", "served")
    if kind != "equal":
        assert primary.n == 16
        assert primary.p_t is not None and primary.p_t < 0.001
    if kind == "unsafe":
        assert primary.difference is not None and primary.difference > 0.3
        first = found[1].safety.findings[0]
        assert first.confirmed and first.arm == "served"
        assert {one.source for one in found[1].safety.findings if one.confirmed} & {"D13", "CQ8"}


def test_without_a_judge_it_reports_and_does_not_decide(tmp_path: Path) -> None:
    one = make(tmp_path, "better", "evaluate.judge=null")
    code, found = evaluate(one)
    assert (code, found.decision.word) == (10, "inconclusive")
    assert "nobody judged" in found.decision.reason
    assert found.scores["served"].mean_score is None
    assert found.scores["served"].judged == 0
    assert found.style["base"].replies == found.turns
    assert found.style["base"].words_median > found.style["served"].words_median
    assert any(one.source.startswith("D") for one in found.safety.findings)
    assert found.judge == "Nobody judged the replies."


def test_a_missing_judgement_is_missing_and_not_low(tmp_path: Path) -> None:
    one = make(tmp_path, "better")
    path = tmp_path / "judge.jsonl"
    broken = labelled()[0].messages[1].content[:40]
    line = {"when": [json.dumps(broken)[1:-1], "The question, CQ4"], "text": "I cannot say."}
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    give_passport(one[0], one[1])
    code, found = evaluate(one)
    primary = found.score[0]
    assert (code, primary.n, primary.missing) == (0, 15, 1)
    assert primary.worst is not None and primary.best is not None
    assert primary.worst < primary.best
    assert found.scores["served"].errors.found == 1
    row = next(one for one in found.rows if one.scores.get("served", 0) is None)
    assert row.passed["served"] is None


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A coach that is better, evaluated once."""
    one = make(tmp_path_factory.mktemp("evaluated"), "better")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(supervisor.LIFELINE, "-1:")
        assert evaluate(one)[0] == 0
    return one


@pytest.fixture
def a_copy(evaluated: World, tmp_path: Path) -> World:
    """The same in a workspace of its own."""
    root = tmp_path / "copy"
    shutil.copytree(evaluated[1].root, root)
    return make(root, "better", coaches_in=evaluated[1].root)


def test_a_second_run_asks_nobody_anything(a_copy: World) -> None:
    files = [a_copy[1].evaluation / f"{name}.jsonl" for name in ("replies", "judgements")]
    before = [path.read_bytes() for path in files]
    first = report_of(a_copy[1])
    code, again = evaluate(a_copy, "--force")
    assert code == 0
    assert [path.read_bytes() for path in files] == before
    assert again.model_copy(update={"made": ""}) == first.model_copy(update={"made": ""})


def test_what_a_person_chose_reaches_the_report(
    a_copy: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n\n" * 3))
    spot_check.run(a_copy[0], a_copy[1], spot_check.Options(3, "ann"))
    _, found = evaluate(a_copy)  # a spot-check makes the evaluation incomplete
    assert [(one.person, one.pairs) for one in found.people] == [("ann", 3)]
    flagged = [one for one in found.safety.findings if one.source == "person/ann"]
    assert len(flagged) == 3
    assert not any(one.confirmed for one in flagged)  # nothing else was found there


def test_a_talk_that_was_changed_is_refused(
    a_copy: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_copy[1].evaluation / "replies.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[5]["reply"] = "A far better reply."
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli._run(["evaluate", *a_copy[2], "--force"]) == 3
    assert "replies.jsonl:6: this is not what the model said" in capsys.readouterr().err


def test_rules_that_were_changed_afterwards_are_refused(
    a_copy: World, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [*a_copy[2], "--set", "evaluate.min_improvement=0.0"]
    assert cli._run(["evaluate", *changed]) == 3
    said = capsys.readouterr().err
    assert "improvement: 0.1 in the plan, 0.0 now" in said
    assert "coach evaluate --new-plan" in said
    assert cli._run(["evaluate", *changed, "--new-plan"]) == 0
    assert report_of(a_copy[1]).earlier_plans == 1


def test_the_judge_must_be_able_to_find_failures_of_safety(a_copy: World) -> None:
    shutil.rmtree(a_copy[1].passports)
    code, found = evaluate(a_copy)
    assert (code, found.decision.word) == (10, "inconclusive")
    assert "no passport" in found.decision.reason
    give_passport(a_copy[0], a_copy[1], advisory=("CQ9",))
    code, found = evaluate(a_copy)
    assert (code, found.decision.word) == (10, "inconclusive")
    assert "CQ9" in found.decision.reason


def test_the_plan_stands_before_the_first_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(tmp_path, "better")
    monkeypatch.setattr(answers.Answers, "generate", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluator.run(one[0], one[1])
    plan = json.loads((one[1].reports / "plan.json").read_text())
    assert plan["facts"]["margins"] == {"improvement": 0.1, "safety": 0.2}
    assert plan["facts"]["scripts"]["holdout"]["n"] == 16
    assert not (one[1].evaluation / "replies.jsonl").exists()


def test_a_quote_generates_and_sends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path, "better")
    priced = [*one[2], "--judge", "anthropic/claude-sonnet-5-5", "--quote"]
    assert cli._run(["evaluate", *priced]) == 0
    quoted = json.loads(capsys.readouterr().out)
    assert quoted["judging"]["usd"] > 0.5
    assert not (one[1].evaluation / "replies.jsonl").exists()
    assert set(quoted) == {"stage", "judging", "budget_usd"}
    assert cli._run(["evaluate", *priced, "--set", "evaluate.pairwise=true"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["choosing"]["calls"] == 2 * 16
    assert cli._run(["evaluate", *one[2], "--set", "evaluate.judge=null", "--quote"]) == 2


def test_talks_that_may_be_somebodys_own_leave_for_no_judge_unnamed(tmp_path: Path) -> None:
    one = make(tmp_path, "better", "evaluate.judge=anthropic/claude-sonnet-5-5")
    with pytest.raises(ConfigError, match="somebody's own"):
        evaluator.run(one[0], one[1])


def test_a_judge_that_does_not_answer_fixes_no_plan(tmp_path: Path) -> None:
    one = make(tmp_path, "better")
    config = with_settings(one[0], judge="gguf/nowhere.gguf")
    with pytest.raises(ToolError, match="nowhere"):
        evaluator.run(config, one[1])
    assert not (one[1].reports / "plan.json").exists()


def test_a_coach_compared_with_itself_is_refused(tmp_path: Path) -> None:
    good = good_coach(tmp_path / "good.jsonl", labelled()[:16])
    config, workspace, _ = world(tmp_path, good, good, None)
    with pytest.raises(DataError, match="same"):
        evaluator.run(config, workspace)


def test_one_held_out_conversation_can_show_nothing(tmp_path: Path) -> None:
    good = good_coach(tmp_path / "good.jsonl", labelled()[:1])
    config, workspace, _ = world(
        tmp_path, good, mutant_coach(tmp_path / "bad.jsonl", "null"), None, count=1
    )
    with pytest.raises(DataError, match="holds one conversation"):
        evaluator.run(config, workspace)


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaudeServer]:
    with ClaudeServer(reply=reply_by(yes), retry_after=0.01, min_cache=512) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-test-never-to-be-seen")
        yield server


def test_killed_again_and_again_it_generates_and_pays_for_nothing_twice(
    tmp_path: Path, claude: ClaudeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kill -9` by how far it got, in the replies and in the judging."""
    monkeypatch.delenv(supervisor.LIFELINE)
    claude.latency = 0.02
    one = make(tmp_path, "better", "evaluate.holdout=6", "evaluate.probes=2")
    options = [*one[2], "--judge", "anthropic/claude-sonnet-5-5", "--set", "calls.concurrency=6"]
    replies = one[1].evaluation / "replies.jsonl"
    rng, kills = random.Random(4), 0
    while True:
        lines = len(replies.read_bytes().splitlines()) if replies.exists() else 0
        wanted, said_so_far = lines + rng.randint(5, 25), claude.messages + rng.randint(8, 25)
        process = start("evaluate", *options)
        while process.poll() is None and claude.messages < said_so_far:
            now = len(replies.read_bytes().splitlines()) if replies.exists() else 0
            if lines < 90 and now >= wanted:
                break
            time.sleep(0.002)
        if process.poll() is None:
            process.kill()
            kills += 1
        _, said = process.communicate(timeout=60)
        assert process.returncode in (10, -signal.SIGKILL), said
        if process.returncode == 10:
            break
    assert kills >= 5
    told = read_jsonl(replies)
    assert len({(x["asked"], x["script"], x["turn"]) for x in told}) == len(told)
    judged = read_jsonl(one[1].evaluation / "judgements.jsonl")
    assert len({(x["conversation"], x["script"]) for x in judged}) == len(judged) == 16
    assert set(claude.billed_by_hash.values()) == {1}


# --- the real chain


@pytest.fixture(scope="module")
def exported(
    tiny_project_module: Callable[..., TinyRun],
    tmp_path_factory: pytest.TempPathFactory,
    starters: list[Conversation],
) -> tuple[Config, Workspace]:
    root = tmp_path_factory.mktemp("exported")
    source = root / "output" / "tiny" / "conversations.jsonl"
    source.parent.mkdir(parents=True)
    source.write_text("".join(shortened(starters[:14], 3)), encoding="utf-8")
    config, workspace, _ = tiny_project_module(
        "dataset.min_holdout=5",
        "train.steps=8",
        "evaluate.probes=2",
        "evaluate.reply_tokens=4",
        "evaluate.resamples=500",
        root=root,
    )
    for stage in (dataset, importer, trainer, fuse, gguf):
        stage.run(config, workspace)
    return config, workspace


def with_settings(config: Config, **settings: Any) -> Config:
    changed = config.evaluate.model_copy(update=settings)
    return config.model_copy(update={"evaluate": changed})


def test_the_report_says_the_same_thrice(exported: tuple[Config, Workspace]) -> None:
    config, workspace = exported
    result = evaluator.run(config, workspace)
    found = report_of(workspace)
    assert result["verdict"] == found.decision.word == "inconclusive"
    assert list(found.arms) == ["base", "adapter", "served"]
    assert len({one.digest for one in found.arms.values()}) == 3
    assert found.scenarios == {"holdout": 5, "probe": 2}
    losses = [one.losses for one in found.rows if one.kind == "holdout"]
    mean = sum((one["served"] or 0) - (one["base"] or 0) for one in losses) / 5
    assert found.loss[0].difference == pytest.approx(mean)
    assert found.loss[0].difference is not None and found.loss[0].difference < 0
    text = (workspace.reports / "comparison_report.md").read_text(encoding="utf-8")
    page = (workspace.reports / "comparison_report.html").read_text(encoding="utf-8")
    assert f"{mean:+.3f}" in text
    assert f"{mean:+.3f}" in page
    command = "ollama create tiny -f models/tiny/Modelfile && ollama run tiny"
    assert text.rstrip().removesuffix("```").rstrip().endswith(command)
    assert found.plan in text


def test_a_killed_evaluation_repeats_no_result(
    exported: tuple[Config, Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = exported
    evaluator.run(config, workspace)
    paths = [workspace.evaluation / f"{name}.jsonl" for name in ("replies", "losses")]
    whole = [path.read_text().splitlines(keepends=True) for path in paths]
    per_arm = len(whole[0]) // 3
    paths[0].write_text("".join(whole[0][: per_arm + 3]) + whole[0][per_arm + 3][:30])
    paths[1].write_text("".join(whole[1][:7]))
    opened: list[str] = []
    real = answers.Answers._answer

    def watched(self: Any, source: Any, *rest: Any) -> Any:
        opened.append(source.name)
        return real(self, source, *rest)

    monkeypatch.setattr(answers.Answers, "_answer", watched)
    evaluator.run(config, workspace)
    assert opened == ["adapter", "served"]

    def bare(lines: list[str]) -> list[dict[str, Any]]:
        parsed = [{**json.loads(line), "seconds": 0} for line in lines]
        return sorted(parsed, key=lambda one: json.dumps(one, sort_keys=True))

    for path, lines in zip(paths, whole, strict=True):
        again = path.read_text().splitlines(keepends=True)
        assert again[: len(lines) // 3] == lines[: len(lines) // 3]
        assert bare(again) == bare(lines)


def test_results_never_cross_settings(exported: tuple[Config, Workspace]) -> None:
    config, workspace = exported
    evaluator.run(config, workspace)
    replies = len(read_jsonl(workspace.evaluation / "replies.jsonl"))
    losses = len(read_jsonl(workspace.evaluation / "losses.jsonl"))
    longer = with_settings(config, reply_tokens=5, context_turns=1)
    evaluator.run(longer, workspace)
    assert len(read_jsonl(workspace.evaluation / "replies.jsonl")) == 2 * replies
    assert len(read_jsonl(workspace.evaluation / "losses.jsonl")) == 2 * losses


def test_what_learned_the_words_and_not_the_craft_is_told_to_try_dpo(
    exported: tuple[Config, Workspace],
) -> None:
    config, workspace = exported
    judged = with_settings(
        config, judge=SCRIPTED_JUDGE, votes=1, safety_votes=None, probes=0, reply_tokens=6
    )
    give_passport(judged, workspace)
    evaluator.run(judged, workspace)
    found = report_of(workspace)
    if found.safety.newly.found:
        pytest.skip("the random model's babble tripped a detector in one arm alone")
    assert found.decision.word == "try DPO"
    assert workspace.preference_pairs.exists()


def test_what_is_missing_names_the_stage(tiny_project: Callable[..., TinyRun]) -> None:
    config, workspace, _ = tiny_project()
    with pytest.raises(ToolError, match="coach dataset"):
        evaluator.run(config, workspace)
    dataset.run(config, workspace)
    importer.run(config, workspace)
    with pytest.raises(ToolError, match="coach train"):
        evaluator.run(config, workspace)
