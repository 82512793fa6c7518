"""Every code point has the same flags in every text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.characters import (
    APOSTROPHE,
    FIGURES,
    JOINER,
    LETTER,
    NAME,
    SENTENCE_ENDS,
    SPACE,
    SYMBOL,
    UNSPACED,
    characters_of,
)

ANY = st.text(st.characters(exclude_categories=()), max_size=30)


@pytest.mark.parametrize(
    ("character", "flags"),
    [
        ("a", LETTER | NAME),
        ("é", LETTER | NAME),
        ("7", NAME),
        ("\u0301", NAME),
        ("\u3000", SPACE),
        ("\n", SPACE),
        ("春", LETTER | UNSPACED),
        ("\U00020000", LETTER | UNSPACED),
        ("\U000323af", LETTER | UNSPACED),
        ("ー", LETTER | UNSPACED),
        ("한", LETTER | NAME),
        (".", JOINER),
        ("。", JOINER),
        ("'", JOINER | APOSTROPHE),
        (",", FIGURES),
        ("=", FIGURES | SYMBOL),
        ("-", 0),
        ("#", JOINER | SYMBOL),
        ("\x07", SYMBOL),
        ("\ue000", SYMBOL),
        ("\U000e0101", NAME),
        ("\U0010ffff", SYMBOL),
    ],
)
def test_a_character_is_flagged_for_what_it_is(character: str, flags: int) -> None:
    assert characters_of(character)[1].tolist() == [flags]


@given(ANY)
def test_codes_and_flags_are_those_of_each_character_whatever_stands_beside_it(text: str) -> None:
    codes, flags = characters_of(text)
    wide_codes, wide_flags = characters_of(text + "春")
    assert codes.tolist() == wide_codes[:-1].tolist() == [ord(character) for character in text]
    assert np.array_equal(flags, wide_flags[:-1])
    assert [bool(flag & LETTER) for flag in flags] == [c.isalpha() or 0x20000 <= ord(c) < 0x40000 for c in text]
    assert [bool(flag & SPACE) for flag in flags] == [character.isspace() for character in text]


def test_latin_text_takes_one_byte_a_character() -> None:
    assert characters_of("naïve ÿ")[0].itemsize == 1
    assert characters_of("naïve Ā")[0].itemsize == 4


def test_sentence_ends_are_marks_each_named_once() -> None:
    assert len(set(SENTENCE_ENDS)) == len(SENTENCE_ENDS)
    assert {unicodedata.category(mark) for mark in SENTENCE_ENDS} == {"Po"}
