"""Files of records, one JSON object a line, for their owner alone and bounded in size."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

MAX_FILE_BYTES = 16 * 2**20
MAX_FILES = 4


class RecordFile:
    """NAME.jsonl, and what it held before as NAME-1.jsonl (the newest of them), NAME-2.jsonl and so on.

    Several servers may append to the same file. Beyond `max_files` the oldest records are deleted.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_FILE_BYTES, max_files: int = MAX_FILES) -> None:
        self.path, self._max_bytes, self._max_files = path, max_bytes, max_files

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record as a whole line, or nothing of it; raises OSError."""
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), mode=0o600):
            if self._num_bytes() + len(line) > self._max_bytes:
                self._rotate()
            _append_whole(self.path, line)

    def _num_bytes(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _rotate(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            older = self._place(number - 1)
            if older.exists():
                os.replace(older, self._place(number))

    def _place(self, number: int) -> Path:
        return self.path.with_stem(f"{self.path.stem}-{number}") if number else self.path


def _append_whole(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        written = os.write(descriptor, line)
        if written < len(line):  # a full disk takes a part
            os.ftruncate(descriptor, before)
            raise OSError(f"{path}: only {written} of {len(line)} bytes could be written")
    finally:
        os.close(descriptor)
