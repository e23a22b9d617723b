"""Free talks: a scripted client plays the person, and a coach out of a file answers."""

import json
from pathlib import Path
from typing import Any

import pytest
from coaches import world

from coach_mlx import cli, simulated, supervisor
from coach_mlx.arcs import draw_arc
from coach_mlx.config import Config
from coach_mlx.records import Conversation
from coach_mlx.replay import read_replies
from coach_mlx.workspace import PROJECT, Workspace

CLIENT = [
    "I keep putting the letter back into the drawer, and then I lie awake over it.",
    "My sister rang about the party and I said yes before I had thought at all.",
    "Work was loud today; nobody asked me anything, and I was glad of it somehow.",
    "I went for a walk without the phone. It was strange, and not bad.",
    "It is the evenings. The kitchen is so quiet once the news is over.",
    "I wrote half of it down as you said. The other half is harder to look at.",
]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a worker, which a test could not look into."""
    monkeypatch.setenv(supervisor.LIFELINE, "-1:")


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return f"scripted/{path}"


@pytest.fixture
def place(tmp_path: Path, starters: list[Conversation]) -> tuple[Config, Workspace, list[str]]:
    """A holdout with its cards, two coaches, and a client."""
    cards = [one for one in starters if one.scenario][:6]
    source = tmp_path / "written.jsonl"
    source.write_text("".join(one.model_dump_json() + "\n" for one in cards))
    good = lines(tmp_path / "good.jsonl", ["What weighs most in that?", "That took some doing."])
    other = lines(tmp_path / "other.jsonl", ["You must try harder.", "Do as I say now."])
    client = lines(tmp_path / "client.jsonl", CLIENT)
    one = world(
        tmp_path,
        other,
        good,
        None,
        f"evaluate.client={client}",
        "evaluate.talks=2",
        "evaluate.probes=0",
        f"dataset.conversations={source}",
    )
    kept = [each.with_system("Be kind.").training_line() + "\n" for each in cards]
    one[1].holdout.write_text("".join(kept))
    return one


def test_both_arms_talk_with_the_same_person(place: tuple[Config, Workspace, list[str]]) -> None:
    _, workspace, options = place
    assert cli._run(["evaluate", *options]) == 10
    found = read_replies(workspace.evaluation / "simulated.jsonl")
    scripts = {(one.arm, one.script) for one in found.values()}
    assert {arm for arm, _ in scripts} == {"base", "served"}
    assert all(name.startswith("free-") for _, name in scripts)
    report = json.loads((workspace.reports / "comparison_report.json").read_text())
    assert report["simulated"] is None or report["simulated"]["n"] == 0  # nobody judged
    assert report["scenarios"]["holdout"] == 6
    assert not any(one["kind"] == "simulated" for one in report["safety"]["findings"])


def test_a_killed_talk_goes_on_and_generates_nothing_twice(
    place: tuple[Config, Workspace, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, workspace, options = place
    assert cli._run(["evaluate", *options]) == 10
    path = workspace.evaluation / "simulated.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:3]) + whole[3][:40])
    asked: list[Any] = []
    real = simulated.append_reply

    def watched(*args: Any, **facts: Any) -> Any:
        asked.append(facts)
        return real(*args, **facts)

    monkeypatch.setattr(simulated, "append_reply", watched)
    assert cli._run(["evaluate", *options, "--force"]) == 10
    again = path.read_text().splitlines(keepends=True)
    assert again[:3] == whole[:3]
    assert len(asked) == len(again) - 3

    def bare(text: list[str]) -> list[str]:
        return sorted(json.dumps({**json.loads(line), "seconds": 0}) for line in text)

    assert bare(again) == bare(whole)


def test_a_quote_counts_the_clients_too(
    place: tuple[Config, Workspace, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, options = place
    judge = ["--judge", f"scripted/{PROJECT / 'tests' / 'scripted_judge.jsonl'}"]
    assert cli._run(["evaluate", *options, *judge, "--quote"]) == 0
    quoted = json.loads(capsys.readouterr().out)
    assert quoted["clients"]["conversations"] == 4
    assert quoted["judging"]["conversations"] == 12


def test_a_talk_has_the_turns_of_its_card(place: tuple[Config, Workspace, list[str]]) -> None:
    from coach_mlx import arms
    from coach_mlx.material import read_material

    config, workspace, _ = place
    material = read_material(config, workspace)
    assert material.free is not None
    source = arms.find_arms(config, workspace, material.decoding)[1]
    with source.open(100) as arm:
        simulated.talk_freely(material.free, "served", source.digest, arm, config, workspace)
    for told in material.free.told("served", source.digest):
        card = next(one for one in material.free.cards if simulated._name(one) == told.script.id)
        assert len(told.replies) == draw_arc(card).turns
