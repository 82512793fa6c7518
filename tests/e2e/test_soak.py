"""Faults and load, long (make soak, results in benchmarks/results) and as a small sample in every end-to-end run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_core.closure import ROOT
from tasks.ledger import Ledger
from tasks.processes import free_port
from tasks.workspace import Workspace
from tests.conftest import in_project, project_environment
from tests.e2e.runs import LONG, await_version, run, start_run, unbroken_weights, weights

pytestmark = pytest.mark.timeout(4 * 3600)

RESULTS = ROOT / "benchmarks" / "results"
SAMPLE, SOAK = pytest.mark.e2e, pytest.mark.soak


def keep(name: str, facts: dict[str, Any], kept: bool) -> None:
    """Write the long run's result; the sample's would only overwrite it."""
    if kept:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


# One kill is the sample that every end-to-end run has, in test_lifecycle.py.
@SOAK
def test_kills_at_random_moments_never_change_the_weights(fresh: Workspace, tmp_path: Path, kills: int = 40) -> None:
    rng = random.Random(kills)
    moments: list[list[float]] = []
    while sum(map(len, moments)) < kills:
        settings = (*LONG, "--set", f"seed={len(moments)}")
        killed, last = _kill_until_it_ends(fresh, rng, settings)
        moments.append(killed)
        assert last["version"] == f"tiny@{len(moments)}"
        assert weights(fresh) == unbroken_weights(tmp_path / f"unbroken-{len(moments)}", settings)
    ledger = Ledger(fresh.home)
    assert ledger.verify() == len(ledger.entries())
    keep("soak-kills", {"kills": sum(map(len, moments)), "seconds_of_each_runs_kills": moments}, kept=True)


def _kill_until_it_ends(ws: Workspace, rng: random.Random, settings: Sequence[str]) -> tuple[list[float], Any]:
    """Start a run and kill it at a random moment, again and again, until one ends before; when, and what that says."""
    moments: list[float] = []
    while True:
        # Later each time, so that a slow machine gets to the end as well.
        moment = round(rng.uniform(1.0, 16.0 + 2.0 * len(moments)), 2)
        process = start_run(ws, *settings)
        try:
            said, problem = process.communicate(timeout=moment)
            assert process.returncode in (0, 3), problem[-3000:]  # promoted, or trained and not promoted
            return moments, json.loads(said)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            moments.append(moment)


@pytest.mark.parametrize("seconds", [pytest.param(5, marks=SAMPLE), pytest.param(600, marks=SOAK)])
def test_promotions_and_rollbacks_under_load_fail_no_request(fresh: Workspace, seconds: int) -> None:
    run(fresh)
    run(fresh, "--set", "train.steps=30", expect=3)
    port = free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--line", "tiny", "--port", str(port)]
    server = subprocess.Popen(command, cwd=fresh.root, env=project_environment(fresh), stderr=subprocess.DEVNULL)
    answers: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            while not stop.is_set():
                answers[_answering_version(client)] += 1

    clients = [threading.Thread(target=ask) for _ in range(4)]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await_version(client, "tiny@1")
            for thread in clients:
                thread.start()
            swaps = _swap_for(fresh, client, seconds)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
        server.terminate()
        assert server.wait(60) == 0
    assert answers["failed"] == 0
    assert min(answers["tiny@1"], answers["tiny@2"]) > 0
    keep("soak-swaps", {"seconds": seconds, "swaps": swaps, "answers": dict(answers)}, kept=seconds > 5)


def _answering_version(client: httpx.Client) -> str:
    """Ask for a completion; the version that answered, or `failed` for a refused or broken request."""
    try:
        response = client.post("/v1/completions", json={"model": "tiny", "prompt": "The", "max_tokens": 8})
    except httpx.HTTPError:
        return "failed"
    return response.headers["x-tidemill-version"] if response.is_success else "failed"


def _swap_for(ws: Workspace, client: httpx.Client, seconds: float) -> int:
    """Promote and roll back in turn, each time until the server has followed."""
    until, swaps = time.monotonic() + seconds, 0
    while time.monotonic() < until or swaps < 2:
        command, name = (["promote", "tiny@2"], "tiny@2") if swaps % 2 == 0 else (["rollback", "tiny"], "tiny@1")
        assert in_project(ws, "flows.cli", *command).returncode == 0
        await_version(client, name)
        swaps += 1
    return swaps
