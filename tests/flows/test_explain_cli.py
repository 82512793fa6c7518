"""`tidemill explain` prints shares, gives JSON, and writes the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from tests.tasks.tiny_model import publish


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path / ".tidemill"))
    monkeypatch.chdir(tmp_path)
    return publish(tmp_path / "model").path


def tidemill(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_it_prints_each_tokens_share(folder: Path) -> None:
    done = tidemill(str(folder), "The state", "--steps", "2")
    assert done.exit_code == 0, done.output
    assert "The state →" in done.stdout and "state" in done.stdout and "█" in done.stdout
    assert "not those of this workspace" in done.stdout


def test_json_has_shares_attention_and_what_was_written(folder: Path) -> None:
    found = json.loads(tidemill(str(folder), "The state", "--target", " of", "--steps", "2", "--json").stdout)
    (text,) = found["texts"]
    assert (text["text"], text["target"], text["searched"]) == ("The state", " of", False)
    assert len(text["attention"]["rollout"]) == len(text["tokens"])


def test_the_page_holds_every_text(folder: Path, tmp_path: Path) -> None:
    done = tidemill(str(folder), "The state", "One, two", "--steps", "2", "--output", str(tmp_path / "page.html"))
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<h2>") == 2 and page.count("<svg") == 8


def test_what_cannot_be_explained_is_said(folder: Path, tmp_path: Path) -> None:
    done = tidemill(str(folder), "One, two and three. " * 40)
    assert done.exit_code != 0 and "shorten it" in str(done.exception)
