"""A training that starts from a model goes on where that one stopped, on one process and on two."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_core.artifact import Artifact, ArtifactError, Draft
from llm_core.config import Model, Recipe, Tokenizer, Train
from tasks.pinned import keep_tokenizer, pinned, vocabulary_of
from tasks.tokenizer import tokenizer
from tasks.train import train
from tasks.workspace import Workspace
from tests.llm_core.tiny_training import Watcher

SHAPE = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=48, context=32)
CFG = Train(steps=40, batch_tokens=256, warmup_steps=4, validate_every=40, threads=1, precision="float32")


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    return Workspace(root=tmp_path, home=tmp_path / ".tidemill")


def trained(
    ws: Workspace, name: str, cfg: Train, tokens: Artifact, vocabulary: Artifact, watcher: Watcher | None = None
) -> Artifact:
    observer, scratch = watcher or Watcher(), ws.home / name
    with Draft(ws.root / name, "model", "train", observer=observer, scratch=scratch, starts=ws.starts) as out:
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


def test_a_stopped_training_goes_on_from_its_checkpoint_and_not_from_the_start(
    ws: Workspace, first: Artifact, tokens: Artifact, vocabulary: Artifact
) -> None:
    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    cfg = started(ws, steps=8, checkpoint_every=2)
    whole, watcher = trained(ws, "whole", cfg, tokens, vocabulary), Watcher()
    with pytest.raises(KeyboardInterrupt):
        trained(ws, "stopped", cfg, tokens, vocabulary, Watcher(stop))
    assert trained(ws, "stopped", cfg, tokens, vocabulary, watcher).digest == whole.digest
    assert min(watcher.steps) > 1


@pytest.mark.e2e
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_start_where_one_does(
    ws: Workspace, first: Artifact, tokens: Artifact, vocabulary: Artifact, kind: str
) -> None:
    one = trained(ws, "one", started(ws), tokens, vocabulary)
    two = trained(ws, "two", started(ws, ranks=2, distributed=kind), tokens, vocabulary)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


def test_a_masked_model_is_trained_on_with_the_champions_tokenizer(
    ws: Workspace, tokens: Artifact, vocabulary: Artifact, cleaned: Artifact
) -> None:
    shutil.copytree(vocabulary.path, ws.out / "tokenizer")
    bert = Model(family="bert", num_layers=1, width=32, num_heads=2, num_kv_heads=2, mlp_width=48, context=32)
    with Draft(ws.root / "first", "model", "train", parents={"tokenizer": vocabulary.digest}) as out:
        first = train(CFG.model_copy(update={"embedding_lr": 0.01}), bert, 7, tokens, vocabulary, out)
    kept = keep_tokenizer(ws, vocabulary_of(ws, first))
    cfg = Tokenizer(source="champion", folder="demo@1", sha256=kept)
    with Draft(ws.root / "tokenizer", "tokenizer", "tokenizer", pins=ws.tokenizers) as out:
        again = tokenizer(cfg, cleaned, out)
    assert again.files["tokenizer.json"] == vocabulary.files["tokenizer.json"]  # without the mask
    with Draft(ws.root / "again", "model", "train", starts=ws.starts) as out:
        begun = train(started(ws, embedding_lr=1e-3), bert, 7, tokens, again, out)
    assert losses(begun)[0] < losses(first)[0] - 0.5
    assert begun.files["tokenizer.json"] == first.files["tokenizer.json"]


def test_changed_weights_are_refused(ws: Workspace, first: Artifact, tokens: Artifact, vocabulary: Artifact) -> None:
    cfg = started(ws)
    (ws.starts / first.digest / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json"):
        trained(ws, "again", cfg, tokens, vocabulary)


def test_a_pinned_start_that_the_home_lost_is_kept_again_if_it_is_the_same(ws: Workspace, first: Artifact) -> None:
    cfg = started(ws)
    shutil.rmtree(ws.starts)
    assert pinned(ws, Recipe(train=cfg)).train == cfg
    assert Artifact.open(ws.starts / first.digest, "model").digest == first.digest
    other = cfg.model_copy(update={"start_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match=r"train\.start_sha256 0+: first is "):
        pinned(ws, Recipe(train=other))


def test_without_a_champion_weights_are_random_ones_which_is_said(
    ws: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = pinned(ws, Recipe(train=CFG.model_copy(update={"start": "champion"})))
    assert recipe.train == CFG
    assert "line demo has no champion yet; training starts from scratch" in caplog.text


def test_a_start_without_a_name_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"needs train\.start_name"):
        Train(start="version")
