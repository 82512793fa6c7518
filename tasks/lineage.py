"""Where an artifact came from: who made it when, in which flow run and MLflow run, from which commit.

Manifests hold no time, host or run; these records do, keyed by artifact digest.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from llm_core.closure import code_digest
from llm_core.config import Recipe
from llm_core.inventory import Inventory
from tasks.stages import STAGES
from tasks.workspace import Workspace

RECORDS_FORMAT = 1
GENERATED = (":!configs/run.yaml", ":!configs/inventory.json", ":!dvc.lock")
"""A run writes these itself; they are recorded by content, so they don't make the code dirty."""


@dataclass(frozen=True)
class Code:
    """The state of the checkout that a run worked from."""

    commit: str
    diff: str
    """Uncommitted changes to tracked files; empty where there are none."""

    @classmethod
    def of(cls, root: Path) -> Code:
        """Read it from git; without git or a first commit the commit is `none`."""
        commit = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
        return cls(
            commit=commit.strip() or "none", diff=_git(root, "diff", "HEAD", "--", ".", *GENERATED) if commit else ""
        )


def recipe_sha256(recipe: Recipe) -> str:
    """sha256 of the resolved recipe."""
    return _sha256(recipe.resolved())


def intent(recipe: Recipe, inventory: Inventory) -> str:
    """sha256 of what a run sets out to make: recipe, data and code. Runs of one intent share one MLflow run."""
    code = {stage.name: code_digest(stage.module) for stage in STAGES.values()}
    made = {name: values for name, values in recipe.resolved().items() if name != "workers"}
    return _sha256({"recipe": made, "inventory": inventory.digest, "code": code})


class Records:
    """The records of one home."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._path = home / "records.db"
        with closing(self._connect()) as connection, connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS records (digest TEXT NOT NULL, at TEXT NOT NULL, body TEXT NOT NULL)"
            )
            connection.execute(f"PRAGMA user_version = {RECORDS_FORMAT}")

    def add(self, digest: str, body: Mapping[str, Any]) -> None:
        """Note that this artifact was made or used just now."""
        who = {"host": socket.gethostname(), "user": getpass.getuser()}
        with closing(self._connect()) as connection, connection:
            row = (digest, datetime.now(UTC).isoformat(timespec="seconds"), json.dumps({**body, **who}, sort_keys=True))
            connection.execute("INSERT INTO records VALUES (?, ?, ?)", row)

    def of(self, digest: str) -> list[dict[str, Any]]:
        """What is known of an artifact, oldest first."""
        with closing(self._connect()) as connection:
            rows = connection.execute("SELECT at, body FROM records WHERE digest = ? ORDER BY at", (digest,)).fetchall()
        return [{"at": at, **json.loads(body)} for at, body in rows]

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=60)


def run_facts(ws: Workspace, recipe: Recipe, flow_run: str) -> dict[str, str]:
    """The tags that lead from an MLflow run or version back to code, recipe, data and flow run."""
    code = Code.of(ws.root)
    return {
        "prefect.flow_run_id": flow_run,
        "git.commit": code.commit,
        "git.dirty": str(bool(code.diff)).lower(),
        "config.sha256": recipe_sha256(recipe),
        "data.license": recipe.collect.license,
        "environment.sha256": hashlib.sha256(environment().encode()).hexdigest(),
    }


def environment() -> str:
    """Every installed package with its version, a line each: what a rebuild installs first."""
    found = {f"{each.metadata['Name']}=={each.version}" for each in metadata.distributions()}
    return "".join(f"{line}\n" for line in sorted(found, key=str.lower))


def lock_md5(ws: Workspace) -> str:
    """md5 of dvc.lock: the record of every stage's inputs and outputs, once the pure stages are done."""
    return hashlib.md5((ws.root / "dvc.lock").read_bytes(), usedforsecurity=False).hexdigest()


def _git(root: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
