from __future__ import annotations

import sqlite3
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.ledger import Ledger, LedgerError, Overtaken


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_an_effect_happens_once_per_key(ledger: Ledger) -> None:
    first = ledger.append("registered", "demo", "key", {"version": 1})
    assert ledger.append("registered", "demo", "key", {"version": 2}) == first
    assert ledger.find("registered", "key") == first
    assert ledger.find("registered", "other") is None


def test_parallel_writers_make_one_entry_and_one_chain(tmp_path: Path) -> None:
    Ledger(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda n: Ledger(tmp_path).append("registered", "demo", "key", {"version": n}), range(8)))
        list(pool.map(lambda n: Ledger(tmp_path).append("served", "demo", f"key{n}", {}), range(8)))
    assert len({entry.hash for entry in same}) == 1
    assert Ledger(tmp_path).verify() == 9


def test_an_entry_made_from_an_older_count_is_refused_and_a_repeated_one_found(ledger: Ledger) -> None:
    first = ledger.append("decided", "demo", "a", {}, expected=0)
    ledger.append("decided", "other", "b", {}, expected=0)
    with pytest.raises(Overtaken, match="demo: 1 entries are decided, not 0 any more"):
        ledger.append("decided", "demo", "c", {}, expected=0)
    assert ledger.append("decided", "demo", "a", {}, expected=0) == first
    assert (ledger.count("decided", "demo"), ledger.verify()) == (1, 2)


def test_the_champion_is_the_last_move_of_its_line(ledger: Ledger) -> None:
    assert ledger.champion("demo") is None
    first = ledger.move("promoted", "demo", "a", {"version": 1}, expected=None)
    second = ledger.move("promoted", "demo", "b", {"version": 2}, expected=first.hash)
    ledger.move("promoted", "other", "c", {"version": 9}, expected=None)
    assert ledger.champion("demo") == second


def test_a_decision_made_against_an_older_champion_is_refused(ledger: Ledger) -> None:
    first = ledger.move("promoted", "demo", "a", {"version": 1}, expected=None)
    ledger.move("promoted", "demo", "b", {"version": 2}, expected=first.hash)
    with pytest.raises(LedgerError, match="the champion changed while this decision was made"):
        ledger.move("promoted", "demo", "c", {"version": 3}, expected=first.hash)
    assert ledger.champion("demo").body["version"] == 2  # type: ignore[union-attr]


def test_a_repeated_move_is_found_and_not_made_again(ledger: Ledger) -> None:
    first = ledger.move("promoted", "demo", "a", {"version": 1}, expected=None)
    assert ledger.move("promoted", "demo", "a", {"version": 1}, expected=None) == first


@pytest.mark.parametrize(
    "sql",
    [
        """UPDATE entries SET body = '{"version":7}' WHERE sequence = 2""",
        "UPDATE entries SET kind = 'promoted' WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 2",
        "UPDATE entries SET signature = replace(signature, substr(signature, 1, 1), 'x') WHERE sequence = 2",
        "UPDATE entries SET at = '2020-01-01' WHERE sequence = 2",
    ],
)
def test_any_change_behind_the_ledgers_back_is_found(ledger: Ledger, tmp_path: Path, sql: str) -> None:
    for number in range(3):
        ledger.append("registered", "demo", f"key{number}", {"version": number})
    assert ledger.verify() == 3
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute(sql)
    with pytest.raises(LedgerError, match="entry"):
        ledger.verify()


def test_an_entry_signed_by_another_key_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    entry = ledger.append("registered", "demo", "key", {"version": 1})
    (tmp_path / "keys" / "ledger.pem").unlink()
    with pytest.raises(LedgerError, match="was changed"):
        ledger.check(entry)


def test_the_signing_key_is_readable_by_its_owner_only(ledger: Ledger, tmp_path: Path) -> None:
    ledger.append("registered", "demo", "key", {})
    assert stat.S_IMODE((tmp_path / "keys" / "ledger.pem").stat().st_mode) == 0o600


def test_a_ledger_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="format 99"):
        Ledger(tmp_path)


def test_reading_writes_nothing_so_that_a_home_may_be_read_only(ledger: Ledger, tmp_path: Path) -> None:
    ledger.move("promoted", "demo", "a", {"version": 1}, expected=None)
    before = (tmp_path / "ledger.db").read_bytes()  # SQLite counts changes in it: the same value set again is one
    assert Ledger(tmp_path).champion("demo") is not None
    assert (tmp_path / "ledger.db").read_bytes() == before


def test_with_the_public_key_alone_entries_are_checked_and_none_is_signed(ledger: Ledger, tmp_path: Path) -> None:
    entry = ledger.append("registered", "demo", "key", {"version": 1})
    publish_key(tmp_path / "keys")
    ledger.check(entry)
    with pytest.raises(LedgerError, match="only checks entries"):
        ledger.append("registered", "demo", "other", {"version": 2})
    with pytest.raises(LedgerError, match="was changed"):
        ledger.check(replace(entry, line="another"))


def publish_key(keys: Path) -> None:
    """Leave `keys` as a replica has it, by the command that deploy/README.md names."""
    private, public = str(keys / "ledger.pem"), str(keys / "ledger.pub")
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    (keys / "ledger.pem").unlink()
