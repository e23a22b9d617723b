"""The catalogue of base models: closed, complete, and true to what can be computed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import edited
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx import importer
from coach_mlx.base_models import (
    CATALOGUE,
    PACKAGED,
    Candidate,
    find_candidate,
    load_catalogue,
)
from coach_mlx.errors import ConfigError
from coach_mlx.workspace import PROJECT

CANDIDATES = load_catalogue(PROJECT / CATALOGUE)
SPECIFIED = ("Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B-Instruct")


def named(name: str) -> Candidate:
    return find_candidate(name, CANDIDATES)


def test_the_specified_models_and_the_embedded_one_are_there() -> None:
    hubs = {one.hub for one in CANDIDATES}
    assert {*SPECIFIED, "mistralai/Mistral-7B-Instruct-v0.3"} <= hubs
    assert named(PACKAGED).base_model == PACKAGED
    assert importer.packaged_gguf().is_file()


@pytest.mark.parametrize("one", CANDIDATES, ids=lambda one: one.name)
def test_what_the_licence_allows_is_said_with_its_reason(one: Candidate) -> None:
    order = ("allowed", "conditional", "forbidden")
    private, sharing, commercial = (
        order.index(one.of_use(purpose).verdict) for purpose in ("private", "sharing", "commercial")
    )
    assert private <= max(sharing, commercial)  # nothing is stricter at home than in public
    if one.license.startswith(("Apache", "MIT")):
        assert (private, sharing, commercial) == (0, 0, 0)
    if "Llama" in one.license:
        assert sharing == commercial == 1


@pytest.mark.parametrize("one", CANDIDATES, ids=lambda one: one.name)
def test_the_heads_fit_the_width(one: Candidate) -> None:
    facts = one.shape
    assert facts["num_attention_heads"] % facts["num_key_value_heads"] == 0
    assert facts.get("head_dim") or facts["hidden_size"] % facts["num_attention_heads"] == 0


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("qwen2.5-7b", "qwen2.5-7b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("mlx-community/Qwen2.5-7B-Instruct-4bit", "qwen2.5-7b"),
        ("smollm2", "smollm2-135m"),
    ],
)
def test_a_candidate_is_found_by_any_of_its_names(typed: str, found: str) -> None:
    assert named(typed).name == found


def test_a_name_that_is_not_there_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .*llama3\.1-8b"):
        named("llama-3.1-8b")
    with pytest.raises(ConfigError, match="`coach select` lists them"):
        named("x")


@given(st.text(max_size=40))
def test_any_name_is_found_or_refused_in_words(name: str) -> None:
    try:
        assert named(name) in CANDIDATES
    except ConfigError as error:
        assert "coach select" in str(error)


def first(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], Any]:
    return lambda values: change(values[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (first(lambda one: one.update(licence="MIT")), "did you mean license"),
        (first(lambda one: one["config"].pop("hidden_size")), "hidden_size"),
        (first(lambda one: one["config"].update(vocab_size=0)), "vocab_size"),
        (first(lambda one: one["use"]["private"].update(verdict="yes")), "allowed"),
        (first(lambda one: one["use"].pop("sharing")), "sharing"),
        (first(lambda one: one.update(unverified=["lisence"])), "names no field: lisence"),
        (first(lambda one: one.update(sources=[])), "sources"),
        (lambda values: values.append(values[0]), "name stands twice"),
    ],
)
def test_what_is_wrong_in_the_document_is_named(
    tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        load_catalogue(edited(PROJECT / CATALOGUE, change, tmp_path))
