from pathlib import Path

import pytest
from claude_server import PRICES as SERVER_PRICES
from conftest import edited
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.calls import Call, Usage
from coach_mlx.errors import ConfigError
from coach_mlx.prices import PRICES, Prices
from coach_mlx.records import Message
from coach_mlx.workspace import PROJECT

FILE = PROJECT / PRICES
MILLION = 1_000_000


@pytest.fixture(scope="module")
def prices() -> Prices:
    return Prices(FILE)


def test_a_million_tokens_cost_what_the_table_says(prices: Prices) -> None:
    sonnet = prices.find("anthropic/claude-sonnet-5-5")
    assert sonnet.cost(Usage(MILLION)) == pytest.approx(2.0)
    assert sonnet.cost(Usage(0, MILLION)) == pytest.approx(10.0)
    assert sonnet.cost(Usage(0, 0, MILLION)) == pytest.approx(0.10)
    assert sonnet.cost(Usage(0, 0, 0, MILLION)) == pytest.approx(2.5)
    assert sonnet.cost(Usage(0, 0, 0, 0, MILLION)) == pytest.approx(4.0)
    assert sonnet.cost(Usage(MILLION), batch=True) == pytest.approx(1.0)


def test_a_long_prompt_is_billed_by_its_tier(prices: Prices) -> None:
    haiku = prices.find("anthropic/claude-haiku-5-5")
    assert haiku.cost(Usage(100_000, 1000)) == pytest.approx(0.0105)
    assert haiku.cost(Usage(50_000, 1000, 50_001)) == pytest.approx(
        (50_000 * 0.5 + 1000 * 2.5 + 50_001 * 0.05) / MILLION
    )


def test_the_tests_server_bills_by_the_same_table(prices: Prices) -> None:
    for name, price in SERVER_PRICES.items():
        tier = prices.find(f"anthropic/{name}").tiers[0]
        assert (tier.input, tier.output, tier.cache_read) == (
            price.input,
            price.output,
            price.cache_read,
        )
        assert (tier.cache_write_5m, tier.cache_write_1h) == (price.write_5m, price.write_1h)


MODELS = st.sampled_from(["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"])


@given(
    MODELS, st.text(min_size=1, max_size=300), st.integers(1, 3000), st.integers(1, 500), st.data()
)
def test_no_answer_costs_more_than_its_worst_case(
    prices: Prices, model: str, text: str, times: int, max_tokens: int, data: st.DataObject
) -> None:
    """However the service cuts the prompt into tokens, and whatever it reads from a cache."""
    content = (text if text.strip() else "a") * times
    call = Call(f"anthropic/{model}", (Message(role="user", content=content),), max_tokens, "test")
    left, parts = call.most_prompt_tokens, []
    for _ in range(4):
        parts.append(data.draw(st.integers(0, left)))
        left -= parts[-1]
    price = prices.find(call.model)
    usage = Usage(parts[0], max_tokens, *parts[1:])
    for batch in (False, True):
        assert price.cost(usage, batch) <= price.most(call, batch) + 1e-12


def test_an_unknown_model_says_what_to_add(prices: Prices) -> None:
    with pytest.raises(ConfigError, match="no price for anthropic/claude-next") as error:
        prices.find("anthropic/claude-next")
    for word in ("found_on", "tiers", "cache_write_1h", "claude-sonnet-5-5"):
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["claude", "anthropic/", "nobody/model", "/x"])
def test_a_name_that_is_none_says_how_to_write_one(prices: Prices, name: str) -> None:
    with pytest.raises(ConfigError, match="provider/name"):
        prices.find(name)


def test_what_runs_on_this_machine_is_free(prices: Prices) -> None:
    for name in ("ollama/qwen3:8b", "mlx/models/base/x", "gguf/x.gguf", "scripted/x.jsonl"):
        assert prices.find(name).cost(Usage(MILLION, MILLION)) == 0
    assert Prices(FILE, "http://127.0.0.1:8080/v1").is_free("openai/local")
    with pytest.raises(ConfigError, match="no price for openai/gpt"):
        Prices(FILE, "https://api.example.com/v1").find("openai/gpt")


def test_the_newest_price_counts(tmp_path: Path) -> None:
    def cheaper(entries: list[dict[str, object]]) -> None:
        entries.insert(0, {**entries[1], "found_on": "2027-01-01", "batch_factor": 0.25})

    found = Prices(edited(FILE, cheaper, tmp_path)).find("anthropic/claude-sonnet-5-5")
    assert found.batch_factor == 0.25


def test_tiers_that_do_not_ascend_are_refused(tmp_path: Path) -> None:
    def spoil(entries: list[dict[str, object]]) -> None:
        entries[0]["tiers"] = list(reversed(entries[0]["tiers"]))  # type: ignore[call-overload]

    with pytest.raises(ConfigError, match="tiers ascend"):
        Prices(edited(FILE, spoil, tmp_path))
