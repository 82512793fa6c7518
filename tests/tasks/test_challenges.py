from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from llm_core.serving.canary import Canary
from llm_core.serving.registry import RegisteredVersion
from tasks import challenges, champions
from tasks.ledger import Entry, Ledger, LedgerError

CANARY = Canary(percent=5, min_requests=20)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    for number in (1, 2, 3):
        body = {"version": number, "artifact": f"digest{number}", "run": f"run{number}"}
        ledger.append("registered", "demo", f"demo:{number}", body)
    champions.promote(ledger, "demo", 1, "the first")
    return ledger


def challenge(ledger: Ledger, number: int = 2, canary: Canary = CANARY) -> Entry:
    return challenges.begin(ledger, champions.registered(ledger, "demo", number), canary, "a person says so")


def version(number: int, artifact: str | None = None) -> RegisteredVersion:
    return RegisteredVersion("demo", str(number), artifact or f"digest{number}", key="k")


def test_the_server_may_try_only_what_the_ledger_names_and_as_it_says(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no challenge of it; the registry's alias was moved by hand"):
        challenges.admit(ledger, version(2))
    entry = challenge(ledger)
    assert challenges.admit(ledger, version(2)) == Canary(percent=5, min_requests=20, challenge=entry.hash)
    with pytest.raises(LedgerError, match="demo@3: the ledger has no challenge of it"):
        challenges.admit(ledger, version(3))
    with pytest.raises(LedgerError, match="not the one that was to be tried"):
        challenges.admit(ledger, version(2, artifact="other"))


def test_a_changed_entry_is_not_believed(ledger: Ledger, tmp_path: Path) -> None:
    challenge(ledger)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE entries SET body = replace(body, '5', '50') WHERE kind = 'challenged'")
    with pytest.raises(LedgerError, match=r"\(challenged\) was changed"):
        challenges.admit(ledger, version(2))


def test_a_challenge_is_over_when_it_ended_or_another_champion_came(ledger: Ledger) -> None:
    entry = challenge(ledger)
    assert challenges.current(ledger, "demo") == entry
    ended = challenges.end(ledger, entry, "reverted", "slow", {"answers": 50})
    assert challenges.end(ledger, entry, "passed", "later", {}) == ended, "the first word counts"
    assert (challenges.current(ledger, "demo"), challenges.admit(ledger, version(2))) == (None, None)
    again = challenge(ledger)
    assert again.hash != entry.hash and challenges.current(ledger, "demo") == again
    champions.promote(ledger, "demo", 3, "")
    assert (challenges.current(ledger, "demo"), challenges.admit(ledger, version(2))) == (None, None)


def test_asking_for_the_same_again_changes_nothing_and_for_another_replaces_it(ledger: Ledger) -> None:
    first = challenge(ledger)
    assert challenge(ledger) == first
    other = challenge(ledger, canary=Canary(percent=20))
    assert challenges.current(ledger, "demo") == other != first
    latest = challenge(ledger, 3)
    assert challenges.current(ledger, "demo") == latest
    assert challenges.admit(ledger, version(2)) is None, "the alias may be a moment behind"


def test_who_challenges_has_to_be_another_version_than_the_champion(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="demo@1 is champion already"):
        challenge(ledger, 1)
    empty = Ledger(tmp_path / "empty")
    empty.append("registered", "demo", "k", {"version": 1, "artifact": "a", "run": "r"})
    with pytest.raises(LedgerError, match="no champion to compare with"):
        challenge(empty, 1)


class Aliases:
    """The registry's part that is projected on."""

    def __init__(self) -> None:
        self.aliases: dict[str, int] = {}
        self.tags: dict[int, Mapping[str, str]] = {}

    def point(self, line: str, alias: str, number: int) -> None:
        self.aliases[alias] = number

    def unpoint(self, line: str, alias: str) -> None:
        self.aliases.pop(alias, None)

    def version(self, line: str, number: int) -> int:
        return number

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        self.tags[version] = tags


def test_the_registrys_alias_follows(ledger: Ledger) -> None:
    tracker = Aliases()
    champions.project(ledger, tracker, "demo")  # type: ignore[arg-type]
    assert tracker.aliases == {"champion": 1}
    assert tracker.tags[1][champions.HEAD_TAG].endswith(ledger.head)
    entry = challenge(ledger)
    champions.project(ledger, tracker, "demo")  # type: ignore[arg-type]
    assert tracker.aliases == {"champion": 1, "challenger": 2}
    challenges.end(ledger, entry, "stopped", "enough", {})
    champions.project(ledger, tracker, "demo")  # type: ignore[arg-type]
    assert tracker.aliases == {"champion": 1}
