"""The doctor names what is wrong and what to do about it, and finds nothing wrong where nothing is."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
from contextlib import closing
from importlib import metadata
from pathlib import Path

import pytest

from flows import doctor
from flows.doctor import Finding, examine
from tasks.ledger import Ledger
from tasks.services import mlflow_server
from tasks.workspace import Workspace


def found(ws: Workspace, what: str) -> Finding:
    (finding,) = (finding for finding in examine(ws.root) if finding.what == what)
    return finding


def test_a_fresh_project_is_fit(in_folder: Workspace) -> None:
    findings = {finding.what: finding for finding in examine(in_folder.root)}
    assert {"Python", "torch", "git", "disk", "prefect server", "DVC", "ledger", "MLflow store"} <= set(findings)
    assert [finding for finding in findings.values() if finding.state == "bad"] == []
    commit = ["git", "-C", str(in_folder.root), "rev-parse", "--short", "HEAD"]
    assert subprocess.run(commit, capture_output=True, text=True).stdout.strip() in findings["git"].fact


def test_a_version_that_stops_prefect_without_a_word_is_named(
    in_folder: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "9.9" if name == "fastapi" else real(name))
    finding = found(in_folder, "fastapi")
    assert (finding.state, finding.fact) == ("bad", "9.9, needed <0.151,>=0.139")
    assert "make setup" in finding.advice and "does not start" in finding.advice


def test_a_missing_package_is_named(in_folder: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "dvc":
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert found(in_folder, "dvc") == Finding("dvc", "bad", "not installed", "run: make setup")


def test_a_taken_port_is_named_with_its_option(in_folder: Workspace) -> None:
    port = mlflow_server(in_folder.home).port
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port or 0)):
        finding = found(in_folder, "mlflow server")
        assert finding.state == "warning"
        assert f"port {port}" in finding.fact and "--mlflow-port" in finding.advice


def test_a_changed_ledger_entry_is_named(in_folder: Workspace) -> None:
    Ledger(in_folder.home).append("registered", "demo", "key", {"version": 1})
    with closing(sqlite3.connect(in_folder.home / "ledger.db")) as connection, connection:
        connection.execute("""UPDATE entries SET body = '{"version": 2}'""")
    finding = found(in_folder, "ledger")
    assert finding.state == "bad" and "entry 1 (registered) was changed" in finding.fact


def test_a_damaged_mlflow_store_is_named(in_folder: Workspace) -> None:
    store = in_folder.home / "mlflow" / "mlflow.db"
    store.parent.mkdir(parents=True)
    store.write_text("this is no database, though it is long enough to be mistaken for one")
    finding = found(in_folder, "MLflow store")
    assert finding.state == "bad" and str(store) in finding.fact


def test_little_space_and_no_commit_are_named(in_folder: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FEW_BYTES", 10**18)
    assert found(in_folder, "disk").state == "warning"
    (in_folder.root / ".git").rename(in_folder.root / "git.away")
    assert found(in_folder, "git").state == "bad"


def test_outside_a_checkout_the_packages_are_looked_at_still(tmp_path: Path) -> None:
    findings = {finding.what: finding for finding in examine(tmp_path)}
    assert findings["checkout"].state == "bad"
    assert findings["torch"].state == "good"
