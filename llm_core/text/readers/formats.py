"""Which format a content is in, by its first bytes; the file's name only decides between texts that look alike."""

from __future__ import annotations

import re
from pathlib import PurePath

from llm_core.config import Collect
from llm_core.config.data import SourceFormat
from llm_core.text.readers.csv_rows import header_names
from llm_core.text.readers.mail import FROM_LINE
from llm_core.text.readers.plain import FRONT_MATTER

HEAD_BYTES = 16_384
"""So much of a content is looked at."""
MAX_CONTROL_SHARE = 0.05
"""More control characters than this are no text; random bytes have 11 %."""
_TABLES: tuple[tuple[bytes, SourceFormat], ...] = (
    (b"PAR1", "parquet"),
    (b"ARROW1\0\0", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),
)
# Images, programs, documents, and compression inside compression; most others give themselves away by controls.
_BINARY = re.compile(
    rb"\x89PNG|GIF8[79]a|\xff\xd8\xff|\x7fELF|%PDF-|PK\x03\x04|Rar!\x1a|7z\xbc\xaf|OggS\0|SQLite format 3\0"
    rb"|\xca\xfe\xba\xbe|\xd0\xcf\x11\xe0|\x1f\x8b\x08|BZh\d1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd"
)
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\n\v\f\r\x1b"))
_WIKI = re.compile(rb"\s*+(?:<\?xml[^>]*+>\s*+)?<mediawiki[\s>]|\s*+<page>\s*+<title>")
_HTML = re.compile(
    rb"\s*+(?>(?:<\?xml[^>]*+>\s*+|(?><!--.*?-->)\s*+)*)<(?:!doctype\s+html|(?:html|head|body|title|meta|div|p|table)[\s>])",
    re.IGNORECASE | re.DOTALL,
)
_OBJECT = re.compile(rb"\s*+\{\s*+(?:\"|\}\s*\Z)")
_OBJECTS = re.compile(rb"\s*+\[\s*+\{\s*+[\"}]")
_ARRAY = re.compile(rb"\s*+\[\s*+(?:[\[{\"]|\]\s*\Z|(?:true|false|null|-?\d[\d.eE+-]*)\s*(?:,|\]\s*\Z))")
_HEADER = re.compile(rb"([A-Za-z][A-Za-z0-9-]{0,60}):[^\n]*\n(?:[ \t][^\n]*\n)*")
# One of these beside another header makes a mail; From, To and Subject alone may be a memo or a play.
_MAIL_ONLY = {b"received", b"return-path", b"message-id", b"mime-version", b"delivered-to"}
_POST = {b"from", b"subject", b"date"}
_BY_SUFFIX: dict[str, SourceFormat] = {
    ".csv": "csv", ".tsv": "csv", ".md": "markdown", ".markdown": "markdown", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".json": "json", ".html": "html", ".htm": "html", ".xhtml": "html", ".eml": "mail", ".mbox": "mbox",
}  # fmt: skip
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_PLAIN = (".txt", ".text", ".md", ".markdown")
_NAMED = {*_PLAIN, *_BY_SUFFIX}
"""What has such a name is no table because a word in its first line is a text key."""


def find_format(head: bytes, name: str, cfg: Collect) -> SourceFormat | None:
    """The format of a content that begins with `head`, or None when it is neither text nor a table."""
    if table := next((kind for magic, kind in _TABLES if head.startswith(magic)), None):
        return table
    # A line of NULs in JSON Lines is lost alone, though a small file is mostly that line.
    if _BINARY.match(head) or (_control_share(head) > MAX_CONTROL_SHARE and not _are_lines(head)):
        return None
    head = head.removeprefix(b"\xef\xbb\xbf")
    suffix = PurePath(name.lower().removesuffix(next(filter(name.lower().endswith, _COMPRESSED), ""))).suffix
    if _WIKI.match(head):
        return "mediawiki"
    if _HTML.match(head):
        return "html"
    kind = _json_format(head, suffix) or _mail_format(head, suffix)
    if kind is None and FRONT_MATTER.match(head):
        kind = "markdown"
    if kind is None and suffix not in _NAMED and not set(header_names(head)).isdisjoint(cfg.text_keys):
        kind = "csv"
    return kind or _BY_SUFFIX.get(suffix, "text")


def _control_share(head: bytes) -> float:
    return (len(head) - len(head.translate(None, _CONTROLS))) / max(len(head), 1)


def _json_format(head: bytes, suffix: str) -> SourceFormat | None:
    if _are_lines(head):
        return "jsonl"
    if suffix in (".jsonl", ".ndjson", ".json"):
        return None
    pattern = _OBJECTS if suffix in _PLAIN else _ARRAY
    return "json" if _OBJECT.match(head) or pattern.match(head) else None


def _are_lines(head: bytes) -> bool:
    """Whether most lines hold an object; the last one is not whole in a full head."""
    lines = [line.strip() for line in head.split(b"\n")]
    if len(head) >= HEAD_BYTES:
        lines.pop()
    lines = [line for line in lines if line]
    objects = sum(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    return objects > 1 and 2 * objects > len(lines)


def _mail_format(head: bytes, suffix: str) -> SourceFormat | None:
    line = FROM_LINE.match(head)
    names: set[bytes] = set()
    header = _HEADER.match(head, line.end() if line else 0)
    while header:
        names.add(header[1].lower())
        header = _HEADER.match(head, header.end())
    if line and names:
        return "mbox"
    is_mail = len(names) > 1 and (not names.isdisjoint(_MAIL_ONLY) or names >= _POST)
    return "mail" if is_mail and suffix != ".mbox" else None
