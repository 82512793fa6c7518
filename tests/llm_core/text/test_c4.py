"""Lines that are sentences stay; boilerplate, code and placeholder text go, with a reason."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llm_core.config import C4, Clean
from llm_core.text.c4 import c4
from llm_core.text.document import Document, Rejection

GOOD = "\n".join(f"This is sentence number {n} of the page." for n in range(5))


def _c4(text: str, **bounds: Any) -> Document | Rejection:
    return c4(Document(source="a", start=0, end=1, sha256="", license="", text=text), Clean(c4=C4(**bounds)))


def _kept(text: str, **bounds: Any) -> str:
    result = _c4(text, **{"min_sentences": 0} | bounds)
    assert isinstance(result, Document)
    return result.text


def test_a_page_of_sentences_is_the_same_document() -> None:
    document = Document(source="a", start=0, end=1, sha256="", license="", text=GOOD)
    assert c4(document, Clean()) is document


@pytest.mark.parametrize(
    "line",
    [
        "A menu without an end",
        "It goes on and on...",
        "Und so weiter und so fort…",
        "Too short.",
        "Please enable JavaScript to see this page.",
        "We use cookies on this site.",
        "Read the Terms of Use first.",
        "Read our Privacy Policy first.",
        f"A word of {'x' * 1001} characters.",
        "Ends with a citation [12]",
        "一行沒有句號的文字",
    ],
)
def test_a_line_that_is_no_sentence_is_dropped_alone(line: str) -> None:
    assert _kept(f"{GOOD}\n{line}\nOne more line here.") == f"{GOOD}\nOne more line here."


@pytest.mark.parametrize(
    "line",
    [
        "Is this a sentence?",
        'She said "come home now"',
        "“Curly quotes end it too”",
        "春眠不覺曉，處處聞啼鳥。",
        "他說：「花落知多少」",
        "هل هذه جملة كاملة؟",
        "यह एक वाक्य है।",
        "A cookie is a small cake.",
        f"A word of {'x' * 1000} characters.",
    ],
)
def test_a_sentence_of_any_script_stays(line: str) -> None:
    assert _kept(line) == line


def test_citations_are_cut_out_before_a_line_s_end_is_judged() -> None:
    assert _kept("It was so. [12]\nIt was[edit] not so.[]\nOr was it?[citation needed]") == (
        "It was not so.\nOr was it?"
    )
    assert _kept("It was not so.[3]", strip_citations=False) == ""
    assert _kept("It [3] was not so.", strip_citations=False) == "It [3] was not so."


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        (f"{GOOD}\nfunction {{ return.", Rejection("c4_curly_bracket", "a line holds a curly bracket")),
        (f"{GOOD}\nLorem Ipsum dolor sit.", Rejection("c4_lorem_ipsum", "a line holds the placeholder text")),
        ("Only one sentence here.", Rejection("c4_few_sentences", "1 sentences, 5 needed")),
        ("", Rejection("c4_few_sentences", "0 sentences, 5 needed")),
    ],
)
def test_a_bad_page_is_rejected_with_its_reason(text: str, rejection: Rejection) -> None:
    assert _c4(text) == rejection


def test_a_bracket_in_a_line_that_is_dropped_anyway_rejects_nothing() -> None:
    page = f"{GOOD}\nmenu {{\nThe javascript {{ is dropped."
    assert _kept(page) == GOOD


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One here. Two here! Three here? Four.", 4),
        ("Mr. Smith of the U.S. Army saw Dr. J. Jones... twice. He left.", 2),
        ('He said "go away." Then it rained.', 2),
        ("Prices rose 3.5 percent on www.example.org today.", 1),
        ("春眠不覺曉。處處聞啼鳥。夜來風雨聲！", 3),
        ("Really?! Yes.", 2),
    ],
)
def test_sentences_are_counted_on_the_lines_that_stay(line: str, sentences: int) -> None:
    rejection = _c4(line, min_sentences=9, min_line_words=0)
    assert rejection == Rejection("c4_few_sentences", f"{sentences} sentences, 9 needed")
    assert isinstance(_c4(line, min_sentences=sentences, min_line_words=0), Document)


@pytest.mark.parametrize("text", ["'. " * 200_000, "." * 200_000, "A. " * 100_000, "[" * 200_000, "春。" * 100_000])
def test_a_line_of_marks_costs_no_more_than_its_length(text: str) -> None:
    began = time.process_time()
    _c4(text, min_sentences=400_000)
    assert time.process_time() - began < 5


def test_each_bound_can_be_turned_off() -> None:
    assert _kept("menu\nhome", needs_terminal_mark=False, min_line_words=0) == "menu\nhome"
    assert _kept("menu\nhome and away", needs_terminal_mark=False) == "home and away"
    assert _kept(f"A word {'x' * 2000}.", max_word_length=0) == f"A word {'x' * 2000}."
    assert _kept("No.", min_line_words=1) == "No."
