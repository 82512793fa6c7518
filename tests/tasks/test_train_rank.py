"""The train stage on ranks that torchrun started by hand."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from llm_core.artifact import Artifact, Silent
from llm_core.config import load_recipe
from tasks.stages import STAGES, run_stage, use_recipe
from tasks.workspace import Workspace
from tests.conftest import project_environment

STEPS = 300
SETTINGS = (f"train.steps={STEPS}", "train.distributed=ddp", "train.precision=float32", "train.checkpoint_every=20")


def torchrun(ws: Workspace, num_ranks: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    return subprocess.Popen(
        [*command, "-m", "tasks.train_rank"],
        cwd=ws.root,
        env=project_environment(ws),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.e2e
def test_ranks_started_by_hand_are_stopped_and_gone_on_from_with_another_number(project: Workspace) -> None:
    recipe = load_recipe("tiny", project.configs, SETTINGS)
    use_recipe(project, recipe)
    for name in ("collect", "clean", "tokenizer", "tokenize"):
        run_stage(STAGES[name], recipe, project, Silent())

    stopped = torchrun(project, 2)
    deadline = time.monotonic() + 120
    while not list(project.home.glob("checkpoints/*/step-*")):
        assert stopped.poll() is None and time.monotonic() < deadline, stopped.communicate()[0][-3000:]
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate(timeout=120)
    assert stopped.returncode != 0 and "interrupted: " in said, said[-3000:]
    assert not (project.out / "train").exists()
    reached = max(int(path.name.removeprefix("step-")) for path in project.home.glob("checkpoints/*/step-*"))
    assert 0 < reached < STEPS

    resumed = torchrun(project, 1)
    said, _ = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, said[-3000:]
    model = Artifact.open(project.out / "train", "model")
    circumstances = json.loads((model.path / "manifest.json").read_text())["circumstances"]
    assert circumstances["ranks"] == [[0, 2], [reached, 1]] and circumstances["steps"] == STEPS
    with open(model.path / "loss.csv", encoding="utf-8") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, STEPS + 1))
