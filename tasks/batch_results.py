"""Results of finished chunks, kept beside the output until it is complete: what a killed run goes on from.

A line of JSON says what is being scored, then a line a chunk holds the results of its rows. A line that was not
written to its end counts as nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

RESULTS_FORMAT = 1


class ResultsError(ValueError):
    """Results of an earlier run that cannot be gone on from; the message names the file and what differs."""


class FinishedChunks:
    """The results so far of one output file; `about` is all that they follow from."""

    def __init__(self, output: Path, about: Mapping[str, Any], resume: bool) -> None:
        self.path = output.with_name(f".{output.name}.partial")
        self._about, self._resume = {"format": RESULTS_FORMAT, **about}, resume
        self.num_rows = 0
        """Rows that have a result."""
        self.refused: Counter[str] = Counter()
        """How many of them were refused, by reason."""

    def __enter__(self) -> FinishedChunks:
        if self.path.exists() and not self._resume:
            raise ResultsError(
                f"{self.path}: an unfinished run left its results here; go on with --resume, or remove the file"
            )
        self._file = open(self.path, "a+b")  # noqa: SIM115 - closed in __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
            self._take_up()
        except BlockingIOError:
            self._file.close()
            raise ResultsError(f"{self.path}: another run is writing this output; wait for it") from None
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if not self.num_rows:  # nothing to go on from
            self.path.unlink(missing_ok=True)

    def append(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep the results of a chunk, on disk when this returns."""
        self._write(list(results))
        self._count(results)

    def results(self) -> Iterator[dict[str, Any]]:
        """The results of all rows in their order."""
        with open(self.path, "rb") as file:
            next(file)
            for line in file:
                yield from json.loads(line)

    def remove(self) -> None:
        """Forget the results: the output is complete."""
        self.path.unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Count what is there and cut off what was not written to its end; begin where there is nothing."""
        self._file.seek(0)
        header = _whole_line(self._file)
        if header is None:
            self._file.truncate(0)
            self._write(self._about)
            return
        self._check(header)
        end = self._file.tell()
        while isinstance(chunk := _whole_line(self._file), list):
            self._count(chunk)
            end = self._file.tell()
        self._file.truncate(end)

    def _check(self, header: Any) -> None:
        found = header if isinstance(header, dict) else {}
        for key in (*self._about, *found):
            if found.get(key) != self._about.get(key):
                raise ResultsError(
                    f"{self.path}: was begun with {key} {found.get(key)!r}, this is {self._about.get(key)!r}; "
                    "give the same again to go on, or remove the file to begin anew"
                )

    def _count(self, results: Sequence[Mapping[str, Any]]) -> None:
        self.num_rows += len(results)
        self.refused.update(result["error"].partition(":")[0] for result in results if result["error"])

    def _write(self, value: Any) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _whole_line(file: BinaryIO) -> Any:
    """The value of the next line; None where it has no end or is no JSON."""
    line = file.readline()
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
