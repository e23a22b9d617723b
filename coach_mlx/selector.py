"""`coach select`: which base model to make the coach from.

Without options a table of the catalogue on this machine: computed, nothing opened, nothing
downloaded. `--pilot` lets candidates that are on disk answer and ranks them, `--choose` writes one
into the config.
Reads: config/base-models.yaml, training_data.jsonl where it is there, eval_holdout.jsonl and
config/probes.yaml for a pilot. Writes: output/selection/ (replies, losses, judgements, a line each
as it comes), reports/base_model.md and .json, and with `--choose` the config's `base:`.
Fails: ConfigError for a name that nobody knows or a licence that forbids, ToolError where a model
is not on this machine, BackendError where the hub does not answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from coach_mlx import base_fit, base_table, console, memory_fit, mlx_runtime
from coach_mlx.base_fit import Data, Fit
from coach_mlx.base_models import (
    CATALOGUE,
    Candidate,
    Purpose,
    find_candidate,
    load_catalogue,
)
from coach_mlx.config import Config
from coach_mlx.errors import ConfigError
from coach_mlx.memory_fit import Place
from coach_mlx.workspace import Workspace

OFFER = (
    "No base model was chosen on purpose yet, so base.model decides. `coach select` shows which "
    "ones fit this machine."
)


class Options(NamedTuple):
    mac: int | None = None
    """Not this machine but a Mac of so many GB."""
    purpose: Purpose | None = None
    """Hide what its licence forbids this for."""


DEFAULTS = Options()


def run(config: Config, workspace: Workspace, options: Options = DEFAULTS) -> dict[str, Any]:
    """The table."""
    place = _place(options.mac)
    found = _candidates(workspace)
    shown = [one for one in found if _is_allowed(one, options.purpose)]
    data = Data.read(workspace)
    fits = [base_fit.measure(one, config, workspace, place, data) for one in shown]
    order = sorted(zip(shown, fits, strict=True), key=lambda pair: -pair[0].parameters)
    shown, fits = [one for one, _ in order], [fit for _, fit in order]
    console.say(_heading(place, data, config))
    base_table.show_table(shown, fits, options.purpose)
    base_table.say_notes(shown, fits)
    if len(shown) < len(found):
        hidden = ", ".join(one.name for one in found if one not in shown)
        console.say(f"Hidden, because the licence forbids {options.purpose} use: {hidden}.")
    console.say(
        "Next: coach select --show NAME, coach select --pilot NAME,NAME, coach select --choose NAME"
    )
    return {
        "computed": True,
        "device": place.kind,
        "limit_bytes": place.limit,
        "longest": data.words,
        "candidates": [_facts(one, fit) for one, fit in zip(shown, fits, strict=True)],
    }


def show(
    name: str, config: Config, workspace: Workspace, options: Options = DEFAULTS
) -> dict[str, Any]:
    """Everything known of one candidate."""
    candidate = find_candidate(name, _candidates(workspace))
    place, data = _place(options.mac), Data.read(workspace)
    fit = base_fit.measure(candidate, config, workspace, place, data)
    ways = base_fit.ways(candidate, config, place, data) if fit.trains in ("no", "close") else []
    base_table.show_one(candidate, fit, place, ways)
    return {
        **candidate.model_dump(mode="json"),
        **_facts(candidate, fit),
        "ways_to_fit": [way._asdict() for way in ways],
    }


def as_purpose(word: str | None) -> Purpose | None:
    """Raises: ConfigError."""
    found = next((one for one in base_table.PURPOSES if one == word), None)
    if word is not None and found is None:
        raise ConfigError(f"--license {word}: choose {', '.join(base_table.PURPOSES)}.")
    return found


def offer(workspace: Workspace) -> str | None:
    """A word before the first import, where nobody has looked yet."""
    imported = workspace.root.joinpath("models", "base").glob(f"*/{workspace.base_marker.name}")
    return None if workspace.base_report.is_file() or any(imported) else OFFER


def _place(mac: int | None) -> Place:
    mlx_runtime.prepare()
    return memory_fit.here() if mac is None else memory_fit.a_mac(mac)


def _candidates(workspace: Workspace) -> Sequence[Candidate]:
    return load_catalogue(workspace.find(CATALOGUE))


def _is_allowed(candidate: Candidate, purpose: Purpose | None) -> bool:
    return purpose is None or candidate.of_use(purpose).verdict != "forbidden"


def _heading(place: Place, data: Data, config: Config) -> str:
    train = config.train
    return (
        f"Base models on {place.words}, which has {base_table.gigabytes(place.limit)}. Training as "
        f"the config says (batches of {train.batch_size}, rank {train.rank}, "
        f"{'all' if train.layers < 1 else train.layers} layers, parts of at most "
        f"{train.max_seq_length:,} tokens). The longest conversation: {data.words}."
    )


def _facts(candidate: Candidate, fit: Fit) -> dict[str, Any]:
    uses = {purpose: candidate.of_use(purpose).verdict for purpose in base_table.PURPOSES}
    return {**fit.model_dump(), "license": candidate.license, "use": uses}
