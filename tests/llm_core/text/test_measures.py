"""Words, marks and shingles are found in place, and hashed by their characters alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.characters import LETTER, NAME, SYMBOL, UNSPACED
from llm_core.text.filters import WORD
from llm_core.text.measures import Measures, Spans, shingle_hashes

MIXED = st.text("aB7é.,:;-_'’\"/()… \n\u3000春ー文한\U00020000😀\u0301", max_size=40) | st.text(max_size=30)


def _pieces(text: str, spans: Spans) -> list[str]:
    return [text[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)]


@given(MIXED)
def test_words_are_those_of_the_pattern(text: str) -> None:
    assert _pieces(text, Measures(text).words) == WORD.findall(text)


@given(MIXED | st.just("a ://b c://d"))
def test_words_and_marks_tile_all_that_is_no_white_space(text: str) -> None:
    pieces = _pieces(text, Measures(text).tokens)
    assert "".join(pieces) == "".join(text.split())
    assert not any(any(map(str.isspace, piece)) for piece in pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the nation's well-known policy.", "the nation 's well - known policy ."),
        ("it’s “quoted” 'here'", "it ’s “ quoted ” ' here '"),
        ("U.S. AT&T a_b x@y.com", "U.S . AT&T a_b x@y.com"),
        ("1,000.50 10:30 a,b and/or 3/4 x=y", "1,000.50 10:30 a , b and / or 3/4 x = y"),
        ("wait... no -- yes!! $5 (5%)", "wait ... no -- yes ! ! $ 5 ( 5 % )"),
        ("see http://a.org/b?c=d&e-f) ok", "see http://a.org/b?c=d&e-f ) ok"),
        ("春眠 don't 不覺曉，", "春 眠 don 't 不 覺 曉 ，"),
        ("cafe\u0301s हिन्दी", "cafe\u0301s हिन्दी"),
    ],
)
def test_words_are_told_from_the_marks_around_them(text: str, pieces: str) -> None:
    assert _pieces(text, Measures(text).tokens) == pieces.split()


def test_the_kind_of_a_piece_tells_what_is_in_it() -> None:
    kinds = Measures("word 5th it's 1,000 ... 春 --").tokens.kinds
    assert [bool(kind & LETTER) for kind in kinds] == [True, True, True, True, False, False, True, False]
    kinds = Measures("1970s 1970 (x) = 春").words.kinds
    assert [bool(kind & LETTER) for kind in kinds] == [True, False, True, False, True]
    assert [bool(kind & NAME) for kind in kinds] == [True, True, True, False, False]
    assert [bool(kind & UNSPACED) for kind in kinds] == [False, False, False, False, True]


@given(MIXED)
def test_names_are_letters_digits_and_their_marks(text: str) -> None:
    found = _pieces(text, Measures(text).names)
    flags = Measures(text)._flags
    inside = [character for character, flag in zip(text, flags, strict=True) if flag & (NAME | UNSPACED)]
    assert "".join(found) == "".join(inside)


@given(st.lists(st.text("ab\0é春", min_size=1, max_size=4), min_size=1, max_size=12))
def test_equal_words_have_equal_hashes_and_others_have_others(words: list[str]) -> None:
    text = " ".join(words)
    measured = Measures(text).words
    by_word = {}
    for word, number in zip(_pieces(text, measured), measured.hashes.tolist(), strict=True):
        assert by_word.setdefault(word, number) == number
    assert len(set(by_word.values())) == len(by_word)


def test_a_hash_is_the_same_in_every_text_and_on_every_machine() -> None:
    alone = Measures("nation").words.hashes[0]
    assert Measures("x" * 70_000 + " nation").words.hashes[1] == alone
    assert Measures("春 one nation").words.hashes[2] == alone
    assert int(alone) == 833379926352637661


def test_long_texts_are_hashed_in_blocks_like_short_ones() -> None:
    words = [f"word{n % 977}" for n in range(40_000)]
    hashes = Measures(" ".join(words)).words.hashes
    assert len(set(hashes.tolist())) == 977
    assert hashes[39_999] == Measures(words[39_999]).words.hashes[0]


def test_long_words_differ_in_their_first_block_or_their_length() -> None:
    first, longer, other = (Measures(text).words.hashes[0] for text in ("a" * 70_000, "a" * 70_001, "b" + "a" * 69_999))
    assert len({int(first), int(longer), int(other)}) == 3


def test_symbols_are_counted_among_all_characters() -> None:
    assert Measures("ab#$ <>x\ty").share_of(SYMBOL) == 0.4
    assert Measures("").share_of(SYMBOL) == 0


@pytest.mark.parametrize(
    ("text", "latin"),
    [
        ("plain", True),
        ("naïve “ž”", True),
        ("Việt Nam", True),
        ("привет", False),
        ("春眠曉 ok", False),
        ("—", True),
        ("", True),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, latin: bool) -> None:
    assert Measures(text).is_latin is latin


def test_shingles_are_runs_of_words_without_case_and_punctuation() -> None:
    def shingles(text: str, words: int = 5) -> list[int]:
        return shingle_hashes(Measures(text), words).tolist()

    assert shingles("One, two; three. Four FIVE!") == shingles("one two three four five")
    assert len(shingles("a b c d e f g")) == 3
    assert len(shingles("a b c d e f g", words=3)) == 5
    assert len(shingles("春眠不覺曉處")) == 2
    assert len(shingles("")) == 1
    assert shingles("a b c d e") != shingles("e d c b a")
    assert shingles("a b") != shingles("a c")
