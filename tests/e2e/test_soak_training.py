"""A training killed at random moments, long (make soak, with its result kept) and as a sample of three kills."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from llm_core.closure import ROOT
from tests.llm_core.tiny_training import CFG, Watcher, make_inputs, train_tiny

STEPS = 80
LONG = CFG.model_copy(update={"steps": STEPS})
# Processes come from one that has all modules loaded: a start takes milliseconds, not the seconds of an import.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.llm_core.tiny_training"])


def work(root: Path, tell: Connection) -> None:
    """Train in this process; tells the number of each step, and in the end the sha256 of the weights."""
    tell.send(train_tiny(root, "killed", Watcher(tell.send), LONG))


def kill_until_it_ends(root: Path, rng: random.Random, at_most: int) -> tuple[str, list[tuple[int, bool]]]:
    """Start the training and kill it at a random moment, again and again until it ends by itself.

    Gives its weights, and of each kill the last step and whether a checkpoint was being written.
    """
    kills: list[tuple[int, bool]] = []
    while True:
        hear, tell = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=work, args=(root, tell))
        process.start()
        tell.close()
        said = [hear.recv()]  # loading is over: the first step is done
        process.join(rng.uniform(0, 0.4) if len(kills) < at_most else None)
        process.kill()
        process.join()
        while hear.poll():
            try:
                said.append(hear.recv())
            except EOFError:
                break
        hear.close()
        if isinstance(said[-1], str):
            return said[-1], kills
        assert process.exitcode == -9, f"the training failed after step {said[-1]}"
        kills.append((said[-1], any((root / "killed" / "checkpoints").glob(".*.draft"))))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.e2e), pytest.param(100, marks=pytest.mark.soak)])
def test_a_training_killed_at_random_moments_comes_to_the_unbroken_runs_weights(tmp_path: Path, kills: int) -> None:
    make_inputs(tmp_path)
    unbroken = train_tiny(tmp_path, "unbroken", cfg=LONG)
    rng = random.Random(kills)
    runs: list[list[tuple[int, bool]]] = []
    while (left := kills - sum(map(len, runs))) > 0:
        weights, killed = kill_until_it_ends(tmp_path, rng, left)
        assert weights == unbroken, f"run {len(runs)}, killed after the steps {killed}"
        runs.append(killed)
        shutil.rmtree(tmp_path / "killed")
    if kills == 100:
        facts = {
            "kills": kills,
            "kills_while_a_checkpoint_was_written": sum(writing for run in runs for _, writing in run),
            "runs": len(runs),
            "runs_with_the_unbroken_weights": len(runs),
            "steps": STEPS,
            "steps_after_which_each_run_was_killed": [[step for step, _ in run] for run in runs],
        }
        (ROOT / "benchmarks" / "results" / "soak-training-kills.json").write_text(json.dumps(facts, indent=1) + "\n")
