"""A training killed at random moments, long (make soak, with its result kept) and as a sample of three kills."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import time
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


def run_with_a_kill(root: Path, seconds: float) -> tuple[str, tuple[int, bool] | None]:
    """Train, killed this long after the first step, and again to the end.

    Gives the weights, and of the kill the last step and whether a checkpoint was being written; none where the training
    had ended before.
    """
    kill: tuple[int, bool] | None = None
    while True:
        hear, tell = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=work, args=(root, tell))
        process.start()
        tell.close()
        said = [hear.recv()]  # loading is over: the first step is done
        process.join(seconds if kill is None else None)
        process.kill()
        process.join()
        while hear.poll():
            try:
                said.append(hear.recv())
            except EOFError:
                break
        hear.close()
        if isinstance(said[-1], str):
            return said[-1], kill
        assert process.exitcode == -9, f"the training failed after step {said[-1]}"
        kill = said[-1], any((root / "killed" / "checkpoints").glob(".*.draft"))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [pytest.param(3, marks=pytest.mark.e2e), pytest.param(100, marks=pytest.mark.soak)])
def test_a_training_killed_at_a_random_moment_comes_to_the_unbroken_runs_weights(tmp_path: Path, kills: int) -> None:
    make_inputs(tmp_path)
    unbroken = train_tiny(tmp_path, "unbroken", cfg=LONG)
    began = time.monotonic()
    train_tiny(tmp_path, "again", cfg=LONG)
    longest = time.monotonic() - began
    rng = random.Random(kills)
    killed: list[tuple[int, bool]] = []
    while len(killed) < kills:
        weights, kill = run_with_a_kill(tmp_path, rng.uniform(0, longest))
        assert weights == unbroken, f"run {len(killed)}, killed after {kill}"
        killed += [kill] if kill else []
        shutil.rmtree(tmp_path / "killed")
    if kills == 100:
        facts = {
            "kills": kills,
            "kills_while_a_checkpoint_was_written": sum(writing for _, writing in killed),
            "runs_with_the_unbroken_weights": len(killed),
            "steps": STEPS,
            "steps_after_which_each_run_was_killed": [step for step, _ in killed],
        }
        (ROOT / "benchmarks" / "results" / "soak-training-kills.json").write_text(json.dumps(facts, indent=1) + "\n")
