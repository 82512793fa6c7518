"""Each bound rejects what it is for, says by how much, and counts what plain counting counts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.config import Clean, Gopher
from llm_core.text.document import Document, Rejection
from llm_core.text.gopher import gopher_quality, gopher_repetition

PROSE = (
    "It was the best of times and it was the worst of times, as people who have lived with hope like to say.\n"
    "Nobody knew that the harbour would be closed to all ships, or which winds would carry them home again.\n"
    "A lamp stood in every window of the long street, and children counted them on their way to bed.\n"
)
CHINESE = (
    "春眠不覺曉，處處聞啼鳥。夜來風雨聲，花落知多少。床前明月光，疑是地上霜。"
    "舉頭望明月，低頭思故鄉。白日依山盡，黃河入海流。"
)
LENIENT: dict[str, Any] = {
    "min_words": 0,
    "min_mean_word_length": 0,
    "max_mean_word_length": 0,
    "min_alpha_word_share": 0,
    "min_stop_words": 0,
    "max_duplicate_paragraph_share": 0,
    "max_duplicate_paragraph_characters": 0,
    "max_duplicate_line_share": 0,
    "max_duplicate_line_characters": 0,
    "max_top_ngram_shares": (),
    "max_duplicate_ngram_shares": (),
}


def _document(text: str, language: str = "") -> Document:
    return Document(source="a", start=0, end=1, sha256="", license="", text=text, language=language)


def _quality(text: str, language: str = "", **bounds: Any) -> Document | Rejection:
    return gopher_quality(_document(text, language), Clean(gopher=Gopher(**bounds)))


def _repetition(text: str, **bounds: Any) -> Document | Rejection:
    return gopher_repetition(_document(text), Clean(gopher=Gopher(**bounds)))


def test_prose_passes_both_rules_as_it_is() -> None:
    document = _document(PROSE)
    assert gopher_quality(document, Clean()) is document
    assert gopher_repetition(document, Clean()) is document


@pytest.mark.parametrize(
    ("text", "bounds", "rejection"),
    [
        ("the end of it.", {}, Rejection("gopher_few_words", "4 words, 50 needed")),
        (PROSE, {"max_words": 60}, Rejection("gopher_many_words", "61 words, 60 allowed")),
        ("to be of a b " * 20, {}, Rejection("gopher_short_words", "1.60 characters a word, 3.0 needed")),
        (
            "the incomprehensibilities " * 30,
            {},
            Rejection("gopher_long_words", "12.00 characters a word, 10.0 allowed"),
        ),
        (PROSE + "# " * 9, {}, Rejection("gopher_hashes", "9 in 76 words and marks, 0.1 a word allowed")),
        (
            PROSE + "... " * 4 + "… " * 5,
            {},
            Rejection("gopher_ellipses", "9 in 76 words and marks, 0.1 a word allowed"),
        ),
        (
            "".join(f"{mark} the words of a line\n" for mark in ("•", "  -") * 10) + "the last\n",
            {},
            Rejection("gopher_bullets", "0.952 of the lines begin with a bullet, 0.9 allowed"),
        ),
        (
            "".join(f"the many words that a line may hold{end}\n" for end in ("...", "… ", ".", "", "") * 5),
            {},
            Rejection("gopher_ellipsis_lines", "0.400 of the lines end with one, 0.3 allowed"),
        ),
        (
            PROSE + "1 22 333 " * 9,
            {},
            Rejection("gopher_not_alpha", "0.649 of the words and marks have a letter, 0.8 needed"),
        ),
        (
            "The quick brown foxes jumped over lazy dogs and " * 8,
            {},
            Rejection("gopher_stop_words", "1 of 8 English stop words, 2 needed"),
        ),
    ],
)
def test_what_is_no_prose_is_rejected_with_its_reason(text: str, bounds: dict, rejection: Rejection) -> None:
    assert _quality(text, **bounds) == rejection


def test_many_marks_of_a_kind_that_begin_no_line_are_no_bullets() -> None:
    text = "the well-known be-all and end-all of ready-made words for that\n" * 10
    assert isinstance(_quality(text, min_alpha_word_share=0), Document)
    assert isinstance(_quality(text.replace("-", "..."), max_symbol_word_ratio=0, min_alpha_word_share=0), Document)


def test_a_stop_word_counts_beside_a_mark_and_at_the_end_of_a_line() -> None:
    words = "Some people came over hills from afar every day "
    assert isinstance(_quality(words * 8 + "\nthe\nlast (of"), Document)
    assert _quality(words * 8 + "\nThe\nlast often") == Rejection(
        "gopher_stop_words", "0 of 8 English stop words, 2 needed"
    )


@pytest.mark.parametrize(
    ("text", "language", "kept"),
    [
        ("Der Hund lief über die Wiese nach Hause, weil es regnete. " * 6, "de", True),
        ("Der Hund lief über die Wiese nach Hause, weil es regnete. " * 6, "en", False),
        ("Der Hund lief über die Wiese nach Hause, weil es regnete. " * 6, "", False),
        ("Собака бежала домой через луг, потому что начался дождь. " * 7, "", True),
        (CHINESE, "", True),
        (CHINESE, "zh", True),
        (CHINESE + " OK of", "zh", True),
    ],
)
def test_english_is_asked_of_english_alone(text: str, language: str, kept: bool) -> None:
    assert isinstance(_quality(text, language), Document) is kept


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_bounds_of_nought_and_one_let_everything_pass(bound: float) -> None:
    shares = {name: bound for name in LENIENT if name.startswith("max_dup") and name.count("share") < 2}
    shares.pop("max_duplicate_ngram_shares")
    text = "same\n\nsame\n\n" * 9
    runs = {"max_top_ngram_shares": (0.0,), "max_duplicate_ngram_shares": (bound,) * 6}
    assert isinstance(_repetition(text, **shares, **runs), Document)
    assert isinstance(_quality("# ... -", **LENIENT, max_symbol_word_ratio=0, max_bullet_line_share=0), Document)


@pytest.mark.parametrize(
    ("text", "rejection"),
    [
        (
            "\n\n".join(["one long first paragraph", "x", "x", "x", "another paragraph"]),
            Rejection("gopher_repeated_paragraphs", "0.400 of the paragraphs are in copies, 0.3 allowed"),
        ),
        (
            "\n\n\n".join(["the same long paragraph again", "the same long paragraph again", "b", "c", "d"]),
            Rejection("gopher_repeated_paragraphs", "0.397 of the characters are in copies, 0.2 allowed"),
        ),
        (
            "first line of words\nx\nx\n\nx\nlast line of words",
            Rejection("gopher_repeated_lines", "0.400 of the lines are in copies, 0.3 allowed"),
        ),
        (
            "the same long line again\nb\nc\nthe same long line again\nd\n",
            Rejection("gopher_repeated_lines", "0.429 of the characters are in copies, 0.2 allowed"),
        ),
        (
            "buy now or buy now and buy now",
            Rejection("gopher_top_ngram", "0.700 of the characters in the commonest run of 2 words, 0.2 allowed"),
        ),
    ],
)
def test_what_repeats_is_rejected_with_its_reason(text: str, rejection: Rejection) -> None:
    assert _repetition(text) == rejection


def test_repeated_runs_are_measured_where_no_line_repeats() -> None:
    text = " ".join(f"{n} we will always do what we said" for n in range(6))
    assert _repetition(text, max_top_ngram_shares=()) == Rejection(
        "gopher_repeated_ngrams", "0.457 of the characters in repeated runs of 5 words, 0.15 allowed"
    )


def test_runs_that_overlap_are_counted_once() -> None:
    text = " ".join("a" * 9)  # four runs of five words repeat the first one: eight words are in them, five are counted
    bounds = LENIENT | {"max_duplicate_ngram_shares": (5 / 17,)}
    assert isinstance(_repetition(text, **bounds), Document)
    bounds["max_duplicate_ngram_shares"] = (4.9 / 17,)
    assert isinstance(_repetition(text, **bounds), Rejection)


# The measures of table A1, counted word by word.
def _top(words: list[str], size: int) -> int:
    runs = Counter(" ".join(words[start : start + size]) for start in range(len(words) - size + 1))
    if not runs:
        return 0
    run, count = runs.most_common(1)[0]
    return len(run) * count


def _repeated(words: list[str], size: int) -> int:
    seen: set[tuple[str, ...]] = set()
    place = characters = 0
    while place + size <= len(words):
        run = tuple(words[place : place + size])
        if run in seen:
            characters += sum(map(len, run))
            place += size
        else:
            seen.add(run)
            place += 1
    return characters


VOCABULARY = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), min_size=1, max_size=40)
PERIODIC = st.tuples(VOCABULARY, st.integers(1, 4)).map(lambda parts: parts[0] * parts[1])


@given(VOCABULARY | PERIODIC, st.integers(2, 4), st.integers(0, 30))
def test_the_commonest_run_takes_the_share_that_counting_gives(words: list[str], size: int, percent: int) -> None:
    text = " ".join(words)
    bounds = (0.0,) * (size - 2) + (percent / 100,)
    result = _repetition(text, **(LENIENT | {"max_top_ngram_shares": bounds}))
    assert isinstance(result, Rejection) == (percent > 0 and _top(words, size) / len(text) > percent / 100)


@given(VOCABULARY | PERIODIC, st.lists(st.integers(0, 60), min_size=6, max_size=6))
def test_repeated_runs_take_the_share_that_counting_gives(words: list[str], percents: list[int]) -> None:
    text = " ".join(words)
    bounds = tuple(percent / 100 for percent in percents)
    over = [
        (size, _repeated(words, size) / len(text))
        for size, bound in enumerate(bounds, start=5)
        if bound and _repeated(words, size) / len(text) > bound
    ]
    result = _repetition(text, **(LENIENT | {"max_duplicate_ngram_shares": bounds}))
    assert isinstance(result, Rejection) == bool(over)
    if over and isinstance(result, Rejection):
        size, share = over[0]
        assert result.detail.startswith(f"{share:.3f} of the characters in repeated runs of {size} words")


def test_order_of_the_reasons_is_that_of_the_rule() -> None:
    text = "# ... - 1 " * 10
    relaxed: dict[str, Any] = {}
    reasons = []
    for off in ("min_words", "min_mean_word_length", "max_symbol_word_ratio", "min_alpha_word_share", "min_stop_words"):
        result = _quality(text, **relaxed)
        assert isinstance(result, Rejection)
        reasons.append(result.reason)
        relaxed[off] = 0
    assert reasons == [
        "gopher_few_words",
        "gopher_short_words",
        "gopher_hashes",
        "gopher_not_alpha",
        "gopher_stop_words",
    ]
    assert all(one != other for one, other in pairwise(reasons))
