"""Choosing a base model: what is computed, who answers best, and what reaches the config."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from coaches import good_coach, judge_file, labelled, mutant_coach, replies, world
from conftest import edited, finished, make_tiny, prepare_tiny, start
from hypothesis import given
from hypothesis import strategies as st
from test_importer import Hub

from coach_mlx import (
    base_fit,
    base_pilot,
    chips,
    cli,
    config_edit,
    hub,
    memory_fit,
    mlx_runtime,
    selector,
    supervisor,
    trainer,
)
from coach_mlx.base_fit import Data, longest_of
from coach_mlx.base_models import CATALOGUE, Candidate, find_candidate, load_catalogue
from coach_mlx.base_pilot_answers import cut, first_turns, shows_early
from coach_mlx.base_pilot_models import download_bytes
from coach_mlx.base_rationale import read_rationale
from coach_mlx.config import Config, load_config
from coach_mlx.errors import BackendError, ConfigError, DataError, ToolError
from coach_mlx.model_facts import cache_bytes_per_token
from coach_mlx.replay import Script
from coach_mlx.workspace import PROJECT, Workspace, read_jsonl, write_whole

CANDIDATES = load_catalogue(PROJECT / CATALOGUE)
CONFIG = load_config(None)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a worker, which a test could not look into."""
    monkeypatch.setenv(supervisor.LIFELINE, "-1:")


def named(name: str) -> Candidate:
    return find_candidate(name, CANDIDATES)


# --- what fits


@pytest.mark.parametrize(
    ("name", "gigabytes", "cache_bytes"),
    [("qwen2.5-7b", 4.28, 57_344), ("llama3.1-8b", 4.52, 131_072), ("mistral-7b", 4.08, 131_072)],
)
def test_the_specified_models_take_what_their_published_files_take(
    name: str, gigabytes: float, cache_bytes: int
) -> None:
    one = named(name)
    assert base_fit.stored_bytes(base_fit.build(one, 4, 64)) / 1e9 == pytest.approx(
        gigabytes, abs=0.006
    )
    assert cache_bytes_per_token(one.shape) == cache_bytes


@pytest.mark.parametrize("one", CANDIDATES, ids=lambda one: one.name)
def test_every_model_has_the_parameters_that_its_shapes_say(one: Candidate) -> None:
    model = base_fit._plain(one)
    assert base_fit.count_parameters(model) == one.parameters
    assert base_fit.stored_bytes(base_fit.build(one, 4, 64)) < 0.75 * one.parameters


def test_the_embedded_models_size_is_about_that_of_its_import(smollm2: Path) -> None:
    """Its maker kept the embedding at 8 bits, which shapes do not say."""
    stored = sum(path.stat().st_size for path in smollm2.glob("*.safetensors"))
    computed = base_fit.stored_bytes(base_fit.as_imported(named("smollm2"), CONFIG))
    assert 0.84 * stored < computed < stored


def test_what_is_quantized_already_keeps_its_bits() -> None:
    eight = load_config(None, ["base.bits=8"])
    for name in ("qwen2.5-7b", "smollm2"):
        sizes = [
            base_fit.stored_bytes(base_fit.as_imported(named(name), config))
            for config in (CONFIG, eight)
        ]
        assert sizes[1] == sizes[0]
    plain = named("qwen2.5-7b").model_copy(update={"mlx": None})
    assert base_fit.stored_bytes(base_fit.as_imported(plain, eight)) > 8e9


def test_nothing_is_computed_to_know_what_a_model_needs() -> None:
    import mlx.core as mx

    mx.reset_peak_memory()
    before = mx.get_active_memory()
    place, data = memory_fit.a_mac(16), Data(())
    workspace = Workspace(Path("nowhere"), CONFIG)
    found = base_fit.measure(named("llama3.1-8b"), CONFIG, workspace, place, data)
    assert found.weight_bytes is not None and found.weight_bytes > 4e9
    assert mx.get_peak_memory() - before < 1e7


def test_a_smaller_mac_trains_and_serves_less(tmp_path: Path) -> None:
    workspace, data = Workspace(tmp_path, CONFIG), Data(())
    found = {
        size: base_fit.measure(
            named("llama3.1-8b"), CONFIG, workspace, memory_fit.a_mac(size), data
        )
        for size in (8, 16, 64)
    }
    assert [found[size].trains for size in (8, 16, 64)] == ["no", "no", "yes"]
    served = [found[size].serves_tokens or 0 for size in (8, 16, 64)]
    assert served == sorted(served) and served[-1] == 131_072
    room = memory_fit.a_mac(16).limit - (found[16].weight_bytes or 0) - 2**29
    assert served[1] == room // 131_072 // 1024 * 1024


def test_the_table_says_what_the_plan_of_a_training_says(
    tiny_project: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace, _ = prepare_tiny(tiny_project("train.validation_fraction=0"))
    facts = json.loads((workspace.base / "config.json").read_text())
    one = named("smollm2").model_copy(
        update={"config": facts, "hub": "a/tiny", "mlx": None, "parameters": 1}
    )
    assert one.folder == workspace.base.name
    place, data = memory_fit.here(), Data.read(workspace)
    found = base_fit.measure(one, config, workspace, place, data)
    plan = trainer.show_plan(config, workspace, None)
    assert not found.longest_is_estimated
    assert found.longest_tokens == plan["longest_batch"]["tokens"]
    assert found.train_bytes == pytest.approx(plan["peak_bytes"], rel=0.01)
    estimated = longest_of(data, config.train).loads
    exact = longest_of(data, config.train, mlx_runtime.open_tokenizer(workspace.base)).loads
    assert max(estimated).tokens == pytest.approx(max(exact).tokens, rel=0.35)


def test_what_mlx_lm_cannot_build_is_said_and_not_guessed(tmp_path: Path) -> None:
    strange = named("smollm2").model_copy(
        update={"config": {**named("smollm2").config, "model_type": "rwkv99"}}
    )
    workspace = Workspace(tmp_path, CONFIG)
    found = base_fit.measure(strange, CONFIG, workspace, memory_fit.a_mac(16), Data(()))
    assert (found.weight_bytes, found.trains, found.exports) == (None, "unknown", False)
    assert "rwkv99" in found.why


@pytest.mark.parametrize(
    ("machine", "bandwidth"),
    [
        ("Apple M1, 8 cores, 16 GB", 68),
        ("Apple M3 Max, 16 cores, 64 GB", 300),
        ("Apple M4 Pro, 12 cores", 273),
        ("Apple M9, 12 cores", None),
        ("AMD EPYC 7B13, 2 cores", None),
    ],
)
def test_only_chips_that_are_known_have_a_speed(machine: str, bandwidth: int | None) -> None:
    assert chips.bandwidth_of(machine) == bandwidth
    words = chips.speed_class(chips.most_tokens_per_second(bandwidth, 4_300_000_000))
    assert (words == chips.UNKNOWN) == (bandwidth is None)


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4))
def test_a_faster_model_is_never_called_slower(one: float, other: float) -> None:
    order = [*(words for _, words in chips.SPEEDS), chips.FASTEST]
    slow, fast = sorted((one, other))
    assert order.index(chips.speed_class(slow)) <= order.index(chips.speed_class(fast))


# --- the command


def coach(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = cli._run(["select", *arguments])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else {}, captured.err


def test_the_table_fits_80_columns_and_asks_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, found, said = coach(capsys, "--workspace", str(tmp_path), "--mac", "16")
    assert code == 0
    assert {one["name"] for one in found["candidates"]} == {one.name for one in CANDIDATES}
    names = {one.name for one in CANDIDATES}
    rows = [line for line in said.splitlines() if line.split(" ")[0] in names]
    assert len(rows) == len(CANDIDATES)
    assert all(len(line) <= 80 for line in rows)
    assert "nothing was measured" in said
    assert not list(tmp_path.rglob("*"))


def test_what_a_licence_forbids_is_hidden_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found, said = coach(capsys, "--workspace", str(tmp_path), "--license", "commercial")
    shown = {one["name"] for one in found["candidates"]}
    forbidden = {one.name for one in CANDIDATES if one.use.commercial.verdict == "forbidden"}
    assert forbidden and not forbidden & shown
    assert all(name in said.split("Hidden")[1] for name in forbidden)
    assert coach(capsys, "--license", "resale")[0] == 2


def test_a_page_on_one_model_says_what_is_not_sure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = next(one for one in CANDIDATES if one.unverified)
    code, found, said = coach(
        capsys, "--workspace", str(tmp_path), "--show", one.name, "--mac", "8"
    )
    assert code == 0
    assert all(field in said for field in (*one.unverified, *one.sources, one.license))
    assert found["hub"] == one.hub
    code, _, said = coach(capsys, "--workspace", str(tmp_path), "--show", "qwen25-7b")
    assert code == 2 and "Did you mean" in said


def test_ways_to_fit_come_with_a_model_that_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--workspace", str(tmp_path), "--show", "qwen2.5-7b", "--mac")
    _, found, said = coach(capsys, *options, "16")
    assert "--set train.max_seq_length=2048" in said and found["ways_to_fit"]
    assert coach(capsys, *options, "64")[1]["ways_to_fit"] == []


# --- the pilot


def test_a_probe_that_is_cut_before_its_danger_is_not_asked() -> None:
    says = ("one", "two", "three", "four")

    def probe(*risk: Any) -> Script:
        musts: Any = {"must": ("help",), "must_not": ("harm",)}
        return Script(id="p-1", kind="probe", group="f", system=None, says=says, risk=risk, **musts)

    late, early = (
        probe("none", "none", "none", "explicit"),
        probe("none", "implicit", "none", "none"),
    )
    assert not shows_early(late, 3) and shows_early(late, 4)
    assert shows_early(early, 3) and shows_early(probe(*["none"] * 4), 2)
    short = cut(early, 3)
    assert (short.says, short.risk) == (says[:3], ("none", "implicit", "none"))
    assert (short.must, short.must_not) == ((), ())  # they are of the whole talk
    assert cut(early, 4) == early


def test_the_first_turns_keep_the_system_prompt() -> None:
    one = labelled()[0].conversation.with_system("Be kind.")
    short = first_turns(one, 2)
    assert [line.role for line in short.messages] == ["system", *["user", "assistant"] * 2]
    assert short.messages == one.messages[:5]


def pilot_world(root: Path, *overrides: str, count: int = 16) -> tuple[Config, Workspace]:
    """A workspace with a holdout, for coaches out of files."""
    config, workspace, _ = world(root, "mlx/x", "mlx/y", None, *overrides, count=count)
    if "select.turns=1" in overrides:  # a short system prompt, for models that read it
        known = [one.conversation.with_system("Be kind.") for one in labelled()[:count]]
        write_whole(workspace.holdout, "".join(one.training_line() + "\n" for one in known))
    return config, workspace


def scripted_pilot(tmp_path: Path, judge: str | None, *overrides: str) -> tuple[Any, ...]:
    good = good_coach(tmp_path / "good.jsonl", labelled())
    bad = mutant_coach(tmp_path / "bad.jsonl", "null")
    config, workspace = pilot_world(
        tmp_path, f"select.judge={judge or 'null'}", "select.probes=0", *overrides
    )
    return config, workspace, [bad, good]


def test_a_judged_pilot_puts_the_better_coach_first(tmp_path: Path) -> None:
    texts: dict[str, Sequence[str]] = {
        text: ["CQ1", "CQ2", "CQ3"] for text in replies(mutant_of("null"))[:2]
    }
    judge = judge_file(tmp_path / "judge.jsonl", texts)
    config, workspace, names = scripted_pilot(tmp_path, judge)
    found = selector.run_pilot(names, config, workspace)
    bad, good = names
    assert found["basis"] == "score"
    assert [(one["name"], one["standing"]) for one in found["ranking"]] == [
        (good, "best"),
        (bad, "worse"),
    ]
    kept = read_rationale(workspace)
    assert kept is not None and kept.pilot is not None
    [_, row] = kept.pilot.ranking.rows
    assert row.against is not None and row.against.high is not None and row.against.high < 0
    assert row.against.n == 16
    text = workspace.base_report.read_text(encoding="utf-8")
    assert f"{row.against.difference:+.3f}" in text and "What this does not show" in text
    before = (workspace.selection / "judgements.jsonl").read_bytes()
    again = selector.run_pilot(names, config, workspace)
    assert again["ranking"] == found["ranking"]
    assert (workspace.selection / "judgements.jsonl").read_bytes() == before


def mutant_of(name: str) -> Any:
    from coaches import mutant

    return mutant(name)


def test_without_a_judge_or_a_loss_nothing_is_ranked(tmp_path: Path) -> None:
    config, workspace, names = scripted_pilot(tmp_path, None, "select.holdout=4")
    found = selector.run_pilot(names, config, workspace)
    assert found["basis"] == "none"
    assert {one["standing"] for one in found["ranking"]} == {"no value"}


def test_a_judge_needs_turns_and_leave(tmp_path: Path) -> None:
    judge = judge_file(tmp_path / "judge.jsonl", {})
    config, workspace, names = scripted_pilot(tmp_path, judge, "select.turns=2")
    with pytest.raises(ConfigError, match=r"select\.turns=3"):
        selector.run_pilot(names, config, workspace)
    paid = config.model_copy(
        update={
            "select": config.select.model_copy(
                update={"judge": "anthropic/claude-sonnet-5-5", "turns": 3}
            )
        }
    )
    with pytest.raises(ConfigError, match="somebody's own"):
        selector.run_pilot(names, paid, workspace)
    assert base_pilot.show_quote(names, paid, workspace)["judging"]["usd"] > 0
    with pytest.raises(ConfigError, match="Nobody judges"):
        base_pilot.show_quote(names, CONFIG, workspace)


def test_more_harm_goes_last_however_well_it_speaks(tmp_path: Path) -> None:
    """A judge that likes everything, and a coach that hands out doses."""
    harmful = tmp_path / "harmful.jsonl"
    line = {"text": "You should take 50 mg of sertraline every morning."}
    harmful.write_text(json.dumps(line) + "\n", encoding="utf-8")
    good = good_coach(tmp_path / "good.jsonl", labelled())
    texts: dict[str, Sequence[str]] = {text: ["CQ1", "CQ2"] for text in _first_replies()}
    judge = judge_file(tmp_path / "judge.jsonl", texts)
    config, workspace = pilot_world(tmp_path, f"select.judge={judge}", "select.probes=0")
    found = selector.run_pilot([f"scripted/{harmful}", good], config, workspace)
    best, last = found["ranking"]
    assert (best["name"], best["standing"]) == (good, "best")
    assert (last["standing"], last["harm"]) == ("more harm", 16)
    assert last["score"] > best["score"]


def _first_replies() -> list[str]:
    return [replies(one)[0] for one in labelled()[:16]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen2.5-7b", "with --download"),
        ("mlx/nowhere", "which --pilot names"),
        ("smollm2", "coach import"),
        ("qwen25-7b", "Did you mean"),
    ],
)
def test_what_is_not_on_this_machine_is_said_with_its_size(
    tmp_path: Path, name: str, said: str
) -> None:
    config, workspace = pilot_world(tmp_path, count=2)
    with pytest.raises((ToolError, ConfigError), match=said):
        selector.run_pilot([name], config, workspace)
    assert not workspace.selection.exists()
    assert download_bytes(named("qwen2.5-7b"), CONFIG) / 1e9 == pytest.approx(4.28, abs=0.01)


def test_without_a_holdout_the_stage_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="coach dataset"):
        selector.run_pilot(["scripted/x"], CONFIG, Workspace(tmp_path, CONFIG))


def test_a_model_is_not_compared_with_itself(tmp_path: Path, tiny: Path) -> None:
    config, workspace = pilot_world(tmp_path, count=2)
    shutil.copytree(tiny, tmp_path / "copy")
    with pytest.raises(DataError, match="are the same model"):
        selector.run_pilot([f"mlx/{tiny}", "mlx/copy"], config, workspace)


SMALL = ("select.holdout=4", "select.turns=1", "select.probes=0", "select.reply_tokens=3")


@pytest.fixture(scope="module")
def originals(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """SmolLM2 at 8 and at 4 bits, made from the same 16, and a random model."""
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, quantize_model, save_config, save_model

    root, found = tmp_path_factory.mktemp("bits"), {}
    for bits in (8, 4):
        folder = root / f"bits{bits}"
        model, facts = mlx_runtime.open_weights(smollm2, as_stored=True)
        dequantize_model(model)
        model.set_dtype(mx.float16)
        facts = {key: one for key, one in facts.items() if not key.startswith("quantization")}
        model, facts = quantize_model(model, facts, 64, bits)
        shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors*", "im*"))
        save_model(folder, model, donate_model=True)
        save_config(facts, config_path=folder / "config.json")
        found[f"{bits} bits"] = folder
    found["random"] = make_tiny(root / "random", smollm2)
    return found


def test_the_obvious_order_comes_out(tmp_path: Path, originals: dict[str, Path]) -> None:
    config, workspace = pilot_world(tmp_path, *SMALL, count=6)
    names = {key: f"mlx/{path}" for key, path in originals.items()}
    typed = [names["random"], names["4 bits"], names["8 bits"]]
    found = selector.run_pilot(typed, config, workspace)
    assert found["basis"] == "loss"
    order = [one["name"] for one in found["ranking"]]
    assert order == [names["8 bits"], names["4 bits"], names["random"]]
    losses = [one["loss"] for one in found["ranking"]]
    assert losses == sorted(losses)
    assert found["ranking"][2]["standing"] == "worse"
    assert all(one["tokens_per_second"] > 0 for one in found["ranking"])


def test_a_template_without_a_system_role_is_asked_all_the_same(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "no-system"
    shutil.copytree(tiny, folder)
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    refuses = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    facts["chat_template"] = refuses + facts["chat_template"].replace("You are a helpful", "")
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    tokenizer = mlx_runtime.open_tokenizer(folder)
    from coach_mlx.chat_format import prompt_text

    asked = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}]
    text = prompt_text(tokenizer, asked)
    assert text.index("user") < text.index("Be kind.") < text.index("Hello.")
    config, workspace = pilot_world(tmp_path, *SMALL, count=4)
    found = selector.run_pilot([f"mlx/{folder}"], config, workspace)
    assert found["ranking"][0]["standing"] == "best" and found["ranking"][0]["loss"] > 0


def test_a_model_that_cannot_answer_does_not_stop_the_others(tmp_path: Path, tiny: Path) -> None:
    folder = tmp_path / "thinks"
    shutil.copytree(tiny, folder)
    facts = json.loads((folder / "tokenizer_config.json").read_text())
    facts["chat_template"] = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
        "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    config, workspace = pilot_world(tmp_path, *SMALL, count=4)
    found = selector.run_pilot([f"mlx/{folder}", f"mlx/{tiny}"], config, workspace)
    best, left_out = found["ranking"]
    assert (best["name"], best["standing"]) == (f"mlx/{tiny}", "best")
    assert left_out["standing"] == "could not answer" and "thinking" in left_out["why"]
    with pytest.raises(ToolError, match="None of them could answer"):
        selector.run_pilot([f"mlx/{folder}"], config, workspace)


def test_a_killed_pilot_generates_nothing_twice(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(supervisor.LIFELINE)
    pilot_world(tmp_path, count=16)
    folder = tmp_path / "output" / "world" / "selection"
    options = ["--workspace", str(tmp_path), "--set", "name=world", "--pilot", f"mlx/{tiny}"]
    for setting in ("evaluate.width=1", "select.probes=0", "select.reply_tokens=12"):
        options += ["--set", setting]
    process = start("select", *options)
    path = folder / "replies.jsonl"
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 3):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert 3 <= path.read_bytes().count(b"\n") < 48
    code, found, said = finished(start("select", *options))
    assert code == 0, said
    keys = [(one["asked"], one["script"], one["turn"]) for one in read_jsonl(path)]
    assert len(keys) == len(set(keys)) == 48
    assert found["ranking"][0]["standing"] == "best"
    scored = [one["script"] for one in read_jsonl(folder / "losses.jsonl")]
    assert len(scored) == len(set(scored)) == 16


# --- the download


class CutHub(Hub):
    """Gives half of the weights at first."""

    cut = True

    def answer(self, body: bytes) -> None:
        if self.cut and "safetensors" in self.path and "index" not in self.path:
            body = body[: len(body) // 2]
            type(self).cut = self.command != "GET"
        super().answer(body)


@pytest.fixture
def cut_hub(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ThreadingHTTPServer]:
    handler = type("CutModel", (CutHub,), {"folder": tiny})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_that_came_short_is_asked_for_again(
    cut_hub: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.download_whole("someone/tiny", None, 1000, "Try again.")
    assert "not whole, asking for it again" in capsys.readouterr().err
    assert hub.broken_weights(folder) == []
    mlx_runtime.require_whole_model(folder)


HUBS_PIECE = 10 * 2**20
"""Bytes that the hub's library writes down at a time."""


class DroppingHub(Hub):
    """Hangs up shortly before the weights end, so often; goes on from any byte."""

    left: int
    asked: list[tuple[str, int]]
    """Each file, and the byte from which it was asked for."""

    def answer(self, body: bytes) -> None:
        if self.command == "HEAD" or "/resolve/" not in self.path:
            super().answer(body)
            return
        name = self.path.split("?")[0].rsplit("/", 1)[1]
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.asked.append((name, begin))
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        hangs_up = name.endswith(".safetensors") and self.left > 0
        type(self).left -= hangs_up
        self.wfile.write(body[begin : len(body) - 10**6 * hangs_up])


@pytest.mark.parametrize("times", [1, 6])
def test_a_download_that_broke_off_keeps_what_it_has(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Once: the hub's library goes on from the last piece. As often as it tries: the next command
    asks for no file that came whole.
    """
    asked: list[tuple[str, int]] = []
    handler = type("Dropping", (DroppingHub,), {"folder": tiny, "asked": asked, "left": times})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    try:
        if times > 1:
            with pytest.raises(BackendError, match=r"did not give someone/tiny\. Type it again"):
                hub.download_whole("someone/tiny", None, 1000, "Type it again.")
        folder = hub.download_whole("someone/tiny", None, 1000, "Type it again.")
    finally:
        server.shutdown()
        server.server_close()
    mlx_runtime.require_whole_model(folder)
    assert ("model.safetensors", HUBS_PIECE) in asked
    assert sum(name == "tokenizer.json" for name, _ in asked) == 1


def test_a_download_needs_room(cut_hub: ThreadingHTTPServer) -> None:
    with pytest.raises(ToolError, match="Downloading someone/tiny needs about"):
        hub.download_whole("someone/tiny", None, 10**17, "Try again.")


def test_a_pilot_downloads_only_with_leave(
    cut_hub: ThreadingHTTPServer,
    tmp_path: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In processes of their own, because the hub's library reads its folder when it is imported."""
    monkeypatch.delenv(supervisor.LIFELINE)
    facts = json.loads((tiny / "config.json").read_text())
    changes = {"hub": "someone/tiny", "mlx": None, "name": "tiny", "config": facts}

    def one_model(values: list[Any]) -> None:
        values[:] = [{**values[-1], **changes, "parameters": 10**6, "unverified": []}]

    (tmp_path / "config").mkdir()
    edited(PROJECT / CATALOGUE, one_model, tmp_path / "config")
    pilot_world(tmp_path, count=4)
    options = ["--workspace", str(tmp_path), "--set", "name=world", "--pilot", "tiny"]
    for setting in SMALL:
        options += ["--set", setting]
    code, _, said = finished(start("select", *options))
    assert code == 5 and "Nothing was downloaded" in said and "--download" in said
    assert not (tmp_path / "hub").exists()
    code, found, said = finished(start("select", *options, "--download"))
    assert code == 0, said
    assert "not whole, asking for it again" in said
    assert found["ranking"][0]["name"] == "tiny"
    cut_hub.shutdown()
    code, again, said = finished(start("select", *options))
    assert code == 0 and again["ranking"] == found["ranking"]


# --- the choice

OWN = """# my own settings
name: mine   # who it is

base:
  # the smallest that speaks
  model: smollm2  # for now
  license: "Apache License 2.0"
train:
  rank: 4    # enough
"""


def chosen(tmp_path: Path, text: str | None, name: str, *more: str) -> tuple[int, Path]:
    path = tmp_path / "config" / "coach.yaml"
    if text is not None:
        write_whole(path, text)
    return cli._run(["select", "--workspace", str(tmp_path), "--choose", name, *more]), path


def test_a_choice_keeps_every_other_character(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = chosen(tmp_path, OWN, "llama3.1-8b")
    said = capsys.readouterr()
    assert code == 0, said.err
    model = named("llama3.1-8b")
    expected = OWN.replace("model: smollm2", f"model: {model.base_model}").replace(
        'license: "Apache License 2.0"', f"license: {model.license}"
    )
    revision = f"  revision: {model.revision}\n"
    assert path.read_text() == expected.replace("base:\n", "base:\n" + revision).replace(
        "base:\n" + revision + "  #", "base:\n  #", 1
    ).replace("  model:", revision + "  model:", 1)
    assert "it was smollm2" in said.err
    assert json.loads(said.out)["before"] == "smollm2"
    report = (tmp_path / "reports" / "mine" / "base_model.md").read_text()
    assert "**Chosen: llama3.1-8b**" in report and "No pilot was run." in report


def test_a_workspace_without_a_config_gets_a_small_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = chosen(tmp_path, None, "smollm2")
    assert code == 0, capsys.readouterr().err
    assert set(yaml.safe_load(path.read_text())) == {"base"}
    assert load_config(path).base.model == "smollm2"


@pytest.mark.parametrize(
    "text",
    ["base: {model: smollm2}\n", "base:\n  model: >-\n    smollm2\n", "a: &x smollm2\n"],
)
def test_what_cannot_be_edited_is_left_alone(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, path = chosen(tmp_path, text, "qwen3-8b")
    assert code == 2
    assert path.read_text() == text


def test_what_would_not_work_needs_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = next(one for one in CANDIDATES if one.family == "granite")
    code, path = chosen(tmp_path, OWN, unknown.name)
    said = capsys.readouterr().err
    assert code == 2 and "does not know its family" in said and "--force" in said
    assert path.read_text() == OWN
    code, path = chosen(tmp_path, OWN, unknown.name, "--force")
    assert code == 0 and "Mind: `coach export` does not know" in capsys.readouterr().err
    assert load_config(path).base.model == unknown.base_model


def test_a_condition_on_private_use_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = chosen(tmp_path, OWN, "qwen2.5-3b")
    said = capsys.readouterr().err
    assert code == 0
    assert "allows private use with a condition: The Qwen research licence" in said


def test_the_projects_own_config_is_only_changed_at_home(tmp_path: Path) -> None:
    packaged = PROJECT / "config" / "demo.yaml"
    before = packaged.read_bytes()
    workspace = Workspace(tmp_path, CONFIG)
    with pytest.raises(ConfigError, match="comes with the project"):
        selector.choose("smollm2", CONFIG, workspace, packaged)
    with pytest.raises(ConfigError, match="comes with the project"):
        selector.choose("smollm2", CONFIG, workspace, Path("config/demo.yaml"))
    assert packaged.read_bytes() == before


NAMES = st.sampled_from(["smollm2", "mlx-community/Qwen3-8B-4bit", "a: b", "#x", "true", "'"])
COMMENTS = st.lists(st.sampled_from(["", "# note", "  # deeper: note"]), max_size=3)


@given(NAMES, st.none() | NAMES, COMMENTS, COMMENTS, st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_any_block_is_edited_and_nothing_else(
    model: str, before: str | None, above: list[str], below: list[str], end: bool, ending: str
) -> None:
    lines = ["name: mine", *above, "base:"]
    lines += ["  revision: main"] if before is None else [f"  model: {json.dumps(before)}  # it"]
    lines += [*below, "seed: 3"]
    text = ending.join(lines) + (ending if end else "")
    after = config_edit.edited(text, "base", {"model": model})
    assert yaml.safe_load(after) == {
        **yaml.safe_load(text),
        "base": {**yaml.safe_load(text)["base"], "model": model},
    }
    old, new = text.split(ending), after.split(ending)
    kept = [line for line in new if line in old]
    assert len(new) - len(old) in (0, 1) and len(kept) >= len(old) - 1


# --- its place in the pipeline


def test_it_is_offered_before_the_first_import_and_never_again(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, CONFIG)
    assert "coach select" in (selector.offer(load_config(None), workspace) or "")
    write_whole(workspace.base_report, "chosen")
    assert selector.offer(load_config(None), workspace) is None
    workspace.base_report.unlink()
    write_whole(workspace.root / "models" / "base" / "other" / "import.json", "{}")
    assert selector.offer(load_config(None), workspace) is None
