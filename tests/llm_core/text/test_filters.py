"""Each rule changes or rejects what only it is for, and leaves good text alone."""

from __future__ import annotations

import re
import time

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.config import Clean
from llm_core.text import filters
from llm_core.text.document import Document, Rejection

LENIENT = Clean(min_words=0, max_symbol_share=1, min_alpha_word_share=0, max_repeated_line_share=1)
PROSE = "It was the best of times, it was the worst of times; we had everything before us, we had nothing before us.\n"
RULES = (
    filters.normalise_unicode,
    filters.strip_marks,
    filters.normalise_whitespace,
    filters.require_words,
    filters.limit_symbols,
    filters.require_prose,
    filters.limit_repetition,
)


def _document(text: str) -> Document:
    return Document(source="a", start=0, end=1, sha256="", license="", text=text)


def _clean(text: str, cfg: Clean) -> str | Rejection:
    document = _document(text)
    for rule in RULES:
        result = rule(document, cfg)
        if isinstance(result, Rejection):
            return result
        document = result
    return document.text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("cafe\u0301", "café"),
        ("â€œquotedâ€\x9d", "“quoted”"),
        ("first line\nÃ  la carte", "first line\nà la carte"),
        ("Ñœ\nq", "ќ\nq"),
        ("ﬁne", "fine"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("page\x0cbreak\x0bhere", "page\nbreak\nhere"),
        ("zero\u200bwidth\ufeff so\u00adft\u2060", "zerowidth soft"),
        ("\u202eevil\u202c \u2066isolated\u2069 \u200emark", "evil isolated mark"),
        ("nul\x00l bell\x07", "null bell"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("“curly” &amp; ，full", "“curly” &amp; ，full"),
        ("thanks [Laughter] all [Applause, and cheers].", "thanks all ."),
        ("budget [see APP Note 3] ends", "budget ends"),
        ("a\u00a0b\u2003c  d \t e", "a b c d e"),
        ("end   \n\n\n\n  indented\n", "end\n\n  indented"),
    ],
)
def test_a_text_is_put_right(dirty: str, clean: str) -> None:
    assert _clean(dirty, LENIENT) == clean


def test_clean_prose_is_left_alone_and_cleaning_twice_changes_nothing() -> None:
    once = _clean(PROSE * 5, Clean(max_repeated_line_share=1))
    assert isinstance(once, str)
    assert once == (PROSE * 5).strip()
    assert _clean(once, Clean(max_repeated_line_share=1)) == once


def test_an_unchanged_document_is_the_same_object_and_keeps_what_was_measured() -> None:
    document = _document(PROSE.strip())
    assert all(rule(document, LENIENT) is document for rule in RULES)


# What ftfy's heuristic for mojibake looks at, what it repairs, and ordinary text around it.
HOSTILE = st.text(
    "aZ .,?\nœŒ\t\r\x00\x1b[\x85\x9dÂÃÎÐØÙàâ€œ™šŒž\xa0\xad®©°·»¡¿‘’“”•–—´×²√±≈‚ÄìвЂГўВβ™ā文é"
    "e\u0301ﬁĳ\u2028\ufeff\u200b\u202e\ud800",
    max_size=30,
)


@given(HOSTILE)
def test_what_is_not_given_to_ftfy_would_come_back_unchanged(text: str) -> None:
    config = ftfy.TextFixerConfig(
        unescape_html=False, uncurl_quotes=False, fix_character_width=False, normalization="NFC", explain=False
    )
    expected = ftfy.fix_text(text.replace("\x0b", "\n").replace("\x0c", "\n"), config).translate(filters.INVISIBLE)
    result = filters.normalise_unicode(_document(text), LENIENT)
    assert result.text == expected


@given(st.text("ab \t\n\u00a0\u3000", max_size=40))
def test_white_space_is_normalised_whichever_shortcut_is_taken(text: str) -> None:
    expected = re.sub(r"[^\S\n\t]", " ", text)
    expected = re.sub(r"[ \t]+$", "", expected, flags=re.MULTILINE)
    expected = re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<=\S)[ \t]{2,}", " ", expected)).strip()
    assert filters.normalise_whitespace(_document(text), LENIENT).text == expected


def test_long_runs_of_spaces_cost_no_more_than_their_length() -> None:
    began = time.process_time()
    text = "x" + " " * 300_000 + "y \n"
    assert filters.normalise_whitespace(_document(text), LENIENT).text == "x y"
    assert time.process_time() - began < 2


def test_marks_are_the_recipes() -> None:
    assert _clean("x [Music] [Applause]", Clean(min_words=0, strip_marks=(r"\[Music\]",))) == "x [Applause]"


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("only four words here", "too_short", "4 words, 50 needed"),
        ("word " * 60 + "<<>>==++$$||~~^^" * 8, "symbols", "0.299 of the characters are symbols, 0.1 allowed"),
        ("#tag @name a_b\\c *x* " * 15, "symbols", "allowed"),
        ("total 17 23.5 19 42 11 97 " * 12, "not_prose", "0.143 of the words have letters, 0.7 needed"),
        (
            "".join(f"line {n} of an ordinary page\n" for n in range(9)) + "buy now buy now\n" * 9,
            "repetition",
            "0.311 in repeated lines, 0.3 allowed",
        ),
    ],
)
def test_a_bad_text_is_rejected_with_its_reason(text: str, reason: str, detail: str) -> None:
    result = _clean(text, Clean())
    assert isinstance(result, Rejection)
    assert result.reason == reason
    assert detail in result.detail


@pytest.mark.parametrize(
    "relaxed",
    [
        ("only four words here", Clean(min_words=4)),
        ("word " * 60 + "<<>>==++$$||~~^^" * 8, Clean(max_symbol_share=0.5)),
        ("total 17 23.5 19 42 11 97 " * 12, Clean(min_alpha_word_share=0.1)),
        ("same line of words\n" * 20, Clean(max_repeated_line_share=1.0)),
    ],
)
def test_each_limit_is_the_recipes(relaxed: tuple[str, Clean]) -> None:
    assert isinstance(_clean(*relaxed), str)


@pytest.mark.parametrize(
    "text",
    [
        "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。" * 3,
        "".join(f"यह वाक्य संख्या {n} हिन्दी में लिखा गया है। " for n in "कखगघचछजझ"),
        "".join(f"это предложение {n} написано по-русски " for n in "абвгдежз"),
    ],
)
def test_good_text_of_other_scripts_is_kept(text: str) -> None:
    assert isinstance(_clean(text, Clean(min_words=40)), str)


def test_words_of_scripts_without_spaces_are_their_characters() -> None:
    assert filters.WORD.findall("two words 春眠不 ok。") == ["two", "words", "春", "眠", "不", "ok。"]


@pytest.mark.parametrize("text", ["", "\n", "\x00", "\u200b"])
def test_nothing_stays_nothing_and_is_too_short_where_words_are_wanted(text: str) -> None:
    assert _clean(text, LENIENT) == ""
    assert _clean(text, Clean()) == Rejection("too_short", "0 words, 50 needed")
