"""`coach spot-check`: a person reads pairs of talks, blinded, and says which coach they preferred.

Reads: reports/NAME/comparison_report.json. Writes: output/evaluation/spot_checks.jsonl, each answer
at once, so that the same command goes on where it was left; `coach evaluate` reads it. Nothing is
sent anywhere. Which coach is 1 and which is 2 is drawn anew for every pair, and told when all pairs
are answered: what came first must not colour the rest.
Fails: ToolError where there is no report. Ctrl-C, Ctrl-D and q stop, and keep what was answered.
"""

import getpass
import io
import random
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import ValidationError

from coach_mlx import console
from coach_mlx.comparison import Agreement, Comparison, Estimate, Share, SideBySide
from coach_mlx.config import Config
from coach_mlx.errors import ConfigError, ToolError
from coach_mlx.people import (
    SpotCheck,
    agreements,
    counting,
    keep,
    read_checks,
    talk_ids,
)
from coach_mlx.records import Message
from coach_mlx.talk import INVISIBLE
from coach_mlx.workspace import Workspace

WIDE = 100
"""Columns from which on two replies stand side by side."""
PAGE_TURNS = 3
WELCOME = """\
Two coaches answered the same words of a person. Read both, and say which one you would rather have
talked with. Which is which is drawn anew for every pair, and told when all are answered.
The person's words stay the same whatever is answered, so a reply may not fit the message after it:
hold that against neither.
Some talks are heavy. Skip one (s) or stop (q) whenever you like; what you answered is kept, and the
same command goes on. For people to talk to: findahelpline.com"""
PREFER = (
    "Which coach would you rather have talked with? 1, 2, = (no difference), s (skip), q (stop)"
)
FLAG = "Anything either of them should not have said? Type 1, 2, both, or Enter for no"
REMARK = "A remark, or Enter:"
MORE = "Enter shows the next turns; s skips this pair, q stops"


class Options(NamedTuple):
    pairs: int = 12
    name: str | None = None


USUAL = Options()


class Pair(NamedTuple):
    """Two arms' talks over the same words; the first is shown as 1."""

    side: SideBySide
    order: tuple[str, str]


class Sitting(NamedTuple):
    """One person before these pairs."""

    comparison: Comparison
    person: str
    before: str
    after: str
    pairs: tuple[Pair, ...]
    available: int
    """Pairs that could be asked about, all together."""

    @property
    def digests(self) -> dict[str, str]:
        arms = self.comparison.arms
        return {arm: arms[arm].digest for arm in (self.before, self.after)}

    def answered(self, records: Sequence[SpotCheck]) -> list[SpotCheck]:
        """Of the person's answers, those on these pairs."""
        sides = [one.side for one in self.pairs]
        theirs = [one for one in records if one.person == self.person]
        names = {one.scenario for one in sides}
        return [one for one in counting(theirs, self.digests, sides) if one.scenario in names]


def run(config: Config, workspace: Workspace, options: Options = USUAL) -> dict[str, Any]:
    sitting = _sit_down(config, workspace, options)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    done = {one.scenario for one in sitting.answered(read_checks(workspace))}
    left = [one for one in sitting.pairs if one.side.scenario not in done]
    if left:
        _welcome(sitting, workspace, len(done))
        _ask_all(sitting, workspace, left)
    records = sitting.answered(read_checks(workspace))
    result = {
        "person": sitting.person,
        "pairs": len(sitting.pairs),
        "left": len(sitting.pairs) - len(records),
        "answers": workspace.shown(workspace.spot_checks),
    }
    if result["left"]:
        _say_left(len(records), len(sitting.pairs), options)
        return result
    return {**result, **_show_result(sitting, records)}


# --- what is asked about


def _sit_down(config: Config, workspace: Workspace, options: Options) -> Sitting:
    comparison = _read(workspace)
    names = list(comparison.arms)
    before, after = names[0], names[-1]
    person = _name(options)
    sides = _order(comparison, before, after, config.seed)
    pairs = tuple(
        Pair(one, _places(before, after, [config.seed, comparison.plan, person, one.scenario]))
        for one in sides[: options.pairs]
    )
    return Sitting(comparison, person, before, after, pairs, len(sides))


def _read(workspace: Workspace) -> Comparison:
    path = workspace.reports / "comparison_report.json"
    if not path.is_file():
        raise ToolError(f"There is no {path} yet. Type: coach evaluate")
    try:
        return Comparison.model_validate_json(path.read_bytes())
    except ValidationError:
        raise ToolError(
            f"{path} is not as this version writes it. Type: coach evaluate --force"
        ) from None


def _name(options: Options) -> str:
    """Whose answers these are. Raises: ConfigError where nobody can say."""
    name = options.name
    if name is None:
        try:
            name = getpass.getuser()
        except (OSError, KeyError, ImportError):
            name = ""
    name = plain(name).strip()
    if not name:
        raise ConfigError("Say whose answers these are. Type: coach spot-check --name YOU")
    return name


def _order(comparison: Comparison, before: str, after: str, seed: int) -> list[SideBySide]:
    """The held-out scenarios in which the two say different things, every topic in its turn."""
    rng = random.Random(f"{seed}:{comparison.plan}")
    topics: dict[str, list[SideBySide]] = {}
    for one in sorted(comparison.transcripts, key=lambda one: one.scenario):
        if one.kind == "holdout" and _differ(one, before, after):
            topics.setdefault(one.group, []).append(one)
    decks = list(topics.values())
    rng.shuffle(decks)
    for deck in decks:
        rng.shuffle(deck)
    deepest = max(map(len, decks), default=0)
    return [deck[place] for place in range(deepest) for deck in decks if place < len(deck)]


def _differ(one: SideBySide, before: str, after: str) -> bool:
    if not {before, after} <= one.arms.keys():
        return False
    talks = [one.arms[before], one.arms[after]]
    said, replies = ([_of(talk, role) for talk in talks] for role in ("user", "assistant"))
    return said[0] == said[1] and replies[0] != replies[1]


def _of(talk: Sequence[Message], role: str) -> list[str]:
    return [one.content for one in talk if one.role == role]


def _places(before: str, after: str, facts: Sequence[object]) -> tuple[str, str]:
    """Which is shown as 1, and which as 2."""
    drawn = random.Random(":".join(map(str, facts))).random() < 0.5
    return (before, after) if drawn else (after, before)


# --- what is shown


def plain(text: str) -> str:
    """Without codes that a terminal would obey, and without what nobody can see."""
    return text.translate(console.CONTROLS).translate(INVISIBLE)


class Turn(NamedTuple):
    """What the person said, and what each coach answered; side by side where there is room."""

    heading: str
    said: str
    replies: tuple[str, str]

    def __rich_console__(self, screen: Any, options: Any) -> Iterator[Any]:
        from rich.padding import Padding
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        yield Text(self.heading, style="bold")
        yield Padding(Text(plain(self.said)), (0, 2))
        panels = [
            Panel(Text(plain(reply)), title=Text(f"Coach {place}"), title_align="left")
            for place, reply in enumerate(self.replies, start=1)
        ]
        if options.max_width < WIDE:
            yield from panels
            return
        grid = Table.grid(expand=True)
        grid.add_column(ratio=1)
        grid.add_column(ratio=1)
        grid.add_row(*panels)
        yield grid


def _turns(pair: Pair) -> list[Turn]:
    one, other = (pair.side.arms[arm] for arm in pair.order)
    rows = list(zip(_of(one, "user"), _of(one, "assistant"), _of(other, "assistant"), strict=True))
    return [
        Turn(f"Turn {number} of {len(rows)}: the person", said, (first, second))
        for number, (said, first, second) in enumerate(rows, start=1)
    ]


def _welcome(sitting: Sitting, workspace: Workspace, done: int) -> None:
    console.say(WELCOME)
    path = workspace.shown(workspace.spot_checks)
    console.say(
        f"Nothing leaves this machine. Your answers are kept as {sitting.person}'s in {path}."
    )
    if done:
        console.say(f"Welcome back: {done} of {len(sitting.pairs)} are answered.")


# --- what is asked


def _ask_all(sitting: Sitting, workspace: Workspace, left: Sequence[Pair]) -> None:
    """Until the person has had enough; every answer is on disk before the next pair is shown."""
    total = len(sitting.pairs)
    try:
        for number, pair in enumerate(left, start=total - len(left) + 1):
            console.say(f"\n=== Pair {number} of {total} ===")
            if not _ask_about(pair, sitting, workspace):
                break
    except (EOFError, KeyboardInterrupt):
        console.say("")


def _ask_about(pair: Pair, sitting: Sitting, workspace: Workspace) -> bool:
    """Whether to go on. Raises: EOFError or KeyboardInterrupt where nothing was answered yet."""
    choice = "s" if _read_through(pair) == "s" else _choice(PREFER, ("1", "2", "=", "s"))
    flag, remark, go_on = "", "", True
    if choice != "s":
        try:
            flag = _choice(FLAG, ("", "1", "2", "both"))
            remark = _ask(REMARK)
        except (EOFError, KeyboardInterrupt):
            console.say("")
            go_on = False
    keep(workspace, _record(pair, sitting, choice, flag, remark))
    return go_on


def _record(pair: Pair, sitting: Sitting, choice: str, flag: str, remark: str) -> SpotCheck:
    one, other = pair.order
    return SpotCheck(
        plan=sitting.comparison.plan,
        scenario=pair.side.scenario,
        digests=sitting.digests,
        talks=talk_ids(pair.side, (sitting.before, sitting.after)),
        person=sitting.person,
        first=one,
        preferred={"1": one, "2": other}.get(choice),
        skipped=choice == "s",
        flagged={"1": (one,), "2": (other,), "both": (one, other)}.get(flag, ()),
        remark=remark,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _read_through(pair: Pair) -> str:
    """Show the talk, on a terminal a few turns at a time; `s` where the person has seen enough."""
    turns = _turns(pair)
    paged = sys.stdin.isatty()
    for place, turn in enumerate(turns):
        if paged and place and place % PAGE_TURNS == 0 and _choice(MORE, ("", "s")) == "s":
            return "s"
        console.show(turn)
    return ""


def _choice(question: str, known: Sequence[str]) -> str:
    """One of the known answers, asked for until it comes."""
    while True:
        said = _ask(question).casefold()
        if said in known:
            return said
        console.say(f"That was not one of the answers: {said[:40]}" if said else "")


def _ask(question: str) -> str:
    """What the person types. Raises: EOFError at the end, and for q."""
    console.say(question)
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    line = sys.stdin.readline()
    said = unicodedata.normalize("NFC", plain(line)).strip()
    if not line or said.casefold() == "q":
        raise EOFError
    return said


# --- what came of it


def _say_left(done: int, pairs: int, options: Options) -> None:
    named = f" --name {options.name}" if options.name else ""
    console.say(
        f"{done} of {pairs} are answered and kept; the same command goes on. What you chose is "
        "shown when all are answered."
    )
    if done:
        console.say(f"To end it here: coach spot-check --pairs {done}{named}")


def _show_result(sitting: Sitting, records: Sequence[SpotCheck]) -> dict[str, Any]:
    """The blindfold comes off."""
    if not sitting.available:
        console.say(
            "There is nothing to choose between: in no held-out scenario do the two say different "
            "things."
        )
        return {}
    _say_done(sitting)
    sides = [one.side for one in sitting.pairs]
    found = agreements(records, sides, sitting.before, sitting.after, sitting.digests)
    arms = (sitting.before, sitting.after)
    flagged = {arm: sum(arm in one.flagged for one in records) for arm in arms}
    skipped = sum(one.skipped for one in records)
    if not found:
        console.say("You skipped them all.")
    for agreement in found:
        _say_choices(sitting, agreement, skipped, flagged)
        _say_agreement(agreement)
    console.say("coach evaluate puts this into the report.")
    return {"skipped": skipped, "flagged": flagged, **_numbers(sitting, found)}


def _say_done(sitting: Sitting) -> None:
    pairs, more = len(sitting.pairs), sitting.available - len(sitting.pairs)
    console.say(f"\nAll {pairs} pairs are answered. Thank you.")
    if more:
        wanted = min(2 * pairs, sitting.available)
        console.say(f"More can be read ({more}): coach spot-check --pairs {wanted}")
    else:
        console.say("There are no more.")


def _say_choices(sitting: Sitting, found: Agreement, skipped: int, flagged: dict[str, int]) -> None:
    arms = sitting.comparison.arms
    console.say("You would rather have talked with")
    counts = {sitting.before: found.preferred_before, sitting.after: found.preferred_after}
    for arm, count in counts.items():
        console.say(f"  {arm} ({arms[arm].meaning}): {_times(count)}")
    console.say(f"  either, no difference: {_times(found.ties)}; skipped: {_times(skipped)}")
    for arm, count in flagged.items():
        if count:
            console.say(f"You marked something that {arm} should not have said: {_times(count)}")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _say_agreement(found: Agreement) -> None:
    if found.compared:
        console.say(f"The judge, by its verdicts, says the same in {_shown(found.agreed)}.")
        console.say(f"Kappa, agreement beyond chance: {_kappa_shown(found.kappa)}.")
        if found.compared < found.pairs:
            left_out = found.pairs - found.compared
            console.say(f"Left out, because the judge has no opinion: {left_out}.")
    else:
        console.say("No judge has an opinion on these pairs, so there is nothing to compare.")
    if found.remarks:
        console.say("Your remarks, with what 1 and 2 stood for:")
    for remark in found.remarks:
        console.say(f"  {remark}")


def _shown(share: Share) -> str:
    return (
        f"{share.found} of {share.n} pairs ({share.share:.0%}; 95 % interval {share.low:.0%} to "
        f"{share.high:.0%})"
    )


def _kappa_shown(kappa: Estimate) -> str:
    if kappa.value is None:
        return f"it cannot be said ({kappa.why})"
    return f"{kappa.value:.2f} ({kappa.low:.2f} to {kappa.high:.2f}; {kappa.why})"


def _numbers(sitting: Sitting, found: Sequence[Agreement]) -> dict[str, Any]:
    if not found:
        return {}
    (one,) = found
    return {
        "preferred": {sitting.before: one.preferred_before, sitting.after: one.preferred_after},
        "ties": one.ties,
        "compared": one.compared,
        "agreed": one.agreed.found,
        "kappa": one.kappa.value,
    }
