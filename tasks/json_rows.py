"""Rows in JSON: an object a line, or the objects of an array, of which a piece is in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

PIECE_CHARACTERS = 1 << 20
LARGEST_ROW_CHARACTERS = 1 << 28
BLANKS = " \t\r\n"

Row = dict[str, Any]


def line_rows(file: BinaryIO) -> Iterator[Row]:
    """The object of each line that is not blank; raises ValueError naming the line that holds none."""
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"line {number}: not JSON ({problem}); mend the row") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: a row must be an object, this is {type(row).__name__}; mend the row")
        yield row


def array_rows(file: TextIO) -> Iterator[Row]:
    """The objects of an array; raises ValueError naming the row that is none."""
    window, number = _Window(file), 0
    if window.mark() != "[":
        raise ValueError("a JSON table is an array of objects, or an object a line")
    window.at += 1
    is_done = window.mark() == "]"
    while not is_done:
        if window.mark() != "{":
            raise ValueError(f"row {number}: a row must be an object; mend it")
        yield window.row(number)
        number += 1
        mark = window.mark()
        if mark not in (",", "]") or not mark:
            raise ValueError(f"row {number}: a comma or the array's end is missing before it; mend the file")
        is_done = mark == "]"
        window.at += not is_done
    window.at += 1
    if window.mark():
        raise ValueError(f"something stands behind the array's end, after {number} rows; mend the file")


class _Window:
    """The part of a file that is looked at."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self.at = file, "", 0
        self._decoder = json.JSONDecoder()

    def mark(self) -> str:
        """The next character that is not blank; empty at the file's end."""
        while True:
            while self.at < len(self._text):
                if self._text[self.at] not in BLANKS:
                    return self._text[self.at]
                self.at += 1
            if not self._read_on(PIECE_CHARACTERS):
                return ""

    def row(self, number: int) -> Row:
        """The object that begins here."""
        size = PIECE_CHARACTERS
        while True:
            try:
                row: Row
                row, self.at = self._decoder.raw_decode(self._text, self.at)
                return row
            except (ValueError, RecursionError) as problem:
                # It may only go on behind the window; twice as much each time, so that a large row is read in line.
                if size > LARGEST_ROW_CHARACTERS or not self._read_on(size):
                    raise ValueError(f"row {number}: not JSON ({problem}); mend it") from None
                size *= 2

    def _read_on(self, size: int) -> bool:
        more = self._file.read(size)
        self._text, self.at = self._text[self.at :] + more, 0
        return bool(more)
