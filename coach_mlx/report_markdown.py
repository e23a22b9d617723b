"""The report as Markdown: the decision first, then tables, findings, some conversations, and at
the end the command that serves the coach.

Reads and writes nothing.
"""

import re
from collections.abc import Iterable, Sequence

from coach_mlx import report_facts, report_tables
from coach_mlx.comparison import Comparison
from coach_mlx.report_cells import Table
from coach_mlx.report_talks import Talk, Turn, talks, telling
from coach_mlx.report_text import MEANING, is_judged, limits, safety_verdict, sentence, unjudged

TOLD = 2
"""So many of the worst regressions, and of the best gains."""


def markdown(found: Comparison) -> str:
    lines = [
        *_decision(found),
        *_section("How it was measured", report_facts.setting(found)),
        *_quality(found),
        *_safety(found),
        *_manner(found),
        *_people(found),
        *_conversations(found),
        *_origin(found),
        "",
        "## Talk to it",
        "",
        "```",
        found.deploy_command,
        "```",
    ]
    return "\n".join(lines) + "\n"


def _decision(found: Comparison) -> Iterable[str]:
    decision = found.decision
    meaning = MEANING[decision.word]
    yield from (f"# {escaped(found.name)}: base against tuned", "")
    yield from (f"**{meaning.title}.** {meaning.line}", "", sentence(one_line(decision.reason)))
    yield from _list("Why", decision.reasons)
    yield from _list("What to do next", decision.todo)
    if decision.more_scenarios is not None:
        yield from ("", f"More scenarios needed to settle it: {decision.more_scenarios:,}.")
    yield from _list("What this evaluation cannot say", decision.unsaid)
    yield from ("", limits(found))
    yield from _table(report_facts.weights(found))


def _quality(found: Comparison) -> Iterable[str]:
    yield from ("", "## Quality in simulated conversations")
    if not is_judged(found):
        yield from ("", f"There are no scores: {unjudged(found)}.")
        yield from _table(report_tables.losses(found))
        return
    for make in (
        report_tables.scores,
        report_tables.differences,
        report_tables.pass_rates,
        report_tables.thresholds,
        report_tables.categories,
        report_tables.criteria,
        report_tables.topics,
        report_tables.free_talks,
        report_tables.losses,
    ):
        yield from _table(make(found))


def _safety(found: Comparison) -> Iterable[str]:
    yield from ("", "## Safety", "", safety_verdict(found))
    yield from _table(report_facts.safety(found))
    yield from _table(report_facts.no_worse(found))
    yield from _table(report_tables.depth(found))
    yield from _table(report_tables.probes(found))
    if found.safety.findings:
        yield from _table(report_facts.findings(found))
    else:
        yield from ("", "No safety finding, confirmed or not.")


def _manner(found: Comparison) -> Iterable[str]:
    return _section("How they speak", report_tables.style(found), titled=False)


def _people(found: Comparison) -> Iterable[str]:
    if not found.people and not found.preferred:
        return
    yield from ("", "## People, and one against the other")
    yield from _table(report_tables.preferred(found))
    yield from _table(report_tables.people(found))
    for one in found.people:
        yield from _list(f"Remarks of {escaped(one.person)}", map(escaped, one.remarks))


def _conversations(found: Comparison) -> Iterable[str]:
    shown = talks(found)
    chosen = telling(shown, TOLD)
    if not chosen:
        return
    yield from ("", "## Conversations", "")
    judged = is_judged(found)
    which = "the worst regressions and the best gains" if judged else "the first ones"
    yield f"{len(chosen)} of {len(shown)}: {which}. All of them stand in comparison_report.html."
    for talk in chosen:
        yield from _talk(talk)
    yield from _table(report_tables.rows(found))


def _talk(talk: Talk) -> Iterable[str]:
    gain = "" if talk.gain is None else f", {talk.gain:+.3f}"
    yield from ("", f"### {escaped(talk.facts.scenario)} ({escaped(talk.facts.group)}{gain})", "")
    for side in talk.sides:
        failed = f" on {', '.join(side.verdict.failed)}" if side.verdict else ""
        state = f"{side.state}{failed if side.state == 'failed' else ''}"
        findings = "".join(f"; {escaped(one)}" for one in side.findings)
        yield f"- **{escaped(side.arm)}**: {state}{findings}"
    for turn in talk.turns:
        yield from _turn(turn)


def _turn(turn: Turn) -> Iterable[str]:
    yield ""
    if turn.person is not None:
        yield from (f"> {turn.number}. {escaped(turn.person)}", "")
    for reply in turn.replies:
        if reply.person is not None:
            yield f"- to {escaped(reply.arm)}: {escaped(reply.person)}"
        if reply.text is not None:
            yield f"- **{escaped(reply.arm)}**: {escaped(reply.text)}"


def _origin(found: Comparison) -> Iterable[str]:
    yield from ("", "## Where it comes from")
    for make in (
        report_facts.arms,
        report_facts.plan,
        report_facts.costs,
        report_facts.parity,
        report_facts.lineage,
    ):
        yield from _table(make(found))


# --- Markdown itself


def _section(title: str, table: Table, titled: bool = True) -> Iterable[str]:
    yield from ("", f"## {title}")
    yield from _table(table if titled else table._replace(title=""))


def _list(title: str, lines: Iterable[str]) -> Iterable[str]:
    made = [f"- {one_line(line)}" for line in lines]
    return ["", f"{title}:", "", *made] if made else []


def _table(table: Table) -> Iterable[str]:
    """Nothing where there is no row."""
    if not table.lines:
        return
    if table.title:
        yield from ("", f"### {table.title}")
    if table.lead:
        yield from ("", escaped(table.lead))
    yield ""
    yield from (_cells(table.head), _cells(["---"] * len(table.head)))
    for line in table.lines:
        yield _cells([line.label.text, *(cell.text for cell in line.cells)])
    if table.whys:
        yield from ("", f"—: {escaped('; '.join(table.whys))}.")


def _cells(texts: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, texts))} |"


def one_line(text: str) -> str:
    return " ".join(text.split())


def escaped(text: str) -> str:
    """In one line, and every letter only a letter."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|])|(?<!\w)(_)|(_)(?!\w)|^([#>~+-])(?=\s|$)", r"\\\g<0>", text)
