"""What goes wrong with another engine's program: whoever waits is told why, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from flows.cli import app
from llm_core.artifact import Artifact, ArtifactError
from llm_core.config import Model
from llm_core.models import ModelError, build
from llm_core.serving import backends
from llm_core.serving.app import Service, create_app
from llm_core.serving.backends import BackendError, NotInstalled, process
from llm_core.serving.engine import Engine
from llm_core.serving.follower import Follower
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion
from llm_core.serving.settings import Backend, RunnerSettings
from tests.llm_core.serving.backends.conftest import Play, Programs, Rehearse
from tests.llm_core.serving.backends.test_api import children
from tests.llm_core.serving.test_app import ask
from tests.llm_core.serving.test_engine import wait_until

pytestmark = pytest.mark.e2e  # real processes

PROGRAM = {"vllm": "vllm", "llama.cpp": "llama-server"}
Registered = Callable[..., RegisteredVersion]


@pytest.fixture
def client(engine: Engine, host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(Service(host, engine)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are looked after every moment, and started again at once."""
    monkeypatch.setattr(process, "HEALTH_SECONDS", 0.1)
    monkeypatch.setattr(process, "MAX_MISSES", 2)
    monkeypatch.setattr(process, "FIRST_PAUSE_SECONDS", 0.3)


def test_a_program_that_is_not_installed_is_named_with_what_to_do(
    backend: Backend, programs: Programs, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    command = ["serve", "--model", str(artifact.path), "--line", "tiny", "--port", "0", "--backend", backend]
    done = CliRunner().invoke(app, command)
    advice = {"vllm": "pip install 'vllm", "llama.cpp": "build or download llama-server"}[backend]
    assert isinstance(done.exception, NotInstalled) and f"the program {PROGRAM[backend]} is not installed" in str(
        done.exception
    )
    assert advice in str(done.exception)
    variable = {"vllm": "TIDEMILL_VLLM", "llama.cpp": "TIDEMILL_LLAMA_SERVER"}[backend]
    monkeypatch.setenv(variable, "/nowhere/engine")
    with pytest.raises(NotInstalled, match=f"{variable} is /nowhere/engine, which is no program"):
        backends.require(RunnerSettings(backend=backend))


def test_the_command_line_hands_backend_and_arguments_on(
    backend: Backend, programs: Programs, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    given: list[RunnerSettings] = []
    monkeypatch.setattr("llm_core.serving.server.serve", lambda *_, settings, **__: given.append(settings))
    command = ["serve", "--model", str(artifact.path), "--backend", backend, "--backend-args", "--seed 3 --name 'a b'"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (given[0].backend, given[0].backend_args) == (backend, ("--seed", "3", "--name", "a b"))
    wrong = CliRunner().invoke(app, ["serve", "--model", str(artifact.path), "--backend-args", "--seed 3"])
    assert wrong.exit_code == 2


def test_the_programs_own_arguments_come_last(play: Play, programs: Programs, settings: RunnerSettings) -> None:
    assert play("a").runner.trouble is None
    (arguments,) = (start["arguments"] for start in programs.starts())
    own = {
        "vllm": ["--max-model-len", "96", "--max-num-seqs", "8", "--dtype", "float32"],
        "llama.cpp": ["--parallel", "8"],
    }
    assert set(own[settings.backend]) <= set(arguments) and "127.0.0.1" in arguments


def load(
    artifact: Artifact,
    registered: Registered,
    rehearse: Rehearse,
    settings: RunnerSettings,
    programs: Programs,
    **script: Any,
) -> LoadedModel:
    version = registered(artifact, "1")
    rehearse(version, artifact.path)
    place = programs.folder / f"{version.name}.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **script}))
    return LoadedModel.load(version, artifact.path, settings)


def test_a_program_that_dies_at_its_start_says_its_last_words(
    artifact: Artifact, registered: Registered, rehearse: Rehearse, settings: RunnerSettings, programs: Programs
) -> None:
    before = set(children())
    with pytest.raises(BackendError, match=r"(?s)ended with exit code 1 while it started.*does not fit in memory"):
        load(artifact, registered, rehearse, settings, programs, fault="dies at start")
    assert set(children()) <= before


def test_a_program_that_never_gets_well_is_ended(
    artifact: Artifact, registered: Registered, rehearse: Rehearse, settings: RunnerSettings, programs: Programs
) -> None:
    before = set(children())
    with pytest.raises(BackendError, match=r"was not well within 0\.5 s"):
        load(artifact, registered, rehearse, replace(settings, start_seconds=0.5), programs, fault="never well")
    assert set(children()) <= before


def test_arguments_that_the_program_does_not_know_are_its_own_error(
    artifact: Artifact, registered: Registered, rehearse: Rehearse, settings: RunnerSettings, programs: Programs
) -> None:
    with pytest.raises(BackendError, match=r"(?s)exit code 2 while it started.*--warp-speed"):
        load(artifact, registered, rehearse, replace(settings, backend_args=("--warp-speed",)), programs)


def test_a_program_that_computes_something_else_never_serves(
    artifact: Artifact,
    publish: Any,
    registered: Registered,
    rehearse: Rehearse,
    settings: RunnerSettings,
    tmp_path: Path,
) -> None:
    before, version = set(children()), registered(artifact, "1")
    rehearse(version, publish(tmp_path / "other", 2).path)
    with pytest.raises(BackendError, match=r"logits are .* standard deviations off in float32"):
        LoadedModel.load(version, artifact.path, settings)
    assert set(children()) <= before


def test_a_refused_version_leaves_the_one_before_serving(
    client: TestClient, host: Host, play: Play, registry: Any, registered: Registered, artifact: Artifact,
    programs: Programs, settings: RunnerSettings,
) -> None:  # fmt: skip
    host.first.install(play("a"))
    programs.say("tiny@2", fault="dies at start")
    registry.promote(registered(artifact, "2"), artifact.path)
    Follower(host.first, registry, lambda version: None, settings).check()
    state = client.get("/ready").json()
    assert (state["model"]["name"], state["registry"]["refused"]) == ("tiny@1", "tiny@2")
    assert "does not fit in memory" in state["registry"]["refused_because"]
    assert ask(client).status_code == 200


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("dies", 503, "ended with exit code 7; it is being started again"),
        ("says nonsense", 500, "something else than its protocol has"),
        ("tells no ids", 500, "something else than its protocol has"),
        ("tells an error", 500, "it gave up: out of memory"),
        ("cuts the stream", 500, "its stream ended in the middle"),
        ("refuses", 500, "it answered 400: this prompt is not to its liking"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_in_an_answer_is_told(
    client: TestClient, host: Host, play: Play, fault: str, status: int, reason: str, stream: bool
) -> None:
    host.first.install(play("a", fault=fault, count=3))
    response = ask(client, max_tokens=8, temperature=0, stream=stream)
    if stream:
        *pieces, last = response.text.strip().split("\n\n")
        assert response.status_code == 200 and len(pieces) == (0 if fault == "refuses" else 3)
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert response.status_code == status
        error = response.json()["error"]
    assert reason in error["message"]
    assert error["code"] == {500: "generation_failed", 503: "model_not_ready"}[status]


def test_a_program_that_died_is_started_again(
    client: TestClient, host: Host, play: Play, programs: Programs, quick: None
) -> None:
    model = play("a")
    host.first.install(model)
    assert ask(client).status_code == 200
    programs.say("tiny@1", ids=[5])
    programs.kill()
    wait_until(lambda: model.runner.trouble is not None)
    refused = ask(client)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_ready")
    assert "ended by SIGKILL; it is being started again" in refused.json()["error"]["message"]
    assert refused.headers["retry-after"] == "2" and ask(client, stream=True).status_code == 503
    assert client.get("/ready").status_code == 503
    wait_until(lambda: model.runner.trouble is None)
    assert ask(client, temperature=0).json()["choices"][0]["text"] == model.tokenizer.decode([5] * 5)
    assert client.get("/ready").status_code == 200


def test_a_program_that_cannot_be_started_again_is_tried_less_and_less_often(
    play: Play, programs: Programs, quick: None
) -> None:
    model = play("a")
    programs.say("tiny@1", fault="dies at start")
    programs.kill()
    time.sleep(3)
    assert 3 <= len(programs.starts()) <= 5  # at once, and after 0.3, 0.6 and 1.2 seconds
    assert "while it started" in str(model.runner.trouble)


def test_a_program_that_hangs_is_replaced(
    client: TestClient, host: Host, play: Play, programs: Programs, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "HEALTH_PATIENCE_SECONDS", 0.3)
    model = play("a", fault="hangs", count=2)
    host.first.install(model)
    response = ask(client, max_tokens=8)
    assert response.status_code == 503 and "hangs" in response.json()["error"]["message"]
    programs.say("tiny@1", ids=[5])
    wait_until(lambda: len(programs.starts()) > 1)


def test_answers_that_wait_when_the_program_dies_are_told(
    client: TestClient, host: Host, play: Play, quick: None
) -> None:
    host.first.install(play("a", fault="dies", count=2, delay=0.05))
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda _: ask(client, max_tokens=8), range(12)))
    assert [response.status_code for response in found] == [503] * 12
    assert [
        response.json()["error"]["message"] for response in found if "being started again" not in response.text
    ] == []


def test_a_folder_that_changed_is_not_read_again(
    publish: Any, registered: Registered, rehearse: Rehearse, settings: RunnerSettings, programs: Programs, quick: None,
    tmp_path: Path,
) -> None:  # fmt: skip
    artifact = publish(tmp_path / "mine", 1)
    model = load(artifact, registered, rehearse, settings, programs)
    if settings.backend == "vllm":
        (artifact.path / "config.json").write_text("{}")
    else:
        (written,) = (Path(word) for word in programs.starts()[0]["arguments"] if ".gguf" in word)
        written.write_bytes(b"something else")
    programs.kill()
    wait_until(lambda: "sha256" in str(model.runner.trouble))


def test_what_the_backend_does_not_run_is_refused_by_name(
    artifact: Artifact, settings: RunnerSettings, programs: Programs
) -> None:
    shape = {"family": "lstm", "num_layers": 1, "width": 32, "context": 32}
    network = build(Model(**shape), 300, 0, 1)
    with pytest.raises(ModelError, match="LstmForCausalLM"):
        backends.start("tiny@1", artifact.path, network, settings, lambda: None)


def test_settings_that_cannot_be_kept_are_refused(model: LoadedModel, artifact: Artifact, programs: Programs) -> None:
    network: Any = model.network
    for settings, message in (
        (RunnerSettings(backend="vllm", precision="int8"), "say how vLLM is to quantize"),
        (RunnerSettings(backend="llama.cpp", cache_bytes=1000), "cache_bytes 1000 holds less than one text of 96"),
    ):
        with pytest.raises(ValueError, match=message):
            backends.start("tiny@1", artifact.path, network, settings, lambda: None)


def test_weights_are_let_go_once_the_program_has_them(loaded: LoadedModel) -> None:
    assert {weights.device.type for weights in loaded.network.parameters()} == {"meta"}
    assert loaded.num_parameters > 10_000


SERVER = """
import sys
from pathlib import Path
from llm_core.serving.hosting import Host
from llm_core.serving.registry import FolderRegistry
from llm_core.serving.server import serve
from llm_core.serving.settings import RunnerSettings
from llm_core.serving.backends import process
if sys.argv[4] == "SIGTERM":  # as on systems where a program cannot ask for the signal
    process.LAUNCH = process.LAUNCH.replace("linux", "nothing")
serve(Host(["tiny"]), FolderRegistry(Path(sys.argv[1])), lambda version: None, port=int(sys.argv[2]),
      settings=RunnerSettings(backend=sys.argv[3], max_running=4))
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_however_the_server_ends_its_programs_end(
    end: signal.Signals, artifact: Artifact, backend: Backend, rehearse: Rehearse, programs: Programs, tmp_path: Path
) -> None:
    import httpx

    from tasks.processes import free_port

    version, port = RegisteredVersion("tiny", artifact.digest[:12], artifact.digest, artifact.key), free_port()
    rehearse(version, artifact.path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", SERVER, str(artifact.path), str(port), backend, end.name]
    server = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not _is_ready(f"http://127.0.0.1:{port}/ready"):
            assert time.monotonic() < deadline and server.poll() is None
            time.sleep(0.05)
        assert httpx.get(f"http://127.0.0.1:{port}/ready").json()["model"]["backend"] == backend
        (program,) = (child for child in psutil.Process(server.pid).children() if version.name in child.cmdline())
        server.send_signal(end)
        assert server.wait(timeout=20) == (0 if end == signal.SIGTERM else -signal.SIGKILL)
        gone, _ = psutil.wait_procs([program], timeout=5)
        assert gone == [program]
    finally:
        server.kill()
        server.wait()


def _is_ready(url: str) -> bool:
    import httpx

    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_a_damaged_artifact_starts_no_program(
    publish: Any, registered: Registered, settings: RunnerSettings, programs: Programs, tmp_path: Path
) -> None:
    artifact = publish(tmp_path / "mine", 1)
    (artifact.path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="sha256 is not the manifest's"):
        LoadedModel.load(registered(artifact, "1"), artifact.path, settings)
    assert programs.log() == []
