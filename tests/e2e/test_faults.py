"""Killed and terminated runs: started again they go on, to the same bits and to one version."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.ledger import Ledger
from tasks.services import environment
from tasks.workspace import Workspace
from tests.conftest import project_environment
from tests.e2e.runs import LONG, PORT, cli_json, run, start_run, states, unbroken_weights, wait_for_checkpoint, weights

pytestmark = pytest.mark.timeout(900)


@pytest.mark.e2e
def test_a_training_that_was_terminated_and_then_killed_comes_to_the_bits_of_an_unbroken_one(
    fresh: Workspace, tmp_path: Path
) -> None:
    terminated = start_run(fresh, *LONG)
    wait_for_checkpoint(fresh, terminated)
    terminated.send_signal(signal.SIGTERM)
    _, said = terminated.communicate(timeout=120)
    assert (terminated.returncode, "interrupted" in said) == (4, True), said[-3000:]

    reached = max(trained_steps(fresh))
    killed = start_run(fresh, *LONG)
    wait_for_checkpoint(fresh, killed, beyond=reached)
    killed.kill()
    killed.wait()

    resumed = run(fresh, *LONG)
    assert (resumed["version"], states(resumed)["train"]) == ("tiny@1", "made")
    assert weights(fresh) == unbroken_weights(tmp_path / "unbroken", LONG)
    assert trained_steps(fresh).count(1) == 1, "a run began anew"
    assert set(trained_steps(fresh)) == set(range(1, 401))


def trained_steps(ws: Workspace) -> list[int]:
    """The steps whose loss was noted, in the order in which they were trained."""
    (spool,) = (ws.home / "spool").glob("*/train.jsonl")
    lines = (json.loads(line) for line in spool.read_text().splitlines())
    return [line["step"] for line in lines if "train/loss" in line["values"]]


KILLER = """
import os, signal, sys
from tasks import champions, ledger, orchestrate, tracking
def dies(owner, name, when=lambda *arguments: True, after=True):
    original = getattr(owner, name)
    def killing(*arguments, **named):
        if not after and when(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if when(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, killing)
point = sys.argv.pop(1)
if point == "version made, not in the ledger":
    dies(tracking.Tracker, "create_version")
elif point == "promoted, aliases not moved":
    dies(champions, "project", after=False)
elif point == "artifact published, DVC not told":
    from tasks import update
    dies(update, "make", when=lambda stage, *rest: stage.name == "clean")
else:
    dies(orchestrate.Run, "report", when=lambda run, row: row.stage == point)
from flows.cli import main
main()
"""
POINTS = (
    "collect", "artifact published, DVC not told", "clean", "tokenizer", "tokenize", "train", "evaluate",
    "version made, not in the ledger", "register", "promoted, aliases not moved", "gate", "deploy",
)  # fmt: skip
SAMPLE = tuple(point for point in POINTS if "," in point)
"""The points that leave a step half done; make soak kills at every one."""


@pytest.mark.parametrize(
    "points", [pytest.param(SAMPLE, marks=pytest.mark.e2e), pytest.param(POINTS, marks=pytest.mark.soak)]
)
def test_kills_between_any_two_steps_converge_to_one_version(
    fresh: Workspace, tmp_path: Path, points: tuple[str, ...]
) -> None:
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    for point in points:
        command = [sys.executable, str(script), point, "run", "tiny", "--json", "--set", PORT]
        # The script imports prefect before the command line can tell it where the server is.
        env = project_environment(fresh, environment(fresh.home))
        done = subprocess.run(command, cwd=fresh.root, env=env, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, f"{point}: {done.returncode} {done.stderr[-3000:]}"
    run(fresh)
    last = run(fresh)
    assert set(states(last).values()) == {"up to date"}
    assert (last["version"], last["champion"]) == ("tiny@1", "tiny@1")
    (model,) = cli_json(fresh, "models")
    assert model["aliases"] == ["champion"]
    kinds = [entry.kind for entry in Ledger(fresh.home).entries()]
    assert kinds == ["reserved", "registered", "decided", "promoted", "anchored", "served"]
