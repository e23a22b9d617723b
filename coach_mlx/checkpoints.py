"""A training as it was after some step: adapters/NAME/checkpoints/step-N/, written beside and
renamed.

Each holds the adapter in mlx-lm's format and state.json (the step, and the fingerprint of data and
settings); the newest one holds the optimizer as well, and is the one a killed training goes on
from.

Fails: ConfigError where going on would mix two trainings, DataError where a file is cut short.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coach_mlx import console, mlx_runtime
from coach_mlx.errors import ConfigError
from coach_mlx.records import content_hash
from coach_mlx.workspace import whole_folder, write_whole

ADAPTER, ADAPTER_CONFIG, OPTIMIZER = (
    "adapters.safetensors",
    "adapter_config.json",
    "optimizer.safetensors",
)
Fingerprint = dict[str, Any]


def save_adapter(model: Any, adapter_config: dict[str, Any], folder: Path) -> None:
    """What `mlx_lm.generate --adapter-path` opens."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    write_whole(folder / ADAPTER_CONFIG, json.dumps(adapter_config, indent=2) + "\n")
    beside = folder / f"partial.{ADAPTER}"
    with mlx_runtime.writing(folder):
        mx.save_safetensors(str(beside), dict(tree_flatten(model.trainable_parameters())))
    beside.replace(folder / ADAPTER)


def save(
    folder: Path,
    step: int,
    model: Any,
    optimizer: Any,
    adapter_config: dict[str, Any],
    fingerprint: Fingerprint,
) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    target = folder / "checkpoints" / f"step-{step:06d}"
    with mlx_runtime.writing(target), whole_folder(target) as partial:
        save_adapter(model, adapter_config, partial)
        mx.save_safetensors(str(partial / OPTIMIZER), dict(tree_flatten(optimizer.state)))
        write_whole(
            partial / "state.json", json.dumps({"step": step, "fingerprint": fingerprint}) + "\n"
        )
    for older in sorted(target.parent.glob("step-*"))[:-1]:
        (older / OPTIMIZER).unlink(
            missing_ok=True
        )  # the adapter stays, to be judged; only the newest resumes


def restore(checkpoint: Path, model: Any, optimizer: Any) -> int:
    """Put adapter and optimizer back as they were; the step they were saved after."""
    import mlx.core as mx
    from mlx.utils import tree_unflatten

    for name in (ADAPTER, OPTIMIZER):
        mlx_runtime.require_whole_safetensors(checkpoint / name)
    model.load_weights(str(checkpoint / ADAPTER), strict=False)
    saved: Any = mx.load(str(checkpoint / OPTIMIZER))
    optimizer.state = tree_unflatten(list(saved.items()))
    mx.eval(model.trainable_parameters(), optimizer.state)
    return int(json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["step"])


def begin(folder: Path, fingerprint: Fingerprint) -> Path | None:
    """Make the adapter's folder ready; the checkpoint to go on from, or `None` to start anew.

    A finished training of something else is set aside. Raises: ConfigError where an unfinished one
    would be.
    """
    for leftover in folder.glob("checkpoints/*.partial"):
        console.say(f"{leftover} was not finished when it was written, and is left out.")
        shutil.rmtree(leftover)
    found = sorted(folder.glob(f"checkpoints/step-*/{OPTIMIZER}"))
    newest = found[-1].parent if found else None
    before = _fingerprint(folder)
    if before is not None and before != fingerprint:
        if newest and not (folder / ADAPTER).exists():
            changed = "\n".join(_differences(before, fingerprint))
            raise ConfigError(
                f"{folder} holds an unfinished training ({newest.name}) of something "
                f"else:\n{changed}\n"
                "Change that back to go on with it, or type `coach train --force` to keep it aside "
                "and start anew."
            )
        set_aside(folder)
        newest = None
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "training.json", json.dumps(fingerprint, indent=2) + "\n")
    return newest


def set_aside(folder: Path) -> None:
    """Rename an earlier training, so that nothing is lost."""
    before = _fingerprint(folder)
    if before is None:
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
