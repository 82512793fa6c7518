"""`tidemill ledger` lists, verifies, and names the champion of any moment."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from llm_core.closure import ROOT
from tasks import champions
from tasks.ledger import Ledger


@pytest.fixture
def home(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path)
    for number in (1, 2):
        body = {"version": number, "artifact": f"digest{number}", "run": "r"}
        ledger.append("registered", "demo", f"demo:{number}", body)
    decision = {"version": 1, "artifact": "digest1", "run": "r", "decision": "d", "reason": "better"}
    ledger.move("promoted", "demo", "gate", decision, expected=None)
    champions.promote(ledger, "demo", 2, "readers like it")
    champions.rollback(ledger, "demo", "repeats itself")
    return tmp_path


def _ledger(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "ledger", *arguments]
    environment = {"TIDEMILL_HOME": str(home), "PATH": "/usr/bin:/bin", "USER": "ann", "TZ": "UTC"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_entries_say_who_did_what_and_why(home: Path) -> None:
    found = json.loads(_ledger(home, "demo", "--json").stdout)
    assert (found["verified"], found["head"]) == (5, Ledger(home).entries()[-1].hash)
    rows = [(row["kind"], row["version"], row["by"].split()[-1], row["why"]) for row in found["entries"]]
    assert rows == [
        ("registered", 1, "run", ""),
        ("registered", 2, "run", ""),
        ("promoted", 1, "gate", "better"),
        ("promoted", 2, "(person)", "readers like it"),
        ("rolled_back", 1, "(person)", "repeats itself"),
    ]
    assert found["champions"] == {"demo": 1}
    assert "champion of demo: demo@1" in _ledger(home).stdout


def test_the_champion_of_any_moment_is_named(home: Path) -> None:
    entries = Ledger(home).entries()
    champions_at = [json.loads(_ledger(home, "--at", str(n), "--json").stdout)["champions"] for n in (2, 3, 4, 5)]
    assert champions_at == [{}, {"demo": 1}, {"demo": 2}, {"demo": 1}]
    found = json.loads(_ledger(home, "demo", "--at", entries[-1].at, "--json").stdout)
    assert len(found["entries"]) == 5
    assert json.loads(_ledger(home, "demo", "--at", "2020-01-01", "--json").stdout)["entries"] == []
    refused = _ledger(home, "--at", "yesterday")
    assert refused.returncode == 2 and "write an entry's number, or a time" in refused.stderr


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("UPDATE entries SET body = replace(body, 'readers', 'nobody') WHERE sequence = 4", "entry 4"),
        ("UPDATE entries SET at = '2020-01-01T00:00:00.000+00:00' WHERE sequence = 2", "entry 2"),
        ("DELETE FROM entries WHERE sequence = 3", "entry 3"),
        (
            "UPDATE entries SET signature = (SELECT signature FROM entries WHERE sequence = 1) WHERE sequence = 5",
            "entry 5",
        ),
    ],
)
def test_a_changed_ledger_is_named_by_its_entry(change: str, named: str, home: Path) -> None:
    with sqlite3.connect(home / "ledger.db") as connection:
        connection.execute(change)
    found = _ledger(home)
    assert found.returncode == 1
    assert named in found.stderr.replace("\n", " ")
