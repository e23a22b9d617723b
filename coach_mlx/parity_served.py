"""What serves a file, against training: the Modelfile beside it, and Ollama where it answers.

Reads the Modelfile, deployed.json and the file's manifest; asks a server on this machine. Writes
nothing.
"""

import contextlib
import json
from typing import Any

from coach_mlx import egress, modelfile, ollama_parity, parity_cases, turn_shapes
from coach_mlx.config import Config
from coach_mlx.console import Check
from coach_mlx.errors import CoachError, GateFailed
from coach_mlx.ollama_server import Server
from coach_mlx.workspace import Workspace, is_same, read_prompt


def checks(config: Config, workspace: Workspace, tokenizer: Any) -> list[Check]:
    return [_modelfile(workspace, tokenizer), _ollama(config, workspace, tokenizer)]


def _modelfile(workspace: Workspace, tokenizer: Any) -> Check:
    name = "text, by the Modelfile"
    if not workspace.modelfile.is_file():
        return Check(name, "there is none; coach export writes it", "TEMPLATE of training", True)
    found = modelfile.parse(read_prompt(workspace.modelfile, "The Modelfile")).template
    wanted = turn_shapes.ollama_template(tokenizer)
    if found == wanted:
        return Check(name, "its TEMPLATE is training's", "TEMPLATE of training", True)
    place = parity_cases.difference(wanted or "", found or "", "the Modelfile")
    return Check(name, "its TEMPLATE is another", "TEMPLATE of training", False, (place,))


def _ollama(config: Config, workspace: Workspace, tokenizer: Any) -> Check:
    name, wanted = "text, by Ollama", "the same"
    try:
        with (
            contextlib.closing(Server(workspace.egress, "")) as server,
            egress.purpose("verify"),
        ):
            model = f"{config.name}:latest"
            if not _is_this_file(workspace, server.digests().get(model)):
                why = f"not asked: its {config.name} is no deploy of this file (coach deploy)"
                return Check(name, why, wanted, True)
            system = (server.show(model)).get("system")
            count = ollama_parity.compare(server, model, tokenizer, system)
    except GateFailed as error:
        return Check(name, "another text", wanted, False, (str(error),))
    except CoachError as error:
        return Check(name, f"not asked: {str(error).partition('. ')[0]}", wanted, True)
    return Check(name, f"{count} conversations, all the same", wanted, True)


def _is_this_file(workspace: Workspace, digest: str | None) -> bool:
    """Whether what Ollama has under the name was deployed from the file that stands here."""
    manifest = workspace.manifest("export")
    stamp = manifest and manifest.outputs.get(workspace.shown(workspace.gguf))
    if not (digest and stamp and workspace.deployed.is_file()):
        return False
    try:
        history = json.loads(workspace.deployed.read_text(encoding="utf-8"))
        made = {(one["digest"], one["gguf_sha256"]) for one in history if "gguf_sha256" in one}
    except (ValueError, KeyError, TypeError):
        return False
    return (digest, stamp.sha256) in made and is_same(workspace.gguf, stamp)
