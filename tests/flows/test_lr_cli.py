"""`tidemill lr-find` on the tokens of a small project, and what it says where they are not the recipe's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from llm_core.artifact import ArtifactError, Silent
from llm_core.config import load_recipe
from tasks.lr_find import DATA_STAGES
from tasks.stages import STAGES, run_stage, use_recipe
from tasks.workspace import Workspace


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lr-find", "tiny", *arguments], catch_exceptions=False)


def test_rates_are_suggested_on_the_recipes_tokens_and_on_no_others(
    project: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("TIDEMILL_HOME", str(project.home))
    with pytest.raises(ArtifactError, match="collect: not there; make it with: tidemill stage collect tiny"):
        call()
    recipe, _ = use_recipe(project, load_recipe("tiny", project.configs))
    for name in DATA_STAGES:
        run_stage(STAGES[name], recipe, project, Silent())
    picture = tmp_path / "rates.png"
    found = json.loads(call("--steps", "40", "--plot", str(picture), "--json").stdout)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert set(found["suggested"]) == {"train.lr", "train.embedding_lr", "train.head_lr", "train.norm_lr"}
    suggested = found["suggested"]["train.lr"]
    assert found["trials"][0]["lr"] < suggested < found["trials"][-1]["lr"]
    page = call("--steps", "40").stdout
    assert "the loss falls fastest at" in page and f"--set train.lr={suggested:g}" in page
    assert not (project.out / "train").exists()
    with pytest.raises(ArtifactError, match="clean: made with other values of clean than recipe tiny has; make it"):
        call("--set", "clean.min_words=21")


def test_a_picture_of_another_kind_is_a_usage_error() -> None:
    done = call("--plot", "rates.txt")
    assert done.exit_code == 2 and "must end with .png or .svg" in " ".join(done.output.split())
