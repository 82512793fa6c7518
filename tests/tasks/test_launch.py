"""The train stage on two processes: one artifact, the same weights after a rank was killed, clear words on failure."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from llm_core.artifact import Artifact, Interrupted
from llm_core.config import Train
from tasks.launch import RankFailed, _complaint, _order_of_death
from tests.llm_core.tiny_training import CFG, Watcher, make_inputs, train_tiny

TWO = CFG.model_copy(update={"ranks": 2, "distributed": "ddp", "precision": "float32"})


def changed(**settings: object) -> Train:
    return TWO.model_copy(update=settings)


def ranks_below(pid: int) -> dict[str, psutil.Process]:
    """The ranks among the processes that a process has started."""
    found = psutil.Process(pid).children(recursive=True)
    return {p.environ()["RANK"]: p for p in found if "tasks.train" in p.cmdline() and "RANK" in p.environ()}


def kill_rank_1(at: int) -> Callable[[int], None]:
    victims = []

    def at_step(step: int) -> None:
        if step == at and not victims:
            victims.append(ranks_below(os.getpid())["1"])
            victims[0].kill()

    return at_step


def losses(folder: Path) -> list[float]:
    with open(folder / "model" / "loss.csv", encoding="utf-8") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_killed_rank_leads_to_the_unbroken_runs_model(tmp_path: Path, kind: str) -> None:
    make_inputs(tmp_path)
    cfg, watcher, broken = changed(distributed=kind), Watcher(), Watcher(kill_rank_1(at=5))
    unbroken = train_tiny(tmp_path, "unbroken", watcher, cfg)
    assert watcher.steps == list(range(1, 9))
    assert not (tmp_path / "unbroken" / "checkpoints").exists()
    assert train_tiny(tmp_path, "broken", broken, cfg.model_copy(update={"max_restarts": 1})) == unbroken
    assert broken.steps.count(1) == 1 and broken.steps.count(8) == 1 and len(broken.steps) > 8  # from a checkpoint


@pytest.mark.e2e
def test_two_ranks_make_the_artifact_of_one_and_say_that_they_were_two(tmp_path: Path) -> None:
    from llm_core.config import Model
    from tests.llm_core import tiny_training

    make_inputs(tmp_path)
    plain = Model(**{**tiny_training.SHAPE.model_dump(), "dropout": 0.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_training, "SHAPE", plain)
        for name, cfg in (("one", CFG), ("ddp", TWO), ("fsdp", changed(distributed="fsdp"))):
            settings = {"precision": "float32", "optimizer": "adamw"}
            train_tiny(tmp_path, name, cfg=cfg.model_copy(update=settings))
    one, *several = (Artifact.open(tmp_path / name / "model") for name in ("one", "ddp", "fsdp"))
    for artifact, kind in zip(several, ("ddp", "fsdp"), strict=True):
        assert losses(tmp_path / kind) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
        assert set(artifact.files) == set(one.files) and artifact.stats["parameters"] == one.stats["parameters"]
        said = _circumstances(artifact)
        assert (said.pop("ranks"), said.pop("distributed")) == (2, kind) and said == _circumstances(one)
    assert len({artifact.key for artifact in (one, *several)}) == 3


def _circumstances(artifact: Artifact) -> dict[str, object]:
    found: dict[str, object] = json.loads((artifact.path / "manifest.json").read_text())["circumstances"]
    return found


@pytest.mark.slow
def test_a_rank_that_cannot_be_helped_is_named_and_its_work_is_kept(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    with pytest.raises(RankFailed, match="rank 1 of 2 was ended by SIGKILL; run it again to go on from the last"):
        train_tiny(tmp_path, "a", Watcher(kill_rank_1(at=5)), TWO)
    watcher = Watcher()
    train_tiny(tmp_path, "a", watcher, TWO)
    assert min(watcher.steps) > 1 and max(watcher.steps) == 8


@pytest.mark.slow
def test_a_refusal_is_told_as_it_is_and_not_tried_again(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    wild = dict.fromkeys(("lr", "embedding_lr", "head_lr", "norm_lr"), 1e30)
    watcher = Watcher()
    with pytest.raises(RankFailed, match=r"^step \d: .*try a lower train.lr"):
        train_tiny(tmp_path, "a", watcher, changed(max_restarts=3, **wild))
    assert watcher.steps.count(1) == 1


@pytest.mark.e2e
def test_sigterm_reaches_the_ranks_and_keeps_the_step(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    unbroken = train_tiny(tmp_path, "unbroken", cfg=TWO)

    def stop(step: int) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"SIGTERM after step \d; run it again to go on from there"):
        train_tiny(tmp_path, "stopped", Watcher(stop), TWO)
    watcher = Watcher()
    assert train_tiny(tmp_path, "stopped", watcher, TWO) == unbroken
    assert min(watcher.steps) > 3


LONG = """
import sys
from pathlib import Path
from tests.tasks.test_launch import Watcher, changed, train_tiny
train_tiny(Path(sys.argv[1]), "a", Watcher(lambda step: print(step, flush=True)), changed(steps=100_000))
"""


@pytest.mark.slow
def test_ranks_end_when_the_stage_is_killed(tmp_path: Path) -> None:
    make_inputs(tmp_path)
    command = [sys.executable, "-c", LONG, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as stage:
        assert stage.stdout is not None
        assert stage.stdout.readline() == "1\n"
        ranks = ranks_below(stage.pid)
        assert set(ranks) == {"0", "1"}
        stage.kill()
        gone, alive = psutil.wait_procs(ranks.values(), timeout=60)
    assert not alive
    assert list((tmp_path / "a" / "checkpoints").glob("step-*"))


def test_the_cause_of_a_failure_comes_before_what_followed_from_it() -> None:
    assert sorted([-signal.SIGTERM, 1, -signal.SIGKILL], key=_order_of_death) == [-signal.SIGKILL, 1, -signal.SIGTERM]
    died = {"rank": 3, "order": 1, "text": "ended with exit code 1"}
    said = {"rank": 3, "order": 2, "text": "RuntimeError: no memory"}
    assert _complaint(changed(ranks=4, max_restarts=2), [died, said], resumable=False) == (
        "rank 3 of 4 ended with exit code 1 after 2 restarts: RuntimeError: no memory"
    )
    refused = {"rank": 0, "order": 0, "text": "train.x 1: no"}
    assert _complaint(TWO, [refused, died], resumable=True) == "train.x 1: no"
