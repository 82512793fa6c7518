"""The ledger: which effects happened, who is champion and why. Append-only, hash-chained, signed.

Each entry holds the sha256 of the one before it and an Ed25519 signature over its own hash. An effect has a key,
unique within its kind, so that a rerun finds what an earlier run did instead of doing it again. MLflow's aliases are
a projection of this table: `champion` here is the truth.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LEDGER_FORMAT = 1
GENESIS = "0" * 64
Moment = int | str
"""An entry's number, or a time in UTC as entries have it: what happened until then."""
BY_SERVER = ("challenge_ended",)
BY_GATE = ("decided", "anchored")
MOVES = ("promoted", "rolled_back")
"""Kinds of entries that move the champion of a line."""

_TABLE = """
CREATE TABLE IF NOT EXISTS entries (
  sequence INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, line TEXT NOT NULL, key TEXT NOT NULL,
  body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL UNIQUE, signature TEXT NOT NULL, UNIQUE (kind, key))
"""


class LedgerError(ValueError):
    """A ledger that does not verify, or a move that another one overtook; the message names the entry."""


class Overtaken(LedgerError):
    """An entry of its kind came first, so that what this one was made from holds no more: make it anew."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    sequence: int
    at: str
    kind: str
    line: str
    key: str
    body: Mapping[str, Any]
    previous: str
    hash: str
    signature: str

    @property
    def actor(self) -> str:
        """Who or what made it: a person by name, the gate, the server's trial, or a run."""
        if person := self.body.get("person"):
            return f"{person} (person)"
        if self.kind in BY_SERVER or "challenge" in self.body:
            return "server"
        return "gate" if self.kind in BY_GATE or "decision" in self.body else "run"


class Ledger:
    """The ledger of one home."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._path = home / "ledger.db"
        self._keys = home / "keys"
        with closing(self._connect()) as connection:
            connection.execute(_TABLE)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, LEDGER_FORMAT):
                raise LedgerError(
                    f"{self._path}: format {version}, this version reads {LEDGER_FORMAT}; upgrade tidemill"
                )
            if version != LEDGER_FORMAT:  # setting it writes, and a replica's home is read-only
                connection.execute(f"PRAGMA user_version = {LEDGER_FORMAT}")

    def find(self, kind: str, key: str) -> Entry | None:
        """The entry of this effect, if it happened."""
        return next(iter(self._select("kind = ? AND key = ?", kind, key)), None)

    def champion(self, line: str, at: Moment | None = None) -> Entry | None:
        """The entry that made the champion of a line, now or at a moment; its body has `version` and `artifact`."""
        until, value = _until(at)
        moves = self._select(f"line = ? AND kind IN (?, ?) AND {until}", line, *MOVES, *value)
        return moves[-1] if moves else None

    def entries(self, line: str | None = None, at: Moment | None = None) -> list[Entry]:
        """All entries in order, of one line or of all, up to now or to a moment."""
        until, value = _until(at)
        return self._select(f"line = ? AND {until}", line, *value) if line else self._select(until, *value)

    @property
    def head(self) -> str:
        """Hash of the last entry, which stands for all before; of an empty ledger a fixed one."""
        entries = self._select("sequence = (SELECT MAX(sequence) FROM entries)")
        return entries[0].hash if entries else GENESIS

    def count(self, kind: str, line: str) -> int:
        """How many entries of a kind a line has."""
        return len(self._select("kind = ? AND line = ?", kind, line))

    def append(self, kind: str, line: str, key: str, body: Mapping[str, Any], expected: int | None = None) -> Entry:
        """Add an entry; the one that is there already is given back instead where kind and key exist.

        With `expected`, only while the line has so many entries of that kind; otherwise `Overtaken`.
        """
        with self._writing() as connection:
            done = _existing(connection, kind, key)
            if done is not None:
                return done
            query = "SELECT COUNT(*) FROM entries WHERE kind = ? AND line = ?"
            present = connection.execute(query, (kind, line)).fetchone()[0]
            if expected is not None and present != expected:
                raise Overtaken(f"{line}: {present} entries are {kind}, not {expected} any more; decide again")
            return self._insert(connection, kind, line, key, body)

    def move(self, kind: str, line: str, key: str, body: Mapping[str, Any], expected: str | None) -> Entry:
        """Move the champion, if the present one is still `expected` (its entry's hash, or None for no champion)."""
        assert kind in MOVES
        with self._writing() as connection:
            done = _existing(connection, kind, key)
            if done is not None:
                return done
            rows = connection.execute(
                "SELECT hash FROM entries WHERE line = ? AND kind IN (?, ?) ORDER BY sequence DESC LIMIT 1",
                (line, *MOVES),
            ).fetchall()
            present = rows[0][0] if rows else None
            if present != expected:
                raise LedgerError(f"{line}: the champion changed while this decision was made; run the gate again")
            return self._insert(connection, kind, line, key, body)

    def verify(self) -> int:
        """Check the whole chain; returns its length, raises LedgerError naming the first entry that was changed."""
        previous = GENESIS
        public = self._public_key()
        entries = self._select("1")
        for number, entry in enumerate(entries, start=1):
            if entry.sequence != number or entry.previous != previous:
                raise LedgerError(
                    f"{self._path}: entry {number} is missing or out of order; restore the file from a backup"
                )
            _check(entry, public, self._path)
            previous = entry.hash
        return len(entries)

    def check(self, entry: Entry) -> None:
        """Raise LedgerError unless this entry's hash and signature are right."""
        _check(entry, self._public_key(), self._path)

    def _insert(self, connection: sqlite3.Connection, kind: str, line: str, key: str, body: Mapping[str, Any]) -> Entry:
        last = connection.execute("SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1").fetchone()
        sequence, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        digest = _hash(sequence, at, kind, line, key, body, previous)
        signature = self._private_key().sign(bytes.fromhex(digest)).hex()
        entry = Entry(sequence, at, kind, line, key, body, previous, digest, signature)
        row = (sequence, at, kind, line, key, _canonical(body), previous, digest, signature)
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        return entry

    def _select(self, where: str, *values: Any) -> list[Entry]:
        with closing(self._connect()) as connection:
            return _entries(connection.execute(f"SELECT * FROM entries WHERE {where} ORDER BY sequence", values))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time; committed whole or rolled back."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _private_key(self) -> Ed25519PrivateKey:
        place = self._keys / "ledger.pem"
        if not place.exists():
            if (self._keys / "ledger.pub").exists():
                raise LedgerError(f"{place}: not here, so this home only checks entries; write where that key is")
            self._create_keys(place)
        key = serialization.load_pem_private_key(place.read_bytes(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def _public_key(self) -> Ed25519PublicKey:
        """What signatures are checked with: a home with only ``ledger.pub`` can check and cannot sign."""
        public = self._keys / "ledger.pub"
        if (self._keys / "ledger.pem").exists() or not public.exists():
            return self._private_key().public_key()
        key = serialization.load_pem_public_key(public.read_bytes())
        assert isinstance(key, Ed25519PublicKey)
        return key

    def _create_keys(self, place: Path) -> None:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        draft = place.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(pem)
        try:
            os.link(draft, place)  # fails where another process was first: its key counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()


def _until(at: Moment | None) -> tuple[str, tuple[Moment, ...]]:
    """A condition on entries, and its value."""
    if at is None:
        return "1", ()
    return ("sequence <= ?" if isinstance(at, int) else "at <= ?"), (at,)


def _check(entry: Entry, public: Ed25519PublicKey, path: Path) -> None:
    expected = _hash(entry.sequence, entry.at, entry.kind, entry.line, entry.key, entry.body, entry.previous)
    try:
        if entry.hash != expected:
            raise InvalidSignature
        public.verify(bytes.fromhex(entry.signature), bytes.fromhex(entry.hash))
    except (InvalidSignature, ValueError):
        raise LedgerError(
            f"{path}: entry {entry.sequence} ({entry.kind}) was changed; restore the file from a backup"
        ) from None


def _existing(connection: sqlite3.Connection, kind: str, key: str) -> Entry | None:
    return next(
        iter(_entries(connection.execute("SELECT * FROM entries WHERE kind = ? AND key = ?", (kind, key)))), None
    )


def _entries(cursor: sqlite3.Cursor) -> list[Entry]:
    return [Entry(*(*row[:5], json.loads(row[5]), *row[6:])) for row in cursor]


def _hash(sequence: int, at: str, kind: str, line: str, key: str, body: Mapping[str, Any], previous: str) -> str:
    content = _canonical([LEDGER_FORMAT, sequence, at, kind, line, key, body, previous])
    return hashlib.sha256(content.encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
