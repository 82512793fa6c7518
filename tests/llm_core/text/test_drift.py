"""Drift is the Jensen-Shannon distance, told apart from what chance alone shows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from llm_core.text.drift import drift, drift_of_last, drifts_of_all, jensen_shannon, octaves
from llm_core.text.profile import Profile, length_bin

counts = st.dictionaries(st.integers(0, 8), st.integers(1, 1000), min_size=1)


def batch(name: str, lengths: dict[int, int], language: str = "en") -> Profile:
    """A batch with so many documents of each length."""
    number = sum(lengths.values())
    return Profile(
        name,
        split_documents=Counter(train=number),
        language_documents=Counter({language: number}),
        lengths=Counter({length_bin(size): documents for size, documents in lengths.items()}),
    )


@given(counts, counts)
def test_the_distance_is_that_of_scipy(found: dict[int, int], expected: dict[int, int]) -> None:
    keys = sorted(set(found) | set(expected))
    rows = [[sample.get(key, 0) for key in keys] for sample in (found, expected)]
    assert jensen_shannon(found, expected) == pytest.approx(jensenshannon(*rows, base=2), abs=1e-6)


@given(counts, counts)
def test_the_distance_is_symmetric_and_between_0_and_1(found: dict[int, int], expected: dict[int, int]) -> None:
    distance = jensen_shannon(found, expected)
    assert 0 <= distance <= 1
    assert distance == pytest.approx(jensen_shannon(expected, found), abs=1e-9)


@given(counts, st.integers(2, 9))
def test_the_same_shares_of_more_documents_are_no_drift(found: dict[int, int], times: int) -> None:
    assert jensen_shannon(found, {key: times * count for key, count in found.items()}) < 1e-7


def test_nothing_in_common_is_a_distance_of_1() -> None:
    assert jensen_shannon({"en": 3}, {"zh": 9}) == 1.0


@pytest.mark.parametrize(("size", "other"), [(30, 30), (30, 3000), (100, 3000), (1000, 1000)])
@pytest.mark.parametrize("shares", [[0.05, 0.1, 0.3, 0.3, 0.2, 0.05], [0.97, 0.03], [0.9, *[0.1 / 9] * 9]])
def test_chance_is_exceeded_once_in_a_thousand_by_samples_of_one_distribution(
    size: int, other: int, shares: list[float]
) -> None:
    rng = np.random.default_rng(size + other)
    samples = [
        tuple(dict(enumerate(map(int, rng.multinomial(number, shares)))) for number in (size, other))
        for _ in range(1000)
    ]
    drifts = [drift(*pair) for pair in samples]
    assert sum(each.distance > each.by_chance for each in drifts) <= 5
    assert max(each.distance for each in drifts) > max(each.by_chance for each in drifts) / 2


def test_lengths_are_compared_by_doublings() -> None:
    assert octaves(batch("1", {1024: 2, 2000: 3, 2048: 5})) == {11: 5, 12: 5}


def test_the_last_batch_is_compared_with_all_earlier_ones_together() -> None:
    batches = [batch("1", {100: 60}), batch("2", {5000: 60}), batch("3", {100: 30, 5000: 30})]
    assert drift_of_last(batches)["lengths"].distance == pytest.approx(0, abs=1e-7)
    assert drift_of_last(batches[:2])["lengths"].distance == 1.0
    assert drift_of_last(batches)["languages"].by_chance == 0.0


def test_languages_drift_by_their_own_mix() -> None:
    found = drift_of_last([batch("1", {100: 60}), batch("2", {100: 60}, language="zh")])
    assert (found["lengths"].distance, found["languages"].distance) == (pytest.approx(0, abs=1e-7), 1.0)


def test_without_documents_on_both_sides_there_is_no_drift() -> None:
    assert drift_of_last([]) == drift_of_last([batch("1", {9: 1})]) == {}
    assert drift_of_last([batch("1", {9: 1}), Profile("2")]) == {}
    assert [len(each) for each in drifts_of_all([Profile("1"), batch("2", {9: 1}), batch("3", {9: 1})])] == [0, 0, 2]
