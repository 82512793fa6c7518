"""Runs of the tiny recipe from the command line, in a project that has a Prefect server of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from llm_core.artifact import Artifact, Silent
from llm_core.config import load_recipe
from tasks.processes import free_port, start, stop, temporary
from tasks.services import prefect_server, prepare_mlflow
from tasks.stages import STAGES, run_stage, use_recipe
from tasks.workspace import Workspace
from tests.conftest import in_project, make_project, project_environment

PORT = f"deploy.port={free_port()}"
LONG = ("--set", "train.steps=400", "--set", "train.checkpoint_every=20")
"""Settings of a training that is long enough to be stopped in the middle."""


def make_stores(home: Path) -> None:
    """Make the databases of Prefect and MLflow, empty, which takes longer than a tiny run."""
    home.mkdir()
    with temporary(prefect_server(home, free_port())):
        prepare_mlflow(home)


def project_with_server(root: Path, stores: Path | None = None) -> Iterator[Workspace]:
    """A new project with a Prefect server, so that not each of its runs starts one; on a copy of `stores` if given."""
    workspace = make_project(root)
    if stores is None:
        workspace.home.mkdir()
    else:
        shutil.copytree(stores, workspace.home)
    running = start(prefect_server(workspace.home, free_port()))
    try:
        yield workspace
    finally:
        stop(workspace.home, running)
        in_project(workspace, "flows.cli", "down")


def run(ws: Workspace, *arguments: str, expect: int = 0) -> dict[str, Any]:
    """`tidemill run tiny --json ...`; its document."""
    done = in_project(ws, "flows.cli", "run", "tiny", "--json", "--set", PORT, *arguments)
    assert done.returncode == expect, done.stderr[-3000:]
    return json.loads(done.stdout)


def cli_json(ws: Workspace, *arguments: str) -> Any:
    """What a command prints with --json."""
    done = in_project(ws, "flows.cli", *arguments, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def states(summary: dict[str, Any]) -> dict[str, str]:
    """What became of each stage."""
    return {row["stage"]: row["state"] for row in summary["stages"]}


def unbroken_weights(root: Path, settings: Sequence[str]) -> str:
    """sha256 of the weights that a run in a new project makes without a stop, in this process."""
    ws = make_project(root)
    recipe = load_recipe("tiny", ws.configs, tuple(settings[1::2]))
    use_recipe(ws, recipe)
    for stage in STAGES.values():
        if stage.name != "evaluate":
            run_stage(stage, recipe, ws, Silent())
    return weights(ws)


def weights(ws: Workspace) -> str:
    """sha256 of the trained weights, which are verified."""
    return str(Artifact.open(ws.out / "train").files["model.safetensors"]["sha256"])


def start_run(ws: Workspace, *arguments: str) -> subprocess.Popen[str]:
    """The same in the background."""
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--json", "--set", PORT, *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ws.root, env=project_environment(ws), **pipes)  # type: ignore[call-overload]


def wait_for_checkpoint(ws: Workspace, process: subprocess.Popen[str], beyond: int = 0) -> None:
    """Wait until the process has saved a checkpoint after step `beyond`."""
    while not any(step > beyond for step in _saved_steps(ws)):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)


def _saved_steps(ws: Workspace) -> list[int]:
    found = (ws.home / "checkpoints").glob("*/step-*/checkpoint.json")
    return [int(path.parent.name.removeprefix("step-")) for path in found]


def await_version(client: httpx.Client, name: str) -> None:
    """Ask until the answers come from `name`; every answer on the way has to be a good one."""
    deadline = time.monotonic() + 60
    seen = []
    while time.monotonic() < deadline:
        try:
            ready = client.get("/ready").is_success
        except httpx.TransportError:
            ready = False  # not listening yet
        if ready:
            response = client.post("/v1/completions", json={"model": "tiny", "prompt": "The", "max_tokens": 4})
            response.raise_for_status()
            seen.append(response.headers["x-tidemill-version"])
            if seen[-1] == name:
                return
        time.sleep(0.2)
    raise AssertionError(f"{name} was not served within a minute; seen: {seen[-5:]}")
