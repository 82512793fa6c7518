"""A small project of its own, in a git repository of its own, with flows that finish at once; and its server's API."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from llm_core.closure import ROOT
from tasks.workspace import Workspace

COPIED = (
    "flows/__init__.py",
    "flows/deployments.py",
    "flows/supervisor.py",
    "flows/worktrees.py",
    "llm_core/__init__.py",
    "llm_core/config/__init__.py",
    "llm_core/config/data.py",
    "llm_core/config/model.py",
    "llm_core/config/recipe.py",
    "llm_core/config/section.py",
    "llm_core/config/suites.py",
    "tasks/__init__.py",
    "tasks/processes.py",
    "tasks/services.py",
    "tasks/workspace.py",
)
LIFECYCLE = '''
"""A lifecycle that leaves a proof of where and with what it ran."""

import json
import os
import subprocess
import time
from pathlib import Path

from prefect import flow

import llm_core.config
from llm_core.config import Recipe

CHILD_SEED = 7


@flow
def lifecycle(recipe: Recipe = Recipe()) -> None:
    """From text to a model."""
    proof = {"flows": __file__, "llm_core": llm_core.config.__file__, "folder": os.getcwd(), "seed": recipe.seed}
    if recipe.seed == CHILD_SEED:
        proof["child"] = subprocess.Popen(["sleep", "300"]).pid
    path = Path(os.environ["TIDEMILL_HOME"]) / f"proof-{recipe.seed}.json"
    path.with_suffix(".draft").write_text(json.dumps(proof))
    path.with_suffix(".draft").rename(path)
    while recipe.seed == CHILD_SEED:
        time.sleep(0.1)
'''
NIGHTLY = LIFECYCLE.replace("def lifecycle", "def nightly")
CLI = '''
"""`serve` in place of the model server: answers every path."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()


HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
'''


def git(folder: Path, *arguments: str) -> str:
    """Run git in `folder`, whatever the user's own configuration is; returns what it prints."""
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make_project(root: Path) -> Workspace:
    """Write and commit a project with tiny flows at `root`."""
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    written = {
        "flows/lifecycle.py": LIFECYCLE,
        "flows/nightly.py": NIGHTLY,
        "flows/label.py": LIFECYCLE.replace("def lifecycle", "def label"),
        "flows/cli.py": CLI,
        "configs/demo.yaml": "name: demo\nseed: 11\n",
        "configs/nightly.yaml": "inherit: demo\nname: nightly\n",
        "dvc.yaml": "stages: {}\n",
        ".dvc/config": "",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/.tidemill/\n/out/\n__pycache__/\n",
    }
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "--quiet", "--initial-branch", "main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "A small project")
    return Workspace(root=root, home=root / ".tidemill")


class Api:
    """The Prefect server, as a browser talks to it."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=10.0, trust_env=False)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """POST, repeated while the server's SQLite store is busy (503)."""
        answers = (self._client.post(path, json=body) for _ in range(20))
        return next(answer for answer in answers if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE)

    def deployment(self, name: str) -> Any:
        return self._client.get(f"/deployments/name/{name}").raise_for_status().json()

    def run(self, name: str, parameters: dict[str, Any]) -> httpx.Response:
        return self.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", {"parameters": parameters})

    def cancel(self, run: str) -> None:
        self.post(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}}).raise_for_status()

    def state(self, run: str) -> str:
        return str(self._client.get(f"/flow_runs/{run}").raise_for_status().json()["state"]["type"])

    def waiting(self, deployment: str) -> list[Any]:
        """Scheduled runs of a deployment."""
        filters = {
            "deployments": {"name": {"any_": [deployment]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        }
        return list(self.post("/flow_runs/filter", filters).raise_for_status().json())

    def automations(self) -> list[str]:
        """Names of the automations."""
        return [each["name"] for each in self.post("/automations/filter", {}).raise_for_status().json()]


def wait_for(fact: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def is_gone(pid: int) -> bool:
    """Whether a process ended; one that nobody asked about yet (a zombie) did."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
