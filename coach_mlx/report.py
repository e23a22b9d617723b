"""What a person reads at the end: the loss curve, and base against tuned as Markdown, HTML and
JSON.

Reads nothing; writes loss.png and comparison_report.*. The HTML page carries its plots and its
style inside itself and asks for nothing over the network.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coach_mlx.workspace import write_whole

LIMITS = (
    "This compares how likely each model finds a coach's words in conversations written for this "
    "project. It says "
    "nothing yet about whether the replies are good or safe, and nothing about whether they help "
    "people."
)


def plot_loss(metrics: Sequence[dict[str, Any]], path: Path) -> None:
    """The curve as a picture; the best validation loss is marked."""
    figure = _loss_figure(metrics)
    beside = path.with_name("partial." + path.name)
    figure.savefig(beside, dpi=150)
    beside.replace(path)


def write_comparison(
    result: dict[str, Any], metrics: Sequence[dict[str, Any]], folder: Path
) -> None:
    """comparison_report.json, .md and .html, the same facts three times."""
    write_whole(folder / "comparison_report.md", _markdown(result))
    write_whole(folder / "comparison_report.html", _html(result, metrics))
    write_whole(
        folder / "comparison_report.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    )


def _figure() -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    return Figure(figsize=(7, 3.5), layout="constrained")


def _loss_figure(metrics: Sequence[dict[str, Any]]) -> Any:
    figure = _figure()
    axes = figure.subplots()
    for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
    tried = [
        (line["validation_loss"], line["step"])
        for line in metrics
        if line["step"] and line.get("validation_loss") is not None
    ]
    if tried:
        loss, step = min(tried)
        label = f"best: {loss:.3f} at step {step}"
        axes.plot([step], [loss], "*", markersize=14, color="tab:green", label=label)
    axes.set(xlabel="step", ylabel="nats a token", title="Loss on the coach's words")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _difference_figure(result: dict[str, Any]) -> Any:
    figure = _figure()
    axes = figure.subplots()
    conversations = result["conversations"]
    for offset, (arm, color) in enumerate((("adapter", "tab:blue"), ("gguf", "tab:green"))):
        values = [one[arm] - one["base"] for one in conversations]
        places = [number + (offset - 0.5) * 0.15 for number in range(len(values))]
        axes.scatter(values, places, color=color, label=f"{arm} - base")
        axes.axvline(sum(values) / len(values), color=color, linestyle=":", linewidth=1)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(conversations)), [one["conversation"] for one in conversations])
    axes.set(
        xlabel="difference in nats a token (left of 0: better than the base)",
        title="Each held-out conversation",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def _svg(figure: Any) -> str:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "coach"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    if value is None:
        return "—"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def _comparison_rows(result: dict[str, Any]) -> list[list[str]]:
    rows = []
    for label, found in result["comparisons"].items():
        interval = f"{_number(found['low'], sign=True)} to {_number(found['high'], sign=True)}"
        p = "—" if found["p"] is None else f"{found['p']:.2g}"
        means = [_number(found["mean_before"]), _number(found["mean_after"])]
        rows.append(
            [
                label,
                *means,
                _number(found["mean_difference"], sign=True),
                interval,
                _number(found["t"], 2),
                p,
            ]
        )
    return rows


COMPARISON_HEAD = ["compared", "before", "after", "difference", "95 % interval", "t", "p"]


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# {result['name']}: base against tuned",
        "",
        f"**{result['verdict']}** (by held-out loss alone): {result['reason']}.",
        "",
        LIMITS,
        "",
        result["safety"],
        "",
        "Negative log-likelihood of the coach's words, nats a token, mean over "
        f"{len(result['conversations'])} "
        "held-out conversations; paired t-test, bootstrap interval. Measured on: "
        f"{result['machine']}.",
        "",
        *_table(COMPARISON_HEAD, _comparison_rows(result)),
        "",
        "## Each conversation",
        "",
        *_table(
            ["conversation", "turns", "tokens", *result["arms"]],
            [
                [
                    one["conversation"],
                    str(one["turns"]),
                    str(one["targets"]),
                    *(_number(one[arm]) for arm in result["arms"]),
                ]
                for one in result["conversations"]
            ],
        ),
        "",
        "## Replies side by side",
    ]
    for reply in result["replies"]:
        lines += ["", f"> {_one_line(reply['said'])}", ""]
        lines += [f"- **{arm}**: {_one_line(reply[arm])}" for arm in result["arms"]]
    lines += ["", "## The models compared", ""]
    lines += [
        f"- {arm}: {fact['meaning']} (`{fact['sha256'][:12]}`)"
        for arm, fact in result["arms"].items()
    ]
    lines += ["", "## The served file against training", ""]
    lines += _table(PARITY_HEAD, _parity_rows(result))
    lines += ["", "## From conversations to the served file", ""]
    lines += [f"- {_lineage_line(step)}" for step in result["lineage"]]
    lines += ["", "## Talk to it", "", "```", result["deploy_command"], "```"]
    return "\n".join(lines) + "\n"


PARITY_HEAD = ["", "compared", "found", "wanted"]


def _parity_rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        ["ok" if one["ok"] else "NO", one["name"], one["found"], one["wanted"]]
        for one in result["parity"]
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _lineage_line(step: dict[str, Any]) -> str:
    read, wrote = (
        ", ".join(f"{path} {digest}" for path, digest in step[side].items())
        for side in ("inputs", "outputs")
    )
    return f"{step['stage']}: {read or 'nothing on disk'} → {wrote}"


PAGE = Path(__file__).with_name("report.html")


def _html(result: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Environment

    page = Environment(autoescape=True).from_string(PAGE.read_text(encoding="utf-8"))
    return page.render(
        **result,
        limits=LIMITS,
        head=COMPARISON_HEAD,
        rows=_comparison_rows(result),
        parity_head=PARITY_HEAD,
        parity_rows=_parity_rows(result),
        differences=_svg(_difference_figure(result)),
        curve=_svg(_loss_figure(metrics)),
        steps=[_lineage_line(step) for step in result["lineage"]],
    )
