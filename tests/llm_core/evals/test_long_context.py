"""A needle is found at the depth it was put, and only by who reads that far."""

from __future__ import annotations

import pytest

from llm_core.evals.long_context import long_context_suite, needles, prompt
from tests.llm_core.evals.answering import Answering

NEEDLE = "The miller's word is heron."
TEXT = "water " * 100


def _examples(depths: tuple[float, ...] = (0, 0.5, 1), num_words: tuple[int, ...] = (10, 100)) -> list:
    return needles(TEXT, NEEDLE, "What is the word?", "heron", depths, num_words)


def test_the_needle_stands_at_its_depth_before_the_question() -> None:
    places = [prompt(example).split().index("miller's") - 1 for example in _examples()]
    assert places == [0, 5, 10, 0, 50, 100]
    assert all(prompt(example).endswith("\n\nWhat is the word?") for example in _examples())


def test_a_model_that_reads_the_end_only_finds_the_deep_needles() -> None:
    suite = long_context_suite()
    examples = _examples()
    rows = suite.rows(Answering(lambda text: "A Heron!" if "heron" in text[-100:] else "herons"), examples)
    assert rows["found"].tolist() == [1, 1, 1, 0, 0, 1]
    assert rows["slice"].tolist()[3] == "100 words, depth 0"
    assert suite.totals(rows)["long_context/found"] == pytest.approx(4 / 6)


def test_a_text_that_is_too_short_or_tells_the_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="give a longer one"):
        _examples(num_words=(101,))
    with pytest.raises(ValueError, match="without its needle"):
        needles("a heron", NEEDLE, "?", "heron", (0,), (2,))


def test_a_depth_outside_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0"):
        prompt(_examples(depths=(1.5,))[0])
