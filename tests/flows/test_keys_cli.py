"""`tidemill keys`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from llm_core.serving.keys import KeyFileError, Keys
from tasks.workspace import HOME_VARIABLE


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key file of a workspace, which is not there yet."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tmp_path / "home" / "keys" / "api.json"


def tidemill(*arguments: str) -> Result:
    done = CliRunner().invoke(app, ["keys", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def facts(*arguments: str) -> Any:
    return json.loads(tidemill(*arguments, "--json").stdout)


def test_a_new_key_is_printed_once_and_opens(file: Path) -> None:
    key = tidemill("create", "ci").stdout.strip()
    assert Keys(file).find(key) is not None
    assert key.split("_")[2] not in tidemill("list").output


def test_limits_and_expiry_are_kept_as_given(file: Path) -> None:
    options = ["--rpm", "60", "--tpm", "9000", "--tokens-per-day", "100000", "--max-tokens", "256", "--max-n", "4"]
    made = facts("create", "ci", *options, "--model", "demo", "--model", "small", "--expires", "90d", "--admin")
    record = Keys(file).find(made["key"])
    assert record is not None and record.admin and record.expires is not None
    assert record.limits.model_dump() == {
        "requests_per_minute": 60,
        "tokens_per_minute": 9000,
        "tokens_per_day": 100_000,
        "max_tokens": 256,
        "max_n": 4,
        "models": ("demo", "small"),
    }
    assert made["limits"] == json.loads(record.limits.model_dump_json()) and made["state"] == "valid"


def test_the_list_tells_states_and_no_hashes(file: Path) -> None:
    for name in ("one", "two"):
        tidemill("create", name, "--rpm", "5")
    assert facts("revoke", "one")["state"] == "revoked"
    listed = facts("list")
    assert [(each["name"], each["state"]) for each in listed] == [("one", "revoked"), ("two", "valid")]
    assert not {"salt", "sha256", "key"} & listed[0].keys()
    table = tidemill("list").output
    assert "revoked" in table and "requests_per_minute 5" in " ".join(table.split())


def test_another_file_is_taken_when_named(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "keys.json"
    key = tidemill("create", "ci", "--file", str(other)).stdout.strip()
    assert Keys(other).find(key) is not None and not file.exists()
    assert [each["name"] for each in facts("list", "--file", str(other))] == ["ci"]


def test_what_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(KeyFileError, match=r"api\.json: no key file .* tidemill keys create"):
        tidemill("list")
    tidemill("create", "ci")
    with pytest.raises(KeyFileError, match="other: no such key"):
        tidemill("revoke", "other")
    with pytest.raises(KeyFileError, match="--expires never"):
        tidemill("create", "more", "--expires", "never")


def test_a_limit_of_nothing_is_a_usage_error() -> None:
    assert tidemill("create", "ci", "--rpm", "0").exit_code == 2
