"""Whether a training fits into this machine's memory, said before its first step.

Shows `memory_plan`'s table against what MLX may use here, with the settings that would make it fit.
Reads the base model's shapes and the batches; writes nothing.
Fails: ToolError where it cannot fit.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, mlx_runtime
from coach_mlx.batches import Batches, make_batches, passes
from coach_mlx.config import Config, TrainSection
from coach_mlx.errors import DataError, ToolError
from coach_mlx.memory_plan import Facts, Load, Need, facts_of, need
from coach_mlx.records import Conversation

CPU_SHARE = 0.85
"""Of a computer's memory; the system and Python itself need the rest."""
CLOSE = 0.10
"""A plan that leaves less of the limit than this may still fail."""
GIB = 2**30
LABELS = {
    "base": "base weights",
    "adapters": "adapters",
    "optimizer": "their optimizer",
    "gradients": "their gradients",
    "activations": "activations",
    "keys_and_values": "keys and values",
    "attention_scores": "attention scores",
    "loss_layer": "loss layer",
}
MOMENTS = ("at the loss", "going backwards", "in the update")


class Place(NamedTuple):
    """Where a training would run."""

    kind: str
    """`cpu`, `metal` or `cuda`."""
    limit: int
    """Bytes that MLX may use."""
    words: str
    is_here: bool = True
    """This machine, and not another that is asked about."""


class Way(NamedTuple):
    """Settings that make it fit, and what it then needs."""

    settings: dict[str, Any]
    peak: int

    @property
    def typed(self) -> str:
        values = {key: str(value).lower() for key, value in self.settings.items()}
        return " ".join(f"--set train.{key}={value}" for key, value in values.items())


def here() -> Place:
    """This machine, by Metal's recommended working set, the GPU's memory or a share of its own."""
    mlx_runtime.prepare()
    import mlx.core as mx

    kind = mlx_runtime.device()
    if kind == "cpu":
        limit = int(_memory_bytes() * CPU_SHARE)
        return Place(kind, limit, f"this machine ({CPU_SHARE:.0%} of its memory)")
    info: Any = mx.device_info()
    if kind == "metal":
        limit = int(info["max_recommended_working_set_size"])
        return Place(kind, limit, "this Mac (Metal's recommended working set)")
    limit = int(info.get("total_memory") or info.get("memory_size") or _memory_bytes())
    return Place(kind, int(limit * (1 - CLOSE)), f"this GPU ({1 - CLOSE:.0%} of its memory)")


def a_mac(gigabytes: int) -> Place:
    """macOS lets a GPU have about two thirds of up to 36 GB and three quarters of more: as users
    report it, never measured here.
    """
    share = 2 / 3 if gigabytes <= 36 else 3 / 4
    words = f"a Mac of {gigabytes} GB (about {share:.0%} of it for the GPU, as users report)"
    return Place("metal", int(gigabytes * GIB * share), words, is_here=False)


def _memory_bytes() -> int:
    return min([mlx_runtime.memory_bytes(), *_control_group_limits(Path("/sys/fs/cgroup"))])


def _control_group_limits(root: Path) -> Iterator[int]:
    """What a container may use; in one, its own group is the root."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # absent, or the word "max"
            yield int((root / name).read_text(encoding="ascii"))


def loads_of(batches: Batches, ranks: int = 1) -> list[Load]:
    """Of the passes that training computes, on whichever rank, the longest of each number of rows.
    (Validation needs less: it keeps nothing for a backward pass.)
    """
    longest: dict[int, Load] = {}
    for batch in batches.training:
        for rows in (rows for rank in range(ranks) for rows in passes(batch[rank::ranks])):
            load = Load.of(rows)
            longest[load.rows] = max(load, longest.get(load.rows, load))
    return list(longest.values())


def busiest(facts: Facts, settings: TrainSection, loads: Sequence[Load]) -> Load:
    return max(loads, key=lambda load: need(facts, settings, load).peak)


def ways_to_fit(
    facts: Facts, settings: TrainSection, loads: Sequence[Load], limit: int
) -> list[Way]:
    """With a margin; the changes that suffice alone, or else together, the least harmful first."""
    together: dict[str, Any] = {}
    found: list[Way] = []
    combined: list[Way] = []
    for change in _changes(settings, loads):
        together |= change
        for changes, kept in ((change, found), (together, combined)):
            way = Way(dict(changes), _peak_with(facts, settings, loads, changes))
            known = any(way.settings.keys() == one.settings.keys() for one in kept)
            if way.peak <= limit * (1 - CLOSE) and not known:
                kept.append(way)
    return found or combined[:1]


def _changes(settings: TrainSection, loads: Sequence[Load]) -> Iterator[dict[str, Any]]:
    """From what costs no quality to what costs the most."""
    if not settings.grad_checkpoint:
        yield {"grad_checkpoint": True}
    if settings.batch_size > 1:
        yield {"batch_size": 1, "accumulate": settings.accumulate * settings.batch_size}
    longest = min(settings.max_seq_length, max(load.tokens for load in loads))
    lengths = [longest // part // 64 * 64 for part in (2, 4)]
    layers = [count for count in (8, 4) if settings.layers < 1 or settings.layers > count]
    for place in range(2):
        if lengths[place] >= 256:
            yield {"max_seq_length": lengths[place]}
        if place < len(layers):
            yield {"layers": layers[place]}
        if place == 0 and settings.rank > 8:
            yield {"rank": 8}


def _peak_with(
    facts: Facts, settings: TrainSection, loads: Sequence[Load], changes: dict[str, Any]
) -> int:
    """Where batches become smaller, the longest row of all may be in any of them."""
    changed = settings.model_copy(update=changes)
    smaller = []
    for load in loads:
        rows = min(load.rows, changed.batch_size)
        tokens = min(load.tokens, changed.max_seq_length)
        smaller.append(Load(rows, tokens, min(load.targets, rows * tokens)))
    return max(need(facts, changed, load).peak for load in smaller)


def require_fit(model: Any, settings: TrainSection, batches: Batches, ranks: int = 1) -> None:
    """Raises: ToolError where the plan needs more than this machine has."""
    place = here()
    try:
        facts = facts_of(model, place.kind)
    except DataError:
        return  # of a family that `losses.require_known_head` has the word on
    loads = loads_of(batches, ranks)
    peak = need(facts, settings, busiest(facts, settings, loads)).peak
    if peak <= place.limit:
        return
    advice = "\n".join(_advice(ways_to_fit(facts, settings, loads, place.limit)))
    raise ToolError(
        f"This training would need {_gb(peak)} at its busiest moment (computed), and {place.words} "
        f"has {_gb(place.limit)} for it.\n{advice}\nThe table: coach train --plan. To try it all "
        "the same: coach train --force"
    )


def show(
    config: Config, base: Path, conversations: Sequence[Conversation], mac: int | None
) -> dict[str, Any]:
    """The table and the verdict, for this machine or for a Mac of so many GB."""
    mlx_runtime.prepare()
    place = here() if mac is None else a_mac(mac)
    loaded = mlx_runtime.open_model(base, as_stored=True)
    batches = make_batches(loaded.tokenizer, conversations, config.train, config.seed)
    facts = facts_of(loaded.model, place.kind)
    loads = loads_of(batches)
    load = busiest(facts, config.train, loads)
    plan = need(facts, config.train, load)
    _show_table(plan, load)
    ways = []
    if plan.peak > place.limit * (1 - CLOSE):
        ways = ways_to_fit(facts, config.train, loads, place.limit)
    _say_verdict(plan.peak, place, ways)
    return {
        "computed": True,
        "fits": plan.peak <= place.limit,
        "peak_bytes": plan.peak,
        "limit_bytes": place.limit,
        "device": place.kind,
        "longest_batch": load._asdict(),
        "bytes": {name: moment._asdict() for name, moment in plan._asdict().items()},
        "ways_to_fit": [way._asdict() for way in ways],
    }


def _show_table(plan: Need, load: Load) -> None:
    from rich.table import Table

    console.say(
        f"Memory for the longest batch, {load.rows} x {load.tokens} tokens with {load.targets} "
        "targets; computed, not measured:"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in MOMENTS:
        table.add_column(heading, justify="right")
    for key, label in LABELS.items():
        sizes = [getattr(moment, key) for moment in plan]
        table.add_row(label, *(_gb(size) if size else "" for size in sizes))
    table.add_row("together", *(_gb(moment.total) for moment in plan), style="bold")
    console.show(table)


def _say_verdict(peak: int, place: Place, ways: Sequence[Way]) -> None:
    left = place.limit - peak
    verdict = f"It fits, with {_gb(left)} to spare."
    if left < 0:
        verdict = f"It does not fit: {_gb(-left)} are missing."
    elif peak > place.limit * (1 - CLOSE):
        verdict = f"It fits, with only {_gb(left)} to spare."
    console.say(
        f"{_gb(peak)} at the busiest moment; {place.words} has {_gb(place.limit)}. {verdict}"
    )
    if peak > place.limit * (1 - CLOSE):
        for line in _advice(ways):
            console.say(line)


def _advice(ways: Sequence[Way]) -> list[str]:
    if not ways:
        return ["No settings here leave a margin; a smaller base would: --set base.model=NAME"]
    return [
        "It would fit with a margin with:",
        *(f"  {one.typed}  ({_gb(one.peak)})" for one in ways),
    ]


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
