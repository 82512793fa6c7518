"""References are scored like the model, and one that is not there is a row that says so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from llm_core.artifact import Draft
from llm_core.config import Gate
from tasks.ledger import Entry, Ledger
from tasks.references import Reference, reference, references

SIZES = pd.Series({"a": 100, "b": 300})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "home")
    for number in (1, 2):
        body = {"version": number, "artifact": f"digest{number}", "run": "r"}
        version = ledger.append("registered", "lstm", f"lstm:{number}", body)
    ledger.move("promoted", "lstm", "key", {**version.body, "reason": "better"}, expected=None)
    return ledger


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Draft(tmp_path / "model", "model", "train") as out:
        out.publish({"parameters": 1234})
    return tmp_path / "model"


def rows(ledger: Ledger, folder: Path, *names: str) -> list[Reference]:
    def folder_of(version: Entry) -> Path:
        asked.append(version.body["version"])
        return folder

    asked: list[int] = []
    bits = pd.Series({"a": 150.0, "b": 250.0, "of another night": 9e9})
    return list(references(names, ledger, folder_of, lambda _: bits, SIZES))


def test_a_line_is_its_champion_and_a_version_itself(ledger: Ledger, folder: Path) -> None:
    assert rows(ledger, folder, "lstm", "lstm@1") == [
        Reference("lstm@2", 1.0, "1,234 parameters"),
        Reference("lstm@1", 1.0, "1,234 parameters"),
    ]


@pytest.mark.parametrize(("name", "says"), [("gpt", "run the recipe whose line is gpt"), ("lstm@9", "no such version")])
def test_what_is_not_there_stops_nothing(ledger: Ledger, folder: Path, name: str, says: str) -> None:
    missing, there = rows(ledger, folder, name, "lstm")
    assert (missing.name, missing.bits_per_byte, there.bits_per_byte) == (name, None, 1.0)
    assert says in missing.note


def test_what_cannot_be_scored_stops_nothing(ledger: Ledger, tmp_path: Path) -> None:
    (row,) = rows(ledger, tmp_path / "gone", "lstm")
    assert row.bits_per_byte is None and "gone" in row.note


def test_a_folder_is_a_row_too(folder: Path) -> None:
    assert reference("models/x", folder, lambda _: pd.Series({"a": 40.0, "b": 40.0}), SIZES) == Reference(
        "models/x", 0.2, "1,234 parameters"
    )


def test_references_change_no_decision() -> None:
    assert Gate(references=("lstm",)).rule() == Gate().rule() != Gate(alpha=0.01).rule()


def test_a_reference_is_a_line_or_a_version() -> None:
    with pytest.raises(ValueError, match="references"):
        Gate(references=("LSTM@",))
