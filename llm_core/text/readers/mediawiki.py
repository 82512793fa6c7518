"""MediaWiki XML dumps: each page in the article namespace is a record, found by its tags while the dump streams by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from xml.parsers import expat

from llm_core.config import Collect
from llm_core.text.content import Content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers.decoding import decode
from llm_core.text.readers.records import record, structure, too_large
from llm_core.text.readers.wikitext import plain_text

_PAGE = re.compile(rb"<page[\s>]")
# In a dump's texts "<" is always written "&lt;": a page tag before the end of a page means that it was cut short.
_PAGE_END = re.compile(rb"<(?:/page>|page[\s>])")
_NAMESPACE = re.compile(rb'<namespace key="(?:6|14)"[^>]*>([^<]+)<')
_REDIRECT = re.compile(r"\s*#\w+\s*:?\s*\[\[")
_HEAD_BYTES = 65_536
MAX_TEXT_CHARACTERS = 2 << 20
"""MediaWiki saves no article larger than this ($wgMaxArticleSize)."""


def read_mediawiki(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The pages; reasons redirect, namespace, not_xml, too_large, undecodable, empty. All else is structure."""
    names = [name.decode(errors="replace").lower() for name in _NAMESPACE.findall(content.peek(_HEAD_BYTES))]
    gap = content.position
    while not content.at_end:
        content.skim(_PAGE, hashlib.sha256())
        if gap < content.position:
            yield structure(gap, content.position)
        if not content.at_end:
            yield _read_page(content, names, cfg)
        gap = content.position


def _read_page(content: Content, names: Collection[str], cfg: Collect) -> Tile:
    start, tag = content.position, content.read(len(b"<page"))
    limit = cfg.max_document_bytes - len(tag)
    found = content.find(_PAGE_END, limit)
    if not found and len(content.peek(limit + 1)) > limit:
        return too_large(content, start, tag, _PAGE_END, cfg)
    raw = tag + content.read(found.start if found else limit)
    if content.peek(len(b"</")) == b"</":
        raw += content.read(len(b"</page>"))
    return record(start, raw, page_text(raw, names, cfg, start))


def page_text(raw: bytes, names: Collection[str], cfg: Collect, start: int = 0) -> str | Rejection:
    """Plain text of a page element; `names` are the wiki's own namespaces of files and categories, in lower case."""
    page = decode(raw, cfg.encoding, start=start)
    if isinstance(page, Rejection):
        return page
    fields = _PageFields()
    try:
        fields.parser.Parse(page.encode(), True)
    except expat.ExpatError as problem:
        return Rejection("not_xml", str(problem))
    if fields.value("ns") not in ("", "0"):
        return Rejection("namespace", f"namespace {fields.value('ns')[:10]}, articles are in 0")
    wikitext = fields.value("text")
    if "redirect" in fields.values or _REDIRECT.match(wikitext):
        return Rejection("redirect", "a page that only names another one")
    if len(wikitext) > MAX_TEXT_CHARACTERS:
        return Rejection("too_large", f"{len(wikitext)} characters of wikitext, MediaWiki allows {MAX_TEXT_CHARACTERS}")
    return plain_text(wikitext, names)


class _PageFields:
    """Text of the elements of a page that matter, of the last revision if there are several.

    Expat on one element: there is no place for a document type, so there are no entities to expand.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self._current: list[str] | None = None
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data

    def value(self, name: str) -> str:
        return "".join(self.values.get(name, ())).strip()

    def _start(self, name: str, _: dict[str, str]) -> None:
        self._current = None
        if name in ("ns", "text", "redirect"):
            self._current = self.values[name] = []

    def _end(self, _: str) -> None:
        self._current = None

    def _data(self, data: str) -> None:
        if self._current is not None:
            self._current.append(data)
