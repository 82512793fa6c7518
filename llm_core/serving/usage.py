"""How many tokens each key used today: in memory, and in a small database that survives the server."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""So much of what was used is lost when a server is killed."""
KEPT_DAYS = 92
SCHEMA = "CREATE TABLE IF NOT EXISTS usage (day TEXT, key TEXT, tokens INTEGER NOT NULL, PRIMARY KEY (day, key))"
ADD = """
INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT (day, key) DO UPDATE SET tokens = tokens + excluded.tokens
"""


class Usage:
    """Tokens of keys by day in UTC. Servers that share the file add to the same counts.

    Nothing is written while nothing is used. Where the file cannot be written, counting goes on in memory.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._day = _day_of(clock())
        self._pending: Counter[tuple[str, str]] = Counter()
        self._timer: threading.Timer | None = None
        self._is_warned = False
        self._known = self._stored(self._day)

    def today(self, key_id: str) -> int:
        """Tokens that the key used since midnight in UTC."""
        with self._lock:
            day = self._turn()
            return self._known[key_id] + self._pending[day, key_id]

    def add(self, key_id: str, tokens: int) -> None:
        """Count tokens; they are on disk a moment later. Any thread may call it."""
        with self._lock:
            self._pending[self._turn(), key_id] += tokens
            if self._path is not None and self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Write what was counted since the last time, and read what other servers counted."""
        with self._lock:
            self._timer = None
            written = dict(self._pending)
            day = self._day
        if self._path is None or not written or not self._write(written, day):
            return
        known = self._stored(day)
        with self._lock:
            self._pending.subtract(written)
            self._pending = +self._pending
            if self._day == day:
                self._known = known

    def close(self) -> None:
        """Write what is left."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()

    def _turn(self) -> str:
        """The day now; at midnight the counts begin anew."""
        day = _day_of(self._clock())
        if day != self._day:
            self._day, self._known = day, Counter()
            if self._path is None or self._is_warned:  # what waits to be written keeps its own day
                self._pending.clear()
        return day

    def _write(self, counts: dict[tuple[str, str], int], day: str) -> bool:
        assert self._path is not None
        oldest = (datetime.fromisoformat(day) - timedelta(days=KEPT_DAYS)).date().isoformat()
        try:
            _make_private(self._path)
            with closing(sqlite3.connect(self._path, timeout=5)) as connection, connection:
                connection.execute(SCHEMA)
                connection.executemany(ADD, [(*key, tokens) for key, tokens in counts.items()])
                connection.execute("DELETE FROM usage WHERE day < ?", (oldest,))
        except (OSError, sqlite3.Error) as problem:
            if not self._is_warned:
                logger.warning("%s: usage is counted in memory only (%s)", self._path, problem)
            self._is_warned = True
            return False
        self._is_warned = False
        return True

    def _stored(self, day: str) -> Counter[str]:
        if self._path is None or not self._path.exists():
            return Counter()
        try:
            with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
                return Counter(dict(connection.execute("SELECT key, tokens FROM usage WHERE day = ?", (day,))))
        except sqlite3.Error as problem:
            logger.warning("%s: what was used before cannot be read (%s)", self._path, problem)
            return Counter()


def _make_private(path: Path) -> None:
    """Make the file for its owner alone before SQLite makes it for all."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def _day_of(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
