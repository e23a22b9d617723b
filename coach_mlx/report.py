"""What a person reads at the end: base against tuned as JSON, Markdown and one HTML page; and the
loss curve of a training.

Reads nothing; writes loss.png and comparison_report.*. The page carries plots, style and script
inside itself, works without the script, and can ask nothing of the network: its own policy forbids
that, and runs no script but this one.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coach_mlx import plots, report_facts, report_markdown, report_tables, report_talks
from coach_mlx import report_text as text
from coach_mlx.comparison import Comparison
from coach_mlx.report_cells import Table, count, score, short, signed
from coach_mlx.workspace import write_whole

PAGE = Path(__file__).with_name("report.html")
STYLE = Path(__file__).with_name("report.css")
SCRIPT = Path(__file__).with_name("report.js")


def plot_loss(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """The curve as a picture; the best validation loss is marked."""
    figure = plots.loss_figure(metrics, 3.2)
    beside = path.with_name("partial." + path.name)
    figure.savefig(beside, dpi=150)
    beside.replace(path)


def write_comparison(found: Comparison, metrics: Sequence[dict[str, Any]], folder: Path) -> None:
    """comparison_report.json, .md and .html, the same facts three times."""
    facts = json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False)
    write_whole(folder / "comparison_report.md", report_markdown.markdown(found))
    write_whole(folder / "comparison_report.html", page(found, metrics))
    write_whole(folder / "comparison_report.json", facts + "\n")


def page(found: Comparison, metrics: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(short=short, signed=signed, score=score, count=count)
    environment.filters.update(sentence=text.sentence, ticked=ticked, raw=Markup)
    script = SCRIPT.read_text(encoding="utf-8")
    shown = report_talks.talks(found)
    return environment.from_string(PAGE.read_text(encoding="utf-8")).render(
        found=found,
        words=text,
        meaning=text.MEANING[found.decision.word],
        tables=_tables(found),
        findings=report_facts.ordered_findings(found),
        tiles=report_facts.tiles(found),
        plots=plots.plots(found, metrics),
        talks=shown,
        anchors={talk.facts.scenario: talk.anchor for talk in shown},
        choices=report_talks.choices(shown),
        outcomes=report_talks.OUTCOMES,
        style=STYLE.read_text(encoding="utf-8"),
        script=script,
        script_hash=_hash(script),
    )


def _hash(script: str) -> str:
    """As a content security policy names a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def ticked(line: str) -> Any:
    """Escaped, and what stands between backticks as code."""
    from markupsafe import Markup, escape

    pieces = line.split("`")
    if len(pieces) % 2 == 0:
        return escape(line)
    code = Markup("<code>{}</code>")
    return Markup("").join(
        code.format(one) if number % 2 else escape(one) for number, one in enumerate(pieces)
    )


TABLES = (
    report_tables.scores,
    report_tables.differences,
    report_tables.free_talks,
    report_tables.losses,
    report_tables.pass_rates,
    report_tables.thresholds,
    report_tables.categories,
    report_tables.criteria,
    report_tables.topics,
    report_tables.probes,
    report_tables.style,
    report_tables.depth,
    report_tables.preferred,
    report_tables.people,
    report_tables.rows,
    report_facts.setting,
    report_facts.safety,
    report_facts.no_worse,
    report_facts.arms,
    report_facts.costs,
    report_facts.plan,
    report_facts.parity,
    report_facts.lineage,
    report_facts.weights,
)


def _tables(found: Comparison) -> dict[str, Table]:
    return {table.key: table for table in (make(found) for make in TABLES)}
