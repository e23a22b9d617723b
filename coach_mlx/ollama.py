"""`coach deploy`: the exported file becomes a model in Ollama, once it has proved itself there.

Reads: the Modelfile, with whatever its person changed in it, and the weights it names. Writes:
models/NAME/deployed.json, what was deployed when. In Ollama: NAME:candidate is made, read back,
compared with training and talked to; only then NAME stands for it, and NAME:previous for what NAME
was. `--rollback` exchanges the two.
Fails: GateFailed where Ollama would give the model another text than training did, or it does not
answer like one; ToolError and BackendError as `ollama_server` says. NAME is then as it was.
"""

import contextlib
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from coach_mlx import console, egress, llama_runtime, mlx_runtime, modelfile, ollama_parity
from coach_mlx.config import Config
from coach_mlx.errors import BackendError, CoachError, DataError, GateFailed, ToolError
from coach_mlx.modelfile import Modelfile
from coach_mlx.ollama_server import Server
from coach_mlx.workspace import Workspace, is_same, read_prompt, stamp, write_whole


class Names(NamedTuple):
    """What Ollama lists them as."""

    current: str
    candidate: str
    previous: str


class Material(NamedTuple):
    """What a deploy is made from; `tokenizer` is the folder of the one that trained."""

    tokenizer: Path
    modelfile: Modelfile
    weights: Path
    adapter: Path | None
    sha256: str


def names_of(config: Config) -> Names:
    return Names(*(f"{config.name}:{tag}" for tag in ("latest", "candidate", "previous")))


def run(config: Config, workspace: Workspace) -> dict[str, Any]:
    started = time.monotonic()
    names = names_of(config)
    history = _history(workspace)
    material = _material(workspace)
    with _server(config, workspace) as server:
        version = server.version()
        console.say(f"Ollama {version} at {server.address}")
        try:
            checks = _prove(server, names.candidate, material)
            digest, before = _promote(server, names, config.name)
        except BaseException:
            with contextlib.suppress(CoachError):
                server.forget(names.candidate)
            raise
    result = {
        "action": "deploy",
        "name": config.name,
        "digest": digest,
        "previous_digest": before,
        "gguf_sha256": material.sha256,
        "ollama": version,
        **checks,
        "seconds": round(time.monotonic() - started, 1),
    }
    console.say(f"Talk to it: ollama run {config.name}. Undo this: coach deploy --rollback")
    return _recorded(workspace, history, result)


def roll_back(config: Config, workspace: Workspace) -> dict[str, Any]:
    """NAME and NAME:previous exchanged, so that a second one undoes it."""
    names = names_of(config)
    history = _history(workspace)
    with _server(config, workspace) as server:
        found = server.digests()
        previous, current = found.get(names.previous), found.get(names.current)
        if previous is None:
            raise ToolError(
                f"Ollama has no {names.previous} to go back to. Deploy first: coach deploy"
            )
        if current == previous:
            current = _left_by_a_kill(server, names, found)
        elif current is None:
            server.point(names.current, names.previous, previous)
        else:
            server.point(names.candidate, names.current, current)
            _point_or_restore(server, names, names.previous, previous, names.candidate, current)
            server.point(names.previous, names.candidate, current)
        server.forget(names.candidate)
    console.say(f"{config.name} is {_short(previous)} again; before, it was {_short(current)}.")
    result = {
        "action": "rollback",
        "name": config.name,
        "digest": previous,
        "previous_digest": current,
    }
    return _recorded(workspace, history, result)


def _left_by_a_kill(server: Server, names: Names, found: dict[str, str]) -> str:
    """A rollback that was killed between its two halves is finished."""
    left = found.get(names.candidate)
    if left is None or left == found[names.previous]:
        raise ToolError(
            f"{names.previous} is the same model as {names.current}: there is nothing to go back "
            "to. `ollama list` shows both."
        )
    server.point(names.previous, names.candidate, left)
    return left


@contextlib.contextmanager
def _server(config: Config, workspace: Workspace) -> Any:
    typed = f"ollama create {config.name} -f {workspace.shown(workspace.modelfile)}"
    stands = f"{config.name} in Ollama is as it was. The Modelfile stands as well: {typed}"
    with (
        contextlib.closing(Server(workspace.egress, stands)) as server,
        egress.purpose("deploy"),
    ):
        yield server


# --- what is deployed


def _material(workspace: Workspace) -> Material:
    """Raises: ToolError without a complete export, DataError where the Modelfile is not usable."""
    manifest = workspace.manifest("export")
    folders = (workspace.fused, workspace.base)
    folder = next((one for one in folders if (one / "tokenizer.json").is_file()), None)
    if folder is None or manifest is None or not workspace.modelfile.is_file():
        raise ToolError(
            f"There is no complete export in {workspace.model}. Make it with: coach export"
        )
    file = modelfile.parse(read_prompt(workspace.modelfile, "The Modelfile"))
    weights = _beside(workspace, file.weights, "FROM")
    adapter = None if file.adapter is None else _beside(workspace, file.adapter, "ADAPTER")
    exported = manifest.outputs.get(workspace.shown(weights))
    if exported is None:
        console.say(f"The Modelfile names {weights}, which is not what `coach export` wrote.")
        return Material(folder, file, weights, adapter, stamp(weights).sha256)
    if not is_same(weights, exported):
        raise ToolError(f"{weights} is not what `coach export` wrote. Type: coach export")
    return Material(folder, file, weights, adapter, exported.sha256)


def _beside(workspace: Workspace, name: str, instruction: str) -> Path:
    path = (workspace.model / Path(name).expanduser()).resolve()
    if not path.is_file():
        raise DataError(
            f"{instruction} in {workspace.modelfile} names {name}, and there is no such file "
            "beside it. Write the Modelfile again: coach export"
        )
    return path


# --- the candidate


def _prove(server: Server, name: str, material: Material) -> dict[str, Any]:
    """Make the candidate and ask of it all that can be asked. Raises: GateFailed."""
    tokenizer = mlx_runtime.open_tokenizer(material.tokenizer)
    file = material.modelfile
    size = material.weights.stat().st_size
    with console.spinner(f"Making {name} ({size / 1e9:.1f} GB)"):
        server.create(
            name,
            material.weights,
            material.adapter,
            template=file.template,
            system=file.system,
            parameters=file.options(),
            license=file.license,
        )
    _require_the_same(server.show(name), material)
    with console.spinner("Comparing what Ollama renders with training's text"):
        renderings = ollama_parity.compare(server, name, tokenizer, file.system)
    with console.spinner("Talking to it"):
        talk = ollama_parity.talk(server, name, tokenizer, file.system)
    console.say(
        f"{renderings} conversations rendered as in training; {len(talk.replies)} replies in "
        f"{console.duration(talk.seconds)}."
    )
    return {
        "equal_renderings": renderings,
        "equal_prompt_tokens": talk.equal_counts,
        "replies": len(talk.replies),
        "reply_seconds": round(talk.seconds, 1),
    }


def _require_the_same(shown: dict[str, Any], material: Material) -> None:
    """What Ollama read back against the Modelfile. Raises: GateFailed with every difference."""
    file = material.modelfile
    kind, architecture = _facts(material.weights)
    details = shown.get("details") or {}
    pairs: list[tuple[str, Any, Any]] = [
        ("SYSTEM", file.system or "", shown.get("system") or ""),
        ("the quantization", kind, details.get("quantization_level")),
        ("the architecture", architecture, details.get("family")),
    ]
    if file.template:
        pairs.append(("TEMPLATE", file.template, shown.get("template")))
    kept = read_parameters(shown.get("parameters") or "")
    pairs += [(f"PARAMETER {key}", want, kept.get(key)) for key, want in file.options().items()]
    wrong = [
        f"  {what}: {want!r}, and Ollama has {has!r}" for what, want, has in pairs if want != has
    ]
    if wrong:
        raise GateFailed("\n".join(["Ollama did not keep what the Modelfile says:", *wrong]))


def _facts(weights: Path) -> tuple[str, str]:
    """Quantization and architecture, as llama.cpp reads them in the file."""
    import gguf

    llama = llama_runtime.open_gguf(weights, num_ctx=0, vocabulary_only=True)
    metadata = llama.metadata
    llama.close()
    kind = gguf.LlamaFileType(int(metadata["general.file_type"])).name.removeprefix("MOSTLY_")
    return kind, str(metadata["general.architecture"])


def read_parameters(text: str) -> dict[str, Any]:
    """Ollama lists one a line, strings in quotation marks; a name that stands twice is a list."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        value: Any = rest.strip()
        with contextlib.suppress(ValueError):
            value = json.loads(value)
        if name == "stop":
            found["stop"] = [*found.get("stop", []), value]
        else:
            found[name] = value
    return found


# --- the names


def _promote(server: Server, names: Names, name: str) -> tuple[str, str | None]:
    """NAME stands for the candidate, NAME:previous for what NAME was; both digests."""
    found = server.digests()
    digest, before = found[names.candidate], found.get(names.current)
    if before == digest:
        console.say(f"{name} is this very model already.")
        before = found.get(names.previous)
    else:
        if before is not None:
            server.point(names.previous, names.current, before)
        _point_or_restore(server, names, names.candidate, digest, names.previous, before)
        console.say(f"{name} is now {_short(digest)}; before, it was {_short(before)}.")
    server.forget(names.candidate)
    return digest, before


def _point_or_restore(
    server: Server, names: Names, source: str, digest: str, kept: str, before: str | None
) -> None:
    """Ollama writes a name anew in its place, which a full disk can break: then the name gets back
    what it stood for, which is kept under another.
    """
    try:
        server.point(names.current, source, digest)
    except CoachError as error:
        if before is None:
            raise
        try:
            if server.digests().get(names.current) != before:
                server.point(names.current, kept, before)
        except CoachError:
            raise BackendError(
                f"{error}\nWhether {names.current} is whole cannot be seen while Ollama does not "
                f"answer. Once it does, this sets it right: ollama cp {kept} {names.current}"
            ) from None
        raise


def _short(digest: str | None) -> str:
    return "nothing" if digest is None else digest.removeprefix("sha256:")[:12]


# --- the record


def _history(workspace: Workspace) -> list[dict[str, Any]]:
    try:
        found = json.loads(workspace.deployed.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise DataError(f"{workspace.deployed} is not the list it was. Move it away.")
    return found


def _recorded(
    workspace: Workspace, history: list[dict[str, Any]], result: dict[str, Any]
) -> dict[str, Any]:
    line = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **result}
    write_whole(workspace.deployed, json.dumps([*history, line], indent=2) + "\n")
    return result
