"""UTF-16 and UTF-32: read as the same content in UTF-8, with tiles that count the original bytes."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO

from llm_core.config import Collect
from llm_core.text.content import Content, open_content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers.records import record, too_large

Reader = Callable[[Content, Collect], Iterator[Tile]]
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Which of four bytes are zero in text of mostly Latin letters, and which hardly ever are.
_SHAPES = (
    ("utf-32-le", (2, 3), (0,)),
    ("utf-32-be", (0, 1), (3,)),
    ("utf-16-le", (1, 3), (0, 2)),
    ("utf-16-be", (0, 2), (1, 3)),
)
MIN_ZERO_SHARE = 0.3
MAX_ZERO_SHARE = 0.01


def wide_charset(head: bytes) -> str:
    """utf-16-le, utf-16-be, utf-32-le or utf-32-be if the bytes are that beyond doubt, else nothing."""
    marked = next((charset for mark, charset in _BOMS if head.startswith(mark)), "")
    if marked or b"\0" not in head:
        return marked
    head = head[: len(head) // 4 * 4] or head.ljust(4, b" ")
    zeros = [head[place::4].count(0) / len(head[place::4]) for place in range(4)]
    for charset, full, none in _SHAPES:
        is_shape = all(zeros[place] > MIN_ZERO_SHARE for place in full)
        if is_shape and all(zeros[place] <= MAX_ZERO_SHARE for place in none) and _decodes(head, charset):
            return charset
    return ""


def read_wide(content: Content, cfg: Collect, charset: str, reader: Reader | None) -> Iterator[Tile]:
    """What `reader` finds in the content as UTF-8; without a reader, or with a larger content, pieces of plain text.

    Only plain text may be larger than `cfg.max_document_bytes`: it is cut at line ends.
    """
    limit = cfg.max_document_bytes
    if reader and len(content.peek(limit + 1)) > limit:
        yield too_large(content, content.position, b"", None, cfg)
    elif reader:
        yield from _translate(content.read(limit), cfg, charset, reader)
    else:
        yield from _cut(content, cfg, charset)


def _translate(raw: bytes, cfg: Collect, charset: str, reader: Reader) -> Iterator[Tile]:
    mark = next((mark for mark, marked in _BOMS if marked == charset and raw.startswith(mark)), b"")
    text = _decode(raw[len(mark) :], charset, len(mark))
    if isinstance(text, Rejection) or not text:
        yield record(0, raw, text)
        return
    translated = text.encode()
    start = 0
    with open_content(BytesIO(translated), "", max_expansion=0) as content:
        for tile in reader(content, cfg):
            original = (mark if not start else b"") + translated[tile.start : tile.end].decode().encode(charset)
            sha256 = "" if tile.found is None else hashlib.sha256(original).hexdigest()
            yield replace(tile, start=start, end=start + len(original), sha256=sha256)
            start += len(original)


def _cut(content: Content, cfg: Collect, charset: str) -> Iterator[Tile]:
    width = int(charset[4:6]) // 8
    limit = max(cfg.max_document_bytes // width, 1) * width
    while window := content.peek(limit + width):
        start = content.position
        size = len(window) if len(window) <= limit else _last_line_end(window[:limit], charset, width)
        raw = content.read(size or limit)
        if size:
            text = _decode(raw, charset, start)
            yield record(start, raw, text.removeprefix("\ufeff") if isinstance(text, str) else text)
        else:
            yield too_large(content, start, raw, None, cfg)


def _last_line_end(window: bytes, charset: str, width: int) -> int:
    line_feed = "\n".encode(charset)
    end = window.rfind(line_feed)
    while end % width and end > 0:
        end = window.rfind(line_feed, 0, end + width - 1)
    return 0 if end < 0 or end % width else end + width


def _decode(raw: bytes, charset: str, start: int) -> str | Rejection:
    try:
        return raw.decode(charset)
    except UnicodeDecodeError as problem:
        return Rejection("undecodable", f"{charset}, byte {start + problem.start}: {problem.reason}")


def _decodes(head: bytes, charset: str) -> bool:
    try:
        codecs.getincrementaldecoder(charset)().decode(head)
    except UnicodeDecodeError:
        return False
    return True
