"""Tiles out of the bytes of a content: what every reader makes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from llm_core.config import Collect
from llm_core.text.content import Content
from llm_core.text.document import Rejection, Tile

LINE_END = re.compile(rb"\n")
_SURROGATE = re.compile("[\ud800-\udfff]")


def record(start: int, raw: bytes, found: str | Rejection) -> Tile:
    """The tile of a record's bytes; a text of nothing but white space is rejected as empty."""
    if isinstance(found, str) and (not found or found.isspace()):
        found = Rejection("empty", f"{len(raw)} bytes, no text but white space")
    return Tile(start, start + len(raw), hashlib.sha256(raw).hexdigest(), found)


def structure(start: int, end: int) -> Tile:
    """The tile of bytes that belong to the source and to no record."""
    return Tile(start, end, "", None)


def too_large(
    content: Content, start: int, raw: bytes, end: re.Pattern[bytes] | None, cfg: Collect, through: bool = False
) -> Tile:
    """The tile of a record of which `raw` has been read: the rest up to `end`, or through it, is read and forgotten.

    No match of `end` may begin in `raw`.
    """
    digest = hashlib.sha256(raw)
    content.skim(end, digest, through)
    return Tile(start, content.position, digest.hexdigest(), size_rejection(content.position - start, cfg))


def hash_rest(content: Content, found: Rejection) -> Tile:
    """The tile of all that is left, read and forgotten."""
    start, digest = content.position, hashlib.sha256()
    content.skim(None, digest)
    return Tile(start, content.position, digest.hexdigest(), found)


def file_tile(content: Content, found: Rejection) -> Tile:
    """The tile of a file of which no more can be read; its sha256 is that of the file as it is stored."""
    sha256, num_bytes = content.stored_file()
    return Tile(0, num_bytes, sha256, found, unit="file")


def size_rejection(num_bytes: int, cfg: Collect) -> Rejection:
    """Why a record of this size is not read."""
    return Rejection("too_large", f"{num_bytes} bytes, {cfg.max_document_bytes} allowed")


def without_surrogates(text: str) -> str:
    """Text that can be written as UTF-8: character references may name halves of surrogate pairs."""
    return _SURROGATE.sub("\ufffd", text)


def whole(content: Content, cfg: Collect) -> tuple[int, bytes] | Tile:
    """Where the rest of the content begins and its bytes, for formats in which it is one record; or why it is lost."""
    start, raw = content.position, content.read(cfg.max_document_bytes + 1)
    if len(raw) > cfg.max_document_bytes:
        return too_large(content, start, raw, None, cfg)
    return start, raw


def lines(content: Content, cfg: Collect) -> Iterator[Tile | tuple[int, bytes]]:
    """Where each line begins and its bytes; line ends and blank lines come as structure."""
    limit = cfg.max_document_bytes
    start = content.position
    while line := content.readline(limit + 2):
        body = line.rstrip(b"\r\n")
        if body and not body.isspace():
            if len(body) <= limit:
                yield start, body
                start += len(body)
            elif line.endswith(b"\n"):
                yield record(start, body, size_rejection(len(body), cfg))
                start += len(body)
            else:
                yield too_large(content, start, line, LINE_END, cfg)
                start = content.position
        if start < content.position:
            yield structure(start, content.position)
        start = content.position


def split(content: Content, separator: re.Pattern[bytes], cfg: Collect) -> Iterator[Tile | tuple[int, bytes]]:
    """Where each piece between separators begins and its bytes; separators and blank pieces come as structure.

    A carriage return before a separator belongs to it.
    """
    limit = cfg.max_document_bytes
    while not content.at_end:
        start = content.position
        found = content.find(separator, limit + 1)
        if not found and len(content.peek(limit + 1)) > limit:
            yield too_large(content, start, b"", separator, cfg)
            continue
        raw = content.read(found.start if found else limit)
        body = b"" if raw.isspace() else raw.rstrip(b"\r")
        if body:
            yield start, body
        content.read(len(found) if found else 0)
        if content.position > start + len(body):
            yield structure(start + len(body), content.position)
