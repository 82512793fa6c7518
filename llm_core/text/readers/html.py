"""HTML pages: the main text of the page, without navigation and boilerplate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape

from llm_core.config import Collect
from llm_core.text.content import Content
from llm_core.text.document import Rejection, Tile
from llm_core.text.readers.decoding import decode
from llm_core.text.readers.records import record, whole, without_surrogates

# The HTML standard looks for the charset in the first 1024 bytes; pages put it later all the same.
_CHARSET = re.compile(rb"""<(?:meta|\?xml)[^>]{0,400}?(?:charset|encoding)\s*=\s*["']?([\w.:-]{1,40})""", re.IGNORECASE)
_CHARSET_BYTES = 8192
MAIN_TEXT_CHARACTERS = 1_000_000
"""Larger pages are turned into text without looking for the main part, which can take minutes."""
_UNSEEN = re.compile(r"<(script|style|head|template)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)", re.IGNORECASE | re.DOTALL)
_BLOCK_TAG = re.compile(
    r"</?(?:address|article|aside|blockquote|br|caption|center|d[dlt]|div|fieldset|fig\w+|footer|form|h[1-6r]|header|li"
    r"|main|nav|[ou]l|option|p|pre|section|t(?:able|body|[dhr])|title)\b[^>]*+>",
    re.IGNORECASE,
)
_TAG = re.compile(r"<[/!?a-zA-Z][^>]*+>?")
_EMPTY_ROW = re.compile(r"^[ \t-]*\|[| \t-]*(?:\n|\Z)", re.MULTILINE)
"""What tables that only arrange a page leave behind, and the rules below headers."""
SHORT_CHARACTERS = 250


def read_html(content: Content, cfg: Collect) -> Iterator[Tile]:
    """The page as one record; reasons too_large, undecodable, not_html, empty."""
    rest = whole(content, cfg)
    if isinstance(rest, Tile):
        yield rest
        return
    start, raw = rest
    yield record(start, raw, page_text(raw, cfg, start=start))


def page_text(raw: bytes, cfg: Collect, declared: str = "", start: int = 0) -> str | Rejection:
    """Main text of a page's bytes; `declared` is a charset that was announced outside of the page."""
    if not declared and (charset := _CHARSET.search(raw, 0, _CHARSET_BYTES)):
        declared = charset.group(1).decode("ascii")
    if declared.lower().startswith(("utf-16", "utf-32")):
        declared = ""  # a declaration that can be read in ASCII is wrong about that, as the HTML standard has it
    page = decode(raw, cfg.encoding, declared, start)
    return page if isinstance(page, Rejection) else main_text(page)


def main_text(page: str) -> str | Rejection:
    """The main text by trafilatura, or all visible text where it finds no main part.

    Of pages of a few sentences it gives everything, but with a line for each word in bold; these are read here too.
    """
    from lxml.etree import LxmlError
    from trafilatura import extract

    if len(page) > MAIN_TEXT_CHARACTERS:
        return without_surrogates(visible_text(page))
    try:
        found = extract(page, include_comments=False, favor_recall=True) or ""
    except (LxmlError, ValueError, RecursionError) as problem:
        return Rejection("not_html", f"the parser gives up: {type(problem).__name__}")
    if len(found) < SHORT_CHARACTERS:
        everything = visible_text(page)
        found = everything if not found or len(everything) <= 2 * len(found) else found
    return without_surrogates(_EMPTY_ROW.sub("", found))


def visible_text(page: str) -> str:
    """All text of a page but for scripts and the like, a line for each block; takes time in proportion to its size."""
    page = re.sub(r"\s+", " ", _UNSEEN.sub(" ", page))
    lines = unescape(_TAG.sub("", _BLOCK_TAG.sub("\n", page))).split("\n")
    return "\n".join(line.strip() for line in lines if line.strip())
