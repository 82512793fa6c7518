"""Pages of lists, menus and repeated lines are told from pages of sentences."""

from __future__ import annotations

from typing import Any

import pytest

from llm_core.config import Clean, FineWeb
from llm_core.text.document import Document, Rejection
from llm_core.text.fineweb import fineweb

SENTENCE = "This is a sentence of an ordinary length, number {}."
PAGE = "\n".join(SENTENCE.format(n) for n in range(8))


def _fineweb(text: str, **bounds: Any) -> Document | Rejection:
    document = Document(source="a", start=0, end=1, sha256="", license="", text=text)
    return fineweb(document, Clean(fineweb=FineWeb(**bounds)))


@pytest.mark.parametrize("text", [PAGE, PAGE.replace(".", "。"), PAGE.replace("\n", "\n\n \n")])
def test_a_page_of_sentences_is_kept(text: str) -> None:
    assert isinstance(_fineweb(text, max_newlines_per_word=0), Document)


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        (PAGE.replace(".", ""), Rejection("fineweb_line_ends", "0.000 of the lines end like a sentence, 0.12 needed")),
        ("", Rejection("fineweb_line_ends", "0.000 of the lines end like a sentence, 0.12 needed")),
        (
            f"{PAGE}\n" + "\n".join(f"{n}." for n in range(18)),
            Rejection("fineweb_short_lines", "0.692 of the lines are short, 0.67 allowed"),
        ),
        (
            f"{PAGE}\n{SENTENCE.format(3)}",
            Rejection("fineweb_repeated_lines", "0.111 of the characters are in copies of lines, 0.01 allowed"),
        ),
        (
            "\n\n\n\n\n".join(PAGE.split("\n")),
            Rejection("fineweb_list", "35 line ends in 96 words and marks, 0.3 a word allowed"),
        ),
    ],
)
def test_what_is_no_page_of_sentences_is_rejected_with_its_reason(text: str, rejection: Rejection) -> None:
    assert _fineweb(text) == rejection


def test_each_bound_can_be_turned_off() -> None:
    off = {"min_terminal_line_share": 0, "max_short_line_share": 0, "max_duplicate_characters": 0}
    assert isinstance(_fineweb("x\nx\n\n\n", **off, max_newlines_per_word=0), Document)


def test_a_line_is_short_up_to_the_length_given() -> None:
    bounds = {"max_newlines_per_word": 0, "max_short_line_share": 0.5}
    assert isinstance(_fineweb("123456789.\nabcdefghi.", short_line_length=9, **bounds), Document)
    assert isinstance(_fineweb("123456789.\nabcdefghi.", short_line_length=10, **bounds), Rejection)
