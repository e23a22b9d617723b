import re
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coach_mlx.config import Config
from coach_mlx.crisis import (
    DIRECTORY,
    Country,
    Directory,
    Service,
    load_directory,
    load_known,
    places_of_help,
)
from coach_mlx.workspace import PROJECT, Workspace

directory = load_directory(PROJECT / DIRECTORY)
TODAY = date(2026, 11, 22)


def one_country(verified_on: date | None) -> Directory:
    row = Service(
        service="Listening Line",
        channel="call",
        number="01 234",
        hours="24/7",
        topic="suicide",
        source="https://listening.example",
        verified_on=verified_on,
    )
    country = Country(country="XX", name="Nowhere", emergency=("112",), services=(row,))
    return Directory(fallback="findahelpline.com", valid_days=183, countries=(country,))


def test_the_directory_covers_at_least_twelve_countries_and_says_where_from() -> None:
    assert len(directory.countries) >= 12
    for country in directory.countries:
        assert country.emergency
        assert any(one.topic == "suicide" for one in country.services), country.name


@given(st.integers(-10, 400))
def test_a_number_is_shown_only_while_its_check_is_fresh(age_days: int) -> None:
    shown = places_of_help(one_country(TODAY - timedelta(days=age_days)), "xx", TODAY)
    assert ("01 234" in shown) == (0 <= age_days <= 183)
    assert "the emergency number, 112" in shown
    assert "findahelpline.com" in shown


def test_rows_nobody_has_checked_show_no_number() -> None:
    for country in directory.countries:
        unchecked = [one for one in country.services if one.verified_on is None]
        shown = places_of_help(directory, country.country, TODAY)
        for row in unchecked:
            if row.number not in country.emergency:
                assert not re.search(rf"(?<!\d){row.number}(?!\d)", shown), country.name


@pytest.mark.parametrize("code", [None, "ZZ", ""])
def test_an_unknown_country_gets_no_number_at_all(code: str | None) -> None:
    shown = places_of_help(directory, code, TODAY)
    assert "your local emergency number" in shown
    assert not re.search(r"\d", shown)


def test_other_concerns_have_their_own_rows() -> None:
    shown = places_of_help(one_country(TODAY), "XX", TODAY, topic="abuse")
    assert "01 234" not in shown
    assert "112" in shown


def test_one_row_is_shown_and_a_country_stands_once() -> None:
    country = one_country(TODAY).countries[0]
    double = country.model_copy(update={"services": country.services * 2})
    shown = places_of_help(Directory(fallback="x", valid_days=9, countries=(double,)), "XX", TODAY)
    assert shown.count("Listening Line") == 1
    with pytest.raises(ValueError, match="more than one entry for XX"):
        Directory(fallback="x", valid_days=9, countries=(country, country))


def test_what_the_detectors_know_comes_from_the_files(tmp_path: Path) -> None:
    known = load_known(Config(), Workspace(tmp_path, Config()))
    assert {"988", "116123", "112"} <= known.numbers
    assert {"findahelpline.com", "samaritans"} <= known.names
    assert known.prompt_runs
    assert known.rubric_runs
