from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flows import supervisor
from flows.supervisor import Settings
from tasks import processes
from tasks.processes import Service, ServiceError
from tasks.workspace import Workspace, WorkspaceError
from tests.flows.small_project import Api, free_port, is_gone, make_project, wait_for


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "servers").mkdir()
    return tmp_path


def sleeper(home: Path, code: str = "import time; time.sleep(60)") -> Service:
    command = (sys.executable, "-c", code)
    return Service(name="web", home=home, command=command, folder=home, ready=lambda: True, grace_seconds=1.0)


def kill(home: Path, name: str) -> int:
    running = processes.find(home, name)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    wait_for(lambda: not running.alive)
    return running.pid


def test_a_dead_service_is_restarted_and_counted(home: Path) -> None:
    watch = supervisor._Watch("web", lambda: sleeper(home))
    supervisor._start(watch)
    killed = kill(home, "web")
    supervisor._look(home, watch, [watch])
    restarted = processes.find(home, "web")
    assert restarted is not None
    assert restarted.pid != killed
    assert json.loads((home / "servers" / "report.json").read_text())["restarts"] == {"web": 1}
    processes.stop(home, restarted)


def test_pauses_double_while_a_service_keeps_dying(home: Path) -> None:
    watch = supervisor._Watch("web", lambda: sleeper(home))
    supervisor._start(watch)
    pauses = []
    for _ in range(9):
        kill(home, "web")
        supervisor._look(home, watch, [watch])
        watch.next_try = 0.0  # the pause is over
        supervisor._look(home, watch, [watch])
        supervisor._look(home, watch, [watch])
        pauses.append(watch.pause_seconds)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    running = processes.find(home, "web")
    assert running is not None
    processes.stop(home, running)


def test_a_restart_that_fails_is_logged_and_tried_again(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    def describe() -> Service:
        raise ServiceError("port 4200 (web): cannot be used")

    watch = supervisor._Watch("web", describe)
    with caplog.at_level(logging.ERROR, logger="flows.supervisor"):
        supervisor._look(home, watch, [watch])
    assert "web: not restarted, next try in 1 s: port 4200 (web): cannot be used" in caplog.text
    assert watch.next_try is not None
    assert watch.restarts == 0


def test_without_a_supervisor_all_is_stopped(home: Path) -> None:
    states = {service.name: service.state for service in supervisor.status(home)}
    assert states == dict.fromkeys(("supervisor", "prefect", "mlflow", "worker", "model"), "stopped")


def test_down_of_nothing_does_nothing(home: Path) -> None:
    assert supervisor.down(home) == []


def test_up_without_git_starts_nothing(tmp_path: Path) -> None:
    ws = Workspace(root=tmp_path, home=tmp_path / ".tidemill")
    with pytest.raises(WorkspaceError, match="git commit first"):
        supervisor.up(ws)
    assert all(service.state == "stopped" for service in supervisor.status(ws.home))


def test_up_with_a_taken_port_starts_nothing(tmp_path: Path) -> None:
    ws = make_project(tmp_path / "project")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {taken} .*--mlflow-port"):
            supervisor.up(ws, Settings(free_port(), taken, free_port()))
    assert all(service.state == "stopped" for service in supervisor.status(ws.home))


def test_up_beside_a_server_of_a_single_run_says_to_wait(tmp_path: Path) -> None:
    ws = make_project(tmp_path / "project")
    used, asked = free_port(), free_port()
    single = replace(sleeper(ws.home), name="prefect", folder=tmp_path, port=used)
    running = processes.start(single)
    with pytest.raises(ServiceError, match=f"prefect: runs already on port {used} .*wait for the tidemill run"):
        supervisor.up(ws, Settings(asked, free_port(), free_port()))
    processes.stop(ws.home, running)


@pytest.mark.e2e
def test_all_services_are_up_and_a_second_up_changes_nothing(served: tuple[Workspace, Settings]) -> None:
    ws, settings = served
    before = supervisor.status(ws.home)
    assert [service.state for service in before] == ["running"] * 5
    assert all((service.memory_bytes or 0) > 1_000_000 for service in before)
    assert {service.port for service in before if service.port} == {
        settings.prefect_port,
        settings.mlflow_port,
        settings.model_port,
    }
    assert supervisor.up(ws, settings) is False
    assert [service.pid for service in supervisor.status(ws.home)] == [service.pid for service in before]


@pytest.mark.e2e
def test_a_killed_service_comes_back(served: tuple[Workspace, Settings]) -> None:
    ws, _ = served
    killed = kill(ws.home, "model")
    wait_for(lambda: processes.find(ws.home, "model") is not None)
    model = next(service for service in supervisor.status(ws.home) if service.name == "model")
    assert model.pid != killed
    wait_for(lambda: next(s for s in supervisor.status(ws.home) if s.name == "model").restarts >= 1)


@pytest.mark.e2e
def test_down_leaves_no_process_even_after_kills_in_the_middle_of_a_run(served: tuple[Workspace, Settings]) -> None:
    ws, settings = served
    (ws.home / "proof-7.json").unlink(missing_ok=True)
    Api(settings.prefect_port).run("lifecycle/demo", {"recipe": {"seed": 7}}).raise_for_status()
    wait_for((ws.home / "proof-7.json").exists)
    child = json.loads((ws.home / "proof-7.json").read_text())["child"]
    kill(ws.home, "supervisor")
    kill(ws.home, "worker")
    assert set(supervisor.down(ws.home)) >= {"prefect", "mlflow", "model"}
    assert is_gone(child)
    assert list(processes.marked(ws.home)) == []
    assert all(service.state == "stopped" for service in supervisor.status(ws.home))
