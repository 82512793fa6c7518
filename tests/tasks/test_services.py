from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks import processes, services
from tasks.processes import Running, ServiceError


class _PrefectApi(BaseHTTPRequestHandler):
    """Answers the two calls that `crash_orphans` makes, with three unfinished runs."""

    crashed: list[tuple[str, Any]]
    busy: int
    """So many calls are answered with 503 first, as SQLite makes the real server do."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: Any = {"status": "ACCEPT"}
        if self.path.endswith("/flow_runs/filter"):
            workers = {"lost": "worker", "living": "worker", "other": "elsewhere"}
            answer = [{"id": run, "labels": {"prefect.worker.name": name}} for run, name in workers.items()]
        elif self.busy <= 0:
            self.crashed.append((self.path, body["state"]["type"]))
        content = json.dumps(answer).encode()
        type(self).busy -= 1
        self.send_response(200 if self.busy < 0 else 503)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prefect_api() -> Iterator[str]:
    _PrefectApi.crashed, _PrefectApi.busy = [], 1
    with HTTPServer(("127.0.0.1", 0), _PrefectApi) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def test_every_server_listens_on_this_machine_only_and_on_its_own_port(tmp_path: Path) -> None:
    for service in (services.prefect_server(tmp_path, 4321), services.mlflow_server(tmp_path, 4321)):
        assert service.command[service.command.index("--host") + 1] == "127.0.0.1"
        assert service.command[service.command.index("--port") + 1] == "4321"
        assert service.url == "http://127.0.0.1:4321"


def test_mlflow_is_one_worker_without_jobs_on_the_homes_store(tmp_path: Path) -> None:
    service = services.mlflow_server(tmp_path)
    assert service.command[service.command.index("--workers") + 1] == "1"
    assert f"sqlite:///{tmp_path}/mlflow/mlflow.db" in service.command
    assert service.environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_the_worker_runs_one_flow_at_a_time_with_the_code_of_its_worktree(tmp_path: Path) -> None:
    workspace = tmp_path / "workspaces" / "worker"
    service = services.worker(tmp_path, workspace, "http://127.0.0.1:4321/api")
    assert service.command[service.command.index("--limit") + 1] == "1"
    assert service.folder == workspace
    assert service.environment["PYTHONPATH"] == str(workspace)
    assert service.environment["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert service.children_first


def test_no_process_of_ours_reports_to_a_tracking_host(tmp_path: Path) -> None:
    variables = services.environment(tmp_path)
    assert variables["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert variables["PREFECT_SERVER_UI_V2_ENABLED"] == "false"
    assert variables["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert variables["DO_NOT_TRACK"] == "1"


def test_the_environment_names_the_prefect_server_only_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "PREFECT_API_URL" not in services.environment(tmp_path)
    state = Running("prefect", os.getpid(), 0.0, 4321, "http://127.0.0.1:4321", "", 1.0, False)
    monkeypatch.setattr(services, "find", lambda home, name: state if name == "prefect" else None)
    assert services.environment(tmp_path)["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"


def test_the_programs_of_this_environment_come_first_on_the_path_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = services.environment(tmp_path)["PATH"]
    monkeypatch.setenv("PATH", first)
    assert services.environment(tmp_path)["PATH"] == first


def test_a_run_without_process_is_crashed_and_a_living_one_is_not(
    tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "marked", lambda home: iter([(None, {"PREFECT__FLOW_RUN_ID": "living"})]))
    assert services.crash_orphans(tmp_path, prefect_api, "worker") == ["lost"]
    assert _PrefectApi.crashed == [("/api/flow_runs/lost/set_state", "CRASHED")]


def test_a_prefect_server_that_stays_busy_or_away_is_an_error(tmp_path: Path, prefect_api: str) -> None:
    with pytest.raises(ServiceError, match="flow_runs/filter: the Prefect server answers 503"):
        services._ask(f"{prefect_api}/flow_runs/filter", {}, tries=1)
    with pytest.raises(ServiceError, match="9/api/flow_runs/filter: the Prefect server does not answer"):
        services.crash_orphans(tmp_path, "http://127.0.0.1:9/api", "worker")


def test_no_answer_is_not_ready() -> None:
    assert not services.answers("http://127.0.0.1:9/health")  # the discard port: nothing listens


@pytest.mark.slow
def test_mlflows_database_is_made_once_by_many_at_once(tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def prepare() -> None:
        try:
            services.prepare_mlflow(tmp_path)
        except BaseException as problem:  # a thread's error would be lost
            problems.append(problem)

    threads = [threading.Thread(target=prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with sqlite3.connect(tmp_path / "mlflow" / "mlflow.db") as database:
        tables = {name for (name,) in database.execute("select name from sqlite_master")}
    assert {"experiments", "runs", "registered_models", "alembic_version"} <= tables
    assert not (tmp_path / "mlflow" / "mlflow.draft").exists()


def test_a_database_that_mlflow_cannot_make_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho disk full >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(failing))
    with pytest.raises(ServiceError, match=r"(?s)mlflow\.db: MLflow could not make its database.*disk full"):
        services.prepare_mlflow(tmp_path)
    assert not (tmp_path / "mlflow" / "mlflow.db").exists()


def test_a_taken_port_is_refused_before_a_server_starts(tmp_path: Path, prefect_api: str) -> None:
    taken = int(prefect_api.split(":")[2].split("/")[0])
    with pytest.raises(ServiceError, match=f"port {taken} .*--prefect-port"):
        processes.start(services.prefect_server(tmp_path, taken))
