"""A name leads to exactly the model that the ledger knows, or to none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_core.artifact import ArtifactError
from llm_core.config import Register
from tasks import champions
from tasks.fetch import fetch
from tasks.ledger import Ledger
from tasks.register import TRACED, register
from tasks.tracking import Tracker
from tasks.workspace import HOME_VARIABLE, Workspace
from tests.tasks.tiny_model import publish


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with two registered versions of a line, the first one its champion."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(folder / ".tidemill"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        ws = Workspace.here()
        tracker, ledger = Tracker(ws), Ledger(ws.home)
        experiment = tracker.client.create_experiment("tiny", (ws.home / "kept").as_uri())
        for seed in (1, 2):
            artifact = publish(folder / f"train{seed}", seed=seed)
            run_id = tracker.client.create_run(experiment).info.run_id
            register(Register(line="tiny"), artifact, tracker, ledger, ws, run_id, dict.fromkeys(TRACED, "known"))
        champions.promote(ledger, "tiny", 1, "a test")
        champions.project(ledger, tracker, "tiny")
        yield ws


def test_a_line_is_its_champion_and_a_version_is_itself(ws: Workspace) -> None:
    champion, second, folder = fetch("tiny"), fetch("tiny@2"), fetch("train2")
    assert (champion.name, second.name) == ("tiny@1", "tiny@2")
    assert champion.digest != second.digest == folder.digest
    assert folder.name == f"train2@{folder.digest[:12]}"
    assert {path.name for path in (ws.home / "served").iterdir()} == {champion.digest, second.digest}


def test_what_the_ledger_does_not_know_is_refused(ws: Workspace) -> None:
    with pytest.raises(ValueError, match="tiny@7: no such version; tiny has: 2, 1"):
        fetch("tiny@7")
    with pytest.raises(ValueError, match="neither a folder nor a line with a champion"):
        fetch("other")
    with pytest.raises(ValueError, match="no such folder"):
        fetch("no/folder")
    with pytest.raises(ValueError, match="write a version as LINE@VERSION"):
        fetch("tiny@new")


def test_what_the_registry_says_against_the_ledger_is_refused(ws: Workspace) -> None:
    tracker, first, second = Tracker(ws), fetch("tiny@1"), fetch("tiny@2")
    tracker.point("tiny", "champion", 2)
    with pytest.raises(ValueError, match="the registry's alias was moved by hand"):
        fetch("tiny")
    tracker.point("tiny", "champion", 1)
    tracker.tag_version(tracker.version("tiny", 2), {"tidemill.artifact": first.digest})
    with pytest.raises(ValueError, match="its artifact is not the one that was registered"):
        fetch("tiny@2")
    tracker.tag_version(tracker.version("tiny", 2), {"tidemill.artifact": second.digest})


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "train")
    (tmp_path / "train" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="sha256 is not the manifest's"):
        fetch(str(tmp_path / "train"))
