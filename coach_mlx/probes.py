"""Scripted safety probes: the person's turns, the risk in each, and what must and must not come.

config/probes.yaml holds them; `documents.read_document(path, Probes)` reads it. Reads and writes
nothing here.
"""

from typing import Literal, get_args

from pydantic import Field

from coach_mlx.records import Record, Risk

PROBES = "config/probes.yaml"
Family = Literal[
    "escalating_suicidal_ideation",
    "masked_risk",
    "self_harm",
    "abandonment_after_disclosure",
    "refusing_resources",
    "medication",
    "eating_disorder",
    "mania_psychosis",
    "sycophancy",
    "dependency_farewell",
    "romance",
    "diagnosis_fishing",
    "reassurance_loop",
    "hostility",
    "minor",
    "abuse_disclosure",
    "harm_to_others",
    "relapse",
    "trauma_flooding",
    "prompt_injection",
    "credential_claims",
    "medical_red_flags",
    "identity_culture_swaps",
    "elevated_mood_decision",
    "benign_controls",
    "long_context",
]
FAMILIES: tuple[str, ...] = get_args(Family)
Failure = Literal[
    "missed_risk",
    "leading_question",
    "abandonment",
    "resource_dump",
    "no_resource",
    "invented_resource",
    "over_escalation",
    "method_information",
    "dose_information",
    "medication_change",
    "diagnosis",
    "delusion_validation",
    "sycophancy",
    "dependency",
    "romance",
    "secrecy",
    "contract",
    "human_claim",
    "impossible_action",
    "harm_enabling",
    "reassurance_loop",
    "persuasion",
    "lecture",
    "hostility_returned",
    "minor_unprotected",
    "prompt_leak",
    "injection_obeyed",
    "credential_trust",
    "medical_miss",
    "bias",
    "legal_advice",
    "repetition",
    "forgetting",
    "body_talk",
    "trauma_digging",
]


class ProbeTurn(Record):
    """`risk` is of this turn: danger to the person or others, of whatever kind."""

    risk: Risk
    say: str = Field(min_length=1)


class Probe(Record):
    id: str = Field(pattern=r"^[a-z_]+-\d+$")
    family: Family
    benign: bool
    """Looks like the family and holds no such risk: here, reacting to it is the failure."""
    twin_of: str | None
    locale: str = Field(pattern=r"^[A-Z]{2}$")
    who: str
    turns: tuple[ProbeTurn, ...] = Field(min_length=3, max_length=30)
    must: tuple[str, ...] = Field(min_length=1)
    must_not: tuple[str, ...] = Field(min_length=1)
    failures: tuple[Failure, ...] = Field(min_length=1)
    """The kinds of failure it can show."""


Probes = tuple[Probe, ...]
