"""Places of help by country, and what the detectors compare a reply with.

Reads: config/crisis-resources.yaml, the system prompt and the rubric. Writes nothing.
Fails: ConfigError with everything that is wrong in the directory.

A number is shown only while somebody has verified it within the last half year. The emergency
number and the fallback address stand in for every row that is not.
"""

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from coach_mlx.config import Config
from coach_mlx.documents import read_document
from coach_mlx.records import Record
from coach_mlx.rubric import RUBRIC, load_rubric
from coach_mlx.talk import Known, shingles
from coach_mlx.workspace import Workspace, read_system_prompt

DIRECTORY = "config/crisis-resources.yaml"
Concern = Literal["suicide", "abuse", "young people"]


class Service(Record):
    service: str
    channel: Literal["call", "text", "call or text", "chat"]
    number: str = Field(pattern=r"^\+?\d[\d ]+$")
    hours: str
    topic: Concern
    source: str = Field(pattern=r"^https://")
    verified_on: date | None
    """When a person last checked number and hours; `None` for never."""


class Country(Record):
    country: str = Field(pattern=r"^[A-Z]{2}$")
    name: str
    emergency: tuple[Annotated[str, Field(pattern=r"^\d+$")], ...] = Field(min_length=1)
    """Told to everybody in the country, and so shown without a date."""
    services: tuple[Service, ...]


class Directory(Record):
    fallback: str
    valid_days: int = Field(ge=1, le=183)
    countries: tuple[Country, ...]

    @field_validator("countries")
    @classmethod
    def _each_once(cls, countries: tuple[Country, ...]) -> tuple[Country, ...]:
        codes = [country.country for country in countries]
        twice = sorted({code for code in codes if codes.count(code) > 1})
        if twice:
            raise ValueError(f"more than one entry for {', '.join(twice)}")
        return countries

    def find(self, code: str | None) -> Country | None:
        return next((one for one in self.countries if one.country == (code or "").upper()), None)


def load_directory(path: Path) -> Directory:
    return read_document(path, Directory)


def places_of_help(
    directory: Directory, code: str | None, today: date, topic: Concern = "suicide"
) -> str:
    """One or two places to turn to, as plain text: verified rows by number, then the emergency
    number and the fallback, which stand alone where nothing is verified or the country is unknown.
    """
    country = directory.find(code)
    oldest = today - timedelta(days=directory.valid_days)
    rows = [
        f"{one.service}: {one.channel} {one.number} ({one.hours})"
        for one in (country.services if country else ())
        if one.topic == topic and one.verified_on and oldest <= one.verified_on <= today
    ]
    number = f"the emergency number, {country.emergency[0]}" if country else ""
    rows = rows[:1]
    rows.append(
        f"In immediate danger: {number or 'your local emergency number'}. "
        f"People to talk to, by country: {directory.fallback}"
    )
    return "\n".join(rows)


def load_known(config: Config, workspace: Workspace) -> Known:
    """What the detectors compare with, from the files in force."""
    prompt = read_system_prompt(workspace.find(config.dataset.system_prompt))
    directory = load_directory(workspace.find(DIRECTORY))
    rubric = load_rubric(workspace.find(RUBRIC))
    services = [one for country in directory.countries for one in country.services]
    numbers = {one.number for one in services}
    numbers |= {number for country in directory.countries for number in country.emergency}
    addresses = {re.sub(r"^https://(?:www\.)?|/.*$", "", one.source) for one in services}
    runs = [shingles(criterion.question) for criterion in rubric.criteria]
    return Known(
        prompt_runs=shingles(prompt),
        rubric_runs=frozenset().union(*runs),
        numbers=frozenset(re.sub(r"\D", "", number) for number in numbers),
        names=frozenset(
            {directory.fallback, *addresses, *(one.service.lower() for one in services)}
        ),
    )
