"""Mail by RFC 822 and MIME: a file with one message, or an mbox with many; the text is the subject and the body."""

from __future__ import annotations

import re
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from typing import Any

from llm_core.config import Collect
from llm_core.text.content import Content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers.decoding import decode
from llm_core.text.readers.html import page_text
from llm_core.text.readers.records import record, structure, too_large, whole, without_surrogates

# RFC 4155: "From ", an address and a date; writers differ in the date, but all of them give the time of day.
FROM_LINE = re.compile(rb"From [^\n]{1,200}?\d\d:\d\d[^\n]{0,100}\n")
_BETWEEN = re.compile(rb"\n\r?\n(?=From [^\n]{1,200}?\d\d:\d\d[^\n]{0,100}\n)")
_QUOTED_FROM = re.compile(rb"^>(>*From )", re.MULTILINE)
MAX_PARTS = 1000
_HEADER_BYTES = 65_536


def read_mail(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The file as one message; reasons too_large, undecodable, no_text, empty, not_mail."""
    rest = whole(content, cfg)
    if isinstance(rest, Tile):
        yield rest
        return
    start, raw = rest
    yield record(start, raw, message_text(raw, cfg, start))


def read_mbox(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The messages of an mbox; the lines between them that begin with From are structure."""
    while not content.at_end:
        start = content.position
        if line := FROM_LINE.match(content.peek(512)):
            content.read(line.end())
            yield structure(start, content.position)
            start = content.position
        limit = cfg.max_document_bytes
        found = content.find(_BETWEEN, limit + 1)
        if not found and len(content.peek(limit + 1)) > limit:
            yield too_large(content, start, b"", _BETWEEN, cfg, through=True)
        else:
            raw = content.read(found.stop if found else limit)
            yield record(start, raw, message_text(_QUOTED_FROM.sub(rb"\1", raw), cfg, start))


def message_text(raw: bytes, cfg: Collect, start: int = 0) -> str | Rejection:
    """Subject and body: the plain text parts, or the HTML parts if there are none; attachments are left out."""
    try:
        message = message_from_bytes(raw)
        if not message.keys():
            return Rejection("not_mail", "no header line at its beginning")
        parts = _text_parts(message)
        body = _body(parts, "text/plain", cfg, start) or _body(parts, "text/html", cfg, start)
        subject = _subject(message, cfg)
    except (RecursionError, ValueError, LookupError) as problem:
        return Rejection("not_mail", f"the parser gives up: {type(problem).__name__}")
    if not parts:
        return Rejection("no_text", "neither a plain text nor an HTML part")
    return body if isinstance(body, Rejection) else "\n\n".join(filter(None, (without_surrogates(subject), body)))


def _body(parts: list[tuple[str, Message]], kind: str, cfg: Collect, start: int) -> str | Rejection:
    """The parts of a kind one after the other, or why one of them is lost."""
    texts = []
    for found, part in parts:
        text = _part_text(part, kind, cfg, start) if found == kind else ""
        if isinstance(text, Rejection):
            return text
        texts.append(text.strip("\r\n"))
    return "\n\n".join(text for text in texts if not text.isspace() and text)


def _text_parts(message: Message) -> list[tuple[str, Message]]:
    """The text parts that are no attachments, in their order, with their kinds."""
    waiting, parts = [message], []
    for _ in range(MAX_PARTS):
        if not waiting:
            break
        part = waiting.pop()
        kind = part.get_content_type()
        if part.get_content_disposition() == "attachment" or kind == "message/delivery-status":
            continue
        payload: Any = part.get_payload()
        if isinstance(payload, list):
            waiting.extend(inner for inner in reversed(payload) if isinstance(inner, Message))
        elif kind == "text/html":
            parts.append((kind, part))
        # A multipart without its boundary is kept as one body by the parser: its text is better than nothing.
        elif kind.startswith(("text/plain", "text/enriched", "multipart/")):
            parts.append(("text/plain", part))
    return parts


def _part_text(part: Message, kind: str, cfg: Collect, start: int) -> str | Rejection:
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    declared = part.get_content_charset() or ""
    if kind == "text/html":
        return page_text(raw, cfg, declared, start) if raw.strip() else ""
    return decode(raw, cfg.encoding, declared, start)


def _subject(message: Message, cfg: Collect) -> str:
    """The decoded subject on one line; empty if there is none or it cannot be read."""
    value = next((str(value) for name, value in message.raw_items() if name.lower() == "subject"), "")
    try:
        chunks = decode_header(value)
    except HeaderParseError:
        chunks = [(value, None)]
    words = [
        decode(
            chunk if isinstance(chunk, bytes) else chunk.encode("utf-8", "surrogateescape"), cfg.encoding, charset or ""
        )
        for chunk, charset in chunks
    ]
    return " ".join("".join(word for word in words if isinstance(word, str)).split())
