"""Plain text and Markdown: a document is a file, a paragraph or a line."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm_core.config import Collect
from llm_core.text.content import Content
from llm_core.text.document import Tile
from llm_core.text.readers.decoding import decode
from llm_core.text.readers.records import LINE_END, lines, record, split, structure, too_large

BLANK_LINES = re.compile(rb"\n(?:[ \t\r]*\n)+")
# Without a key in its first line, what stands between two rules is text.
FRONT_MATTER = re.compile(
    rb"(?:\xef\xbb\xbf)?---[ \t]*\r?\n\w[\w -]{0,60}:[^\n]*\n(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)"
)
FRONT_MATTER_BYTES = 65_536


def read_plain(content: Content, cfg: Collect) -> Iterator[Tile]:
    """Documents of `cfg.text_unit`; files larger than a document may be are cut at blank lines, else at line ends."""
    if cfg.text_unit == "file":
        return _read_file(content, cfg)
    return _decoded(lines(content, cfg) if cfg.text_unit == "line" else split(content, BLANK_LINES, cfg), cfg)


def read_markdown(content: Content, cfg: Collect) -> Iterator[Tile]:
    """As plain text; YAML front matter is the source's own structure."""
    if matter := FRONT_MATTER.match(content.peek(FRONT_MATTER_BYTES)):
        start = content.position
        content.read(matter.end())
        yield structure(start, content.position)
    if not content.at_end:
        yield from read_plain(content, cfg)


def _read_file(content: Content, cfg: Collect) -> Iterator[Tile]:
    limit = cfg.max_document_bytes
    while not content.at_end:
        start, window = content.position, content.peek(limit + 1)
        size = len(window) if len(window) <= limit else _last_cut(window[:limit])
        if size:
            raw = content.read(size)
            yield record(start, raw, decode(raw, cfg.encoding, start=start))
        else:
            yield too_large(content, start, b"", LINE_END, cfg, through=True)


def _last_cut(window: bytes) -> int:
    """Where to end a document that fills the window: behind its last blank line, else its last line; 0 for neither."""
    blank = max(window.rfind(b"\n\n") + 2, window.rfind(b"\n\r\n") + 3)
    return blank if blank > 2 else window.rfind(b"\n") + 1


def _decoded(pieces: Iterator[Tile | tuple[int, bytes]], cfg: Collect) -> Iterator[Tile]:
    for piece in pieces:
        if isinstance(piece, Tile):
            yield piece
        else:
            start, raw = piece
            yield record(start, raw, decode(raw, cfg.encoding, start=start))
