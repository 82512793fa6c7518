"""Dumps become their articles, each from the exact bytes of its page."""

from __future__ import annotations

from xml.sax.saxutils import escape

import pytest

from tests.llm_core.text.readers.reading import read, reasons, records, texts

HEAD = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de"><siteinfo><namespaces>'
    '<namespace key="0" /><namespace key="6" case="first-letter">Datei</namespace>'
    '<namespace key="14">Kategorie</namespace></namespaces></siteinfo>\n'
)


def _page(text: str, namespace: int = 0, more: str = "") -> str:
    title = f"<title>T</title><ns>{namespace}</ns>{more}"
    return f'<page>{title}<revision><text xml:space="preserve">{escape(text)}</text></revision></page>'


def _dump(*pages: str) -> bytes:
    return (HEAD + "\n  ".join(pages) + "\n</mediawiki>\n").encode()


def test_articles_are_records_and_all_else_is_structure() -> None:
    pages = [_page("One"), _page("#REDIRECT [[A]]", more='<redirect title="A" />'), _page("Talk", 1), _page("Zwei ö")]
    raw = _dump(*pages)
    tiles = read(raw)
    assert texts(tiles) == ["One", "Zwei ö"]
    assert reasons(tiles) == ["redirect", "namespace"]
    assert records(raw, tiles) == [page.encode() for page in pages]


def test_a_redirect_is_known_in_any_language() -> None:
    assert reasons(read(_dump(_page("#WEITERLEITUNG [[Ziel]]")))) == ["redirect"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("<page><ns>0</ns><text>never closed", "not_xml"),
        ("<page><ns>0</ns><text>a & b</text></page>", "not_xml"),
        ("<page><ns>0</ns><text>&entity;</text></page>", "not_xml"),
        (_page("x" * 5000), "too_large"),
        (_page("{{only|a template}}"), "empty"),
        ("<page>" + "<a>" * 300 + "</page>", "not_xml"),
    ],
)
def test_a_bad_page_is_lost_alone(bad: str, reason: str) -> None:
    tiles = read(_dump(_page("One"), bad, _page("Three")), max_document_bytes=2000)
    assert (texts(tiles), reasons(tiles)) == (["One", "Three"], [reason])


def test_a_page_in_bad_bytes_is_lost_alone() -> None:
    tiles = read(_dump(_page("One"), _page("BAD"), _page("Three")).replace(b"BAD", b"\xff\xfe"))
    assert (texts(tiles), reasons(tiles)) == (["One", "Three"], ["undecodable"])


def test_entities_cannot_be_declared() -> None:
    bomb = b'<!DOCTYPE page [<!ENTITY a "aaaa">]>\n' + _dump("<page><ns>0</ns><text>&a;</text></page>")
    assert reasons(read(bomb, format="mediawiki")) == ["not_xml"]


def test_the_last_revision_counts() -> None:
    page = "<page><ns>0</ns><revision><text>old</text></revision><revision><text>new</text></revision></page>"
    assert texts(read(_dump(page))) == ["new"]


def test_a_wiki_names_its_own_files_and_categories() -> None:
    raw = _dump(_page("[[Datei:a.jpg|mini|Bild]]Text[[Kategorie:X]] [[Datum]]"))
    assert texts(read(raw)) == ["Text Datum"]
