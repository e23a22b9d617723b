"""A model from the hub: the one way in which this project downloads anything.

Reads and writes the hub's own cache on this machine. The download is a process of its own, so that
this one never goes online. The hub's library goes on by itself after a lost connection; after a
stop, files that came whole are kept and the others begin anew. What came is held against its own
headers, and a file that is not whole is fetched once more.
Fails: BackendError where the hub does not answer, DataError where what it gives is not whole, and
ToolError where the disk has no room.
"""

import os
import subprocess
import sys
from pathlib import Path

from coach_mlx import console, mlx_runtime, supervisor
from coach_mlx.errors import BackendError, CoachError, DataError
from coach_mlx.workspace import require_space

FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt", "LICENSE*")
"""What an MLX folder is made of."""

# The one program that goes online. Not the `hf` command: that one also looks for its own updates.
DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
try:
    print(snapshot_download(sys.argv[1], revision=sys.argv[2] or None, allow_patterns=sys.argv[3:]))
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def download(name: str, revision: str | None, remedy: str) -> Path:
    """The snapshot's folder. `remedy` says what to type where the hub gives nothing."""
    online = {key: value for key, value in os.environ.items() if key not in mlx_runtime.QUIET}
    online |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-c", DOWNLOAD, name, revision or "", *FILES]
    console.say(f"{name} is not on this machine's disk as a folder: asking the hub for it.")
    done = subprocess.run(
        command,
        env=online,
        stdout=subprocess.PIPE,
        stderr=supervisor.screen(),
        text=True,
        check=False,
    )
    if done.returncode:
        raise BackendError(f"The hub did not give {name}. {remedy}")
    return Path(done.stdout.strip().splitlines()[-1])


def download_whole(name: str, revision: str | None, size_bytes: int, remedy: str) -> Path:
    """The same, looked at before it is used; a broken file is deleted and asked for once more."""
    require_space(cache_folder(), size_bytes, f"Downloading {name}")
    folder = download(name, revision, remedy)
    broken = broken_weights(folder)
    if broken:
        console.say(f"{', '.join(path.name for path in broken)}: not whole, asking for it again.")
        for path in broken:
            path.resolve().unlink()
            path.unlink(missing_ok=True)
        folder = download(name, revision, remedy)
    mlx_runtime.require_whole_model(folder)
    return folder


def broken_weights(folder: Path) -> list[Path]:
    """Weight files whose length is not what their header promises."""

    def is_broken(path: Path) -> bool:
        try:
            mlx_runtime.require_whole_safetensors(path)
        except DataError:
            return True
        return False

    return [path for path in sorted(folder.glob("*.safetensors")) if is_broken(path)]


def find(name: str, revision: str | None = None) -> Path | None:
    """Where the cache has the whole of a model; nothing is downloaded."""
    folder = mlx_runtime.hub_folder(name, revision)
    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    try:
        mlx_runtime.require_whole_model(folder)
    except CoachError:
        return None
    return folder


def cache_folder() -> Path:
    """Where the hub's library keeps what it downloads."""
    mlx_runtime.prepare()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
