from __future__ import annotations

from itertools import pairwise

import pytest

from llm_core.generate.stop import StopStrings


def shown(text: str, stops: list[str], cuts: list[int]) -> str:
    """Feed `text` cut at the given places and give all that was shown."""
    stream = StopStrings(stops)
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    return "".join(stream.feed(piece) for piece in pieces) + stream.flush()


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["four"], "one two three"),
        ("one two three", ["three", "two"], "one "),
        ("aaab", ["aab"], "a"),
        ("stop", ["stop"], ""),
        ("almost sto", ["stop"], "almost sto"),
        ("统一码", ["码"], "统一"),
    ],
)
def test_text_ends_before_the_first_stop_string_however_it_is_cut(text: str, stops: list[str], expected: str) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            assert shown(text, stops, [first, second]) == expected


def test_the_beginning_of_a_stop_string_is_never_shown() -> None:
    stream = StopStrings(["END"])
    assert [stream.feed(letter) for letter in "xENEND!"] == ["x", "", "", "EN", "", "", ""]
    assert stream.is_hit and stream.flush() == ""


def test_without_stop_strings_nothing_is_held_back() -> None:
    stream = StopStrings([])
    assert stream.feed("any") == "any" and stream.flush() == ""
