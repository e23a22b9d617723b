"""A training as it was after some step: adapters/NAME/checkpoints/step-N/, written beside and
renamed.

Each holds the adapter in mlx-lm's format and state.json (where the training stood, what the next
step would do, and hashes); the two newest hold the optimizer as well, and the newest whole one is
what a killed training goes on from.

Fails: ConfigError where going on would mix two trainings, DataError where no checkpoint fits this
program.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, lora, mlx_runtime
from coach_mlx.config import TrainSection
from coach_mlx.errors import ConfigError, DataError
from coach_mlx.records import content_hash
from coach_mlx.standing import Standing
from coach_mlx.workspace import stamp, whole_folder, write_whole

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
RESUMABLE = 2
"""So many of the newest keep their optimizer."""
Fingerprint = dict[str, Any]


class Saved(NamedTuple):
    """`ahead` is what the next step would do: its place, learning rate and seed."""

    standing: Standing
    ahead: dict[str, Any]


def save(
    folder: Path,
    saved: Saved,
    model: Any,
    optimizer: Any,
    settings: TrainSection,
    fingerprint: Fingerprint,
) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    target = step_folder(folder, saved.standing.step)
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
    _tidy(folder, settings.keep_checkpoints)


def step_folder(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:06d}"


def _tidy(folder: Path, keep: int) -> None:
    """Optimizers of the resumable ones, adapters of the newest and of what those name as best."""
    found = sorted(folder.glob("checkpoints/step-*"))
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
    the last is the best.
    """
    lora.save(model, settings, folder / "last")
    step = standing.best_step or standing.step
    for name in (lora.CONFIG, lora.WEIGHTS):
        beside = folder / f"partial.{name}"
        shutil.copyfile(step_folder(folder, step) / name, beside)
        beside.replace(folder / name)
    return step_folder(folder, step)


def begin(folder: Path, fingerprint: Fingerprint) -> Path | None:
    """The checkpoint to go on from, `None` to start anew; a finished training of something else is
    set aside. Raises: ConfigError where an unfinished one would be.
    """
    for leftover in folder.glob("checkpoints/*.partial"):
        console.say(f"{leftover} was not finished when it was written, and is left out.")
        shutil.rmtree(leftover)
    before = _fingerprint(folder)
    if before is not None and before != fingerprint:
        _refuse_unfinished(folder, before, fingerprint)
        set_aside(folder)
    newest = _newest_whole(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "training.json", json.dumps(fingerprint, indent=2) + "\n")
    return newest


def has_checkpoint(folder: Path) -> bool:
    return any(folder.glob(f"checkpoints/step-*/{OPTIMIZER}"))


def _has_steps(folder: Path) -> bool:
    return any(folder.glob("checkpoints/step-*"))


def _refuse_unfinished(folder: Path, before: Fingerprint, fingerprint: Fingerprint) -> None:
    if not has_checkpoint(folder) or (folder / lora.WEIGHTS).exists():
        return
    newest = sorted(folder.glob(f"checkpoints/step-*/{OPTIMIZER}"))[-1].parent
    changed = "\n".join(_differences(before, fingerprint))
    raise ConfigError(
        f"{folder} holds an unfinished training ({newest.name}) of something else:\n{changed}\n"
        "Change that back to go on with it, or type `coach train --force` to keep it aside and "
        "start anew."
    )


def _newest_whole(folder: Path) -> Path | None:
    for found in sorted(folder.glob(f"checkpoints/step-*/{OPTIMIZER}"), reverse=True):
        checkpoint = found.parent
        if _is_whole(checkpoint):
            return checkpoint
        console.say(f"{checkpoint} is damaged: it is deleted, and the one before it is used.")
        shutil.rmtree(checkpoint)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        hashes = _state(checkpoint)["sha256"]
        return all(stamp(checkpoint / name).sha256 == digest for name, digest in hashes.items())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def _state(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    return found


def set_aside(folder: Path) -> None:
    """Rename an earlier training, so that nothing is lost; one that never began is nothing."""
    before = _fingerprint(folder)
    if before is None or not ((folder / lora.WEIGHTS).exists() or _has_steps(folder)):
        return
    number = 1
    while (
        aside := folder.with_name(f"{folder.name}-{content_hash(before)[:8]}-{number}")
    ).exists():
        number += 1
    folder.rename(aside)
    console.say(f"The earlier training is kept in {aside}.")


def _fingerprint(folder: Path) -> Fingerprint | None:
    try:
        found = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differences(before: Fingerprint, now: Fingerprint, prefix: str = "  ") -> Iterator[str]:
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}: {old} then, {new} now"
