"""Runs, repeats and the commonest are those that counting finds."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.hashing import LONGEST_RUN, Hashes, commonest, later_copies, mixed, ngram_hashes

NUMBERS = st.lists(st.integers(0, 5), max_size=40)


def _hashes(numbers: list[int]) -> Hashes:
    return mixed(np.array(numbers, dtype=np.uint64) + np.uint64(1))


@given(NUMBERS, st.integers(1, 12))
def test_runs_have_equal_hashes_just_when_they_are_equal(numbers: list[int], length: int) -> None:
    runs = [tuple(numbers[start : start + length]) for start in range(len(numbers) - length + 1)]
    hashes = ngram_hashes(_hashes(numbers), length).tolist()
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs)) == len(set(zip(hashes, runs, strict=True)))


@given(NUMBERS)
def test_later_copies_are_all_but_the_first_of_each(numbers: list[int]) -> None:
    expected = [place for place, number in enumerate(numbers) if number in numbers[:place]]
    assert sorted(later_copies(_hashes(numbers)).tolist()) == expected


@given(NUMBERS.filter(bool))
def test_of_the_commonest_the_first_one_is_found(numbers: list[int]) -> None:
    number, count = Counter(numbers).most_common(1)[0]
    assert commonest(_hashes(numbers)) == (count, numbers.index(number))


@pytest.mark.parametrize("length", [LONGEST_RUN, 13])
def test_long_runs_differ_when_one_place_does(length: int) -> None:
    numbers = list(range(length))
    first = ngram_hashes(_hashes(numbers), length)
    changed = [ngram_hashes(_hashes([*numbers[:n], 99, *numbers[n + 1 :]]), length)[0] for n in range(length)]
    assert len({int(first[0]), *map(int, changed)}) == length + 1
