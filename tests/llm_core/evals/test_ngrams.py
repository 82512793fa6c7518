from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from llm_core.evals.baselines import unigram_bits
from llm_core.evals.ngrams import _discounts, fit, ngram_bits

VOCAB, END = 7, 0


def text(seed: int, count: int) -> list[int]:
    """Documents of tokens that follow a pattern with noise, an end id behind each."""
    draws = np.random.default_rng(seed)
    ids: list[int] = []
    while len(ids) < count:
        start = int(draws.integers(1, VOCAB))
        document = [1 + (start + place * 2 + int(draws.integers(0, 2))) % (VOCAB - 1) for place in range(9)]
        ids += [*document, END]
    return ids


def slow(train: list[int], order: int) -> dict[tuple[int, ...], Counter[int]]:
    """History -> counts, by the book: raw for the longest, else numbers of different tokens in front."""
    grams = {n: Counter(tuple(train[i : i + n]) for i in range(len(train) - n + 1)) for n in range(1, order + 1)}
    table: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for n in range(1, order + 1):
        counts = grams[n] if n == order else Counter(gram[1:] for gram in grams[n + 1])
        for gram, count in counts.items():
            table[gram[:-1]][gram[-1]] = count
    return table


def probability(table: dict[tuple[int, ...], Counter[int]], history: tuple[int, ...], token: int) -> float:
    shorter = probability(table, history[1:], token) if history else 1 / VOCAB
    if history not in table:
        return shorter
    same_length = [count for key, counts in table.items() if len(key) == len(history) for count in counts.values()]
    discounts = _discounts(np.array(same_length))
    counts = table[history]
    freed = sum(discounts[min(count, 3)] for count in counts.values())
    kept = counts[token] - discounts[min(counts[token], 3)]
    return float((kept + freed * shorter) / counts.total())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_bits_are_those_of_the_definition(order: int) -> None:
    train, held_out = text(1, 300), text(2, 40)
    table = slow(train, order)
    expected = []
    for start in range(0, len(held_out), 10):
        document = [END, *held_out[start : start + 10]]
        costs = [
            -math.log2(probability(table, tuple(document[max(0, end - order + 1) : end]), document[end]))
            for end in range(1, len(document))
        ]
        expected.append(sum(costs))
    found = ngram_bits(np.array(train, np.uint16), np.array(held_out, np.uint16), np.full(4, 10), VOCAB, order=order)
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_probabilities_of_all_tokens_behind_a_text_are_one() -> None:
    train = np.array(text(1, 500), np.uint16)
    for history in ([3, 5, 1], [6, 6, 6], [2], []):
        marks = np.array([False] * len(history) + [True, False])
        texts = [np.array([*history, token, END], np.uint16) for token in range(VOCAB)]
        costs = [float(ngram_bits(train, ids, np.array([len(ids)]), VOCAB, marks)[0]) for ids in texts]
        assert sum(2**-cost for cost in costs) == pytest.approx(1)


def test_five_tokens_predict_a_pattern_better_than_one() -> None:
    train, held_out = np.array(text(1, 5000), np.uint16), np.array(text(2, 500), np.uint16)
    sizes = np.full(len(held_out) // 10, 10)
    alone = unigram_bits(train, held_out, sizes, VOCAB).sum()
    assert ngram_bits(train, held_out, sizes, VOCAB).sum() < 0.65 * alone


def test_something_is_left_for_tokens_that_were_never_seen() -> None:
    counts = np.array([1, 1, 2, 3, 3, 3, 3, 3, 4])  # so many of 3 that nothing would be taken from a count of 2
    assert (_discounts(counts)[1:] > 0).all()


def test_a_text_shorter_than_the_order_is_counted_as_far_as_it_goes() -> None:
    assert len(fit(np.array([1, 2]), VOCAB)) == 2
    bits = ngram_bits(np.array([1, 2], np.uint16), np.array([1, END], np.uint16), np.array([2]), VOCAB)
    assert np.isfinite(bits).all()


def test_only_marked_tokens_cost_bits() -> None:
    train, held_out = np.array(text(1, 300), np.uint16), np.array(text(2, 20), np.uint16)
    none, whole = np.zeros(20, bool), np.ones(20, bool)
    sizes = np.array([10, 10])
    assert ngram_bits(train, held_out, sizes, VOCAB, none).tolist() == [0, 0]
    assert (
        ngram_bits(train, held_out, sizes, VOCAB, whole).tolist() == ngram_bits(train, held_out, sizes, VOCAB).tolist()
    )
