"""CSV and its kin with tabs, semicolons or bars: a record a row; a broken row is lost alone.

Rows follow RFC 4180: a field that begins with a quote ends with one, and may hold delimiters and line breaks.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator

from llm_core.config import Collect
from llm_core.text.content import PIECE_BYTES, Content
from llm_core.text.document import Rejection, Tile
from llm_core.text.patterns import repeated
from llm_core.text.readers.decoding import decode
from llm_core.text.readers.records import LINE_END, record, size_rejection, structure, too_large

DELIMITERS = (",", "\t", ";", "|")
SNIFF_BYTES = 65_536
SAMPLE_ROWS = 20
MIN_REGULAR_SHARE = 0.6
_BLANKS = re.compile(rb"(?:[ \t\r]*\n)+")
_BOM = b"\xef\xbb\xbf"


class _Table:
    """What the header says: which column holds the text, and how many there are."""

    def __init__(self, delimiter: str, limit: int) -> None:
        self._limit = limit
        mark, quoted = re.escape(delimiter), repeated('[^"]++|""')
        field = rf'"{quoted}"|(?!")[^{mark}\n]*+'
        self._row = re.compile(rf"(?:{field}){repeated(f'{mark}(?:{field})')}".encode())
        self._field = re.compile(rf"(?:\A|{mark})({field})".encode())
        self._open_field = re.compile(rf'{mark}?"{quoted}\Z'.encode())
        self.columns = 0
        self.text_column = -1

    def fields(self, row: bytes) -> list[bytes]:
        """The fields of a sound row, without the quotes around them."""
        fields = self._field.findall(row)
        return [field[1:-1].replace(b'""', b'"') if field.startswith(b'"') else field for field in fields]

    def row_end(self, window: bytes, begin: int, is_last: bool, is_full: bool) -> tuple[int, Rejection | None] | None:
        """Where a row ends, and what is wrong with it; None if it goes on behind the window.

        `is_last`: the content ends with the window; `is_full`: more of it will not be looked at for one row.
        """
        match = self._row.match(window, begin)
        end = match.end() if match else begin
        is_open = self._open_field.match(window, end) is not None
        if not is_last and not is_full and (is_open or end == len(window)):
            return None
        is_closed = window[end : end + 2].lstrip(b"\r")[:1] in (b"\n", b"" if is_last else b"\n")
        is_one = end - begin <= self._limit or window.find(b"\n", begin, end) < 0
        if match and not is_open and is_closed and is_one:
            return end, None
        line_end = window.find(b"\n", begin)
        if line_end < 0 and not is_last:
            return None
        bad_quotes = Rejection("bad_quotes", "a quote that does not close, or text behind one that does")
        return len(window) if line_end < 0 else line_end, bad_quotes

    def read_header(self, row: bytes, cfg: Collect) -> None:
        """Learn the columns; the first of `cfg.text_keys` among them holds the text."""
        names = [decode(field, cfg.encoding) for field in self.fields(row.removeprefix(_BOM))]
        self.columns = len(names)
        self.text_column = next((names.index(key) for key in cfg.text_keys if key in names), -1)

    def text(self, row: bytes, start: int, cfg: Collect) -> str | Rejection:
        """The text of a row; reasons wrong_columns, no_text, undecodable."""
        fields = self.fields(row)
        if len(fields) != self.columns:
            return Rejection("wrong_columns", f"{len(fields)} columns, the header has {self.columns}")
        if self.text_column < 0:
            return Rejection("no_text", f"no column {' or '.join(cfg.text_keys)}; name one in collect.text_keys")
        return decode(fields[self.text_column], cfg.encoding, start=start)


def read_csv(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The rows behind the header; the header, line ends and blank lines are structure.

    A row with another number of columns than the header is rejected as wrong_columns, one whose quotes do not close
    as bad_quotes; when such a row has taken in several lines, or more than a document may have, only the first is lost.
    """
    table = _Table(sniff_delimiter(content.peek(SNIFF_BYTES)), cfg.max_document_bytes)
    gap = content.position
    for tile in _rows(content, table, cfg):
        if gap < tile.start:
            yield structure(gap, tile.start)
        yield tile
        gap = tile.end
    if gap < content.position:
        yield structure(gap, content.position)


def _rows(content: Content, table: _Table, cfg: Collect) -> Iterator[Tile]:
    size, full = PIECE_BYTES, max(cfg.max_document_bytes, PIECE_BYTES) + 1
    while window := content.peek(size):
        start = content.position
        used = yield from _window_rows(window, start, table, len(window) < size, size == full, cfg)
        if used:
            content.read(used)
            size = PIECE_BYTES
        elif size == full:
            yield too_large(content, start, b"", LINE_END, cfg)
        else:
            size = min(2 * size, full)


def _window_rows(
    window: bytes, start: int, table: _Table, is_last: bool, is_full: bool, cfg: Collect
) -> Generator[Tile, None, int]:
    """The rows that end in the window, which begins at byte `start`; returns how much of it they take."""
    begin = 0
    while begin < len(window):
        if blanks := _BLANKS.match(window, begin):
            begin = blanks.end()
            continue
        found = table.row_end(window, begin, is_last, is_full and not begin)
        if not found:
            break
        end, problem = found
        row = window[begin:end].rstrip(b"\r")
        if problem is None and not table.columns:
            table.read_header(row, cfg)
        elif not row.isspace():
            if len(row) > cfg.max_document_bytes:
                problem = size_rejection(len(row), cfg)
            result = problem or table.text(row, start + begin, cfg)
            if isinstance(result, Rejection) and result.reason == "wrong_columns" and b"\n" in row:
                end = begin + row.index(b"\n")
                row = window[begin:end].rstrip(b"\r")
            yield record(start + begin, row, result)
        begin = end + 1
    return min(begin, len(window))


def header_names(head: bytes) -> list[str]:
    """Names in the first row, if the rows that follow are a table with it."""
    table = _Table(sniff_delimiter(head), len(head))
    if _regularity(head, table)[0] < MIN_REGULAR_SHARE:
        return []
    end, _ = table.row_end(head, 0, is_last=True, is_full=True) or (0, None)
    return [field.decode("utf-8", errors="replace").strip() for field in table.fields(head[:end])]


def sniff_delimiter(head: bytes) -> str:
    """The delimiter by which the first rows have as many columns as the header; of several the one with most."""
    return max(DELIMITERS, key=lambda delimiter: _regularity(head, _Table(delimiter, len(head))))


def _regularity(head: bytes, table: _Table) -> tuple[float, int]:
    """Share of rows with as many columns as the first one has, and that number; one column is no sign of a table."""
    counts: list[int] = []
    begin = 0
    while begin < len(head) and len(counts) < SAMPLE_ROWS:
        found = table.row_end(head, begin, is_last=True, is_full=True)
        end = found[0] if found else len(head)
        if row := head[begin:end].strip():
            counts.append(len(table.fields(row)))
        begin = end + 1
    if not counts or counts[0] < 2:
        return 0.0, 1
    return counts.count(counts[0]) / len(counts), counts[0]
