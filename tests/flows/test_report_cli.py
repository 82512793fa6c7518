"""`tidemill report` finds what the gate wrote, copies it, and says what to do where there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from tasks.workspace import HOME_VARIABLE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    folder = tmp_path / "reports" / "demo" / "3"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text("<p>the page</p>")
    (folder / "README.md").write_text("# demo@3")
    (folder / "decision.md").write_text("# demo@3: keep")
    return folder


def tidemill(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["report", *arguments])


def test_it_says_where_the_page_is(folder: Path) -> None:
    assert tidemill("demo@3").stdout.strip() == str(folder / "report.html")


def test_it_prints_the_card(folder: Path) -> None:
    assert tidemill("demo@3", "--card").stdout.strip() == "# demo@3"


def test_it_prints_the_decision(folder: Path) -> None:
    assert tidemill("demo@3", "--decision").stdout.strip() == "# demo@3: keep"


def test_it_copies_what_was_asked_for(folder: Path, tmp_path: Path) -> None:
    done = tidemill("demo@3", "--output", str(tmp_path / "page.html"), "--json")
    found = json.loads(done.stdout)
    assert (found["version"], found["report"]) == ("demo@3", str(tmp_path / "page.html"))
    assert sorted(found["files"]) == ["README.md", "decision.md", "report.html"]
    assert (tmp_path / "page.html").read_text() == "<p>the page</p>"
    tidemill("demo@3", "--card", "--output", str(tmp_path / "card.md"))
    assert (tmp_path / "card.md").read_text() == "# demo@3"


@pytest.mark.parametrize(
    ("version", "says"), [("demo@4", "tidemill run RECIPE"), ("demo", "NAME@VERSION"), ("@1", "NAME@VERSION")]
)
def test_a_version_without_a_report_is_said_to_have_none(folder: Path, version: str, says: str) -> None:
    done = tidemill(version)
    assert done.exit_code == 2 and says in " ".join(done.output.replace("│", " ").split())
