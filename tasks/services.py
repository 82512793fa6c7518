"""The local servers of a workspace: Prefect, MLflow, the worker, the model server, and the settings they share."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock

from tasks.processes import HOST, Running, Service, ServiceError, find, free_port, marked
from tasks.workspace import HOME_VARIABLE

POOL = "tidemill"
"""The work pool that our worker serves."""
WORKSPACE_VARIABLE = "TIDEMILL_WORKSPACE"
"""Tells the runs of a worker which git worktree is theirs."""

CONFIGURED_URI = os.environ.get("MLFLOW_TRACKING_URI")
"""Read at import: MLflow sets the variable itself later."""


def environment(home: Path) -> dict[str, str]:
    """Variables that all our processes share; with the address of the Prefect server while one of ours runs."""
    variables = {
        HOME_VARIABLE: str(home),
        "PATH": _path_with_programs(),
        "PYTHONUNBUFFERED": "1",
        # Threads that spin while they wait were measured to slow a shared machine several times.
        "OMP_WAIT_POLICY": "PASSIVE",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # The second version of the page asks a tracking host from the browser even with analytics off.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_UI_API_URL": "/api",  # without it the page calls port 4200, whatever the server's port is
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # a click in the UI is not left waiting for the default 10
        "PREFECT_LOGGING_EXTRA_LOGGERS": "llm_core,tasks",
        "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else 15 processes and 2.8 GB
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    server = find(home, "prefect")
    if server is not None and server.url is not None:
        variables["PREFECT_API_URL"] = f"{server.url}/api"
    return variables


def prefect_server(home: Path, port: int = 4200) -> Service:
    """The Prefect server with its UI; a fresh database takes 15 s."""
    url = f"http://{HOST}:{port}"
    return Service(
        name="prefect",
        home=home,
        command=_python("prefect", "server", "start", "--host", HOST, "--port", str(port), "--analytics-off"),
        folder=home,
        environment=environment(home),
        ready=lambda: answers(f"{url}/api/health"),
        port=port,
        url=url,
        option="--prefect-port",
    )


def mlflow_server(home: Path, port: int = 5000) -> Service:
    """The MLflow tracking server and registry on the SQLite store in `home`."""
    url, artifacts = f"http://{HOST}:{port}", (home / "mlflow" / "artifacts").as_uri()
    size = ("--workers", "1")  # the default is four processes of 0.3 GB
    stores = ("--backend-store-uri", mlflow_store(home), "--default-artifact-root", artifacts)
    proxy = ("--artifacts-destination", artifacts)
    return Service(
        name="mlflow",
        home=home,
        command=_python("mlflow", "server", "--host", HOST, "--port", str(port), *size, *stores, *proxy),
        folder=home,
        environment=environment(home),
        ready=lambda: answers(f"{url}/health"),
        port=port,
        url=url,
        option="--mlflow-port",
    )


def model_server(home: Path, root: Path, line: str, port: int = 8000) -> Service:
    """The server of `line`'s champion; it is up without one, and its /ready says 503 until there is one."""
    url = f"http://{HOST}:{port}"
    return Service(
        name="model",
        home=home,
        command=_python("flows.cli", "serve", "--line", line, "--port", str(port)),
        folder=root,
        environment=environment(home),
        ready=lambda: answers(f"{url}/health"),
        port=port,
        url=url,
        option="--model-port",
        grace_seconds=40.0,  # running requests are finished first
    )


def server_of_line(home: Path, root: Path, line: str, port: int) -> Service:
    """The model server to ask for `line`: the running one if it serves that line, else one of its own."""
    service = model_server(home, root, line, port)
    running = find(home, service.name)
    if running is None or _line_of(running) == line:
        return service
    other = model_server(home, root, line, free_port() if running.port == port else port)
    return replace(other, name=f"model-{line}")


def running_server_of_line(home: Path, line: str) -> Running | None:
    """The model server of this home that serves `line`, if one runs."""
    candidates = (find(home, name) for name in ("model", f"model-{line}"))
    return next((found for found in candidates if found is not None and _line_of(found) == line), None)


def worker(home: Path, workspace: Path, api: str) -> Service:
    """A Prefect worker that runs one flow at a time in the git worktree `workspace`; `api` is the server's API URL."""
    name = workspace.name
    start = ("worker", "start", "--pool", POOL, "--type", "process", "--limit", "1", "--name", name)
    return Service(
        name=name,
        home=home,
        command=_python("prefect", *start, "--install-policy", "never"),
        folder=workspace,
        environment={
            **environment(home),
            "PREFECT_API_URL": api,
            WORKSPACE_VARIABLE: str(workspace),
            "PYTHONPATH": str(workspace),  # before the installed project: runs use the last commit's code
        },
        ready=lambda: _polls(api, name),
        # A worker that is told to end kills its runs at once; told first, a training saves a checkpoint.
        children_first=True,
        grace_seconds=40.0,
    )


def mlflow_store(home: Path) -> str:
    """Address of the MLflow database of `home`."""
    return f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"


def tracking_uri(home: Path) -> str:
    """MLFLOW_TRACKING_URI where it was set for us, else the SQLite store of `home`."""
    return CONFIGURED_URI or mlflow_store(home)


def prepare_mlflow(home: Path) -> None:
    """Make the MLflow database where there is none: two processes that meet on a new one race its migration."""
    database = home / "mlflow" / "mlflow.db"
    (home / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_suffix(".lock")):
        if database.exists():
            return
        draft = database.with_suffix(".draft")
        draft.unlink(missing_ok=True)  # what a killed run left
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{draft}"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment(home)})
        if done.returncode:
            raise ServiceError(f"{database}: MLflow could not make its database:\n{done.stderr[-2000:]}")
        os.replace(draft, database)


def crash_orphans(home: Path, api: str, name: str) -> list[str]:
    """Mark runs of the worker `name` as crashed whose process is gone; returns their ids.

    They would hold the only slot of the work pool until their heartbeats are missed, or for ever if they had none yet.
    Call it while the worker does not run.
    """
    unfinished = {
        "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        "work_pools": {"name": {"any_": [POOL]}},
    }
    alive = {variables.get("PREFECT__FLOW_RUN_ID") for _, variables in marked(home)}
    crashed = {"type": "CRASHED", "message": "its process and its worker are gone; start it again, it resumes"}
    runs = _ask(f"{api}/flow_runs/filter", unfinished)
    mine = [run["id"] for run in runs if run["labels"].get("prefect.worker.name") == name]
    orphans = [run for run in mine if run not in alive]
    for run in orphans:
        _ask(f"{api}/flow_runs/{run}/set_state", {"state": crashed, "force": True})
    return orphans


def _line_of(running: Running) -> str | None:
    try:
        return str(httpx.get(f"{running.url}/ready", timeout=5.0, trust_env=False).json().get("line"))
    except (httpx.HTTPError, ValueError):
        return None


def answers(url: str) -> bool:
    """Whether `url` gives a successful answer within two seconds."""
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _polls(api: str, name: str) -> bool:
    """Whether the Prefect server has lately heard from a worker of this name."""
    online = {"workers": {"status": {"any_": ["ONLINE"]}}}
    try:
        answer = httpx.post(f"{api}/work_pools/{POOL}/workers/filter", json=online, timeout=2.0, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.is_success and any(found["name"] == name for found in answer.json())


def _ask(url: str, body: dict[str, Any], tries: int = 20) -> Any:
    """POST to the Prefect server; its SQLite store answers 503 where two calls met, to have one repeated."""
    for left in reversed(range(tries)):
        try:
            answer = httpx.post(url, json=body, timeout=10.0, trust_env=False)
        except httpx.HTTPError as problem:
            raise ServiceError(f"{url}: the Prefect server does not answer ({problem}); see its log") from None
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or not left:
            break
        time.sleep(0.25)
    if not answer.is_success:
        raise ServiceError(f"{url}: the Prefect server answers {answer.status_code}: {answer.text[:300]}")
    return answer.json()


def _path_with_programs() -> str:
    """PATH that finds the programs of this Python environment first."""
    programs, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    return path if path.split(os.pathsep)[0] == programs else f"{programs}{os.pathsep}{path}"


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)
