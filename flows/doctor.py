"""`tidemill doctor`: is this machine and checkout fit to run, and what to do where it is not."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from tasks.ledger import Ledger, LedgerError
from tasks.processes import ServiceError, find, require_free
from tasks.services import mlflow_server, model_server, prefect_server
from tasks.workspace import Workspace, WorkspaceError

FEW_BYTES = 5_000_000_000
SILENT_TRAPS = {
    "fastapi": "prefect 3.8 does not start with newer ones",
    "sqlalchemy": "prefect 3.8 schedules nothing with 2.1",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["good", "warning", "bad"]
    fact: str
    advice: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at Python, packages, checkout, git, disk, ports and stores."""
    findings = [_python(), *_packages()]
    try:
        ws = Workspace.here(folder)
    except WorkspaceError as problem:
        return [*findings, Finding("checkout", "bad", str(problem), "cd into a checkout of tidemill")]
    return [*findings, _commit(ws), _disk(ws), *_ports(ws), *_stores(ws)]


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    fit = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("Python", "good" if fit else "bad", found, "" if fit else "use Python 3.11 or 3.12")


def _packages() -> Iterator[Finding]:
    for line in metadata.requires("tidemill") or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Finding(needed.name, "bad", "not installed", "run: make setup")
            continue
        if needed.specifier.contains(found, prereleases=True):
            yield Finding(needed.name, "good", found)
        else:
            why = SILENT_TRAPS.get(needed.name.lower(), "it was not tested with this version")
            yield Finding(needed.name, "bad", f"{found}, needed {needed.specifier}", f"run: make setup ({why})")


def _commit(ws: Workspace) -> Finding:
    command = ["git", "-C", str(ws.root), "rev-parse", "--verify", "--quiet", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return Finding("git", "bad", "not installed", "install git: versions name their commit")
    if done.returncode:
        return Finding("git", "bad", "no commit here", "git init and git commit: workers run the last commit")
    return Finding("git", "good", f"commit {done.stdout.strip()}")


def _disk(ws: Workspace) -> Finding:
    free = shutil.disk_usage(ws.root).free
    fact = f"{free / 1e9:.1f} GB free"
    return Finding("disk", "good" if free > FEW_BYTES else "warning", fact, "" if free > FEW_BYTES else "make room")


def _ports(ws: Workspace) -> Iterator[Finding]:
    for service in (prefect_server(ws.home), mlflow_server(ws.home), model_server(ws.home, ws.root, "demo")):
        running = find(ws.home, service.name)
        if running is not None:
            yield Finding(f"{service.name} server", "good", f"runs at {running.url} (pid {running.pid})")
            continue
        try:
            require_free(service)
            yield Finding(f"{service.name} server", "good", f"not running, port {service.port} is free")
        except ServiceError as problem:
            yield Finding(f"{service.name} server", "warning", str(problem), f"free the port or use {service.option}")


def _stores(ws: Workspace) -> Iterator[Finding]:
    dvc = ws.root / ".dvc" / "config"
    yield Finding("DVC", "good" if dvc.exists() else "bad", str(dvc.parent), "" if dvc.exists() else "run: dvc init")
    try:
        ledger = Ledger(ws.home)
        yield Finding("ledger", "good", f"{ledger.verify()} entries, chain and signatures verify")
    except (LedgerError, OSError, sqlite3.Error) as problem:
        yield Finding("ledger", "bad", str(problem), "restore .tidemill from a backup")
    database = ws.home / "mlflow" / "mlflow.db"
    if not database.exists():
        yield Finding("MLflow store", "good", "made at the first run")
        return
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            count = connection.execute("SELECT count(*) FROM model_versions").fetchone()[0]
        yield Finding("MLflow store", "good", f"{count} model versions")
    except sqlite3.Error as problem:
        yield Finding("MLflow store", "bad", f"{database}: {problem}", "restore it from a backup")
