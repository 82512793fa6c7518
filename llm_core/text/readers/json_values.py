"""JSON files: each element of an array is a record, anything else is one; neither needs the whole file in memory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from llm_core.config import Collect
from llm_core.text.content import PIECE_BYTES, Content
from llm_core.text.document import Tile
from llm_core.text.patterns import repeated
from llm_core.text.readers.json_record import json_text
from llm_core.text.readers.lines import read_lines
from llm_core.text.readers.records import record, size_rejection, structure, whole

_WHITE_SPACE = b" \t\r\n"
_OPENING = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\[")
_OPENING_BYTES = 65_536
_BETWEEN_OBJECTS = re.compile(rb"\}[ \t\r]*\n\s*\{")
# None of these backtracks: each takes what it can and the scanner looks at the byte it stopped at.
_INSIDE = repeated(r"[^\"\\]++|\\.")
_STRING = re.compile(_INSIDE.encode(), re.DOTALL)
_TO_BRACKET = re.compile(repeated(rf"[^\"\[\]{{}}]++|\"{_INSIDE}\"").encode(), re.DOTALL)
_TO_BRACKET_OR_COMMA = re.compile(repeated(rf"[^\"\[\]{{}},]++|\"{_INSIDE}\"").encode(), re.DOTALL)


def read_json(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The elements of the array, each with its exact bytes; brackets, commas and white space are structure."""
    if opening := _OPENING.match(content.peek(_OPENING_BYTES)):
        gap = content.position  # where the bytes begin that have no tile yet
        content.read(opening.end())
        for tile in _elements(content, cfg):
            yield structure(gap, tile.start)
            yield tile
            gap = tile.end
        yield structure(gap, content.position)
    elif _is_lines(content, cfg):
        yield from read_lines(content, cfg)
    if not content.at_end:
        yield _read_value(content, cfg)


def _is_lines(content: Content, cfg: Collect) -> bool:
    """Whether objects fill the first line and begin the second: JSON Lines, though the lines are long."""
    line = content.find(_BETWEEN_OBJECTS, cfg.max_document_bytes)
    return line is not None and b"\n" not in content.peek(line.start)


def _read_value(content: Content, cfg: Collect) -> Tile:
    """A file that is no array, or what stands behind the array, where only white space belongs."""
    rest = whole(content, cfg)
    if isinstance(rest, Tile):
        return rest
    start, raw = rest
    is_behind = start > 0 and raw.isspace()
    return structure(start, content.position) if is_behind else record(start, raw, json_text(raw, cfg, start))


def _elements(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The elements up to the bracket that closes the array; as many at a time as a window of the content holds."""
    size, full = PIECE_BYTES, max(cfg.max_document_bytes, PIECE_BYTES) + 1
    while window := content.peek(size):
        start, begin, is_closed = content.position, 0, False
        for end in _ends(window):
            yield from _element(start + begin, window[begin:end], cfg)
            begin, is_closed = end + 1, window[end : end + 1] == b"]"
        if begin:
            content.read(begin)
            size = PIECE_BYTES
        elif len(window) < size:
            yield from _element(start, content.read(size), cfg)
        elif size < full:
            size = min(2 * size, full)
        elif blanks := len(window) - len(window.lstrip(_WHITE_SPACE)):
            content.read(blanks)
        else:
            yield _skim_element(content, cfg)
        if is_closed:
            return


def _element(start: int, raw: bytes, cfg: Collect) -> Iterator[Tile]:
    """The tile of an element, which a large one shares with the white space behind it."""
    body = raw.lstrip(_WHITE_SPACE)
    start += len(raw) - len(body)
    if len(body) > cfg.max_document_bytes:
        yield record(start, body, size_rejection(len(body), cfg))
    elif body := body.rstrip(_WHITE_SPACE):
        yield record(start, body, json_text(body, cfg, start))


def _skim_element(content: Content, cfg: Collect) -> Tile:
    """An element that no window holds: read up to its end and forgotten."""
    start, digest, scanner = content.position, hashlib.sha256(), _Scanner()
    is_done = False
    while not is_done and (window := content.peek(PIECE_BYTES)):
        end, is_done = scanner.feed(window, 0)
        # A lone backslash at the very end of the content is all that a scanner leaves alone for ever.
        digest.update(content.read(end if end or is_done else 1))
    return Tile(start, content.position, digest.hexdigest(), size_rejection(content.position - start, cfg))


def _ends(window: bytes) -> Iterator[int]:
    """Where elements end in the window: at the commas between them, and at the array's closing bracket at last."""
    end, is_done = _Scanner().feed(window, 0)
    while is_done:
        yield end
        if window[end : end + 1] == b"]":
            return
        end, is_done = _Scanner().feed(window, end + 1)


class _Scanner:
    """Finds the end of an array's element, window by window, without recursion; brackets are only counted."""

    def __init__(self) -> None:
        self.depth = 0
        self.is_in_string = False

    def feed(self, window: bytes, at: int) -> tuple[int, bool]:
        """Where the element ends and True, or where to go on when there is more of it and False."""
        while True:
            if self.is_in_string:
                at = _end_of(_STRING, window, at)
                if window[at : at + 1] != b'"':
                    return at, False
                self.is_in_string = False
                at += 1
            at = _end_of(_TO_BRACKET if self.depth else _TO_BRACKET_OR_COMMA, window, at)
            mark = window[at : at + 1]
            if not mark:
                return at, False
            if mark == b'"':
                self.is_in_string = True
            elif mark in b"[{":
                self.depth += 1
            elif self.depth:
                self.depth -= mark != b","
            elif mark != b"}":
                return at, True
            at += 1


def _end_of(pattern: re.Pattern[bytes], window: bytes, at: int) -> int:
    match = pattern.match(window, at)
    return match.end() if match else at
