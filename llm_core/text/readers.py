"""Readers turn the bytes of a source file into documents or say why not."""

from __future__ import annotations

import codecs

from llm_core.text.document import Document, Origin, Rejection


def read_plain_text(raw: bytes, origin: Origin) -> Document | Rejection:
    """One document from one plain text or Markdown file in UTF-8; a byte order mark is not part of the text."""
    content = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        position = problem.start + len(raw) - len(content)
        return Rejection("not_utf8", f"byte {raw[position]:#04x} at {origin.start + position}: {problem.reason}")
    if not text.strip():
        return Rejection("empty", f"{len(raw)} bytes, nothing but white space")
    return Document(text=text, **vars(origin))
