import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import coach, edited

from coach_mlx.config import Config
from coach_mlx.console import Check
from coach_mlx.crisis import load_known
from coach_mlx.documents import read_document
from coach_mlx.lint import check_file
from coach_mlx.lint_conversations import check_conversations
from coach_mlx.probes import FAMILIES, PROBES, Probes
from coach_mlx.records import Conversation, Framework, Message
from coach_mlx.rubric import CRITERIA, RUBRIC, Labelled, load_rubric
from coach_mlx.taxonomy import TAXONOMY, load_taxonomy
from coach_mlx.workspace import PROJECT, Workspace, read_records

STARTERS = PROJECT / "reference" / "starter-conversations.jsonl"
LABELLED = PROJECT / "reference" / "calibration-conversations.jsonl"
DOCUMENTS = ("input-taxonomy", "personas", "rubric", "crisis-resources", "probes")
workspace = Workspace(PROJECT, Config())
known = load_known(Config(), workspace)
taxonomy = load_taxonomy(PROJECT / TAXONOMY)
rubric = load_rubric(PROJECT / RUBRIC)


@pytest.mark.parametrize(
    "file", [STARTERS, LABELLED, *(PROJECT / "config" / f"{name}.yaml" for name in DOCUMENTS)]
)
def test_what_the_project_ships_is_fit_to_use(file: Path) -> None:
    for check in check_file(file, workspace, known):
        assert check.ok, check


def test_the_starter_set_is_what_was_asked_for(starters: list[Conversation]) -> None:
    cards = [one.scenario for one in starters if one.scenario]
    assert len(cards) == len(starters) == 60
    assert Counter(card.topic for card in cards) == {
        "anxiety": 12,
        "relationships": 12,
        "life_transitions": 9,
        "self_worth": 9,
        "emotional_regulation": 9,
        "edge_cases": 9,
    }
    assert Counter(card.length for card in cards) == {"medium": 30, "extended": 30}
    assert all(8 <= card.turns <= 15 for card in cards if card.length == "medium")
    assert all(16 <= card.turns <= 30 for card in cards if card.length == "extended")
    leads = Counter(card.frameworks[0] for card in cards)
    assert all(leads[framework] >= 4 for framework in get_args(Framework))


def test_the_labelled_set_is_what_was_asked_for() -> None:
    records = read_records(LABELLED, Labelled)
    assert len(records) >= 72
    failures = Counter(criterion for one in records for criterion in one.failed)
    for criterion in CRITERIA:
        assert failures[criterion] >= (8 if criterion in ("CQ8", "CQ9") else 4)
    mutants = {one.id for one in records if one.kind == "mutant"}
    names = (
        "null echo sycophant hotline-spammer diagnoser dose-giver romantic lecturer repeater "
        "prompt-leaker ender"
    )
    assert mutants == {f"mutant-{name}" for name in names.split()}


def test_the_probes_are_what_was_asked_for() -> None:
    probes = read_document(PROJECT / PROBES, Probes)
    assert len(probes) >= 78
    assert len(FAMILIES) == 26
    assert all(sum(probe.family == family for probe in probes) >= 3 for family in FAMILIES)
    assert sum(probe.benign for probe in probes) >= 20
    assert sum(20 <= len(probe.turns) <= 30 for probe in probes) >= 8


def talk(*turns: tuple[str, str], **extra: Any) -> Conversation:
    messages = [
        {"role": role, "content": content}
        for turn in turns
        for role, content in zip(("user", "assistant"), turn, strict=True)
    ]
    return Conversation.model_validate({"messages": messages, **extra})


PLAIN = (
    "Ada left her plates again|Plates again, and no Ada near that kitchen tonight.",
    "my knee and the allotment|A bad knee in bean season, with the whole row waiting.",
    "Bo wants the flat sold|He wants it sold, and you still hear your mother on those stairs.",
    "first week driving nights|Nights already, and after twelve the city's a stranger.",
    "cy is in my old room now|Your old room has a lodger who happens to be nineteen and your son.",
    "choir without Marguerite|The altos closed ranks, and still there was a gap.",
)


def plain_talk(number: int) -> Conversation:
    said, answered = PLAIN[number].split("|")
    rest = " ".join(reversed(answered.rstrip(".").split()))
    words = said.split()
    tail = " ".join(
        f"{word}{number}"
        for word in ("there", "was", "a", "time", "when", "it", "went", "by", "itself")
    )
    return talk(
        (said, f"{answered} {tail}."),
        (f"yes {' '.join(reversed(words))}", f"{rest.capitalize()} {tail[::-1]}."),
        (f"{words[-1]} and that is all", f"All of it, then. {words[0]} {words[-1]}, {words[1]}."),
    )


def failing(conversations: list[Conversation]) -> set[str]:
    return {
        check.name
        for check in check_conversations(conversations, taxonomy, rubric, known)
        if not check.ok
    }


def test_a_plain_set_without_cards_passes() -> None:
    assert failing([plain_talk(number) for number in range(6)]) == set()


def changed(change: Callable[[list[Conversation]], None]) -> set[str]:
    conversations = [plain_talk(number) for number in range(6)]
    change(conversations)
    return failing(conversations)


def put(number: int, message: int, content: str) -> Callable[[list[Conversation]], None]:
    def change(conversations: list[Conversation]) -> None:
        messages = [one.model_dump() for one in conversations[number].messages]
        messages[message]["content"] = content
        conversations[number] = Conversation.model_validate({"messages": messages})

    return change


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (put(1, 3, "Why? Since when? Who else was there?"), "replies with three questions"),
        (put(1, 3, "Double the tablets tonight."), "hard findings (D1 to D25)"),
        (lambda c: c.append(c[0]), "near-duplicates"),
        (lambda c: c.append(c[0]), "same first words of the person"),
        (lambda c: c.append(c[0]), "same last words of the coach"),
        (lambda c: c.append(talk(("hi there", "hello"))), "turns"),
    ],
)
def test_one_fault_is_found_by_its_check(
    change: Callable[[list[Conversation]], None], name: str
) -> None:
    assert name in changed(change)


def test_long_replies_and_questions_everywhere_are_found() -> None:
    long = [
        talk(*[(f"word {n} {t}", f"{'long ' * 50}{n} {t}?") for t in range(3)]) for n in range(4)
    ]
    assert {
        "median reply, words",
        "replies without a question",
        "90th percentile in reply to 8 words or fewer",
    } <= failing(long)


def test_a_card_that_disagrees_or_is_not_in_the_taxonomy_is_found(
    starters: list[Conversation],
) -> None:
    card = starters[0].scenario
    assert card is not None
    lying = card.model_copy(update={"turns": card.turns + 1})
    odd = card.model_copy(update={"subtopic": "taxes"})
    for scenario, name in ((lying, "turns"), (odd, "subtopics in the taxonomy")):
        one = starters[0].model_copy(update={"scenario": scenario})
        assert name in failing([one])


def test_a_one_sided_set_is_found(starters: list[Conversation]) -> None:
    anxious = [one for one in starters if one.scenario and one.scenario.topic != "edge_cases"]
    assert {"topics", "subtopics present"} <= failing(anxious)


def lengthen(row: dict[str, Any]) -> None:
    """Four times as long, with the label that such a length asks for."""
    row["messages"] = row["messages"] * 4
    row["labels"]["CP3"]["answer"] = "YES"


def answer(row: dict[str, Any], criterion: str, value: str) -> None:
    if row["labels"][criterion]["answer"] != "NA":
        row["labels"][criterion]["answer"] = value


HARD = "hard findings in good conversations"


def carded(starters: list[Conversation], **facts: Any) -> list[Conversation]:
    """The starters with other cards."""
    return [
        one.model_copy(update={"scenario": one.scenario.model_copy(update=facts)})
        for one in starters
        if one.scenario
    ]


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"length": "extended"}, "lengths"),
        ({"style": "terse"}, "styles present"),
        ({"difficulty": "easy"}, "difficulties present"),
        ({"frameworks": ("cbt",)}, "leading frameworks"),
        ({"id": "same"}, "each card once"),
        ({"applicability": {"CQ9": True}}, "applicability on the cards"),
        ({"risk": "explicit"}, "hard findings (D1 to D25)"),
    ],
)
def test_cards_of_one_kind_are_found(
    facts: dict[str, Any], name: str, starters: list[Conversation]
) -> None:
    assert name in failing(carded(starters, **facts))
    assert name not in failing(starters)


def test_six_words_everywhere_and_warnings_everywhere_are_found() -> None:
    same = "and now the rest of the road is yours, as an AI I find that good"
    talks = [plain_talk(number) for number in range(6)]
    for number, one in enumerate(talks):
        messages = [message.model_dump() for message in one.messages]
        messages[3]["content"] += f" {same} {number}."
        talks[number] = Conversation.model_validate({"messages": messages})
    assert {"six words in more than 2 conversations", "replies with a warning D3"} <= failing(talks)


def test_a_third_of_the_words_is_a_near_duplicate() -> None:
    first, second = plain_talk(0), plain_talk(1)
    mixed = first.model_copy(update={"messages": (*first.messages[:2], *second.messages[2:])})
    assert "near-duplicates" in failing([first, second, mixed])
    assert "near-duplicates" not in failing([first, second])


def test_messages_without_words_are_no_shared_beginning() -> None:
    talks = [
        one.model_copy(update={"messages": (Message(role="user", content="…"), *one.messages[1:])})
        for one in (plain_talk(0), plain_talk(1))
    ]
    assert failing(talks) == set()


def labelled_checks(
    change: Callable[[list[dict[str, Any]]], None], tmp_path: Path
) -> dict[str, Check]:
    lines = LABELLED.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    change(rows)
    file = tmp_path / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {check.name: check for check in check_file(file, workspace, known)}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda rows: rows[0]["labels"]["CQ9"].update(answer="YES"), "shape"),
        (lambda rows: rows[0]["labels"]["CQ1"].update(answer="NO"), "shape"),
        (lambda rows: rows[0]["labels"].pop("CQ1"), "shape"),
        (lambda rows: rows[0]["messages"].pop(), "shape"),
        (lambda rows: rows[0].update(messages=rows[0]["messages"][:4]), "shape"),
        (lambda rows: lengthen(rows[0]), "shape"),
        (lambda rows: rows[1].update(messages=rows[0]["messages"]), "twins"),
        (lambda rows: rows[1].update(messages=rows[1]["messages"][:-2]), "twins"),
        (lambda rows: [one.update(content="Hm.") for one in rows[1]["messages"]], "twins"),
        (lambda rows: [row.update(note=None) for row in rows], "late or masked failures"),
        (lambda rows: rows.__delitem__(slice(70, None)), "labelled conversations"),
        (lambda rows: [answer(row, "CP3", "YES") for row in rows], "failures of each criterion"),
        (lambda rows: rows.pop(0), "twins"),
        (lambda rows: rows.append(rows[0]), "each id once"),
        (lambda rows: rows[0]["messages"][1].update(content="I am a doctor."), HARD),
        (lambda rows: rows.__delitem__(slice(40, None)), "kinds"),
    ],
)
def test_a_fault_in_the_labelled_set_is_found(
    change: Callable[[list[dict[str, Any]]], None], name: str, tmp_path: Path
) -> None:
    assert not labelled_checks(change, tmp_path)[name].ok


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda rows: rows.pop(), "probes"),
        (lambda rows: rows[0].update(twin_of="nobody-1"), "twins"),
        (lambda rows: rows[0].update(benign=True), "twins"),
        (lambda rows: rows.append(rows[0]), "each id once"),
        (lambda rows: rows[0].update(who="took two tablets"), "safe messaging"),
        (lambda rows: rows[0].update(who="her son committed suicide"), "safe messaging"),
        (lambda rows: rows[0]["must"].append("Name an overdose."), "safe messaging"),
        (lambda rows: rows[0].update(twin_of=rows[0]["id"]), "twins"),
        (lambda rows: rows[0].update(id="romance-9"), "twins"),
        (lambda rows: [row.update(benign=False) for row in rows], "benign"),
        (lambda rows: [row.update(benign=False) for row in rows], "twins"),
        (lambda rows: [row.update(turns=row["turns"][:10]) for row in rows], "of 20 turns or more"),
        (lambda rows: [row.update(family="romance") for row in rows], "families"),
    ],
)
def test_a_fault_in_the_probes_is_found(
    change: Callable[[list[dict[str, Any]]], None], name: str, tmp_path: Path
) -> None:
    file = edited(PROJECT / PROBES, change, tmp_path)
    found = {check.name: check for check in check_file(file, workspace, known)}
    assert not found[name].ok


def test_the_command_says_no_with_ten_and_shows_the_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    bad = talk(("hi", "I'm a licensed therapist."), ("ok", "Good."), ("bye", "Bye."))
    file.write_text(bad.model_dump_json(exclude_none=True) + "\n", encoding="utf-8")
    done = coach("lint-data", str(file))
    assert done.returncode == 10
    assert "conversation 1, message 2: D7" in done.stderr
    assert json.loads(done.stdout)["passed"] is False
    assert coach("lint-data", str(PROJECT / PROBES)).returncode == 0


@pytest.mark.parametrize(
    ("name", "text", "code", "said"),
    [
        ("a.jsonl", "{not json\n", 3, "a.jsonl:1: not JSON"),
        ("a.jsonl", "", 3, "holds no conversation"),
        ("a.jsonl", '{"messages": [{"role": "coach", "content": "x"}]}\n', 3, "a.jsonl:1"),
        ("a.yaml", "key: 1\n", 3, "none of the documents known here"),
        ("a.yaml", "- {id: x}\n", 2, "problems in"),
        ("none.jsonl", None, 3, "There is no file"),
        ("[red].jsonl", "{not json", 3, "[red].jsonl:1: not JSON"),
        ("a.YAML", "key: 1\n", 3, "none of the documents known here"),
        ("none.yaml", None, 2, "There is no"),
    ],
)
def test_what_cannot_be_read_says_so(
    name: str, text: str | None, code: int, said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text, encoding="utf-8")
    done = coach("lint-data", str(file))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
