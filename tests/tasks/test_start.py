"""A training that starts from a model goes on where that one stopped, on one process and on two."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_core.artifact import Artifact, ArtifactError, Draft
from llm_core.config import Model, Recipe, Train
from tasks.pinned import pinned
from tasks.train import train
from tasks.workspace import Workspace

SHAPE = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=48, context=32)
CFG = Train(steps=40, batch_tokens=256, warmup_steps=4, validate_every=40, threads=1, precision="float32")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(root=tmp_path, home=tmp_path / ".tidemill")


def trained(ws: Workspace, name: str, cfg: Train, tokens: Artifact, vocabulary: Artifact) -> Artifact:
    with Draft(ws.root / name, kind="model", stage="train", starts=ws.starts) as out:
        return train(cfg, SHAPE, 7, tokens, vocabulary, out)


def losses(model: Artifact) -> list[float]:
    with open(model.path / "loss.csv", encoding="utf-8") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def started(ws: Workspace, **more: Any) -> Train:
    """Settings that start from the folder `first`, pinned as a run pins them."""
    cfg = CFG.model_copy(update={"start": "folder", "start_name": "first", "steps": 4, **more})
    return pinned(ws, Recipe(train=cfg)).train


@pytest.fixture
def first(ws: Workspace, tokens: Artifact, vocabulary: Artifact) -> Artifact:
    return trained(ws, "first", CFG, tokens, vocabulary)


def test_it_goes_on_from_the_pinned_weights(
    ws: Workspace, first: Artifact, tokens: Artifact, vocabulary: Artifact
) -> None:
    cfg = started(ws)
    assert (cfg.start_name, cfg.start_sha256) == ("first", first.digest)
    shutil.rmtree(first.path)  # kept in the home since it was pinned
    again = trained(ws, "again", cfg, tokens, vocabulary)
    begun, scratch = losses(again)[0], losses(trained(ws, "scratch", CFG, tokens, vocabulary))
    assert begun < scratch[0] - 1 and abs(begun - scratch[-1]) < 0.3
    assert again.stats["started_from"] == "first"


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_start_where_one_does(
    ws: Workspace, first: Artifact, tokens: Artifact, vocabulary: Artifact, kind: str
) -> None:
    one = trained(ws, "one", started(ws), tokens, vocabulary)
    two = trained(ws, "two", started(ws, ranks=2, distributed=kind), tokens, vocabulary)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_changed_weights_are_refused(ws: Workspace, first: Artifact, tokens: Artifact, vocabulary: Artifact) -> None:
    cfg = started(ws)
    (ws.starts / first.digest / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        trained(ws, "again", cfg, tokens, vocabulary)


def test_without_a_champion_weights_are_random_ones(ws: Workspace) -> None:
    recipe = pinned(ws, Recipe(train=CFG.model_copy(update={"start": "champion"})))
    assert recipe.train == CFG


def test_a_start_without_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"needs train\.start_name"):
        Train(start="version")
