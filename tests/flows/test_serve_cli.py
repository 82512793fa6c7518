"""`tidemill serve`: what the command line hands to the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.announce import Announcer
from flows.cli import app
from llm_core.serving import server
from llm_core.serving.hosting import Host
from llm_core.serving.keys import KeyFileError, create_key
from llm_core.serving.server import OpenToOthers, PortTaken
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
        CliRunner().invoke(app, ["serve", *source, "--host", NOT_OURS, "--no-keys"], catch_exceptions=False)


def test_with_an_mlflow_elsewhere_none_is_made_in_the_home(workspace: Path) -> None:
    with pytest.raises(PortTaken):
        CliRunner().invoke(app, ["serve", "--host", NOT_OURS, "--no-keys"], catch_exceptions=False)
    assert [path.name for path in (workspace / "home").iterdir()] == ["ledger.db"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", NOT_OURS, "example.com", ""])
def test_others_are_let_in_with_keys_or_when_that_is_said(workspace: Path, host: str) -> None:
    with pytest.raises(OpenToOthers, match="without a key; give it --keys FILE .* or say --no-keys"):
        CliRunner().invoke(app, ["serve", "--model", "out/train", "--host", host], catch_exceptions=False)


def test_a_key_file_is_read_before_anything_is_opened(workspace: Path) -> None:
    command = ["serve", "--model", "out/train", "--host", NOT_OURS, "--keys", "keys.json"]
    with pytest.raises(KeyFileError, match=r"keys\.json: no key file"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    create_key(workspace / "keys.json", "ci")
    with pytest.raises(PortTaken):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("options", [["--keys", "keys.json", "--no-keys"], ["--sample", "2"]])
def test_options_that_make_no_sense_are_usage_errors(workspace: Path, options: list[str]) -> None:
    assert CliRunner().invoke(app, ["serve", "--model", "out/train", *options]).exit_code == 2


def test_what_happens_to_a_line_is_told_to_prefect_where_one_is_known(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[Host] = []
    monkeypatch.setattr(server, "serve", lambda lines, *_, **__: handed.append(lines))
    for api, told in (("", 0), ("http://127.0.0.1:9/api", 1)):
        monkeypatch.setenv("PREFECT_API_URL", api)
        CliRunner().invoke(app, ["serve"], catch_exceptions=False)
        observers = handed.pop().first.observers
        assert sum(isinstance(observer, Announcer) for observer in observers) == told
