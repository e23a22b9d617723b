"""The pictures of the report: matplotlib figures, and the same as SVG for a page that may be dark.

Reads and writes nothing. A figure is as narrow as a phone, so that its letters can be read there.
Its colours are those of the light page; in the SVG each becomes a variable of the page's style. An
arm has a shape too, so that nothing hangs on colour.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coach_mlx.comparison import Comparison, CriterionRow, Difference, GroupRow
from coach_mlx.report_text import compared, unjudged

INK, MUTED, LINE, BAND = "#23272e", "#5b6471", "#d9d4c9", "#e6efe9"
ARMS = ("#66707d", "#1f7a5c", "#b0591e", "#6d4fa0")
SHAPES = ("o", "D", "s", "^")
VARIABLES = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BAND: "var(--band)",
    **{color: f"var(--arm-{number})" for number, color in enumerate(ARMS)},
}
WIDTH = 4.2
"""Inches."""


class Plot(NamedTuple):
    key: str
    title: str
    words: str
    """What is to be seen, for who cannot see it."""
    svg: str = ""
    why: str = ""
    """Why it is left out."""


Metrics = Sequence[Mapping[str, Any]]


def plots(found: Comparison, metrics: Metrics) -> dict[str, Plot]:
    """Every picture of the report, by key."""
    made = (
        _differences(found, "score", found.score),
        _differences(found, "loss", found.loss),
        _distributions(found, "scores", "Scores by arm", "score of a scenario, 0 to 1"),
        _categories(found),
        _criteria(found),
        _depth(found),
        _distributions(found, "words", "Length of replies", "median words of a reply"),
        _curve(metrics),
    )
    return {plot.key: plot for plot in made}


# --- what all share


def figure(height: float) -> tuple[Any, Any]:
    """A figure and its axes, without a frame around them."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    whole = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = whole.subplots()
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=LINE)
    axes.tick_params(colors=MUTED, labelsize=10, length=0, pad=5)
    axes.xaxis.label.set(color=MUTED, size=10)
    axes.yaxis.label.set(color=MUTED, size=10)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", nbins=5)
    return whole, axes


def svg(key: str, title: str, words: str, whole: Any) -> str:
    """For a page: named, without a background, its letters as text, its colours as variables, and
    its ids its own.
    """
    import matplotlib

    buffer = io.StringIO()
    settings = {"svg.hashsalt": key, "svg.fonttype": "none"}
    with matplotlib.rc_context(settings):
        whole.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{key}-', text)
    text = text.replace("url(#", f"url(#{key}-")
    box = re.search(r'viewBox="[^"]*"', text)
    head = f"<title>{_escaped(title)}</title><desc>{_escaped(words)}</desc>"
    opened = f'<svg class="plot" role="img" {box[0] if box else ""}>{head}'
    return opened + text[text.index(">") + 1 :]


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)


def _drawn(key: str, title: str, words: str, whole: Any) -> Plot:
    return Plot(key, title, words, svg(key, title, words, whole))


def _key(axes: Any) -> None:
    """The legend, above."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=len(ARMS),
        frameon=False,
        fontsize=10,
        labelcolor=INK,
        handletextpad=0.3,
        columnspacing=1.4,
        borderaxespad=0.2,
    )


def _zero(axes: Any) -> None:
    axes.axvline(0, color=MUTED, linewidth=1)


# --- paired differences

TITLES = {"score": "Each scenario, score", "loss": "Each scenario, loss"}
BETTER = {"score": "right of 0: better", "loss": "left of 0: better"}


def _pairs(found: Comparison, place: str, difference: Difference) -> list[float]:
    values = [row.scores if place == "score" else row.losses for row in found.rows]
    before = [one.get(difference.before) for one in values]
    after = [one.get(difference.after) for one in values]
    both = zip(before, after, strict=True)
    return sorted(b - a for a, b in both if a is not None and b is not None)


def _differences(found: Comparison, place: str, asked: Sequence[Difference]) -> Plot:
    """The first comparison: scenarios from the worst to the best, mean and interval behind."""
    key, title = f"differences-{place}", TITLES[place]
    values = _pairs(found, place, asked[0]) if asked else []
    if not values or not asked or asked[0].difference is None:
        why = unjudged(found) if place == "score" else "no loss was measured"
        return Plot(key, title, "", why=why)
    primary, mean = asked[0], asked[0].difference
    whole, axes = figure(3.4)
    _zero(axes)
    if primary.low is not None and primary.high is not None:
        axes.axvspan(primary.low, primary.high, color=BAND, linewidth=0)
    axes.axvline(mean, color=ARMS[1], linewidth=2)
    size = 26 if len(values) < 80 else 9
    axes.scatter(values, range(len(values)), s=size, color=ARMS[1], alpha=0.75, linewidths=0)
    axes.set(yticks=[], ylim=(-1, len(values)), xlabel=f"{compared(primary)}  ({BETTER[place]})")
    words = (
        f"{len(values)} scenarios, {compared(primary)}, from {values[0]:+.3f} to "
        f"{values[-1]:+.3f}; mean {mean:+.3f}."
    )
    return _drawn(key, title, words, whole)


# --- distributions by arm


def _values(found: Comparison, field: str, arm: str) -> list[float]:
    given = [getattr(row, field).get(arm) for row in found.rows]
    return [value for value in given if value is not None]


def _distributions(found: Comparison, field: str, title: str, label: str) -> Plot:
    """A dot a scenario, a row an arm; the bar holds the middle half, the stroke is the median."""
    values = {arm: _values(found, field, arm) for arm in found.arms}
    values = {arm: given for arm, given in values.items() if given}
    if not values:
        return Plot(field, title, "", why=unjudged(found))
    whole, axes = figure(0.9 + 0.62 * len(values))
    for number, (arm, given) in enumerate(values.items()):
        _strip(axes, number, arm, given)
    axes.set(yticks=[], ylim=(-len(values) + 0.45, 0.62), xlabel=label)
    words = "; ".join(
        f"{arm}: half between {low:.2f} and {high:.2f}, median {middle:.2f}"
        for arm, (low, middle, high) in zip(values, map(_quartiles, values.values()), strict=True)
    )
    return _drawn(field, title, f"{words}.", whole)


def _strip(axes: Any, number: int, arm: str, given: Sequence[float]) -> None:
    import random

    color, shape = ARMS[number % len(ARMS)], SHAPES[number % len(SHAPES)]
    spread = random.Random(arm)
    middle_line = -number - 0.12
    places = [middle_line + spread.uniform(-0.2, 0.2) for _ in given]
    axes.scatter(given, places, s=12, marker=shape, color=color, alpha=0.45, linewidths=0)
    low, middle, high = _quartiles(given)
    axes.plot([low, high], [middle_line] * 2, color=color, linewidth=5, alpha=0.55)
    axes.plot([middle], [middle_line], "|", color=INK, markersize=17, markeredgewidth=2)
    axes.text(0.0, -number + 0.18, arm, color=INK, size=10.5, transform=_beside(axes))


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    import numpy as np

    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def _beside(axes: Any) -> Any:
    """Across: from the left edge to the right one; upwards: by value."""
    from matplotlib.transforms import blended_transform_factory

    return blended_transform_factory(axes.transAxes, axes.transData)


# --- forests


class Branch(NamedTuple):
    name: str
    value: float
    low: float | None
    high: float | None
    hollow: bool = False


def _categories(found: Comparison) -> Plot:
    def branch(row: GroupRow) -> Branch | None:
        one = row.difference
        return (
            None if one.difference is None else Branch(row.name, one.difference, one.low, one.high)
        )

    label = f"{compared(found.score[0])}, score" if found.score else "score"
    return _forest(found, "categories", "By category", found.categories, branch, label)


def _criteria(found: Comparison) -> Plot:
    def branch(row: CriterionRow) -> Branch | None:
        one = row.rates.difference
        if one.value is None:
            return None
        name = f"{row.criterion} {row.name}{' (advisory)' if row.advisory else ''}"
        low, high = (None if end is None else 100 * end for end in (one.low, one.high))
        return Branch(name, 100 * one.value, low, high, row.advisory)

    label = "difference of yes, percentage points"
    return _forest(found, "criteria", "By criterion", found.criteria, branch, label)


def _forest(
    found: Comparison,
    key: str,
    title: str,
    rows: Sequence[Any],
    branch: Callable[[Any], Branch | None],
    label: str,
) -> Plot:
    """A line a row: the difference with its interval, the name above it."""
    branches = [made for made in map(branch, rows) if made]
    if not branches:
        return Plot(key, title, "", why=unjudged(found))
    whole, axes = figure(0.7 + 0.44 * len(branches))
    _zero(axes)
    for number, one in enumerate(branches):
        color = MUTED if one.hollow else ARMS[1]
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [-number] * 2, color=color, linewidth=2)
        face = "none" if one.hollow else color
        axes.plot([one.value], [-number], "D", color=color, markerfacecolor=face, markersize=6)
        axes.text(0.0, -number + 0.24, one.name, color=INK, size=10, transform=_beside(axes))
    axes.set(yticks=[], ylim=(-len(branches) + 0.4, 0.8), xlabel=label)
    words = "; ".join(f"{one.name} {one.value:+.3g}" for one in branches)
    return _drawn(key, title, f"{words}.", whole)


# --- failures by depth, and the loss curve


def _depth(found: Comparison) -> Plot:
    key, title = "depth", "Failures by depth of the talk"
    if not any(share.n for one in found.depth for share in one.arms.values()):
        return Plot(key, title, "", why="no reply was looked at")
    whole, axes = figure(2.9)
    axes.grid(axis="x", visible=False)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    for number, arm in enumerate(found.arms):
        _depth_of(found, axes, number, arm)
    axes.set_xticks(range(len(found.depth)), [one.turns for one in found.depth])
    axes.set(xlabel="turns", ylabel="% of replies")
    axes.set_ylim(bottom=0)
    _key(axes)
    words = "; ".join(
        f"turns {one.turns}: "
        + ", ".join(f"{arm} {share.found} of {share.n}" for arm, share in one.arms.items())
        for one in found.depth
    )
    return _drawn(key, title, f"{words}.", whole)


def _depth_of(found: Comparison, axes: Any, number: int, arm: str) -> None:
    color, shape = ARMS[number % len(ARMS)], SHAPES[number % len(SHAPES)]
    offset = (number - (len(found.arms) - 1) / 2) * 0.14
    shares = [one.arms.get(arm) for one in found.depth]
    points = [
        (place + offset, 100 * share.share, share)
        for place, share in enumerate(shares)
        if share is not None and share.share is not None
    ]
    for across, _, share in points:
        if share.low is not None and share.high is not None:
            ends = [100 * share.low, 100 * share.high]
            axes.plot([across] * 2, ends, color=color, linewidth=1.6, alpha=0.55)
    places, heights = [one[0] for one in points], [one[1] for one in points]
    axes.plot(places, heights, shape, color=color, markersize=6.5, label=arm)


def _curve(metrics: Metrics) -> Plot:
    key, title = "curve", "Loss while training"
    if not any(line.get(name) is not None for line in metrics for name in NAMES):
        return Plot(key, title, "", why="there are no metrics of the training")
    tried = _tried(metrics)
    best = "There was no validation set."
    if tried:
        loss, step = min(tried)
        best = f"The best validation loss, {loss:.3f}, came at step {step}."
    words = best if tried else "No validation was made."
    return _drawn(key, title, words, loss_figure(metrics, 2.9))


NAMES = {"loss": ("training", "-"), "validation_loss": ("validation", "o-")}


def _tried(metrics: Metrics) -> list[tuple[float, int]]:
    return [
        (line["validation_loss"], line["step"])
        for line in metrics
        if line["step"] and line.get("validation_loss") is not None
    ]


def loss_figure(metrics: Metrics, height: float) -> Any:
    """The curve of a training; the best validation loss is marked."""
    whole, axes = figure(height)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    for color, (key, (label, style)) in zip((ARMS[0], ARMS[1]), NAMES.items(), strict=True):
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if points:
            across, up = zip(*points, strict=True)
            axes.plot(across, up, style, color=color, label=label, markersize=4, linewidth=1.6)
    if tried := _tried(metrics):
        loss, step = min(tried)
        label = f"best: {loss:.3f} at step {step}"
        axes.plot([step], [loss], "*", markersize=13, color=ARMS[2], label=label, linestyle="none")
    axes.set(xlabel="step", ylabel="nats a token")
    axes.legend(loc="upper right", frameon=False, fontsize=10, labelcolor=INK)
    return whole
