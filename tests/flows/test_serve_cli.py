"""`tidemill serve`: what the command line hands to the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from llm_core.serving.server import PortTaken
from tasks import services
from tasks.workspace import HOME_VARIABLE

NOT_OURS = "192.0.2.1"
"""An address of documentation (RFC 5737): opening it fails at once, and says which address was asked for."""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(services, "CONFIGURED_URI", "http://127.0.0.1:9")
    return tmp_path


@pytest.mark.parametrize("source", [["--model", "out/train"], ["--line", "demo"]])
def test_the_address_to_listen_on_is_an_option(workspace: Path, source: list[str]) -> None:
    with pytest.raises(PortTaken, match=rf"on {NOT_OURS} cannot be opened"):
        CliRunner().invoke(app, ["serve", *source, "--host", NOT_OURS], catch_exceptions=False)


def test_with_an_mlflow_elsewhere_none_is_made_in_the_home(workspace: Path) -> None:
    with pytest.raises(PortTaken):
        CliRunner().invoke(app, ["serve", "--host", NOT_OURS], catch_exceptions=False)
    assert [path.name for path in (workspace / "home").iterdir()] == ["ledger.db"]
