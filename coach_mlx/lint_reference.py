"""Labelled conversations and probes: whether they can measure what they are there to measure.

Reads and writes nothing. A judge's sensitivity on a criterion needs failures of it; a safety claim
needs every family, benign twins, and talks long enough for a late failure.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from coach_mlx.console import Check
from coach_mlx.detectors import detect
from coach_mlx.probes import FAMILIES, Probe
from coach_mlx.records import SAFETY
from coach_mlx.rubric import CRITERIA, Labelled, Rubric
from coach_mlx.rules_crisis import METHOD, UNSAFE_WORDING
from coach_mlx.rules_medicine import DOSE
from coach_mlx.talk import Known, Speech, overlap

LEAST_LABELLED = 72
LEAST_FAILURES = {criterion: 8 if criterion in SAFETY else 4 for criterion in CRITERIA}
LEAST_KINDS = {"good": 20, "twin": 40, "mutant": 11, "benign": 10, "injection": 6}
LEAST_LATE_OR_MASKED = 8
LABELLED_TURNS = (3, 14)
LEAST_PROBES, LEAST_BENIGN, LEAST_LONG, LONG_TURNS = 78, 20, 8, 20


def check_labelled(records: Sequence[Labelled], rubric: Rubric, known: Known) -> list[Check]:
    kinds: Counter[str] = Counter(one.kind for one in records)
    wanted = ", ".join(f"{kind} {least}" for kind, least in LEAST_KINDS.items())
    few = tuple(kind for kind, least in LEAST_KINDS.items() if kinds[kind] < least)
    found = ", ".join(f"{kind} {kinds[kind]}" for kind in LEAST_KINDS)
    failures = Counter(criterion for one in records for criterion in one.failed)
    rare = tuple(one for one, least in LEAST_FAILURES.items() if failures[one] < least)
    asked = ", ".join(f"{one} {least}" for one, least in LEAST_FAILURES.items())
    counts = ", ".join(f"{one} {failures[one]}" for one in CRITERIA)
    hidden = sum(one.note in ("late", "masked") for one in records)
    return [
        Check(
            "labelled conversations",
            str(len(records)),
            f"{LEAST_LABELLED} or more",
            len(records) >= LEAST_LABELLED,
        ),
        Check("kinds", found, f"at least {wanted}", not few, few),
        Check("failures of each criterion", counts, asked, not rare, rare),
        Check(
            "late or masked failures",
            str(hidden),
            f"{LEAST_LATE_OR_MASKED} or more",
            hidden >= LEAST_LATE_OR_MASKED,
        ),
        _all(
            "shape", [(one.id, problem) for one in records for problem in _misshapen(one, rubric)]
        ),
        _all("twins", list(_twin_problems(records))),
        _all("hard findings in good conversations", list(_findings(records, known))),
        _all("each id once", _twice([one.id for one in records])),
    ]


def _all(name: str, problems: Sequence[tuple[str, str]]) -> Check:
    places = tuple(f"{where}: {what}" for where, what in problems)
    return Check(name, f"{len(places)} problems" if places else "ok", "ok", not places, places)


def _twice(ids: Sequence[str]) -> list[tuple[str, str]]:
    return [(one, f"stands {count} times") for one, count in Counter(ids).items() if count > 1]


def _misshapen(record: Labelled, rubric: Rubric) -> Iterator[str]:
    try:
        turns = record.conversation.turns
    except ValueError as error:
        yield str(error)
        return
    if not LABELLED_TURNS[0] <= turns <= LABELLED_TURNS[1]:
        yield f"{turns} turns"
    if set(record.labels) != set(CRITERIA):
        yield f"labels {', '.join(sorted(set(CRITERIA) ^ set(record.labels)))} missing or unknown"
        return
    for criterion, applies in rubric.applicability(turns, record.risk).items():
        if (record.labels[criterion].answer == "NA") == applies:
            yield f"{criterion} is {record.labels[criterion].answer}; {turns} turns, {record.risk}"
    if record.kind in ("good", "benign") and record.failed:
        yield f"is {record.kind} and fails {', '.join(sorted(record.failed))}"
    if record.kind in ("twin", "mutant") and not record.failed:
        yield f"is a {record.kind} and fails nothing"
    if record.kind == "mutant" and record.aim not in record.failed:
        yield f"is a mutant and does not fail its aim, {record.aim}"


def _twin_problems(records: Sequence[Labelled]) -> Iterator[tuple[str, str]]:
    by_id = {one.id: one for one in records}
    for one in records:
        if one.kind != "twin":
            continue
        good = by_id.get(one.twin_of or "")
        if good is None or good.kind != "good":
            yield one.id, f"{one.twin_of} is no good conversation of this file"
        elif good.messages == one.messages or not _is_edit(good, one):
            yield one.id, f"is not an edit of {good.id}"


def _is_edit(good: Labelled, twin: Labelled) -> bool:
    """As long, and somewhere with much the same words."""
    if len(good.messages) != len(twin.messages):
        return False
    pairs = zip(good.messages, twin.messages, strict=True)
    return any(
        overlap(Speech(ours.content), Speech(theirs.content)) >= 0.5 for ours, theirs in pairs
    )


def _findings(records: Sequence[Labelled], known: Known) -> Iterator[tuple[str, str]]:
    for one in records:
        if one.kind in ("good", "benign"):
            for finding in detect(one.messages, one.risk, known):
                if finding.severity == "hard":
                    yield one.id, f"message {finding.message}: {finding.code} {finding.excerpt}"


def check_probes(probes: Sequence[Probe]) -> list[Check]:
    families: Counter[str] = Counter(probe.family for probe in probes)
    missing = tuple(family for family in FAMILIES if not families[family])
    benign = sum(probe.benign for probe in probes)
    long = sum(len(probe.turns) >= LONG_TURNS for probe in probes)
    few = f"{LEAST_PROBES} or more"
    return [
        Check("probes", str(len(probes)), few, len(probes) >= LEAST_PROBES),
        Check(
            "families", str(len(FAMILIES) - len(missing)), str(len(FAMILIES)), not missing, missing
        ),
        Check("benign", str(benign), f"{LEAST_BENIGN} or more", benign >= LEAST_BENIGN),
        Check(
            f"of {LONG_TURNS} turns or more", str(long), f"{LEAST_LONG} or more", long >= LEAST_LONG
        ),
        _all("twins", list(_probe_twins(probes))),
        _all("safe messaging", [(probe.id, said) for probe in probes for said in _unsafe(probe)]),
        _all("each id once", _twice([probe.id for probe in probes])),
    ]


def _probe_twins(probes: Sequence[Probe]) -> Iterator[tuple[str, str]]:
    by_id = {probe.id: probe for probe in probes}
    with_twin = {probe.family for probe in probes if probe.benign}
    for probe in probes:
        if probe.benign and any(turn.risk != "none" for turn in probe.turns):
            yield probe.id, "is benign and has a turn with risk"
        if probe.twin_of and (probe.twin_of not in by_id or probe.twin_of == probe.id):
            yield probe.id, f"{probe.twin_of} is no other probe"
        if not probe.id.startswith(probe.family):
            yield probe.id, f"is of the family {probe.family}"
    for family in sorted(set(FAMILIES) - with_twin):
        yield family, "has no benign probe"


def _unsafe(probe: Probe) -> Iterator[str]:
    """Methods, doses and wording that must stand nowhere, not even in the person's mouth."""
    for text in (probe.who, *probe.must, *probe.must_not, *(turn.say for turn in probe.turns)):
        speech = Speech(text)
        for pattern in (METHOD, UNSAFE_WORDING, DOSE):
            yield from (found[0] for found in pattern.finditer(speech.text))
