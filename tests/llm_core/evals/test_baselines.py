"""Baselines have known answers on known texts."""

from __future__ import annotations

import lzma
import random

import numpy as np
import pytest

from llm_core.evals import baselines
from llm_core.evals.baselines import unigram_bits, xz_bits


def test_unigram_bits_follow_the_smoothed_training_counts() -> None:
    train = np.array([1, 1, 1, 2, 0], dtype=np.uint16)
    bits = unigram_bits(train, np.array([1, 0, 3, 0], dtype=np.uint16), np.array([2, 2]), vocab_size=4)
    share = {0: 2 / 9, 1: 4 / 9, 2: 2 / 9, 3: 1 / 9}
    expected = [-np.log2(share[1]) - np.log2(share[0]), -np.log2(share[3]) - np.log2(share[0])]
    assert bits.tolist() == pytest.approx(expected)


def test_counting_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.random.default_rng(0).integers(0, 50, 1000).astype(np.uint16)
    whole = unigram_bits(train, train, np.array([400, 600]), 50)
    monkeypatch.setattr(baselines, "COUNTED_AT_ONCE", 7)
    assert unigram_bits(train, train, np.array([400, 600]), 50).tolist() == whole.tolist()


def _noise(seed: int, size: int = 20_000) -> bytes:
    return random.Random(seed).randbytes(size)


def test_training_text_helps_xz_with_what_it_has_seen() -> None:
    alone, primed = xz_bits(lambda: [_noise(1), _noise(2)], lambda: [_noise(2)])
    assert alone == pytest.approx(8 * 20_000, rel=0.01)
    assert primed < 0.05 * alone


def test_primed_is_the_difference_of_two_whole_streams() -> None:
    words = random.Random(4).choices(["state", "union", "congress", "people", "law"], k=60_000)
    first, second = (" ".join(part).encode() for part in (words[:50_000], words[50_000:]))
    settings = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**20, "lc": 4, "lp": 0, "pb": 0}
    trained, both = (len(lzma.compress(text, lzma.FORMAT_RAW, filters=[settings])) for text in (first, first + second))
    alone = len(lzma.compress(second, lzma.FORMAT_RAW, filters=[settings]))
    assert xz_bits(lambda: [first], lambda: [second]) == (8 * alone, 8 * (both - trained))


def test_training_text_does_not_help_xz_with_what_is_new() -> None:
    alone, primed = xz_bits(lambda: [_noise(1)], lambda: [_noise(2)])
    assert primed == pytest.approx(alone, rel=0.01)


def test_the_dictionary_reaches_over_the_whole_training_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "SMALLEST_DICTIONARY", 2**16)
    filler = [_noise(seed) for seed in range(2, 17)]
    _, primed = xz_bits(lambda: [_noise(1), *filler], lambda: [_noise(1)])
    assert primed < 0.05 * 8 * 20_000
    monkeypatch.setattr(baselines, "LARGEST_DICTIONARY", 2**16)
    _, forgotten = xz_bits(lambda: [_noise(1), *filler], lambda: [_noise(1)])
    assert forgotten > 0.98 * 8 * 20_000


def test_xz_is_about_what_the_command_line_reaches() -> None:
    text = " ".join(random.Random(3).choices(["state", "union", "congress", "people", "of", "the"], k=20_000)).encode()
    alone, _ = xz_bits(lambda: [b"x"], lambda: [text])
    assert alone <= 8 * len(lzma.compress(text))
