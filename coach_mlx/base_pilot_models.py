"""The models of a pilot of base models: names become what answers.

Reads the catalogue's candidates where they lie on this machine, or what provider/name says (mlx,
gguf, ollama, scripted). With leave to download, fetches what is missing, its size said first.
Fails: ToolError naming everything that is not here and what to type, before any model is opened.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from coach_mlx import base_fit, console, hub, memory_fit, mlx_runtime
from coach_mlx.arms import ArmSource, Decoding, folder_arm, named_arm
from coach_mlx.base_models import PACKAGED, Candidate, find_candidate
from coach_mlx.config import Config
from coach_mlx.errors import DataError, ToolError
from coach_mlx.memory_plan import facts_of
from coach_mlx.prices import FREE
from coach_mlx.workspace import Workspace

SAID_BY = "--pilot"
MORE_THAN_WEIGHTS = 1.1
"""Of the weights, for a tokenizer and some room."""


class PilotModel(NamedTuple):
    """What answers, and whose it is."""

    source: ArmSource
    folder: Path | None
    """Of an MLX model: its own tokenizer, with which the references are scored."""
    candidate: Candidate | None


def find_models(
    names: Sequence[str],
    candidates: Sequence[Candidate],
    config: Config,
    workspace: Workspace,
    decoding: Decoding,
    may_download: bool = False,
) -> list[PilotModel]:
    """Each name once, in the order in which they were typed."""
    wanted = [as_candidate(name, candidates) for name in dict.fromkeys(names)]
    missing = [
        one
        for one in wanted
        if isinstance(one, Candidate) and base_fit.find_on_disk(one, workspace) is None
    ]
    if missing and not may_download:
        raise ToolError(_not_here(missing, config))
    for one in missing:
        _download(one, config)
    return [_open_name(one, config, workspace, decoding) for one in wanted]


def as_candidate(name: str, candidates: Sequence[Candidate]) -> Candidate | str:
    """What the catalogue knows under this name; provider/name as it is. Raises: ConfigError."""
    return name if name.partition("/")[0] in FREE else find_candidate(name, candidates)


def download_bytes(candidate: Candidate, config: Config) -> int:
    """Computed from shapes: 4 bits where those are what is downloaded, otherwise 16."""
    if not candidate.is_quantized:
        return 2 * candidate.parameters
    return base_fit.stored_bytes(base_fit.as_imported(candidate, config))


def _not_here(missing: Sequence[Candidate], config: Config) -> str:
    lines = [
        f"  {one.name}: {one.base_model}, about {download_bytes(one, config) / 1e9:.1f} GB"
        for one in missing
    ]
    return "\n".join(
        [
            "Not on this machine:",
            *lines,
            "Nothing was downloaded. To fetch what is missing, type the same with --download. Or "
            "put it into a folder and name that: --pilot mlx/FOLDER",
        ]
    )


def _download(candidate: Candidate, config: Config) -> None:
    size = download_bytes(candidate, config)
    console.say(f"{candidate.name}: about {size / 1e9:.1f} GB (computed) come from the hub.")
    hub.download_whole(
        candidate.base_model,
        candidate.revision,
        int(MORE_THAN_WEIGHTS * size),
        "Files that came whole are kept. With a network, the same command fetches the others; some "
        "models need an account on the hub, and a licence accepted there.",
    )


def _open_name(
    one: Candidate | str, config: Config, workspace: Workspace, decoding: Decoding
) -> PilotModel:
    width = config.evaluate.width
    if isinstance(one, str):
        source = named_arm(one, one, workspace, decoding, width, SAID_BY)
        provider, _, rest = one.partition("/")
        folder = workspace.root / Path(rest).expanduser() if provider == "mlx" else None
        return PilotModel(source, folder, None)
    found = base_fit.find_on_disk(one, workspace)
    if found is None or found.folder is None:
        raise ToolError(
            f"{one.name} comes with the install and was not imported yet. Type: coach import --set "
            f"base.model={PACKAGED}"
        )
    meaning = f"{one.title}, {found.words}"
    return PilotModel(
        folder_arm(one.name, meaning, found.folder, decoding, width), found.folder, one
    )


def require_room(folder: Path) -> None:
    """Raises: ToolError where the weights alone are more than this machine has memory for."""
    place = memory_fit.here()
    model, _ = mlx_runtime.open_weights(folder, as_stored=True)
    try:
        size = facts_of(model, place.kind).base_bytes
    except DataError:
        return  # of a family whose shapes nobody here reads; opening it will tell
    if size > place.limit:
        raise ToolError(
            f"The weights in {folder} take {size / 1e9:.1f} GB of memory here, and {place.words} "
            f"has {place.limit / 1e9:.1f} GB. Choose a smaller model."
        )
