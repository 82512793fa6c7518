from __future__ import annotations

import hashlib
import json
import os
import stat
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llm_core.serving.keys import KEY, KeyFileError, Keys, Limits, create_key, expiry, read_keys, revoke_key

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "api.json"


def test_a_key_is_found_by_itself_and_by_nothing_else(path: Path) -> None:
    record, key = create_key(path, "ci")
    keys = Keys(path)
    assert keys.find(key) == record and KEY.fullmatch(key)
    changed = key[:-1] + ("0" if key[-1] != "0" else "1")
    other = create_key(path, "other")[1]
    crossed = f"tm_{record.id}_{other.rpartition('_')[2]}"
    for wrong in (changed, crossed, key.upper(), key + "0", key[:-1], f" {key}", "", "tm__", record.id, record.sha256):
        assert keys.find(wrong) is None


def test_the_file_holds_no_secret_and_is_its_owners_alone(path: Path) -> None:
    record, key = create_key(path, "ci")
    secret, text = key.rpartition("_")[2], path.read_text()
    assert secret not in text and hashlib.sha256(secret.encode()).hexdigest() not in text
    assert record.sha256 == hashlib.sha256(f"{record.salt}{secret}".encode()).hexdigest()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_equal_names_never_make_equal_hashes(path: Path) -> None:
    first, _ = create_key(path, "ci")
    revoke_key(path, "ci")
    second, _ = create_key(path, "ci")
    assert len({first.salt, second.salt, first.sha256, second.sha256}) == 4


def test_a_change_of_the_file_counts_at_once(path: Path) -> None:
    _, first = create_key(path, "first")
    keys = Keys(path)
    record, second = create_key(path, "second")
    assert keys.find(second) == record
    revoke_key(path, "first")
    found = keys.find(first)
    assert found is not None and found.state(NOON) == "revoked"


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_a_file_that_is_gone_or_broken_lets_nobody_in_until_it_is_back(
    path: Path, spoil: Callable[[Path], object]
) -> None:
    _, key = create_key(path, "ci")
    whole = path.read_text()
    keys = Keys(path)
    spoil(path)
    for _ in range(2):
        with pytest.raises(KeyFileError):
            keys.find(key)
    path.write_text(whole)
    assert keys.find(key) is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"keys": {}}, "keys is no list"),
        ({"keys": [{}]}, r"keys\.0\.id: Field required"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_named(path: Path, change: dict[str, Any], message: str) -> None:
    create_key(path, "ci")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(KeyFileError, match=message):
        read_keys(path)


def test_a_limit_that_is_misspelt_does_not_mean_unlimited(path: Path) -> None:
    create_key(path, "ci", limits=Limits(requests_per_minute=1))
    path.write_text(path.read_text().replace("requests_per_minute", "requests_per_minutes"))
    with pytest.raises(KeyFileError, match="requests_per_minutes: Extra inputs"):
        read_keys(path)


def test_an_id_that_is_there_twice_is_refused(path: Path) -> None:
    create_key(path, "ci")
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "keys": values["keys"] * 2}))
    with pytest.raises(KeyFileError, match="is there twice"):
        read_keys(path)


def test_a_file_that_others_may_write_is_refused(path: Path) -> None:
    create_key(path, "ci")
    path.chmod(0o664)
    with pytest.raises(KeyFileError, match="others may write it, and so make keys; chmod 600"):
        read_keys(path)
    path.chmod(0o440)  # as a cluster mounts its secrets
    assert len(read_keys(path)) == 1


def test_a_missing_file_says_how_one_is_made(path: Path) -> None:
    with pytest.raises(KeyFileError, match="tidemill keys create"):
        Keys(path)


def test_a_failed_change_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_key(path, "ci")
    before = path.read_bytes()

    def fail(*places: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        create_key(path, "more")
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} <= {"api.json", ".api.json.lock"}


def test_a_name_is_taken_until_its_key_is_revoked(path: Path) -> None:
    record, _ = create_key(path, "ci")
    with pytest.raises(KeyFileError, match=f"ci: is the name of key {record.id}"):
        create_key(path, "ci")
    with pytest.raises(KeyFileError, match="no such key .* valid ones are ci"):
        revoke_key(path, "cd")
    assert revoke_key(path, record.id).revoked
    create_key(path, "ci")


def test_a_key_expires(path: Path) -> None:
    record, _ = create_key(path, "ci", expires=NOON)
    assert record.state(NOON - timedelta(seconds=1)) == "valid" and record.state(NOON) == "expired"


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("90d", NOON + timedelta(days=90)),
        ("12h", NOON + timedelta(hours=12)),
        ("2w", NOON + timedelta(days=14)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T10:00+02:00", datetime(2027, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_duration_or_a_date(text: str, when: datetime) -> None:
    assert expiry(text, lambda: NOON) == when


@pytest.mark.parametrize(("text", "message"), [("soon", "duration as in 90d"), ("2020-01-01", "is over already")])
def test_an_expiry_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(KeyFileError, match=message):
        expiry(text, lambda: NOON)


def test_an_unknown_id_takes_as_long_as_a_known_one(path: Path) -> None:
    _, key = create_key(path, "ci")
    keys = Keys(path)
    known = f"{key[:-8]}00000000"
    unknown, malformed = f"tm_{'f' * 12}_{'0' * 64}", "x" * 80
    seconds = {text: [] for text in (known, unknown, malformed)}
    for _ in range(1500):
        for text, taken in seconds.items():
            began = time.perf_counter()
            assert keys.find(text) is None
            taken.append(time.perf_counter() - began)
    medians = [statistics.median(taken) for taken in seconds.values()]
    # An early return would save the hash and the comparison, more than a third of it.
    assert max(medians) < 1.3 * min(medians)
