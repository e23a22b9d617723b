import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from coach_mlx.calls import Call, Reply, Usage
from coach_mlx.errors import BackendError, DataError
from coach_mlx.ledger import Ledger
from coach_mlx.records import Message


def a_call(text: str = "hello", **facts: object) -> Call:
    given = {"messages": (Message(role="user", content=text),), "max_tokens": 10, **facts}
    return Call(model="scripted/x", purpose="test:one", **given)  # type: ignore[arg-type]


def a_reply(text: str = "yes") -> Reply:
    return Reply(text, "ok", "end_turn", "served", Usage(7, 3))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "calls.sqlite3", budget_usd=1.0)


class Thing(BaseModel):
    name: str


class OtherThing(BaseModel):
    name: int


DIFFERENT = [
    {"text": "other"},
    {"max_tokens": 11},
    {"system": ("a",)},
    {"system": ("a", "b")},
    {"system": ("ab",)},
    {"note": "n"},
    {"schema": Thing},
    {"schema": OtherThing},
    {"sample": 1},
    {"temperature": 0.5},
    {"effort": "low"},
    {"messages": (Message(role="user", content="hel"), Message(role="assistant", content="lo"))},
]


def test_everything_that_determines_an_answer_is_in_the_key() -> None:
    keys = [a_call().key("id"), a_call().key("other id")]
    keys += [a_call()._replace(model="scripted/y").key("id")]
    keys += [a_call(**facts).key("id") for facts in DIFFERENT]  # type: ignore[arg-type]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)


def test_what_only_the_books_need_is_not() -> None:
    assert a_call()._replace(purpose="x", group="y", once=True).key("i") == a_call().key("i")


words = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip() != "")


@given(words, words)
def test_keys_are_equal_exactly_for_equal_questions(one: str, other: str) -> None:
    first, second = a_call(one), a_call(other)
    assert (first.key("") == second.key("")) == (first.messages == second.messages)


def test_an_answer_is_found_again_by_another_process(ledger: Ledger) -> None:
    assert ledger.reserve(a_call(), "k", 0.5)
    answer = ledger.settle("k", a_reply(), 0.01, 1.5)
    assert not answer.stored
    ledger.close()
    again = Ledger(ledger.path, 1.0)
    assert again.find("k") == answer._replace(stored=True)
    assert again.spent_usd == pytest.approx(0.01)
    assert again.totals().usage == Usage(7, 3)
    again.close()


def test_a_refusal_is_kept_as_an_outcome_and_not_as_text(ledger: Ledger) -> None:
    ledger.reserve(a_call(), "k", 0.5)
    ledger.settle("k", a_reply("I can't")._replace(outcome="refusal"), 0.0, 0.1)
    found = ledger.find("k")
    assert found is not None
    assert (found.outcome, found.text) == ("refusal", None)
    ledger.close()


def test_a_call_under_way_when_the_power_went_counts_as_spent(ledger: Ledger) -> None:
    ledger.reserve(a_call(), "k", 0.7)
    ledger.close()  # without an answer
    again = Ledger(ledger.path, 1.0)
    assert again.find("k") is None
    assert again.spent_usd == pytest.approx(0.7)
    assert again.totals().lost == 1
    assert not again.reserve(a_call(), "k", 0.7)
    assert again.reserve(a_call(), "k", 0.2)
    again.settle("k", a_reply(), 0.1, 1.0)
    assert again.spent_usd == pytest.approx(0.8)
    again.close()


def test_a_batch_outlives_the_process_that_submitted_it(ledger: Ledger) -> None:
    items = [(a_call(str(number)), f"k{number}", 0.3) for number in range(5)]
    assert ledger.reserve_batch("intended:1", items) == ["k0", "k1", "k2"]
    ledger.name_batch("intended:1", "batch_1")
    ledger.close()
    again = Ledger(ledger.path, 1.0)
    assert again.batch_keys("batch_1") == {"k0", "k1", "k2"}
    assert again.left_usd == pytest.approx(0.1)
    again.settle("k1", a_reply(), 0.05, 0.0)
    again.end_batch("batch_1")
    assert again.open_batches() == []
    assert again.left_usd == pytest.approx(0.95)
    again.close()


steps = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(["reserve", "settle", "release", "lose", "reopen"]),
        st.floats(0, 0.4),
        st.floats(0, 1),
    ),
    max_size=40,
)


@given(steps)
def test_no_schedule_spends_more_than_the_budget(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[int, str, float, float]]
) -> None:
    """Whatever is reserved, answered, lost and reopened; billed is at most the worst case."""
    path = tmp_path_factory.mktemp("ledger") / "calls.sqlite3"
    ledger, under_way, billed = Ledger(path, 1.0), {}, 0.0
    for number, step, worst, share in steps:
        key = f"k{number}"
        if step == "reserve" and key not in under_way and ledger.find(key) is None:
            if ledger.reserve(a_call(key), key, worst):
                under_way[key] = worst
        elif step == "reopen":
            billed += sum(under_way.values())  # the service may have billed them all
            under_way.clear()
            ledger.close()
            ledger = Ledger(path, 1.0)
        elif key in under_way:
            most = under_way.pop(key)
            if step == "settle":
                billed += share * most
                ledger.settle(key, a_reply(), share * most, 0.1)
            else:
                billed += most if step == "lose" else 0.0
                ledger.release(key, maybe_billed=step == "lose")
        assert billed + sum(under_way.values()) <= 1.0 + 1e-9
        assert billed <= ledger.spent_usd + 1e-9
        assert ledger.left_usd == pytest.approx(
            1.0 - ledger.spent_usd - sum(under_way.values()), abs=1e-9
        )
    ledger.close()


def test_the_message_at_the_cap_says_what_to_type(ledger: Ledger) -> None:
    error = ledger.over(2.5)
    assert isinstance(error, BackendError)
    assert "--set calls.budget_usd=" in str(error)
    assert "$2.50" in str(error)
    ledger.close()


def test_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite3"
    path.write_text("my diary, and more than a hundred bytes of it " * 5)
    before = path.read_bytes()
    with pytest.raises(DataError, match="not a ledger"):
        Ledger(path, 1.0)
    assert path.read_bytes() == before


def test_every_change_is_synced_to_disk(ledger: Ledger) -> None:
    with sqlite3.connect(ledger.path) as other:
        assert other.execute("pragma journal_mode").fetchone()[0] == "wal"
    other.close()
    assert ledger._database.execute("pragma synchronous").fetchone()[0] == 2
    ledger.close()
