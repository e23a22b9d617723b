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
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import (
    base_fit,
    base_pilot,
    base_table,
    config_edit,
    console,
    memory_fit,
    mlx_runtime,
)
from coach_mlx.base_fit import Data, Fit
from coach_mlx.base_models import CATALOGUE, Candidate, Purpose, find_candidate, load_catalogue
from coach_mlx.base_ranking import Ranked, in_words
from coach_mlx.base_rationale import Choice, Rationale, read_rationale, write_rationale
from coach_mlx.config import Config
from coach_mlx.errors import ConfigError
from coach_mlx.memory_fit import Place
from coach_mlx.workspace import PROJECT, Workspace

OFFER = (
    "No base model was chosen on purpose yet, so base.model decides. `coach select` shows which "
    "ones fit this machine."
)


class Options(NamedTuple):
    mac: int | None = None
    """Not this machine but a Mac of so many GB."""
    purpose: Purpose | None = None
    """Hide what its licence forbids this for."""
    download: bool = False
    """A pilot may fetch what is missing."""
    named: bool = False
    """The judge was named on the command line."""
    force: bool = False
    """Choose what would be refused."""


DEFAULTS = Options()


def run(config: Config, workspace: Workspace, options: Options = DEFAULTS) -> dict[str, Any]:
    """The table."""
    place, data = _place(options.mac), Data.read(workspace)
    found = _candidates(workspace)
    allowed = [one for one in found if _is_allowed(one, options.purpose)]
    pairs = _measured(allowed, config, workspace, place, data)
    shown, fits = [one for one, _ in pairs], [fit for _, fit in pairs]
    console.say(
        f"Base models on {place.words}, which has {base_table.gigabytes(place.limit)}. "
        f"{_training(config, data)}"
    )
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
        "candidates": [_facts(one, fit) for one, fit in pairs],
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


def offer(_: Config, workspace: Workspace) -> str | None:
    """A word before the first import, where nobody has looked yet."""
    imported = workspace.root.joinpath("models", "base").glob(f"*/{workspace.base_marker.name}")
    return None if workspace.base_report.is_file() or any(imported) else OFFER


# --- the pilot


def run_pilot(
    names: Sequence[str], config: Config, workspace: Workspace, options: Options = DEFAULTS
) -> dict[str, Any]:
    """Candidates answer, and are ranked."""
    found = _candidates(workspace)
    pilot = base_pilot.run(names, found, config, workspace, options.download, options.named)
    rationale = _rationale(found, config, workspace, options)
    write_rationale(rationale.model_copy(update={"pilot": pilot}), workspace)
    for line in in_words(pilot.ranking):
        console.say(line)
    console.say(f"The rationale: {workspace.shown(workspace.base_report)}")
    return {
        "basis": pilot.ranking.basis,
        "ranking": [_ranked(one) for one in pilot.ranking.rows],
        "report": workspace.shown(workspace.base_report),
    }


def _ranked(one: Ranked) -> dict[str, Any]:
    keys = {"name", "standing", "score", "loss", "tokens_per_second", "why"}
    facts: dict[str, Any] = one.model_dump(include=keys)
    return {**facts, "harm": one.harm.found, "broken": one.broken.found}


def _rationale(
    candidates: Sequence[Candidate], config: Config, workspace: Workspace, options: Options
) -> Rationale:
    """The table as it is now, and what was found and chosen before."""
    place, data = _place(options.mac), Data.read(workspace)
    pairs = _measured(candidates, config, workspace, place, data)
    before = read_rationale(workspace)
    return Rationale(
        made=base_pilot.now(),
        machine=mlx_runtime.machine(),
        place=f"{place.words}, which has {base_table.gigabytes(place.limit)}",
        training=_training(config, data),
        candidates=tuple(one for one, _ in pairs),
        fits=tuple(fit for _, fit in pairs),
        pilot=before.pilot if before else None,
        choice=before.choice if before else None,
    )


# --- the choice


def choose(
    name: str,
    config: Config,
    workspace: Workspace,
    file: Path | None,
    options: Options = DEFAULTS,
) -> dict[str, Any]:
    """Write a candidate into the config; what was there before is said."""
    found = _candidates(workspace)
    candidate = find_candidate(name, found)
    path = _config_file(file, workspace)
    rationale = _rationale(found, config, workspace, options)
    fit = next(one for one in rationale.fits if one.name == candidate.name)
    against = _reasons_against(candidate, fit)
    if against and not options.force:
        raise ConfigError(
            "\n".join([f"{candidate.name} was not chosen:", *(f"  {one}" for one in against),
                       "To choose it all the same: --force"])
        )  # fmt: skip
    warnings = (*against, *_warnings(candidate, fit))
    config_edit.set_values(path, "base", _settings(candidate, config))
    before, shown = config.base.model, workspace.shown(path)
    choice = Choice(
        made=base_pilot.now(),
        name=candidate.name,
        base_model=candidate.base_model,
        before=before,
        config=shown,
        warnings=warnings,
    )
    write_rationale(rationale.model_copy(update={"choice": choice}), workspace)
    for line in warnings:
        console.say(f"Mind: {line}")
    console.say(f"{shown}: base.model is {candidate.base_model}; it was {before}.")
    console.say("Next: coach import")
    return choice.model_dump()


def _config_file(file: Path | None, workspace: Workspace) -> Path:
    """The one in force. Raises: ConfigError where that is the project's and not the workspace's."""
    path = (file or workspace.root / "config" / "coach.yaml").expanduser().resolve()
    if file is not None and not path.is_file():
        path = (PROJECT / file).resolve()
    if path.is_relative_to(PROJECT / "config") and workspace.root != PROJECT:
        own = workspace.root / "config" / path.name
        raise ConfigError(
            f"{path} comes with the project. Copy it and name your own: cp {path} {own}, then "
            f"--config {own}"
        )
    return path


def _settings(candidate: Candidate, config: Config) -> dict[str, Any]:
    """Of `base:`; what belongs to another model is taken back."""
    values: dict[str, Any] = {"model": candidate.base_model, "license": candidate.license}
    if not candidate.is_quantized:
        values["bits"] = config.base.bits
    if candidate.revision != config.base.revision:
        values["revision"] = candidate.revision
    if config.base.original is not None:
        values["original"] = None
    return values


def _reasons_against(candidate: Candidate, fit: Fit) -> tuple[str, ...]:
    found = []
    private = candidate.of_use("private")
    if private.verdict == "forbidden":
        found.append(f"its licence forbids even private use: {private.why}")
    if not fit.exports:
        found.append(f"`coach export` does not know its family, {candidate.family}")
    if candidate.template.thinking == "always":
        found.append("it always thinks aloud, so a coach cannot be trained on it")
    return tuple(found)


def _warnings(candidate: Candidate, fit: Fit) -> tuple[str, ...]:
    found = []
    private = candidate.of_use("private")
    if private.verdict == "conditional":
        found.append(f"its licence allows private use with a condition: {private.why}")
    if fit.trains in ("no", "close"):
        how = "does not fit" if fit.trains == "no" else "barely fits"
        found.append(
            f"training it needs {base_table.gigabytes(fit.train_bytes)} (computed) and {how} here; "
            f"coach select --show {fit.name} says what would make it fit"
        )
    if fit.serves_tokens is not None and fit.serves_tokens < base_fit.LEAST_SERVED:
        found.append(f"this machine's memory serves only {fit.serves_tokens:,} tokens of a talk")
    return tuple(found)


# --- what they share


def _place(mac: int | None) -> Place:
    mlx_runtime.prepare()
    return memory_fit.here() if mac is None else memory_fit.a_mac(mac)


def _candidates(workspace: Workspace) -> Sequence[Candidate]:
    return load_catalogue(workspace.find(CATALOGUE))


def _is_allowed(candidate: Candidate, purpose: Purpose | None) -> bool:
    return purpose is None or candidate.of_use(purpose).verdict != "forbidden"


def _measured(
    candidates: Sequence[Candidate],
    config: Config,
    workspace: Workspace,
    place: Place,
    data: Data,
) -> list[tuple[Candidate, Fit]]:
    """The largest first."""
    order = sorted(candidates, key=lambda one: -one.parameters)
    return [(one, base_fit.measure(one, config, workspace, place, data)) for one in order]


def _training(config: Config, data: Data) -> str:
    train = config.train
    return (
        f"Training as the config says (batches of {train.batch_size}, rank {train.rank}, "
        f"{'all' if train.layers < 1 else train.layers} layers, parts of at most "
        f"{train.max_seq_length:,} tokens). The longest conversation: {data.words}."
    )


def _facts(candidate: Candidate, fit: Fit) -> dict[str, Any]:
    uses = {purpose: candidate.of_use(purpose).verdict for purpose in base_table.PURPOSES}
    return {**fit.model_dump(), "license": candidate.license, "use": uses}
