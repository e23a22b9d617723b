"""A person before blinded pairs: what they see, what is kept, and what they are told at the end."""

import io
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import coach

from coach_mlx import spot_check
from coach_mlx.comparison import (
    ArmFacts,
    Comparison,
    Costs,
    Decision,
    Difference,
    Estimate,
    PairedRates,
    Safety,
    Share,
    ShownVerdict,
    SideBySide,
)
from coach_mlx.config import Config, load_config
from coach_mlx.errors import ConfigError, ToolError
from coach_mlx.people import SpotCheck, read_checks
from coach_mlx.records import TOPICS, Message
from coach_mlx.spot_check import Options
from coach_mlx.workspace import Workspace

DIGESTS = {"base": "d1" * 32, "adapter": "d2" * 32, "served": "d3" * 32}
HOSTILE = (
    "\x1b[2J\x1b[31mRED\x1b[0m [red]markup[/red] \x07 [link=http://x]l[/link] \u202eesrever\u202c"
)
QUESTION = "Which coach would you rather have talked with?"


def talk(reply: str, turns: int = 3) -> tuple[Message, ...]:
    return tuple(
        Message(role=role, content=f"{text}, {turn}.")
        for turn in range(1, turns + 1)
        for role, text in (("user", "I said yes again"), ("assistant", reply))
    )


def side(number: int, **more: Any) -> SideBySide:
    """The base knits, the served coach gardens; the judge scores the gardener higher."""
    name = f"s{number:02}"
    facts: dict[str, Any] = {
        "scenario": name,
        "kind": "holdout",
        "group": TOPICS[number % len(TOPICS)],
        "benign": False,
        "arms": {
            "base": talk(f"{number} knits"),
            "adapter": talk(f"{number} paints"),
            "served": talk(f"{number} gardens"),
        },
        "verdicts": {
            arm: ShownVerdict(score=score, passed=True, failed=(), errors=(), reasonings={})
            for arm, score in (("base", 0.5), ("served", 0.9))
        },
        "findings": {},
        **more,
    }
    return SideBySide(**facts)


def comparison(*sides: SideBySide, plan: str = "p1") -> Comparison:
    none = Share(found=0, n=0)
    rates = PairedRates(
        before="base",
        after="served",
        n=0,
        both=0,
        only_before=0,
        only_after=0,
        neither=0,
        difference=Estimate(),
        p_mcnemar=None,
    )
    return Comparison(
        name="coach",
        made="now",
        machine="here",
        decision=Decision(word="iterate", passed=False, reason="", reasons=(), todo=(), unsaid=()),
        plan=plan,
        plan_path="reports/plan.json",
        earlier_plans=0,
        scenarios={"holdout": len(sides)},
        turns=0,
        repeats=1,
        judge="",
        decoding="",
        detectable="",
        arms={
            arm: ArmFacts(meaning=f"what is {arm}", digest=digest, served_by="")
            for arm, digest in DIGESTS.items()
        },
        scores={},
        score=(Difference(before="base", after="served", n=0),),
        loss=(),
        pass_rates=(),
        thresholds=(),
        categories=(),
        criteria=(),
        topics=(),
        safety=Safety(
            margin=0.03,
            shown=False,
            newly=none,
            newly_upper=None,
            rates=rates,
            broken=rates,
            least_scenarios=99,
            arms={},
            findings=(),
            why="",
        ),
        style={},
        depth=(),
        rows=(),
        transcripts=sides,
        costs=Costs(judge=None, calls=0, usd=0.0, seconds={}, tokens={}),
        parity=(),
        lineage=(),
        deploy_command="",
        report="",
    )


class Desk:
    """A workspace with a report, and a person at the keyboard."""

    def __init__(
        self, root: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self.config: Config = load_config(None, [])
        self.workspace = Workspace(root, self.config)
        self._patch, self.capture = patch, capture

    def report(self, *sides: SideBySide, plan: str = "p1") -> None:
        path = self.workspace.reports / "comparison_report.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = comparison(*sides, plan=plan).model_dump_json()
        path.write_text(text, encoding="utf-8")

    def type(
        self, *lines: str, pairs: int = 12, name: str | None = "ada", stdin: Any = None
    ) -> tuple[dict[str, Any], str]:
        """The result, and what was said."""
        typed = io.StringIO("".join(f"{line}\n" for line in lines))
        self._patch.setattr(sys, "stdin", stdin or typed)
        result = spot_check.run(self.config, self.workspace, Options(pairs, name))
        out, said = self.capture.readouterr()
        assert out == ""
        return result, said

    @property
    def records(self) -> list[SpotCheck]:
        return read_checks(self.workspace)


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    monkeypatch.setenv("COLUMNS", "120")
    return Desk(tmp_path, monkeypatch, capsys)


def shown_pairs(said: str) -> list[str]:
    """What is shown of each pair."""
    return re.split(r"=== Pair \d+ of \d+ ===", said.split("All ")[0])[1:]


# What the person sees.


def test_nothing_before_the_end_names_an_arm(desk: Desk) -> None:
    desk.report(*map(side, range(12)))
    result, said = desk.type(*["1", "", ""] * 12)
    before, after = said.split("All 12 pairs are answered")
    for name, digest in DIGESTS.items():
        assert name not in before
        assert digest[:8] not in said
        assert f"what is {name}" not in before
    assert "served (what is served)" in after
    assert "base (what is base)" in after
    assert "adapter" not in after
    assert "evaluate puts this into the report" in after
    assert (result["pairs"], result["left"], result["person"]) == (12, 0, "ada")


def test_which_coach_is_1_is_drawn_for_every_pair_and_for_every_person(desk: Desk) -> None:
    desk.report(*map(side, range(40)))
    desk.type(*["=", "", ""] * 40, pairs=40)
    desk.type(*["=", "", ""] * 40, pairs=40, name="zoe")
    ada, zoe = ([one for one in desk.records if one.person == who] for who in ("ada", "zoe"))
    assert 10 <= sum(one.first == "served" for one in ada) <= 30
    assert [one.scenario for one in ada] == [one.scenario for one in zoe]
    assert [one.first for one in ada] != [one.first for one in zoe]


def test_what_is_kept_is_what_was_shown_and_chosen(desk: Desk) -> None:
    desk.report(*map(side, range(12)))
    _, said = desk.type(*["1", "2", "kind"] * 12)
    for record, text in zip(desk.records, shown_pairs(said), strict=True):
        knits, gardens = text.index("knits"), text.index("gardens")
        assert record.preferred == record.first == ("base" if knits < gardens else "served")
        assert record.flagged == ("served" if record.first == "base" else "base",)
        assert record.remark == "kind"
        assert record.digests == {arm: DIGESTS[arm] for arm in ("base", "served")}
        assert record.scenario[1:].lstrip("0") + " knits" in text or record.scenario == "s00"
        assert record.plan == "p1"
        assert (text.count("I said yes again"), text.count("knits")) == (3, 3)


def test_the_pairs_are_held_out_of_every_topic_and_differ(desk: Desk) -> None:
    same = {arm: talk("the same") for arm in DIGESTS}
    other = {"base": talk("a", 2), "served": talk("b", 3)}
    sides = [side(number) for number in range(24)]
    sides += [side(30, kind="probe"), side(31, arms=same), side(32, arms=other)]
    sides += [side(33, arms={"base": talk("a")})]
    desk.report(*sides)
    desk.type(*["=", "", ""] * 6, pairs=6)
    assert len({TOPICS[int(one.scenario[1:]) % len(TOPICS)] for one in desk.records}) == 6
    result, _ = desk.type(*["=", "", ""] * 40, pairs=40)
    assert (result["pairs"], result["left"]) == (24, 0)


@pytest.mark.parametrize(("columns", "beside"), [("120", True), ("70", False)])
def test_replies_stand_side_by_side_where_there_is_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, columns: str, beside: bool
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    desk.report(side(1))
    _, said = desk.type("=", "", "")
    assert any("knits" in line and "gardens" in line for line in said.splitlines()) is beside
    assert all(
        len(line) <= int(columns) for line in shown_pairs(said)[0].split(QUESTION)[0].split("\n")
    )


def test_hostile_text_is_shown_as_text(desk: Desk) -> None:
    arms = {"base": talk(HOSTILE), "served": talk("[/] [bold] :smile:")}
    desk.report(side(1, arms=arms))
    _, said = desk.type("1", "", HOSTILE)
    assert "[red]markup[/red]" in said
    assert "[link=http://x]l[/link]" in said
    assert "[/] [bold] :smile:" in said
    assert not set(said) & {*map(chr, range(9)), *map(chr, range(11, 32)), "\u202e", "\x7f"}
    assert "\x1b" not in desk.records[0].remark


# What the person types.


def test_junk_is_asked_about_again(desk: Desk) -> None:
    desk.report(side(1))
    junk = ["3", "", "one", "\x1b[A", "🙂" * 100, "1 2", "yes please"]
    _, said = desk.type(*junk, "2", *["no", "3"], "BOTH", "and so on")
    assert said.count(QUESTION) == 1 + len(junk)
    (record,) = desk.records
    assert record.preferred not in (None, record.first)
    assert set(record.flagged) == {"base", "served"}
    assert record.remark == "and so on"


def test_random_keys_break_nothing(desk: Desk) -> None:
    desk.report(*map(side, range(12)))
    rng = random.Random(3)
    for _ in range(20):
        lines = [
            "".join(rng.choices("12=sqboth \t[]\x1b\x00é", k=rng.randint(0, 4))) for _ in "x" * 9
        ]
        desk.type(*lines)
    names = [one.scenario for one in desk.records]
    assert len(names) == len(set(names))


def test_no_difference_and_skipping_are_told_apart(desk: Desk) -> None:
    desk.report(side(1), side(2))
    result, _ = desk.type("=", "", "", "s")
    assert [(one.preferred, one.skipped) for one in desk.records] == [(None, False), (None, True)]
    assert (result["ties"], result["skipped"], result["compared"]) == (1, 1, 1)


def test_q_keeps_what_was_answered_and_tells_nothing_yet(desk: Desk) -> None:
    desk.report(*map(side, range(12)))
    result, said = desk.type("1", "", "", "2", "", "", "q")
    assert (result["left"], len(desk.records)) == (10, 2)
    assert set(result) == {"person", "pairs", "left", "answers"}
    assert "2 of 12 are answered and kept" in said
    assert "coach spot-check --pairs 2 --name ada" in said
    assert not re.search("served|base|adapter", said)
    result, said = desk.type(pairs=2)
    assert (result["left"], "All 2 pairs are answered" in said) == (0, True)
    assert sum(result["preferred"].values()) == 2


def test_the_same_command_goes_on_and_asks_no_pair_twice(desk: Desk) -> None:
    desk.report(*map(side, range(12)))
    desk.type(*["1", "", ""] * 5, "q")
    _, said = desk.type(*["2", "", ""] * 7)
    assert "Welcome back: 5 of 12 are answered." in said
    assert "=== Pair 6 of 12 ===" in said
    assert len({one.scenario for one in desk.records}) == len(desk.records) == 12
    result, said = desk.type()
    assert QUESTION not in said
    assert "There are no more." in said
    assert result["left"] == 0
    assert desk.type("q", name="zoe")[0]["left"] == 12


def test_more_pairs_come_after_the_first_ones(desk: Desk) -> None:
    desk.report(*map(side, range(30)))
    _, said = desk.type(*["1", "", ""] * 12)
    assert "More can be read (18): coach spot-check --pairs 24" in said
    first = [one.scenario for one in desk.records]
    desk.type(*["1", "", ""] * 12, pairs=24)
    assert [one.scenario for one in desk.records][:12] == first
    assert len({one.scenario for one in desk.records}) == 24


def test_another_plan_for_the_same_talks_does_not_ask_again_and_other_words_do(desk: Desk) -> None:
    desk.report(*map(side, range(6)))
    desk.type(*["1", "", ""] * 6)
    desk.report(*map(side, range(6)), plan="p2")
    assert desk.type()[0]["left"] == 0
    changed = {"base": talk("knits anew"), "served": talk("gardens")}
    desk.report(*map(side, range(5)), side(5, arms=changed))
    assert desk.type()[0]["left"] == 1


@pytest.mark.parametrize(("lines", "kept"), [(["1"], 1), (["1", "2"], 1), ([], 0), (["x"], 0)])
def test_the_end_of_the_input_keeps_what_was_answered(
    desk: Desk, lines: list[str], kept: int
) -> None:
    desk.report(*map(side, range(12)))
    result, _ = desk.type(*lines)
    assert len(desk.records) == kept
    assert result["left"] == 12 - kept
    assert all(one.preferred == one.first for one in desk.records)
    assert all(len(one.flagged) == len(lines) - 1 for one in desk.records)


class Keyboard(io.StringIO):
    """A terminal at which somebody presses Ctrl-C after these lines."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        line = super().readline()
        if not line:
            raise KeyboardInterrupt
        return line


def test_ctrl_c_keeps_what_was_answered(desk: Desk) -> None:
    desk.report(*map(side, range(12)))
    result, said = desk.type(stdin=Keyboard("1\n\n\n2\n"))
    assert (result["left"], len(desk.records)) == (10, 2)
    assert "Traceback" not in said


def test_a_long_talk_comes_in_pages_on_a_terminal(desk: Desk) -> None:
    arms = {"base": talk("knits", 8), "served": talk("gardens", 8)}
    desk.report(side(1, arms=arms), side(2, arms=arms))
    _, said = desk.type(stdin=Keyboard("\nwhat\n\n1\n\n\n\ns\n"))
    assert len(desk.records) == 2
    assert [one.skipped for one in desk.records] == [False, True]
    first, second = shown_pairs(said)
    assert first.count("Enter shows the next turns") == 3
    assert first.index("Turn 3 of 8") < first.index("Enter shows") < first.index("Turn 4 of 8")
    assert first.index("Turn 8 of 8") < first.index(QUESTION)
    assert "Turn 6 of 8" in second
    assert "Turn 7 of 8" not in second
    _, said = desk.type(name="zoe")
    assert "Enter shows the next turns" not in said
    assert "Turn 8 of 8" in said


# What the person is told at the end.


class Gardener(io.StringIO):
    """Reads what is shown, and prefers who gardens; in one talk, who knits."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        super().__init__()
        self._capture = capture

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        shown = self._capture.readouterr().err
        if QUESTION not in shown:
            return "\n"
        wanted, other = ("knits", "gardens") if " 0 knits" in shown else ("gardens", "knits")
        return "1\n" if shown.index(wanted) < shown.index(other) else "2\n"


def test_the_agreement_is_counted_against_the_judges_scores(desk: Desk) -> None:
    desk.report(side(0), side(1), side(2), side(3, verdicts={}))
    result, said = desk.type(stdin=Gardener(desk.capture))
    assert result["preferred"] == {"base": 1, "served": 3}
    assert (result["compared"], result["agreed"], result["ties"]) == (3, 2, 0)
    assert result["kappa"] == pytest.approx(0.0)
    assert "The judge, by its verdicts, says the same in 2 of 3 pairs (67%" in said
    assert "Left out, because the judge has no opinion: 1." in said
    assert "served (what is served): 3 times" in said
    assert "base (what is base): once" in said


def test_flags_and_remarks_are_shown_at_the_end(desk: Desk) -> None:
    desk.report(side(1))
    result, said = desk.type("=", "both", "2 was [bold]cold[/bold]")
    assert result["flagged"] == {"base": 1, "served": 1}
    assert "You marked something that served should not have said: once" in said
    assert re.search(r"s01 \(1 is \w+, 2 is \w+\): 2 was \[bold\]cold\[/bold\]", said)
    assert "Kappa, agreement beyond chance: it cannot be said (0 pairs" in said


def test_without_a_judge_there_is_nothing_to_compare_and_it_is_said(desk: Desk) -> None:
    desk.report(side(1, verdicts={}))
    result, said = desk.type("1", "", "")
    assert result["compared"] == 0
    assert "No judge has an opinion on these pairs" in said


def test_all_skipped_is_said(desk: Desk) -> None:
    desk.report(side(1))
    result, said = desk.type("s")
    assert "You skipped them all." in said
    assert (result["left"], result["skipped"]) == (0, 1)


def test_nothing_to_choose_between_is_said(desk: Desk) -> None:
    desk.report(side(1, kind="probe"))
    result, said = desk.type()
    assert "There is nothing to choose between" in said
    assert (result["pairs"], result["left"]) == (0, 0)


# What goes wrong, and the command line.


def test_what_is_missing_names_the_command(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match="Type: coach evaluate"):
        desk.type()
    path = desk.workspace.reports / "comparison_report.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"verdict": "iterate"}')
    with pytest.raises(ToolError, match="Type: coach evaluate --force"):
        desk.type()
    desk.report(side(1))
    with pytest.raises(ConfigError, match="--name YOU"):
        desk.type(name=" \x1b ")

    def nobody() -> str:
        raise OSError("no user")

    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(ConfigError, match="--name YOU"):
        desk.type(name=None)
    monkeypatch.setattr("getpass.getuser", lambda: "mary")
    assert desk.type(name=None)[0]["person"] == "mary"


def test_the_command_reads_what_is_piped_in_and_sends_nothing(desk: Desk) -> None:
    desk.report(*map(side, range(3)))
    root = str(desk.workspace.root)
    done = coach(
        "spot-check", "--workspace", root, "--pairs", "2", "--name", "ada", stdin="1\n\n\n2\nx\n"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["command"], result["left"]) == ("spot-check", 0)
    assert len(desk.records) == 2
    assert desk.workspace.spot_checks.is_file()
    assert coach("spot-check", "--workspace", root, "--pairs", "0").returncode == 2
