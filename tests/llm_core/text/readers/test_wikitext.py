"""Wikitext becomes what a reader of the page sees as prose."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.readers.wikitext import plain_text


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''' and ''italic''", "Bold and italic"),
        ("[[Target]], [[Target|shown]], [[:Category:C|named]]", "Target, shown, named"),
        ("a [http://x.y link] and [http://x.y] and http://x.y", "a link and and http://x.y"),
        ("before {{t|a={{u}}|b}} behind", "before behind"),
        ("before {{t\n|a=\n{{u}}\n}} behind", "before behind"),
        ("{{{arg|default}}}x", "x"),
        ("before\n{| class=a\n|-\n| cell {{t}}\n{|\n| inner\n|}\n|}\nbehind", "before\n\nbehind"),
        ("{{t|}}kept|}", "kept|}"),
        ("a<ref>note [[x]]</ref>b<ref name=c />c<!-- d -->e", "abce"),
        ("a<math>x^2</math>b<gallery>\nFile:a.jpg|b\n</gallery>c", "abc"),
        ("[[File:a.jpg|thumb|A [[link]] here]]Text[[Category:C]]\n[[de:Text]]", "Text"),
        ("* one\n* two\n# three\n: four", "one\ntwo\nthree\nfour"),
        ("== Head ==\ntext\n== Empty ==\n=== Empty too ===\n{{t}}\n== Last ==", "Head\ntext"),
        ("== Head ==\n=== Sub ===\ntext", "Head\nSub\ntext"),
        ("a&nbsp;b &lt; c &#228;", "a\xa0b < c ä"),
        ("one<br>two<br />three", "one\ntwo\nthree"),
        ("<div class=a>\nblock\n</div>", "block"),
        ("name ({{lang|x}}, {{y}}) is", "name is"),
        ("unclosed {{ and [[ and <ref> stay", "unclosed and and stay"),
        ("__NOTOC__x", "x"),
        ("&#xD800;", "\ufffd"),
    ],
)
def test_markup_is_read_as_the_wiki_shows_it(wikitext: str, text: str) -> None:
    assert plain_text(wikitext) == text


MARKS = [
    "[[",
    "]]",
    "{{",
    "}}",
    "{|",
    "|}",
    "<ref>",
    "</ref>",
    "<b>",
    "==",
    "'''",
    "\n",
    "*",
    "a|",
    "[http://a ",
    "<!--",
    "&",
]


@given(marks=st.lists(st.sampled_from(MARKS), max_size=40))
def test_any_markup_leaves_the_text_around_it(marks: list[str]) -> None:
    text = plain_text("Before.\n\n" + "".join(marks))
    text.encode()
    assert text.startswith("Before.")


@pytest.mark.parametrize(
    "mark", ["[[a|", "{{a|", "<b>", "<ref>", "[http://a ", "{|\n|", "<a b=", "*[[a\n", "<!--", "}}", "[[" * 19 + "\n"]
)
def test_marks_that_never_close_cost_no_more_than_others(mark: str) -> None:
    started = time.process_time()
    plain_text(mark * 3_000)
    assert time.process_time() - started < 3
