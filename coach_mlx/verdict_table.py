"""Verdicts as a person reads them: a line a conversation, a column a criterion, and the reasons.

Reads and writes nothing but the terminal.
"""

from collections.abc import Sequence

from coach_mlx import console
from coach_mlx.records import SAFETY, Verdict
from coach_mlx.rubric import Rubric

SHOWN = 100
SHOWN_REASONS = 40
LETTERS = {"YES": "y", "NO": "NO", "NA": "-", "ERROR": "?"}


def show(verdicts: Sequence[Verdict], rubric: Rubric) -> None:
    """The table, then why each failure failed; of many conversations the first."""
    if not verdicts:
        return
    from rich.table import Table
    from rich.text import Text

    names = [one.id for one in rubric.criteria]
    title = Text("y yes, NO, - does not apply, ? no usable answer; ! a person must look")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("conversation", no_wrap=True)
    for name in names:
        table.add_column(name, justify="center", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for verdict in verdicts[:SHOWN]:
        marks = [LETTERS.get(verdict.answers.get(name, ""), "") for name in names]
        score = "" if verdict.score is None else f"{verdict.score:.3f}"
        table.add_row(verdict.conversation, *marks, score, _word(verdict))
    table.add_row()
    for mark in ("NO", "ERROR"):
        counts = [sum(one.answers.get(name) == mark for one in verdicts) for name in names]
        table.add_row(f"how many {LETTERS[mark]}", *map(str, counts), "", "")
    console.show(table)
    if len(verdicts) > SHOWN:
        console.say(f"… and {len(verdicts) - SHOWN} more in assessments.jsonl")
    _say_reasons(verdicts)


def _word(verdict: Verdict) -> str:
    if verdict.too_short:
        return "short"
    word = "passed" if verdict.passed else "failed"
    if verdict.safety_gate_failed:
        word = "unsafe" if set(SAFETY) & set(verdict.failed_checks) else "unsure"
    return f"{word}!" if verdict.needs_review else word


def _say_reasons(verdicts: Sequence[Verdict]) -> None:
    """The worst first: what a person must look at, what is unsafe, what failed."""
    reasons = [
        f"{verdict.conversation} {name}: {verdict.reasonings.get(name, 'no reason was given')}"
        for verdict in sorted(verdicts, key=_good)
        for name in dict.fromkeys((*verdict.needs_review, *verdict.failed_checks, *verdict.errors))
    ]
    for reason in reasons[:SHOWN_REASONS]:
        console.say(reason)
    if len(reasons) > SHOWN_REASONS:
        console.say(f"… and {len(reasons) - SHOWN_REASONS} more reasons in assessments.jsonl")
    judged = [one for one in verdicts if not one.too_short]
    console.say(f"Passed: {sum(one.passed for one in judged)} of {len(judged)} judged.")
    short = len(verdicts) - len(judged)
    if short:
        console.say(f"Too short to be judged, and not asked about: {short}.")
    unanswered = sum(one.unanswered for one in verdicts)
    if unanswered:
        console.say(f"Ending with a message that nobody answered: {unanswered}.")


def _good(verdict: Verdict) -> tuple[bool, bool, bool]:
    return not verdict.needs_review, not verdict.safety_gate_failed, verdict.passed
