"""`coach optimize` as a person runs it: command line, real SDK, DSPy's GEPA, a server on this
machine, and worlds in which one sentence of a prompt is better, is noise, or is dangerous.
"""

import hashlib
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claude_server import ClaudeServer
from conftest import finished, start, start_coach
from judges import reply_by, yes
from test_generator import KEY, deal
from writers import asked_text
from writers import reply as write

from coach_mlx import optimizer
from coach_mlx.config import load_config
from coach_mlx.workspace import PROJECT, Workspace

SMALL = (
    "optimize.proposals=3",
    "optimize.reflect_cards=6",
    "optimize.validate_cards=4",
    "optimize.verify_cards=8",
    "optimize.minibatch=2",
    "optimize.max_turns=3",
    "assess.mode=single",
)
BETTER = "Look for the lantern in what they say."
WEAK = ("CQ1", "CQ3", "CQ5", "CQ6", "CQ7")
Rule = Callable[[str, list[dict[str, Any]], int], str]


def system_of(body: dict[str, Any]) -> str:
    found = body.get("system", "")
    return found if isinstance(found, str) else "\n".join(block["text"] for block in found)


def is_reflection(body: dict[str, Any]) -> bool:
    return "# Mending a coach's instruction" in asked_text(body)


def instruction_in(question: str) -> str:
    return question.split("# The instruction\n\n", 1)[1].split("\n\n# What the judge asks", 1)[0]


def world(rule: Rule, propose: Callable[[str], str]) -> Callable[[dict[str, Any]], str]:
    """Everybody who answers. A coach whose prompt speaks of the lantern does so too."""
    judge = reply_by(rule)

    def reply(body: dict[str, Any]) -> str:
        if is_reflection(body):
            return propose(asked_text(body))
        schema = body.get("output_config", {}).get("format", {}).get("schema", {})
        if {"answer", "answers"} & set(schema.get("properties", {})):
            return judge(body)
        said = write(body)
        speaks = not schema and "# Being the coach" in system_of(body)
        return f"{said[:-1]} lantern." if speaks and BETTER in system_of(body) else said

    return reply


def propose_better(question: str) -> str:
    found = instruction_in(question)
    new = found.replace("## Moves\n", f"## Moves\n\n{BETTER}\n") if BETTER not in found else found
    return f"They looked away from it.\n<instruction>\n{new}\n</instruction>"


def lit(messages: list[dict[str, Any]]) -> bool:
    return all("lantern" in one["text"] for one in messages if one["speaker"] == "coach")


def wants_lanterns(name: str, messages: list[dict[str, Any]], sample: int) -> str:
    return "NO" if name in WEAK and not lit(messages) else yes(name, messages, sample)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ClaudeServer]]:
    servers: list[ClaudeServer] = []

    def open_world(rule: Rule, propose: Callable[[str], str] = propose_better) -> ClaudeServer:
        server = ClaudeServer(reply=world(rule, propose), retry_after=0.01, min_cache=512)
        server.__enter__()
        servers.append(server)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        return server

    yield open_world
    for server in servers:
        server.__exit__(None, None, None)


CHOSEN = [part for one in SMALL for part in ("--set", one)]


def begin(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return start_coach("optimize", folder, *CHOSEN, *arguments)


def until(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    """Wait for that, or for the end."""
    while not reached() and process.poll() is None:
        time.sleep(0.002)


def optimize(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return finished(begin(folder, *arguments))


def prompt_in(folder: Path) -> Path:
    return folder / "config" / "generation-prompt.md"


def run_folder(folder: Path, result: dict[str, Any]) -> Path:
    return folder / "output" / "optimize" / str(result["run"])


SHIPPED = (PROJECT / "config" / "generation-prompt.md").read_text()


def test_an_instruction_that_is_better_is_found_proved_and_put_in_place(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    code, result, said = optimize(tmp_path)
    assert code == 0, said
    assert result["verdict"] == "adopted"
    assert result["gain"]["low"] > 0
    assert result["proposals"] <= 3
    assert BETTER in prompt_in(tmp_path).read_text()
    assert result["usd"] == pytest.approx(claude.billed_usd)
    folder = run_folder(tmp_path, result)
    assert (folder / "start.md").read_text() == SHIPPED
    report = (folder / "report.md").read_text()
    assert f"+{BETTER}" in report
    assert (folder / "tree.png").read_bytes().startswith(b"\x89PNG")
    tree = json.loads((folder / "candidates.json").read_text())
    assert tree[0]["fate"] == "start"
    assert any(one["fate"] == "kept" and BETTER in one["prompt"] for one in tree)
    assert "generate --pilot" in said


def noise(share: float, rule: Rule) -> Rule:
    """Another NO now and then, by what was said: the same in every run."""

    def noisy(name: str, messages: list[dict[str, Any]], sample: int) -> str:
        digest = hashlib.sha256(f"{name}{messages}".encode()).digest()
        if name in WEAK and digest[0] / 256 < share:
            return "NO"
        return rule(name, messages, sample)

    return noisy


def propose_noise(question: str) -> str:
    """Another sentence each time, which changes what is written and nothing else."""
    number = random.Random(question).randrange(10_000)
    words = " ".join("abcdefghij"[int(digit)] * 3 for digit in str(number))
    found = instruction_in(question).replace("## Moves\n", f"## Moves\n\nMind the {words}.\n", 1)
    return f"<instruction>{found}</instruction>"


def test_a_gain_that_is_noise_is_not_taken(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    serve(noise(0.3, yes), propose_noise)
    deal(tmp_path, 40, turns=3)
    code, found, said = optimize(tmp_path)
    assert code == 10, said
    # A proposal did better on the cards that choose, and could not prove it.
    assert found["verdict"] == "no gain shown", said
    assert found["gain"]["low"] < 0 < found["gain"]["high"]
    assert not prompt_in(tmp_path).exists()


def test_a_gain_that_costs_safety_is_refused(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    def dangerous(name: str, messages: list[dict[str, Any]], sample: int) -> str:
        digest = hashlib.sha256(f"{messages}".encode()).digest()
        if name == "CQ8" and lit(messages) and digest[0] < 60:
            return "NO"
        return wants_lanterns(name, messages, sample)

    serve(dangerous)
    deal(tmp_path, 40, turns=3)
    code, found, said = optimize(tmp_path)
    assert code == 10
    assert found["verdict"] == "less safe", said
    assert found["newly_unsafe"]
    assert found["gain"]["difference"] > 0
    assert not prompt_in(tmp_path).exists()


# --- what a proposal may not do


def test_a_proposal_that_copies_or_grows_is_refused_and_the_next_may_do_better(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    asked: list[str] = []

    def propose(question: str) -> str:
        asked.append(question)
        if "# Your last try" in question:
            return f"<instruction>{instruction_in(question)} {'more ' * 400}</instruction>"
        line = re.search(r"^Person: (.{60,})$", question, re.M)
        assert line is not None
        return propose_better(question).replace(BETTER, f"{BETTER} {line[1]}")

    serve(wants_lanterns, propose)
    deal(tmp_path, 40, turns=3)
    code, found, said = optimize(tmp_path)
    assert (code, found["verdict"]) == (10, "nothing better found"), said
    assert any("word for word" in one for one in asked)
    tree = json.loads((run_folder(tmp_path, found) / "candidates.json").read_text())
    assert {one["fate"] for one in tree[1:]} == {"refused"}
    assert all("words, and 1248 are allowed" in one["why"] for one in tree[1:])
    assert not prompt_in(tmp_path).exists()


def test_sections_that_protect_people_stay_word_for_word(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    def propose(question: str) -> str:
        found = propose_better(question)
        before, danger, rest = found.partition("## Danger")
        return f"{before}{danger}\n\nNever mind.\n\n{rest[rest.index('## The reply') :]}"

    serve(noise(0.1, wants_lanterns), propose)
    deal(tmp_path, 40, turns=3)
    code, _, said = optimize(tmp_path)
    assert code == 0, said
    new = prompt_in(tmp_path).read_text()
    for title in ("## Danger", "## Honesty and limits"):
        section = SHIPPED.split(title, 1)[1].split("\n## ", 1)[0]
        assert section in new
    assert "Never mind" not in new


def test_the_search_reads_no_card_that_chooses_or_proves(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    questions: list[str] = []

    def propose(question: str) -> str:
        questions.append(question)
        return propose_better(question)

    serve(noise(0.1, wants_lanterns), propose)
    cards = deal(tmp_path, 40, turns=3)
    _, found, _ = optimize(tmp_path)
    folder = run_folder(tmp_path, found)
    trials = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    shown = {card.id for card in cards if any(str(card.situation) in one for one in questions)}
    tree = json.loads((folder / "candidates.json").read_text())
    choosing = {name for one in tree for name in one["scores"]}
    assert shown
    assert not shown & choosing
    proving = {one["card"] for one in trials} - choosing - shown
    assert len(proving) >= 8


def test_a_refused_proposal_is_never_tried_nor_taken(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    """One that only breaks lines elsewhere, and so says the same."""

    def rewrap(question: str) -> str:
        return f"<instruction>{' '.join(instruction_in(question).split())}</instruction>"

    def weak(name: str, messages: list[dict[str, Any]], sample: int) -> str:
        return "NO" if name in WEAK else yes(name, messages, sample)

    claude = serve(weak, rewrap)
    deal(tmp_path, 40, turns=3)
    code, found, said = optimize(tmp_path, "--set", "optimize.keep=[]")
    assert (code, found["verdict"]) == (10, "nothing better found"), said
    assert "says the same" in said
    prompts = [system_of(body) for body in claude.bodies if not is_reflection(body)]
    coached = [one for one in prompts if "# Being the coach" in one]
    assert coached
    assert all(SHIPPED.strip() in one for one in coached)


def test_a_disk_that_takes_no_more_ends_it_and_the_same_command_goes_on(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    process = begin(tmp_path)
    until(process, lambda: bool(list(tmp_path.glob("output/optimize/*/start.md"))))
    (folder,) = tmp_path.glob("output/optimize/*")
    blocked = folder / "candidates.json.partial"
    blocked.mkdir()
    code, _, said = finished(process)
    assert code == 5, said
    assert not (folder / "result.json").exists()
    blocked.rmdir()
    code, found, said = optimize(tmp_path)
    assert (code, found["verdict"]) == (0, "adopted"), said
    assert set(claude.billed_by_hash.values()) == {1}


# --- going on, going back


def test_killed_again_and_again_it_ends_the_same_and_pays_for_no_call_twice(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    claude = serve(noise(0.15, wants_lanterns))
    deal(whole, 40, turns=3)
    wanted = optimize(whole)[1]
    calls = claude.messages
    claude = serve(noise(0.15, wants_lanterns))
    claude.latency = 0.02
    deal(torn, 40, turns=3)
    slowly = ("--set", "calls.concurrency=4")
    rng = random.Random(3)
    kills = 0
    while True:
        goal = claude.messages + rng.randint(10, 60)
        process = begin(torn, *slowly)
        until(process, lambda goal=goal: claude.messages >= goal)
        if process.poll() is None:
            process.kill()
            kills += 1
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:
            break
    assert kills >= 4
    code, found, said = optimize(torn, *slowly)
    assert code == 0
    assert "already complete" in said
    same = ("verdict", "best", "gain", "proposals")
    assert {key: found[key] for key in same} == {key: wanted[key] for key in same}
    assert set(claude.billed_by_hash.values()) == {1}
    assert found["usd"] == pytest.approx(claude.billed_usd)
    assert claude.messages == calls


def test_the_same_command_again_sends_nothing_and_a_new_prompt_is_gone_on_from_only_when_asked(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    _, first, _ = optimize(tmp_path)
    before = claude.messages
    code, found, said = optimize(tmp_path)
    assert (code, found["run"], claude.messages) == (0, first["run"], before)
    assert "--again" in said
    code, found, _ = optimize(tmp_path, "--again")
    assert found["run"] != first["run"]
    report = (run_folder(tmp_path, found) / "report.md").read_text()
    assert "One search came before this one" in report
    assert found["start"] == first["best"]
    assert claude.messages > before


def test_the_old_prompt_can_be_put_back_and_stays_back(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    _, first, _ = optimize(tmp_path)
    assert prompt_in(tmp_path).read_text() != SHIPPED
    code, found, _ = finished(start_coach("optimize", tmp_path, "--revert"))
    assert (code, found["prompt"]) == (0, first["start"])
    assert prompt_in(tmp_path).read_text() == SHIPPED
    code, _, said = finished(start_coach("optimize", tmp_path, "--revert"))
    assert code == 3
    assert "by hand" in said
    before = claude.messages
    code, found, said = optimize(tmp_path)
    assert (code, found["verdict"]) == (10, "taken back"), said
    assert "best.md config/generation-prompt.md" in found["reason"]
    assert claude.messages == before
    assert prompt_in(tmp_path).read_text() == SHIPPED
    prompt_in(tmp_path).unlink()  # undone by hand is undone too
    assert optimize(tmp_path)[0] == 10
    assert not prompt_in(tmp_path).exists()


def test_a_kill_before_the_prompt_was_in_place_is_mended(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    _, first, _ = optimize(tmp_path)
    path = run_folder(tmp_path, first) / "result.json"
    result = json.loads(path.read_text())
    del result["placed"]
    path.write_text(json.dumps(result))
    prompt_in(tmp_path).unlink()
    before = claude.messages
    code, _, _ = optimize(tmp_path)
    assert (code, claude.messages) == (0, before)
    assert BETTER in prompt_in(tmp_path).read_text()


def test_a_prompt_changed_by_hand_is_never_overwritten_by_going_back(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    optimize(tmp_path)
    mine = prompt_in(tmp_path).read_text() + "\nMine.\n"
    prompt_in(tmp_path).write_text(mine)
    code, _, said = finished(start_coach("optimize", tmp_path, "--revert"))
    assert code == 3, said
    assert prompt_in(tmp_path).read_text() == mine


def test_a_prompt_changed_by_hand_while_it_ran_is_left_as_it_is(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    process = begin(tmp_path)
    until(process, lambda: claude.messages >= 20)
    mine = SHIPPED + "\nMine.\n"
    prompt_in(tmp_path).parent.mkdir(exist_ok=True)
    prompt_in(tmp_path).write_text(mine)
    code, _, said = finished(process)
    assert code == 3, said
    assert "best.md" in said
    assert prompt_in(tmp_path).read_text() == mine


# --- money and privacy


def test_the_quote_sends_nothing_and_a_budget_too_small_is_said_before_it_is_spent(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(wants_lanterns)
    deal(tmp_path, 40, turns=3)
    code, found, said = optimize(tmp_path, "--quote")
    assert code == 0, said
    assert found["search"]["conversations"] == 4 + 3 * (2 * 2 + 4)
    assert found["proof"]["conversations"] == 16
    code, _, said = optimize(tmp_path, "--set", "calls.budget_usd=0.05")
    assert code == 2
    assert "Three proposals and the proof would cost about $" in said
    code, _, said = optimize(tmp_path, "--set", "optimize.talks=20")
    assert code == 2
    assert "optimize.talks=28" in said
    assert claude.messages == 0


def test_the_quote_is_about_what_it_costs_at_most(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    serve(noise(0.3, yes), propose_noise)
    deal(tmp_path, 40, turns=3)
    quoted = optimize(tmp_path, "--quote")[1]
    _, found, _ = optimize(tmp_path)
    most = quoted["search"]["usd"] + quoted["proof"]["usd"]
    assert 0.3 * most < found["usd"] < 1.5 * most


def test_it_writes_nothing_outside_the_workspace_and_connects_to_the_service_alone(
    serve: Callable[..., ClaudeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv("DSPY_CACHEDIR", raising=False)
    monkeypatch.setenv("COACH_TEST_LOG", str(tmp_path / "opened"))
    deal(work, 40, turns=3)
    script = PROJECT / "tests" / "one_service.py"
    process = start("optimize", "--workspace", str(work), *CHOSEN, script=script)
    code, _, said = finished(process)
    assert code == 0, said
    assert [path for path in home.rglob("*") if "matplotlib" not in str(path)] == []
    connected, modules = (tmp_path / "opened").read_text().splitlines()
    assert set(connected.split()) == {claude.url.removeprefix("http://")}
    assert "litellm" not in modules.split()


def test_ctrl_c_takes_in_what_is_paid_for_and_ends_with_130(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    claude.latency = 0.1
    deal(tmp_path, 40, turns=3)
    process = begin(tmp_path)
    until(process, lambda: claude.messages >= 30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    claude.latency = 0.0
    code, _, said = optimize(tmp_path)
    assert code == 0, said
    assert set(claude.billed_by_hash.values()) == {1}


def test_a_second_ctrl_c_waits_for_nothing(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    claude = serve(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    claude.latency = 300.0
    process = begin(tmp_path)
    until(process, lambda: claude.messages >= 3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said


def test_a_service_that_refuses_ends_it_with_what_it_said(
    serve: Callable[..., ClaudeServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(wants_lanterns)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "wrong-key")
    deal(tmp_path, 40, turns=3)
    code, _, said = optimize(tmp_path)
    assert code == 4, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("output/optimize/*/result.json"))


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        ("optimize.reflection=gpt5", 2, "is no chat model"),
        ("optimize.keep=[Dangers]", 2, "Did you mean 'Danger'?"),
        ("optimize.proposls=3", 2, "did you mean optimize.proposals?"),
        ("optimize.reflection_prompt=nowhere.md", 3, "cannot be read"),
    ],
)
def test_wrong_inputs_are_named(tmp_path: Path, option: str, code: int, said: str) -> None:
    deal(tmp_path, 40, turns=3)
    found = finished(start_coach("optimize", tmp_path, "--set", option))
    assert found[0] == code
    assert said in found[2]


def test_without_cards_it_says_what_makes_them(tmp_path: Path) -> None:
    code, _, said = finished(start_coach("optimize", tmp_path))
    assert code == 3
    assert "coach scenarios" in said
    deal(tmp_path, 3, turns=3)
    code, _, said = finished(start_coach("optimize", tmp_path))
    assert code == 3
    assert "situations" in said


# --- other ways to write


def test_whole_conversations_are_tried_with_one_call_each(
    serve: Callable[..., ClaudeServer], tmp_path: Path
) -> None:
    def whole(rule: Rule) -> Callable[[dict[str, Any]], str]:
        inner = world(rule, propose_better)

        def reply(body: dict[str, Any]) -> str:
            text = inner(body)
            if is_reflection(body) or BETTER not in system_of(body) or '"messages"' not in text:
                return text
            written = json.loads(text)
            for one in written["messages"]:
                one["text"] = one["text"][:-1] + (" lantern." if one["speaker"] == "coach" else ".")
            return json.dumps(written)

        return reply

    claude = serve(wants_lanterns)
    claude.reply = whole(noise(0.1, wants_lanterns))
    deal(tmp_path, 40, turns=3)
    code, found, said = optimize(tmp_path, "--set", "generate.mode=whole")
    assert code == 0, said
    assert found["verdict"] == "adopted"
    talks = (run_folder(tmp_path, found) / "trials.jsonl").read_text().count("\n")
    assert claude.messages <= 2 * talks + 3 + 3


def test_a_model_of_this_machine_searches_one_conversation_at_a_time(tmp_path: Path) -> None:
    """Scripted models stand for it: nothing is paid, and nobody is asked for a key."""
    deal(tmp_path, 20, turns=3)
    lines = [{"text": "That was a long day for you, and you still cooked for the boys."}]
    script = tmp_path / "coach.jsonl"
    script.write_text("".join(json.dumps(line) + "\n" for line in lines))
    name = f"scripted/{script.name}"
    roles = ("generate.coach", "generate.client", "assess.judge", "optimize.reflection")
    chosen = [part for role in roles for part in ("--set", f"{role}={name}")]
    code, found, said = optimize(tmp_path, *chosen)
    assert code == 10, said
    assert found["verdict"] == "nothing better found"
    assert found["usd"] == 0


def test_the_pipeline_speaks_of_it_where_there_are_cards_until_somebody_searched(
    tmp_path: Path,
) -> None:
    config = load_config(None, ())
    workspace = Workspace(tmp_path, config)
    assert optimizer.offer(config, workspace) is None
    deal(tmp_path, 12, turns=3)
    assert "coach optimize --quote" in (optimizer.offer(config, workspace) or "")
    code, _, said = finished(start_coach("dataset", tmp_path))
    assert code == 3
    assert "coach optimize --quote" in said
    ended = workspace.optimize / "abc" / "result.json"
    ended.parent.mkdir(parents=True)
    ended.write_text("{}")
    assert optimizer.offer(config, workspace) is None
