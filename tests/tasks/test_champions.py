from __future__ import annotations

from pathlib import Path

import pytest

from llm_core.serving.registry import RegisteredVersion
from tasks import champions
from tasks.ledger import Entry, Ledger, LedgerError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    for number in (1, 2, 3):
        body = {"version": number, "artifact": f"digest{number}", "run": f"run{number}"}
        ledger.append("registered", "demo", f"demo:{number}", body)
    return ledger


def served(number: int, artifact: str | None = None) -> RegisteredVersion:
    return RegisteredVersion("demo", str(number), artifact or f"digest{number}", key="k")


def champion(ledger: Ledger) -> Entry:
    entry = ledger.champion("demo")
    assert entry is not None
    return entry


def test_a_person_promotes_and_the_ledger_says_who_and_why(ledger: Ledger) -> None:
    entry = champions.promote(ledger, "demo", 2, "the tests were wrong")
    assert champion(ledger) == entry
    assert (entry.body["reason"], bool(entry.body["person"])) == ("the tests were wrong", True)


def test_promoting_the_champion_again_changes_nothing(ledger: Ledger) -> None:
    assert champions.promote(ledger, "demo", 2, "a") == champions.promote(ledger, "demo", 2, "b")


def test_a_rollback_brings_back_the_champion_before(ledger: Ledger) -> None:
    champions.promote(ledger, "demo", 1, "")
    champions.promote(ledger, "demo", 2, "")
    champions.rollback(ledger, "demo", "it was bad")
    assert (champion(ledger).kind, champion(ledger).body["version"]) == ("rolled_back", 1)


def test_rolling_back_and_promoting_may_go_on_for_ever(ledger: Ledger) -> None:
    champions.promote(ledger, "demo", 1, "")
    for _ in range(3):
        champions.promote(ledger, "demo", 2, "")
        champions.rollback(ledger, "demo", "")
    assert champion(ledger).body["version"] == 1
    assert ledger.verify() == 3 + 1 + 6


def test_without_an_earlier_champion_there_is_nothing_to_roll_back_to(ledger: Ledger) -> None:
    champions.promote(ledger, "demo", 1, "")
    with pytest.raises(LedgerError, match="no earlier champion"):
        champions.rollback(ledger, "demo", "")


def test_an_unregistered_version_is_not_promoted(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="demo@9: no such version; demo has: 1, 2, 3"):
        champions.promote(ledger, "demo", 9, "")


def test_the_server_may_serve_only_what_the_ledger_names(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="champion is nothing"):
        champions.admit(ledger, served(1))
    champions.promote(ledger, "demo", 1, "")
    champions.admit(ledger, served(1))
    with pytest.raises(LedgerError, match="moved by hand"):
        champions.admit(ledger, served(2))
    with pytest.raises(LedgerError, match="not the one that was promoted"):
        champions.admit(ledger, served(1, artifact="other"))
