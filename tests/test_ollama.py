"""Against a real Ollama where one is on the PATH: its own port, its own folder of models."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TinyRun, finished, start_coach
from families import FAMILIES, VARIANTS, Family, save_tokenizer

from coach_mlx import (
    dataset,
    fuse,
    gguf,
    gguf_file,
    importer,
    llama_runtime,
    mlx_runtime,
    modelfile,
    ollama,
    ollama_parity,
    parity_cases,
    trainer,
    turn_shapes,
)
from coach_mlx.arms import Decoding, find_arms
from coach_mlx.config import Config, load_config
from coach_mlx.errors import BackendError, ConfigError, DataError, GateFailed, ToolError
from coach_mlx.mlx_replies import Asked
from coach_mlx.ollama_server import Server
from coach_mlx.workspace import PROJECT, Plan, Workspace, read_system_prompt

OLLAMA = shutil.which("ollama")
SYSTEM = 'You are a calm coach. You say "we".\nListen first. 🌱'


def needs_ollama(test: Callable[..., None]) -> Callable[..., None]:
    missing = pytest.mark.skipif(OLLAMA is None, reason="there is no `ollama` on the PATH")
    marked: Callable[..., None] = pytest.mark.ollama(missing(test))
    return marked


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RealServer:
    """A process group of its own, because Ollama starts another for each model."""

    def __init__(self, folder: Path, *before: str) -> None:
        self.folder, self._before = folder, before
        self.models = folder / "models"
        self.host = f"127.0.0.1:{free_port()}"
        self.start()

    def start(self) -> None:
        self.models.mkdir(parents=True, exist_ok=True)
        own = {"OLLAMA_HOST": self.host, "OLLAMA_MODELS": str(self.models)}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._before, str(OLLAMA), "serve"],
                env={**os.environ, **own, "HOME": str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        address, port = self.host.split(":")
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection((address, int(port)), 1):
                return
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    server = RealServer(tmp_path_factory.mktemp("ollama"))
    yield server
    server.kill()


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealServer]:
    server = RealServer(tmp_path / "ollama")
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    yield server
    server.kill()


class Export(NamedTuple):
    """As `coach export` leaves it."""

    config: Config
    workspace: Workspace
    options: list[str]

    def edit(self, old: str, new: str) -> None:
        text = self.workspace.modelfile.read_text(encoding="utf-8")
        assert old in text
        self.workspace.modelfile.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def exported(tmp_path: Path, smollm2: Path, tokenizer: Any) -> Callable[..., Export]:
    def make(weights: Path) -> Export:
        settings = ["name=small", f"base.model={smollm2}", "export.quantization=f16"]
        config = load_config(None, settings)
        workspace = Workspace(tmp_path / "here", config)
        shutil.copytree(smollm2, workspace.fused)
        shutil.copyfile(weights, workspace.gguf)
        text = modelfile.render(config, tokenizer, SYSTEM, f"./{workspace.gguf.name}", 2048)
        # Two threads that spin while they wait for each other are slow where others work too.
        text += "PARAMETER num_thread 1\n"
        workspace.modelfile.write_text(text, encoding="utf-8")
        workspace.record("export", Plan((), (workspace.gguf, workspace.modelfile), {}), 1, 1.0, {})
        options = ["--config", str(PROJECT / "config" / "coach.yaml")]
        return Export(config, workspace, [*options, *(f"--set={one}" for one in settings)])

    return make


@pytest.fixture(scope="session")
def tiny_gguf(tiny: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    gguf_file.write_model(tiny, tokenizer, Config(), "F16", target)
    return target


def digests(egress_log: Path) -> dict[str, str]:
    with contextlib.closing(Server(egress_log, "")) as server:
        return server.digests()


def deploy(folder: Path, export: Export, *more: str) -> tuple[int, dict[str, Any], str]:
    return finished(start_coach("deploy", folder, *export.options, *more))


# --- with a real Ollama


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS], ids=lambda family: family.name)
@needs_ollama
def test_ollama_renders_what_training_had_for_thirty_turns(
    family: Family,
    shared: RealServer,
    tiny: Path,
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its template stands both in the Modelfile and in the file, as the export has it."""
    monkeypatch.setenv("OLLAMA_HOST", shared.host)
    folder = save_tokenizer(family, tmp_path / "tokenizer")
    own = mlx_runtime.open_tokenizer(folder, family.control[family.end])
    jinja = turn_shapes.jinja_template(own)
    monkeypatch.setattr(turn_shapes, "jinja_template", lambda _: jinja)
    target = tmp_path / "tiny.gguf"
    gguf_file.write_model(tiny, tokenizer, Config(), "F16", target)
    with contextlib.closing(Server(tmp_path / "egress.jsonl", "")) as server:
        template = turn_shapes.ollama_template(own)
        assert template is not None
        server.create("family", target, None, template=template, system=SYSTEM)
        assert server.show("family")["capabilities"] == ["completion"]
        assert ollama_parity.compare(server, "family", own, SYSTEM) == 60
        assert ollama_parity.compare(server, "family", own, SYSTEM) == 60
        server.forget("family")


@needs_ollama
def test_a_files_own_template_that_mentions_tools_beats_the_modelfiles(
    shared: RealServer,
    tiny: Path,
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why the export writes its own into the file."""
    monkeypatch.setenv("OLLAMA_HOST", shared.host)
    jinja = "{%- for m in messages %}{{- m.content }}{%- endfor %}{%- if tools %}x{%- endif %}"
    monkeypatch.setattr(turn_shapes, "jinja_template", lambda _: jinja)
    target = tmp_path / "tiny.gguf"
    gguf_file.write_model(tiny, tokenizer, Config(), "F16", target)
    with contextlib.closing(Server(tmp_path / "egress.jsonl", "")) as server:
        template = turn_shapes.ollama_template(tokenizer)
        server.create("tools", target, None, template=template, system=SYSTEM)
        with pytest.raises(GateFailed, match="another text than training"):
            ollama_parity.compare(server, "tools", tokenizer, SYSTEM)


@needs_ollama
def test_deployed_rolled_back_and_forward_again(
    real: RealServer, exported: Callable[..., Export]
) -> None:
    export = exported(importer.packaged_gguf())
    config, workspace, _ = export
    first = ollama.run(config, workspace)
    assert first["equal_renderings"] == 60
    assert (first["equal_prompt_tokens"], first["replies"]) == (3, 3)
    assert first["previous_digest"] is None

    # What a person changes in the Modelfile is served, and is another model.
    export.edit("PARAMETER temperature 0.7", "PARAMETER temperature 0.3")
    second = ollama.run(config, workspace)
    assert second["previous_digest"] == first["digest"] != second["digest"]
    with contextlib.closing(Server(workspace.egress, "")) as server:
        kept = ollama.read_parameters(server.show("small")["parameters"])
    assert (kept["temperature"], kept["num_ctx"]) == (0.3, 2048)
    assert ollama.run(config, workspace)["previous_digest"] == first["digest"]

    for now, before in ((first, second), (second, first)):
        back = ollama.roll_back(config, workspace)
        assert (back["digest"], back["previous_digest"]) == (now["digest"], before["digest"])
        found = digests(workspace.egress)
        assert found == {"small:latest": now["digest"], "small:previous": before["digest"]}

    history = json.loads(workspace.deployed.read_text())
    actions = ["deploy", "deploy", "deploy", "rollback", "rollback"]
    assert [line["action"] for line in history] == actions
    assert (
        history[0]["gguf_sha256"]
        == workspace.manifest("export")
        .outputs[  # type: ignore[union-attr]
            workspace.shown(workspace.gguf)
        ]
        .sha256
    )
    lines = [json.loads(line) for line in workspace.egress.read_text().splitlines()]
    assert {line["host"] for line in lines} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{{ .Content }}", "{{ .Content", "cannot read the TEMPLATE"),
        ("<|im_start|>user\n", "<|im_start|>user ", "they part at character"),
    ],
)
@needs_ollama
def test_a_broken_template_closes_the_gate_and_moves_no_name(
    real: RealServer,
    exported: Callable[..., Export],
    tiny_gguf: Path,
    tmp_path: Path,
    old: str,
    new: str,
    why: str,
) -> None:
    export = exported(tiny_gguf)
    with contextlib.closing(Server(tmp_path / "egress.jsonl", "")) as server:
        server.create("small", tiny_gguf, None, system="Before.")
    before = digests(tmp_path / "egress.jsonl")
    export.edit(old, new)
    code, result, said = deploy(export.workspace.root, export)
    assert (code, result) == (10, {}), said
    assert why in said
    assert digests(tmp_path / "egress.jsonl") == before
    assert not export.workspace.deployed.exists()


@needs_ollama
def test_what_the_pipeline_exports_is_what_ollama_serves(
    real: RealServer, tiny_project: Callable[..., TinyRun], tmp_path: Path
) -> None:
    """Quantized as it is served; random weights say nothing, so it is not talked to."""
    config, workspace, _ = tiny_project()
    for stage in (dataset, importer, trainer, fuse):
        stage.run(config, workspace)
    plan = gguf.plan(config, workspace)
    workspace.record("export", plan, 1, 1.0, gguf.run(config, workspace))
    material = ollama._material(workspace)
    own = mlx_runtime.open_tokenizer(workspace.fused)
    with contextlib.closing(Server(tmp_path / "egress.jsonl", "")) as server:
        file = material.modelfile
        what = {"template": file.template, "system": file.system, "license": file.license}
        server.create("tiny", material.weights, None, parameters=file.options(), **what)
        ollama._require_the_same(server.show("tiny"), material)
        assert ollama_parity.compare(server, "tiny", own, file.system) == 60
        other = material._replace(modelfile=file._replace(system="Another."))
        with pytest.raises(GateFailed, match="SYSTEM"):
            ollama._require_the_same(server.show("tiny"), other)
        assert evaluated(config, workspace, None) == evaluated(config, workspace, "ollama/tiny")
        with pytest.raises(ToolError, match="Ollama has no nobody"):
            evaluated(config, workspace, "ollama/nobody")


def evaluated(config: Config, workspace: Workspace, served: str | None) -> list[str]:
    """What the evaluation's served arm answers, in two turns."""
    settings = config.evaluate.model_copy(update={"served": served})
    decoding = Decoding(temperature=0.0, max_tokens=6, seed=7)
    chosen = config.model_copy(update={"evaluate": settings})
    source = find_arms(chosen, workspace, decoding)[-1]
    system = read_system_prompt(workspace.find(config.dataset.system_prompt))
    messages, texts = [{"role": "system", "content": system}], []
    with source.open(900) as arm:
        for said in ("I cannot sleep.", "It is three again."):
            messages.append({"role": "user", "content": said})
            [(_, reply)] = arm.replies([Asked("a", messages, 1)])
            texts.append(reply.text)
            messages.append({"role": "assistant", "content": reply.text or "x"})
    return texts


@pytest.mark.parametrize("moment", ["create", "talk"])
@needs_ollama
def test_a_server_that_is_killed_midway_leaves_the_name_and_a_rerun_succeeds(
    real: RealServer, exported: Callable[..., Export], tiny_gguf: Path, moment: str
) -> None:
    export = exported(importer.packaged_gguf())
    log = export.workspace.egress
    with contextlib.closing(Server(log, "")) as server:
        server.create("small", tiny_gguf, None, system="Before.")
    before = digests(log)
    stored = set(blobs(real))
    process = start_coach("deploy", export.workspace.root, *export.options)
    assert process.stderr is not None
    if moment == "talk":
        for line in process.stderr:
            if line.startswith("Talking to it"):
                break
    else:
        wait_for(lambda: set(blobs(real)) > stored)
    real.kill()
    code, result, said = finished(process)
    assert (code, result) == (4, {}), said
    assert "broke off while" in said

    real.start()
    # The candidate may stand, where nobody was left to take it away; the name is as it was.
    found = digests(log)
    assert found.pop("small:candidate", "") != before["small:latest"]
    assert found == before
    code, result, said = deploy(export.workspace.root, export)
    assert code == 0, said
    assert digests(log) == {
        "small:latest": result["digest"],
        "small:previous": before["small:latest"],
    }


@needs_ollama
def test_a_full_disk_leaves_the_name(
    tmp_path: Path, exported: Callable[..., Export], tiny_gguf: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "ollama"
    (folder / "models").mkdir(parents=True)
    mount = f'mount -t tmpfs -o size=130m none {folder / "models"} && exec "$@"'
    small_disk = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if subprocess.run([*small_disk, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no disk of one's own")
    server = RealServer(folder, *small_disk)
    monkeypatch.setenv("OLLAMA_HOST", server.host)
    try:
        export = exported(importer.packaged_gguf())
        log = export.workspace.egress
        with contextlib.closing(Server(log, "")) as client:
            client.create("small", tiny_gguf, None, system="Before.")
        before = digests(log)
        with pytest.raises(ToolError, match="its disk is full"):
            ollama.run(export.config, export.workspace)
        assert digests(log) == before
    finally:
        server.kill()


@needs_ollama
def test_a_rollback_that_was_killed_between_its_halves_is_finished(
    real: RealServer, exported: Callable[..., Export], tiny_gguf: Path
) -> None:
    config, workspace, _ = exported(tiny_gguf)
    with contextlib.closing(Server(workspace.egress, "")) as server:
        for name, system in (("small:previous", "Old."), ("small:candidate", "New.")):
            server.create(name, tiny_gguf, None, system=system)
        old, new = (server.digests()[f"small:{tag}"] for tag in ("previous", "candidate"))
        server.point("small:latest", "small:previous", old)
    result = ollama.roll_back(config, workspace)
    assert (result["digest"], result["previous_digest"]) == (old, new)
    assert digests(workspace.egress) == {"small:latest": old, "small:previous": new}
    (old_again,) = {ollama.roll_back(config, workspace)["previous_digest"]}
    assert old_again == old


@needs_ollama
def test_nothing_to_roll_back_to_says_so(
    real: RealServer, exported: Callable[..., Export], tiny_gguf: Path
) -> None:
    config, workspace, _ = exported(tiny_gguf)
    with pytest.raises(ToolError, match="coach deploy"):
        ollama.roll_back(config, workspace)
    with contextlib.closing(Server(workspace.egress, "")) as server:
        server.create("small", tiny_gguf, None)
        digest = server.digests()["small:latest"]
        server.point("small:previous", "small:latest", digest)
    with pytest.raises(ToolError, match="nothing to go back"):
        ollama.roll_back(config, workspace)


def blobs(server: RealServer) -> list[str]:
    return [path.name for path in (server.models / "blobs").glob("*")]


def wait_for(happened: Callable[[], bool]) -> None:
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


# --- without one


def test_no_server_says_how_to_start_one_and_that_the_modelfile_stands(
    exported: Callable[..., Export], tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{free_port()}")
    export = exported(tiny_gguf)
    code, _, said = deploy(export.workspace.root, export)
    assert code == 5
    assert "ollama serve" in said
    assert "ollama create small -f models/small/Modelfile" in said
    assert deploy(export.workspace.root, export, "--rollback")[0] == 5
    assert not export.workspace.deployed.exists()


def test_another_machine_is_refused_before_anything_is_sent(
    exported: Callable[..., Export], tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://10.0.0.9:11434")
    config, workspace, _ = exported(tiny_gguf)
    with pytest.raises(ConfigError, match="unset OLLAMA_HOST"):
        ollama.run(config, workspace)
    assert workspace.egress.read_text() == ""


def test_what_answers_there_must_be_an_ollama(
    exported: Callable[..., Export], tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1024)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            connection.close()

        answering = threading.Thread(target=refuse)
        answering.start()
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{listener.getsockname()[1]}")
        config, workspace, _ = exported(tiny_gguf)
        with pytest.raises(BackendError, match="is no Ollama"):
            ollama.run(config, workspace)
        answering.join()


def test_an_export_that_is_not_complete_is_not_deployed(
    exported: Callable[..., Export], tiny_gguf: Path
) -> None:
    config, workspace, _ = export = exported(tiny_gguf)
    export.edit("FROM ./small-f16.gguf", "FROM llama3.2")
    with pytest.raises(DataError, match="no such file beside it"):
        ollama.run(config, workspace)
    export.edit("FROM llama3.2", "FROM ./small-f16.gguf")
    workspace.gguf.write_bytes(workspace.gguf.read_bytes()[:-1])
    with pytest.raises(ToolError, match="is not what `coach export` wrote"):
        ollama.run(config, workspace)
    (workspace.manifests / "export.json").unlink()
    with pytest.raises(ToolError, match="no complete export"):
        ollama.run(config, workspace)


def test_a_record_that_is_none_is_not_written_over(
    exported: Callable[..., Export], tiny_gguf: Path
) -> None:
    config, workspace, _ = exported(tiny_gguf)
    workspace.deployed.write_text("{}")
    with pytest.raises(DataError, match="Move it away"):
        ollama.run(config, workspace)


def test_a_difference_is_shown_where_it_begins() -> None:
    shown = parity_cases.difference("a" * 100 + "bc", "a" * 100 + "xc", "Ollama")
    assert "character 101 (of 102 and 102)" in shown
    assert "abc'" in shown
    assert "axc'" in shown
    assert "character 3 (of 2 and 4)" in parity_cases.difference("ab", "abcd", "Ollama")


def test_ollamas_list_of_parameters_is_read() -> None:
    text = 'num_ctx                        2048\nstop                           "<|im_end|>"\n'
    text += 'temperature                    0.7\nstop                           "\\"\\n"'
    wanted = {"num_ctx": 2048, "stop": ["<|im_end|>", '"\n'], "temperature": 0.7}
    assert ollama.read_parameters(text) == wanted


def test_the_gguf_says_what_it_is(tiny_gguf: Path) -> None:
    llama_runtime.require_whole_gguf(tiny_gguf)
    assert ollama._facts(tiny_gguf) == ("F16", "llama")


def test_a_model_that_speaks_in_markers_is_not_deployed(tokenizer: Any) -> None:
    control = ollama_parity.control_tokens(tokenizer)
    assert "<|im_end|>" in control
    ollama_parity._require_words("That sounds hard.", control, 1)
    with pytest.raises(GateFailed, match="answered nothing"):
        ollama_parity._require_words("", control, 2)
    with pytest.raises(GateFailed, match="is a marker"):
        ollama_parity._require_words("Yes.<|im_end|>", control, 3)
    with pytest.raises(GateFailed, match="made 9 tokens"):
        ollama_parity._require_equal([(3, 3), (8, 9)])
