"""Pages become the text that their readers came for."""

from __future__ import annotations

import pytest

from llm_core.text.readers.html import MAIN_TEXT_CHARACTERS, visible_text
from tests.llm_core.text.readers.reading import read, reasons, texts

ARTICLE = "The mill stands at the mouth of the river, and its wheel turns with each tide that comes in. " * 4
PAGE = f"""<!DOCTYPE html><html><head><title>Mills</title><script>var x = "<p>code</p>";</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/all">All mills</a></li></ul></nav>
<article><h1>The tide mill</h1><p>{ARTICLE}</p><p>It was <i>built</i> in 1516.</p></article>
<footer>Copyright by nobody</footer></body></html>"""


def test_a_page_becomes_its_main_text_without_navigation() -> None:
    (text,) = texts(read(PAGE.encode()))
    assert ARTICLE.strip() in text and "It was built in 1516." in text
    assert not any(word in text for word in ("All mills", "Copyright", "code", "<"))


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>One <b>bold</b> word &amp; more.<p>Two", "One bold word & more.\nTwo"),
        ("<html><body>" + "<b>" * 3000 + "deep", "deep"),
    ],
)
def test_a_short_or_broken_page_gives_all_it_shows(page: str, text: str) -> None:
    assert texts(read(page.encode())) == [text]


def test_tables_that_only_arrange_a_page_leave_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    found = f"|  |  | \n| Kept | - |\n|---|---|\n{ARTICLE}\n|  |"
    monkeypatch.setattr("trafilatura.extract", lambda *_, **__: found)
    assert texts(read(b"<p>page")) == [f"| Kept | - |\n{ARTICLE}\n"]


def test_a_short_page_is_not_left_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trafilatura.extract", lambda *_, **__: "Opens the\nMacro\ndialog.")
    assert texts(read(b"<p>Opens the <b>Macro</b> dialog.</p>")) == ["Opens the Macro dialog."]
    assert texts(read(b"<p>Opens the <b>Macro</b> dialog.</p>" + b"<a>menu</a><br>" * 99)) == [
        "Opens the\nMacro\ndialog."
    ]


@pytest.mark.parametrize("page", ["<html><script>x</script></html>", "<html><body><img src=a></body></html>"])
def test_a_page_that_shows_nothing_is_empty(page: str) -> None:
    assert reasons(read(page.encode())) == ["empty"]


def test_the_declared_charset_is_used_where_it_is_not_utf8() -> None:
    page = PAGE.replace("<title>", '<meta charset="iso-8859-2"><title>').replace("mouth", "zażółć")
    assert "zażółć" in texts(read(page.encode("iso8859-2")))[0]
    assert "zażółć" in texts(read(page.encode()))[0]
    assert "zażółć" in texts(read(page.replace("iso-8859-2", "utf-16").encode()))[0]


def test_half_a_surrogate_pair_in_a_reference_does_no_harm() -> None:
    assert texts(read(b"<p>a &#xD800; b &#0; c</p>"))


def test_visible_text_has_a_line_for_each_block_and_no_scripts() -> None:
    page = (
        "<h1>A</h1><style>s</style><!-- c --><table><tr><td>b</td><td>c</td></tr></table>d<br>e <i>f</i>\n g<script>h"
    )
    assert visible_text(page) == "A\nb\nc\nd\ne f g"


def test_a_huge_page_takes_no_longer_than_its_size() -> None:
    page = "<html><body>" + "<p><a href='x'>many links</a>" * (MAIN_TEXT_CHARACTERS // 20)
    assert texts(read(page.encode()))[0].startswith("many links\nmany links")
