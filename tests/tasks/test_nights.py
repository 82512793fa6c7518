"""A night is skipped only where data, recipe and code are those of the last finished one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from llm_core.config import Recipe, Register, Train
from llm_core.inventory import Inventory, SourceFile
from tasks.ledger import Ledger
from tasks.nights import note_night, reason_to_skip

RECIPE = Recipe()
INVENTORY = Inventory((SourceFile("a.txt", 3, "0" * 64),), Path())
SUMMARY: Mapping[str, object] = {"version": "demo@1", "champion": "demo@1", "promoted": True}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    assert reason_to_skip(ledger, RECIPE, INVENTORY) is None, "the first night has work"
    note_night(ledger, RECIPE, INVENTORY, SUMMARY)
    return ledger


def test_with_nothing_new_the_reason_names_the_last_night(ledger: Ledger) -> None:
    reason = reason_to_skip(ledger, RECIPE, INVENTORY)
    last = ledger.entries("demo")[-1]
    assert reason == f"no new data, recipe or code since the night of {last.at[:16]} (1 files)"


@pytest.mark.parametrize(
    ("recipe", "inventory"),
    [
        (RECIPE, replace(INVENTORY, files=(SourceFile("a.txt", 3, "1" * 64),))),
        (RECIPE, replace(INVENTORY, files=(*INVENTORY.files, SourceFile("b.txt", 3, "2" * 64)))),
        (RECIPE.model_copy(update={"train": Train(steps=501)}), INVENTORY),
        (RECIPE.model_copy(update={"register_": Register(line="other")}), INVENTORY),
    ],
)
def test_a_new_byte_file_value_or_line_is_work(ledger: Ledger, recipe: Recipe, inventory: Inventory) -> None:
    assert reason_to_skip(ledger, recipe, inventory) is None


def test_changed_code_is_work(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.lineage.code_digest", lambda module: f"another {module}")
    assert reason_to_skip(ledger, RECIPE, INVENTORY) is None


def test_going_back_to_earlier_data_is_a_night_of_its_own(ledger: Ledger) -> None:
    other = replace(INVENTORY, files=())
    note_night(ledger, RECIPE, other, SUMMARY)
    assert reason_to_skip(ledger, RECIPE, INVENTORY) is None
    note_night(ledger, RECIPE, INVENTORY, SUMMARY)
    assert [entry.kind for entry in ledger.entries("demo")] == ["night"] * 3
