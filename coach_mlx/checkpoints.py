"""A training as it was after some step: adapters/NAME/checkpoints/step-N/, written beside and
renamed.

Each holds the adapter in mlx-lm's format and state.json (where the training stood, what the next
step would do, and hashes); the two newest hold the optimizer as well, and the newest whole one is
what a killed training goes on from. `look` only looks; `begin` moves what is in the way, once
nothing else can be wrong.

Fails: ConfigError where going on would mix two trainings, DataError where no checkpoint fits this
program.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, lora, mlx_runtime
from coach_mlx.config import TrainSection
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.records import content_hash
from coach_mlx.standing import Standing
from coach_mlx.workspace import flush_folder, stamp, whole_folder, write_whole

OPTIMIZER, STATE, RECORD = "optimizer.safetensors", "state.json", "training.json"
RESUMABLE = 2
"""So many of the newest keep their optimizer."""
Fingerprint = dict[str, Any]


class Saved(NamedTuple):
    """`ahead` is what the next step would do: its place, learning rate and seed."""

    standing: Standing
    ahead: dict[str, Any]


class Found(NamedTuple):
    """What lies where a training is to begin."""

    newest: Path | None
    """The checkpoint to go on from."""
    other: bool
    """Whether an earlier training must be set aside."""


def save(
    folder: Path,
    saved: Saved,
    model: Any,
    optimizer: Any,
    settings: TrainSection,
    fingerprint: Fingerprint,
) -> None:
    """Does nothing where this step is saved already."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    target = step_folder(folder, saved.standing.step)
    if (target / STATE).exists():
        return
    with mlx_runtime.writing(target), whole_folder(target) as partial:
        lora.save(model, settings, partial)
        mx.save_safetensors(str(partial / OPTIMIZER), dict(sorted(tree_flatten(optimizer.state))))
        hashes = {name: stamp(partial / name).sha256 for name in (lora.WEIGHTS, OPTIMIZER)}
        state = {
            "standing": saved.standing.dump(),
            "ahead": saved.ahead,
            "sha256": hashes,
            "fingerprint": fingerprint,
        }
        write_whole(partial / STATE, json.dumps(state, indent=2) + "\n")
        flush_folder(partial)
    _tidy(folder, settings.keep_checkpoints)


def step_folder(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:06d}"


def _steps(folder: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    named = re.compile(r"step-(\d+)")
    found = [(named.fullmatch(path.name), path) for path in (folder / "checkpoints").glob("step-*")]
    return [path for _, path in sorted((int(name[1]), path) for name, path in found if name)]


def _tidy(folder: Path, keep: int) -> None:
    """Optimizers of the resumable ones, adapters of the newest and of what those name as best."""
    found = _steps(folder)
    best = {_state(newest)["standing"]["best_step"] for newest in found[-RESUMABLE:]}
    kept = {step_folder(folder, step) for step in best if step is not None}
    for older in found[:-RESUMABLE]:
        (older / OPTIMIZER).unlink(missing_ok=True)
    for older in found[:-keep]:
        if older not in kept:
            shutil.rmtree(older)


def restore(checkpoint: Path, model: Any, optimizer: Any) -> Saved:
    """Put adapter and optimizer back as they were."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    model.load_weights(str(checkpoint / lora.WEIGHTS), strict=False)
    saved: Any = mx.load(str(checkpoint / OPTIMIZER))
    optimizer.state = tree_unflatten(list(saved.items()))
    mx.eval(model.trainable_parameters(), optimizer.state)
    state = _state(checkpoint)
    return Saved(Standing.load(state["standing"]), state["ahead"])


def require_same_course(checkpoint: Path, saved: Saved, ahead: dict[str, Any]) -> None:
    """Raises: DataError where this program would go on otherwise than the one that stopped."""
    wrong = list(_differences(saved.ahead, ahead))
    if wrong:
        raise DataError(
            "\n".join(
                [
                    f"{checkpoint} was written by a version of coach that would go on otherwise:",
                    *wrong,
                    "Install that version, or type `coach train --force` to keep it aside and "
                    "start anew.",
                ]
            )
        )


def finish(folder: Path, standing: Standing, settings: TrainSection, model: Any) -> Path:
    """The last adapter in last/, the best in its place; where the best is from. With no validation
    the last is the best. Raises: DataError where the best was damaged since.
    """
    lora.save(model, settings, folder / "last")
    best = step_folder(folder, standing.best_step or standing.step)
    if not _is_whole(best, (lora.WEIGHTS,)):
        raise DataError(
            f"The best adapter, {best}, is damaged. The last one is whole: {folder / 'last'}. "
            "To train anew: coach train --force"
        )
    for name in (lora.CONFIG, lora.WEIGHTS):
        beside = folder / f"partial.{name}"
        shutil.copyfile(best / name, beside)
        beside.replace(folder / name)
    flush_folder(folder)
    return best


def look(folder: Path, fingerprint: Fingerprint, force: bool = False) -> Found:
    """What to go on from, or what is in the way; nothing is changed.

    Raises: ConfigError where an unfinished training of something else would be set aside.
    """
    before = _fingerprint(folder)
    if force or before is None:
        return Found(None, force or bool(_steps(folder)))
    if before != fingerprint:
        _refuse_unfinished(folder, before, fingerprint)
        return Found(None, True)
    resumable = [path for path in _steps(folder) if (path / OPTIMIZER).exists()]
    return Found(next((path for path in reversed(resumable) if _is_whole(path)), None), False)


def begin(folder: Path, fingerprint: Fingerprint, found: Found) -> None:
    """Move what is in the way, so that only checkpoints of this training's past are left."""
    if found.other:
        set_aside(folder)
    for leftover in (folder / "checkpoints").glob("*.partial"):
        console.say(f"{leftover} was not finished when it was written, and is left out.")
        shutil.rmtree(leftover)
    for step in _steps(folder):
        if found.newest is None or step.name > found.newest.name:
            _leave_out(step)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / RECORD, json.dumps(fingerprint, indent=2) + "\n")


def _leave_out(step: Path) -> None:
    """It is kept under another name, because what one machine cannot read another may."""
    aside = step.with_name(f"damaged-{step.name}")
    console.say(f"{step} is damaged or of no use any more: it is left out, and kept as {aside}.")
    shutil.rmtree(aside, ignore_errors=True)
    step.rename(aside)


def _refuse_unfinished(folder: Path, before: Fingerprint, fingerprint: Fingerprint) -> None:
    resumable = [path for path in _steps(folder) if (path / OPTIMIZER).exists()]
    if not resumable or (folder / lora.WEIGHTS).exists():
        return
    changed = "\n".join(_differences(before, fingerprint))
    raise ConfigError(
        f"{folder} holds an unfinished training ({resumable[-1].name}) of something "
        f"else:\n{changed}\n"
        "Change that back to go on with it, or type `coach train --force` to keep it aside and "
        "start anew."
    )


def _is_whole(checkpoint: Path, names: tuple[str, ...] = (lora.WEIGHTS, OPTIMIZER)) -> bool:
    try:
        hashes = _state(checkpoint)["sha256"]
        return all(stamp(checkpoint / name).sha256 == hashes[name] for name in names)
    except (FileNotFoundError, ValueError, KeyError):
        return False


def _state(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return found


def set_aside(folder: Path) -> None:
    """Rename an earlier training, so that nothing is lost; one that never began is nothing."""
    if not ((folder / lora.WEIGHTS).exists() or _steps(folder)):
        return
    named = content_hash(_fingerprint(folder) or {})[:8]
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{named}-{number}")).exists():
        number += 1
    folder.rename(aside)
    console.say(f"The earlier training is kept in {aside}.")


def _fingerprint(folder: Path) -> Fingerprint | None:
    """Of the training that lies here; its newest checkpoint's, where the record is lost."""
    for path in (folder / RECORD, *(step / STATE for step in reversed(_steps(folder)))):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        known = found.get("fingerprint") if path.name == STATE else found
        if isinstance(known, dict):
            return known
    return None


def _differences(before: Fingerprint, now: Fingerprint, prefix: str = "  ") -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} then, {new} now"
