"""What is said of a vocabulary can be counted by hand."""

from __future__ import annotations

import numpy as np

from llm_core.tokenizer import measure_usage, usage_rows


def test_figures_are_counted_by_language_and_in_all() -> None:
    texts = [
        ("zh", "中文", 2, np.array([1, 2, 3], np.uint16)),
        ("en", "two words", 2, np.array([4, 5], np.uint16)),
        ("", "?", 1, np.array([4], np.uint16)),
        ("en", "one", 1, np.array([4], np.uint16)),
    ]
    everything, english, chinese, unknown = usage_rows(measure_usage(texts, vocab_size=10))
    assert everything["language"] == "all" and unknown["language"] == "unknown"
    assert (everything["documents"], everything["bytes"], everything["words"], everything["tokens"]) == (4, 19, 6, 7)
    assert (english["language"], english["bytes_per_token"], english["fertility"]) == ("en", 4.0, 1.0)
    assert (chinese["bytes_per_token"], chinese["fertility"], chinese["vocabulary_use"]) == (2.0, 1.5, 0.3)
    assert everything["vocabulary_use"] == 0.5


def test_no_texts_give_zeros() -> None:
    (everything,) = usage_rows(measure_usage([], vocab_size=10))
    assert (everything["bytes_per_token"], everything["fertility"], everything["vocabulary_use"]) == (0, 0, 0)
