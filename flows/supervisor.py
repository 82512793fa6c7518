"""The supervisor: keeps Prefect, MLflow, the worker and the model server running, else no nightly ever fires.

It is one detached process. `up` starts it and returns when all is ready, `status` looks, `down` ends everything,
whatever a crash or a kill left.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from flows import worktrees
from tasks import processes, services
from tasks.processes import HOST, Running, Service, ServiceError
from tasks.workspace import Workspace

SUPERVISOR = "supervisor"
WORKER = "worker"
NAMES = ("prefect", "mlflow", WORKER, "model")
"""The services in the order in which they start."""
STOPPING_ORDER = (SUPERVISOR, WORKER, "model", "mlflow", "prefect")
"""Runs end while the servers they report to are still there."""
LOOK_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
"""Pauses before restarts double up to this; a service that lived as long begins again with the shortest."""

log = logging.getLogger("flows.supervisor")


@dataclass(frozen=True)
class Settings:
    """What `up` can choose."""

    prefect_port: int = 4200
    mlflow_port: int = 5000
    model_port: int = 8000
    line: str = "demo"
    """The line whose champion the model server serves."""
    cron: str | None = None
    """When the nightly runs; None leaves it as it was, at first at 02:00."""
    timezone: str | None = None
    """Time zone of the schedule; None leaves it as it was, at first UTC."""


@dataclass(frozen=True)
class ServiceStatus:
    """One service as `status` shows it."""

    name: str
    state: str
    """running, starting, restarting (the supervisor is at it) or stopped."""
    pid: int | None = None
    port: int | None = None
    url: str | None = None
    uptime_seconds: float | None = None
    memory_bytes: int | None = None
    restarts: int = 0
    log: str | None = None


@dataclass
class _Watch:
    """A service under supervision."""

    name: str
    describe: Callable[[], Service]
    restarts: int = 0
    started: float = 0.0
    pause_seconds: float = 0.0
    next_try: float | None = None
    """Time of the next restart, on the monotonic clock; None while the service runs."""


def up(ws: Workspace, settings: Settings = Settings()) -> bool:
    """Start everything and return when all is ready; False says that it was up already.

    Raises WorkspaceError without git or a commit, ServiceError for a taken port or a server that does not get ready.
    """
    is_up = processes.find(ws.home, SUPERVISOR) is not None
    if not is_up:
        worktrees.prepare(ws.home, ws.root, WORKER)
        _require_free_ports(ws, settings)
        _report_path(ws.home).unlink(missing_ok=True)
    processes.start(_supervisor(ws, settings))  # waits for one that somebody else is starting
    return not is_up


def status(home: Path) -> list[ServiceStatus]:
    """The supervisor and its services, in starting order."""
    supervised = processes.find(home, SUPERVISOR) is not None
    report = _read_report(home)
    absent = "stopped" if not supervised else "restarting" if report else "starting"
    restarts = report.get("restarts", {})
    return [_status(home, name, absent, restarts.get(name, 0)) for name in (SUPERVISOR, *NAMES)]


def down(home: Path) -> list[str]:
    """Stop the supervisor, all services and what a killed one left behind; returns the names of what was stopped."""
    stopped = []
    for name in STOPPING_ORDER:
        running = processes.find(home, name)
        if running is not None:
            processes.stop(home, running)
            stopped.append(name)
    strays = processes.stop_strays(home)
    _report_path(home).unlink(missing_ok=True)
    return stopped + [f"process {pid}" for pid in strays]


def supervise(ws: Workspace, settings: Settings) -> None:
    """Start the services in order, restart those that die, until SIGTERM or SIGINT; then stop them all."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    watches = _watches(ws, settings)
    try:
        for watch in watches:
            if watch.name == WORKER:
                _apply_deployments(ws, settings)  # makes the work pool that it polls
            _start(watch)
        _report(ws.home, watches)
        log.info("all services are ready")
        while True:
            time.sleep(LOOK_SECONDS)
            for watch in watches:
                _look(ws.home, watch, watches)
    finally:
        for name in STOPPING_ORDER[1:]:
            running = processes.find(ws.home, name)
            if running is not None:
                log.info("%s: stopping process %d", name, running.pid)
                processes.stop(ws.home, running)


def _watches(ws: Workspace, settings: Settings) -> list[_Watch]:
    def mlflow() -> Service:
        services.prepare_mlflow(ws.home)
        return services.mlflow_server(ws.home, settings.mlflow_port)

    def worker() -> Service:
        api = _prefect_api(settings)
        for run in services.crash_orphans(ws.home, api, WORKER):
            log.warning("%s: flow run %s had lost its process", WORKER, run)
        return services.worker(ws.home, worktrees.prepare(ws.home, ws.root, WORKER), api)

    describe: dict[str, Callable[[], Service]] = {
        "prefect": lambda: services.prefect_server(ws.home, settings.prefect_port),
        "mlflow": mlflow,
        WORKER: worker,
        "model": lambda: services.model_server(ws.home, ws.root, settings.line, settings.model_port),
    }
    return [_Watch(name, describe[name]) for name in NAMES]


def _apply_deployments(ws: Workspace, settings: Settings) -> None:
    """Send the deployments from a process of its own: a client of Prefect's would triple the supervisor's memory."""
    command = [sys.executable, "-m", "flows.deployments", settings.cron or "", settings.timezone or ""]
    variables = {**os.environ, **services.environment(ws.home), "PREFECT_API_URL": _prefect_api(settings)}
    done = subprocess.run(command, cwd=ws.root, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise ServiceError(f"the deployments could not be applied:\n{done.stderr.strip()[-2000:]}")
    log.info("the deployments are applied")


def _start(watch: _Watch) -> Running:
    log.info("%s: starting", watch.name)
    running = processes.start(watch.describe())
    watch.started = time.monotonic()
    log.info("%s: ready, process %d %s", watch.name, running.pid, running.url or "")
    return running


def _look(home: Path, watch: _Watch, watches: list[_Watch]) -> None:
    """Restart a service that died: at once the first time, after a pause that doubles with each death in a row."""
    if processes.find(home, watch.name) is not None:
        watch.next_try = None
        return
    now = time.monotonic()
    if watch.next_try is None:
        lived = now - watch.started
        watch.pause_seconds = 0.0 if lived > LONGEST_PAUSE_SECONDS else watch.pause_seconds
        watch.next_try = now + watch.pause_seconds
        log.warning("%s: died after %.0f s, restart in %.0f s", watch.name, lived, watch.pause_seconds)
    if now < watch.next_try:
        return
    watch.pause_seconds = min(max(LOOK_SECONDS, 2 * watch.pause_seconds), LONGEST_PAUSE_SECONDS)
    try:
        _start(watch)
    except (ValueError, OSError) as problem:  # a port taken meanwhile, a full disk: the next try may work
        log.error("%s: not restarted, next try in %.0f s: %s", watch.name, watch.pause_seconds, problem)
        watch.next_try = time.monotonic() + watch.pause_seconds
        return
    watch.restarts += 1
    _report(home, watches)


def _prefect_api(settings: Settings) -> str:
    return f"http://{HOST}:{settings.prefect_port}/api"


def _require_free_ports(ws: Workspace, settings: Settings) -> None:
    """Say at once that a port is taken; a service that outlived its supervisor there is taken over instead."""
    for service in (
        services.prefect_server(ws.home, settings.prefect_port),
        services.mlflow_server(ws.home, settings.mlflow_port),
        services.model_server(ws.home, ws.root, settings.line, settings.model_port),
    ):
        running = processes.find(ws.home, service.name)
        if running is None:
            processes.require_free(service)
        elif running.port != service.port:
            raise ServiceError(
                f"{service.name}: runs already on port {running.port} (process {running.pid}); "
                f"wait for the tidemill run that uses it, or end it with tidemill down"
            )


def _supervisor(ws: Workspace, settings: Settings) -> Service:
    return Service(
        name=SUPERVISOR,
        home=ws.home,
        command=(sys.executable, "-m", "flows.supervisor", str(ws.root), str(ws.home), json.dumps(asdict(settings))),
        folder=ws.root,
        environment=services.environment(ws.home),
        ready=lambda: bool(_read_report(ws.home).get("ready")),
        ready_seconds=720.0,  # the sum of its services', on a busy machine
        grace_seconds=150.0,  # the sum of its services'
    )


def _status(home: Path, name: str, absent: str, restarts: int) -> ServiceStatus:
    running = processes.find(home, name)
    if running is None:
        return ServiceStatus(name, absent, restarts=restarts)
    return ServiceStatus(
        name=name,
        state="running",
        pid=running.pid,
        port=running.port,
        url=running.url,
        uptime_seconds=max(0.0, time.time() - running.created),
        memory_bytes=running.memory_bytes(with_children=name != SUPERVISOR),  # its children have their own line
        restarts=restarts,
        log=running.log,
    )


def _report(home: Path, watches: list[_Watch]) -> None:
    """Leave word for `up` and `status`."""
    path = _report_path(home)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"ready": True, "restarts": {watch.name: watch.restarts for watch in watches}}))
    os.replace(draft, path)


def _read_report(home: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(_report_path(home).read_text())
    except FileNotFoundError:
        return {}
    return report


def _report_path(home: Path) -> Path:
    return home / "servers" / "report.json"


def _leave(number: int, frame: FrameType | None) -> None:
    """End the supervisor through its `finally`, which a second signal must not cut short."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    log.info("signal %d: stopping all services", number)
    raise SystemExit(0)


def main() -> None:
    """Run the supervisor in this process: ``python -m flows.supervisor ROOT HOME SETTINGS_AS_JSON``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("settings", type=json.loads)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # httpx would log every look at a server.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    supervise(Workspace(arguments.root, arguments.home), Settings(**arguments.settings))


if __name__ == "__main__":
    main()
