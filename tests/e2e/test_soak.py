"""Faults and load, long (make soak, results in benchmarks/results) and as a small sample in every end-to-end run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_core.artifact import Artifact
from llm_core.closure import ROOT
from tasks.ledger import Ledger
from tasks.processes import free_port
from tasks.workspace import Workspace
from tests.conftest import in_project, make_project, project_environment
from tests.e2e.test_lifecycle import LONG, PORT, await_version, project_with_server, run, start_run

pytestmark = pytest.mark.timeout(4 * 3600)

RESULTS = ROOT / "benchmarks" / "results"
SAMPLE, SOAK = pytest.mark.e2e, pytest.mark.soak


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    yield from project_with_server(tmp_path / "project")


def weights(ws: Workspace) -> str:
    return Artifact.open(ws.out / "train").files["model.safetensors"]["sha256"]


def keep(name: str, facts: dict[str, Any], kept: bool) -> None:
    """Write the long run's result; the sample's would only overwrite it."""
    if kept:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


# One kill is the sample that every end-to-end run has, in test_lifecycle.py.
@SOAK
def test_kills_at_random_moments_never_change_the_weights(ws: Workspace, tmp_path: Path, kills: int = 40) -> None:
    unbroken = make_project(tmp_path / "unbroken")
    for stage in ("collect", "clean", "tokenizer", "tokenize", "train"):
        assert in_project(unbroken, "flows.cli", "stage", stage, "tiny", "--set", PORT, *LONG).returncode == 0
    rng = random.Random(kills)
    moments, finished = [], 0
    for _ in range(kills):
        moments.append(round(rng.uniform(1.0, 14.0), 2))
        process = start_run(ws, *LONG)
        try:
            process.communicate(timeout=moments[-1])
            finished += 1
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    last = run(ws, *LONG)
    assert weights(ws) == weights(unbroken)
    assert last["version"] == "tiny@1"
    assert Ledger(ws.home).verify() == 5
    facts = {
        "kills": kills - finished,
        "finished_before_the_kill": finished,
        "seconds": moments,
        "weights": weights(ws),
    }
    keep("soak-kills", facts, kept=True)


@pytest.mark.parametrize("seconds", [pytest.param(5, marks=SAMPLE), pytest.param(600, marks=SOAK)])
def test_promotions_and_rollbacks_under_load_fail_no_request(ws: Workspace, seconds: int) -> None:
    run(ws)
    run(ws, "--set", "train.steps=30", expect=3)
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--line", "tiny", "--port", str(port)]
    server = subprocess.Popen(command, cwd=ws.root, env=project_environment(ws), stderr=subprocess.DEVNULL)
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            while not stop.is_set():
                body = {"model": "tiny", "prompt": "The", "max_tokens": 8}
                response = client.post("/v1/completions", json=body)
                answers[response.headers.get("x-tidemill-version", "") if response.is_success else "failed"] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await_version(client, "tiny@1")
            for thread in clients:
                thread.start()
            swaps = _swap_for(ws, client, seconds)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
        server.terminate()
        assert server.wait(60) == 0
    assert answers["failed"] == 0
    assert min(answers["tiny@1"], answers["tiny@2"]) > 0
    keep("soak-swaps", {"seconds": seconds, "swaps": swaps, "answers": dict(answers)}, kept=seconds > 5)


def _swap_for(ws: Workspace, client: httpx.Client, seconds: float) -> int:
    """Promote and roll back in turn, each time until the server has followed."""
    until, swaps = time.monotonic() + seconds, 0
    while time.monotonic() < until or swaps < 2:
        command, name = (["promote", "tiny@2"], "tiny@2") if swaps % 2 == 0 else (["rollback", "tiny"], "tiny@1")
        assert in_project(ws, "flows.cli", *command).returncode == 0
        await_version(client, name)
        swaps += 1
    return swaps
