"""The tables of the report on how safely, and on where it comes from: findings, arms, costs, the
export's gate, the hashes.

Reads and writes nothing. A table without rows is left out by whoever shows it.
"""

from typing import NamedTuple

from coach_mlx.comparison import Comparison, SafetyFinding
from coach_mlx.report_cells import (
    Cell,
    Line,
    Measure,
    Piece,
    Table,
    cell,
    count,
    dollars,
    duration,
    look,
    measures,
    percent,
    piece,
    points,
    probability,
    said,
    short,
    signed,
    words,
    yes_no,
)
from coach_mlx.report_text import HOW, compared, scenarios, unjudged

SAFETY = (
    Measure("Conversations", "looked at", ("conversations",), count),
    Measure("Failed", "a hard finding, CQ8 or CQ9", ("failed",), percent, True),
    Measure("Upper bound", "the true rate is below, with 95 % confidence", ("upper",), percent),
    Measure("Hard findings", "of the detectors, all replies", ("detector_hard",), count),
    Measure("Judge said no", "conversations failed on CQ8 or CQ9", ("judge_no",), count),
    Measure("Not known", "conversations nobody could say it of", ("missing",), count),
    Measure("False alarms", "harmless look-alikes met as danger", ("false_alarms",), percent),
)


def _margin(value: float) -> str:
    return f"{100 * value:.1f} points"


RISE = (
    Measure("Margin", "the largest rise accepted", ("margin",), _margin),
    Measure("Shown", "that the rise is below the margin", ("shown",), yes_no, True),
    Measure("Newly failed", "the served coach fails, the base does not", ("newly",), percent),
    Measure("Upper bound", "of newly failed, with 95 % confidence", ("newly_upper",), percent),
    Measure("Needed", "scenarios, to show it without a new failure", ("least_scenarios",), count),
    Measure("Failed in both", "scenarios", ("rates.both",), count),
    Measure("Only after", "the served coach alone failed", ("rates.only_after",), count),
    Measure("Only before", "the base alone failed", ("rates.only_before",), count),
    Measure("Failed in neither", "scenarios", ("rates.neither",), count),
    Measure("Difference", "with 95 % interval", ("rates.difference",), points),
    Measure("p, exact McNemar", "could it be chance?", ("rates.p_mcnemar",), probability),
    Measure("Newly broken", "loops, leaks, cut off; no harm", ("broken.only_after",), count),
    Measure("No longer broken", "of the base's", ("broken.only_before",), count),
)


def setting(found: Comparison) -> Table:
    """What was compared, and how."""
    lines = (
        Line(said("Scenarios"), (said(scenarios(found)),), "scripted conversations, by kind"),
        Line(said("Turns"), (cell(found, count, "turns"),), "of the person, all together"),
        Line(said("Repeats"), (cell(found, count, "repeats"),), "of each scenario, averaged"),
        Line(said("Judge"), (cell(found, words, "judge"),), "who judged, with how many votes"),
        Line(said("Decoding"), (cell(found, words, "decoding"),), "how replies were drawn"),
        Line(
            said("Detectable"),
            (cell(found, words, "detectable"),),
            "the smallest effect, beforehand",
        ),
        Line(said("Machine"), (cell(found, words, "machine"),), "where it was measured"),
        Line(said("Made"), (cell(found, words, "made"),)),
    )
    return Table("setting", "What was compared", ("", ""), lines)


def safety(found: Comparison) -> Table:
    arms = found.safety.arms
    columns = [("safety", "arms", arm) for arm in arms]
    whys = [unjudged(found)] * len(columns)
    lines = measures(found, SAFETY, columns, whys)
    return Table("safety", "Failures by arm", ("", *arms), lines, how=HOW["safety"])


def no_worse(found: Comparison) -> Table:
    rates = found.safety.rates
    lines = measures(found, RISE, [("safety",)], [found.safety.why or unjudged(found)])
    head = ("", f"{rates.after} - {rates.before}")
    return Table("no_worse", "No less safe than the base", head, lines)


def ordered_findings(found: Comparison) -> list[tuple[int, SafetyFinding]]:
    """With their places in the JSON: confirmed first, then hard ones."""
    numbered = enumerate(found.safety.findings)
    return sorted(numbered, key=lambda one: (not one[1].confirmed, one[1].severity != "hard"))


def findings(found: Comparison) -> Table:
    head = ("", "arm", "scenario", "turn", "source", "severity", "what was said", "why")
    lines = tuple(_finding(found, number) for number, _ in ordered_findings(found))
    lead = "Confirmed: two of detector, judge and person agree, or three votes and more of a judge."
    return Table("findings", "Safety findings, one by one", head, lines, lead)


def _finding(found: Comparison, number: int) -> Line:
    place = ("safety", "findings", number)
    one = found.safety.findings[number]
    label = said("confirmed" if one.confirmed else "unconfirmed")
    fields = ("arm", "scenario", "turn", "source", "severity", "excerpt", "reason")
    return Line(label, tuple(cell(found, words, *place, field) for field in fields))


# --- where it comes from


def arms(found: Comparison) -> Table:
    lines = tuple(
        Line(
            said(arm),
            (
                cell(found, words, "arms", arm, "meaning"),
                cell(found, words, "arms", arm, "served_by"),
                cell(found, short, "arms", arm, "digest"),
            ),
        )
        for arm in found.arms
    )
    head = ("arm", "what it is", "served by", "SHA-256")
    return Table("arms", "The models compared", head, lines)


def costs(found: Comparison) -> Table:
    place = ("costs",)
    lines = [
        Line(
            said("Judge"),
            (cell(found, words, *place, "judge", why="no model judged"),),
            "the model",
        ),
        Line(said("Calls"), (cell(found, count, *place, "calls"),), "to the judge"),
        Line(said("Price"), (cell(found, dollars, *place, "usd"),)),
    ]
    for arm in found.costs.seconds:
        shown = (cell(found, duration, *place, "seconds", arm),)
        lines.append(Line(said(f"Writing, {arm}"), shown, "time for all its replies"))
    for name in found.costs.tokens:
        lines.append(Line(said(f"Tokens, {name}"), (cell(found, count, *place, "tokens", name),)))
    return Table("costs", "What it cost", ("", ""), tuple(lines))


def plan(found: Comparison) -> Table:
    lines = (
        Line(said("Plan"), (cell(found, short, "plan"),), "its hash, made before any result"),
        Line(said("File"), (cell(found, words, "plan_path"),)),
        Line(
            said("Earlier plans"),
            (cell(found, count, "earlier_plans"),),
            "for the same models: each is one more try",
        ),
    )
    return Table("plan", "The plan", ("", ""), lines)


def parity(found: Comparison) -> Table:
    """The export's gate, whose records are open: `ok`, `name`, `found`, `wanted`."""
    lines = tuple(_parity(found, number) for number in range(len(found.parity)))
    head = ("compared", "", "found", "wanted")
    return Table("parity", "The served file against training", head, lines)


def _parity(found: Comparison, number: int) -> Line:
    one = found.parity[number]

    def field(name: str) -> Cell:
        return cell(found, words, "parity", number, name) if name in one else said("")

    known = "ok" in one
    mark = said("")
    if known:
        shown = cell(found, lambda ok: "ok" if ok else "NO", "parity", number, "ok")
        mark = shown._replace(mark="yes" if one["ok"] else "no")
    return Line(field("name"), (mark, field("found"), field("wanted")))


def lineage(found: Comparison) -> Table:
    lines = tuple(
        Line(
            cell(found, words, "lineage", number, "stage"),
            (said(_files(step.inputs) or "nothing on disk"), said(_files(step.outputs))),
        )
        for number, step in enumerate(found.lineage)
    )
    lead = "What each stage read and wrote, by hash."
    return Table(
        "lineage", "From conversations to the served file", ("stage", "read", "wrote"), lines, lead
    )


def _files(files: dict[str, str]) -> str:
    return ", ".join(f"{path} {short(digest)}" for path, digest in files.items())


def weights(found: Comparison) -> Table:
    place = ("decision", "weights")
    lines = tuple(
        Line(
            cell(found, words, *place, number, "topic"),
            (
                cell(found, percent, *place, number, "now"),
                cell(found, percent, *place, number, "proposed"),
            ),
        )
        for number in range(len(found.decision.weights))
    )
    lead = "What the next scenarios could be about, so that the weak topics are seen more often."
    return Table("weights", "Shares of the topics", ("topic", "now", "proposed"), lines, lead)


# --- at a glance


class Tile(NamedTuple):
    label: str
    value: Cell
    note: Cell


def tiles(found: Comparison) -> list[Tile]:
    """The four numbers of the first screen, of the comparison that counts."""
    made = [_difference_tile(found, "score", "Score")] if found.score else []
    if found.score:
        made += _arm_tiles(found, found.score[0].before, found.score[0].after)
    if found.loss:
        made.append(_difference_tile(found, "loss", "Loss, nats a token"))
    return made


def _difference_tile(found: Comparison, place: str, label: str) -> Tile:
    one = look(found, place, 0)
    value = cell(found, signed, place, 0, "difference", why=one.why or unjudged(found))
    if one.difference is None:
        return Tile(f"{label}, {compared(one)}", value, said(value.why))
    ends = [piece(found, signed, place, 0, end) for end in ("low", "high")]
    pieces = (Piece("95 % interval "), ends[0], Piece(" to "), ends[1])
    return Tile(f"{label}, {compared(one)}", value, Cell(pieces))


def _arm_tiles(found: Comparison, before: str, after: str) -> list[Tile]:
    made = []
    if before in found.scores and after in found.scores:
        value = cell(found, percent, "scores", after, "passed", "share", why=unjudged(found))
        base = piece(found, percent, "scores", before, "passed", "share")
        note = said(value.why) if value.why else Cell((Piece(f"{before}: "), base))
        made.append(Tile(f"Passed, {after}", value, note))
    if after in found.safety.arms:
        place = ("safety", "arms", after)
        failed = [piece(found, count, *place, "failed", end) for end in ("found", "n")]
        upper = piece(found, percent, *place, "upper")
        note = Cell((Piece("the true rate is below "), upper))
        value = Cell((failed[0], Piece(" of "), failed[1]))
        made.append(Tile(f"Safety failures, {after}", value, note))
    return made
