"""Copies are recognised whatever shard they are in, and how surely is stated and measured."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from llm_core.text.dedup import (
    EMPTY,
    Index,
    Sketches,
    banding,
    densified,
    exact_hash,
    expected_recall,
    signature,
    similarities,
)
from llm_core.text.measures import Measures, shingle_hashes

BINS = 128
WORDS = [f"word{number}" for number in range(5000)]


def text(seed: int, length: int = 400) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def edited(original: str, changes: int, seed: int = 0) -> str:
    """`changes` words replaced: a text of n words then shares about n - 5 * changes shingles with its original."""
    rng = random.Random(seed)
    found = original.split()
    for place in rng.sample(range(len(found)), changes):
        found[place] = f"other{rng.random()}"
    return " ".join(found)


def sketches(*texts: str) -> Sketches:
    rows = [signature(shingle_hashes(Measures(entry)), BINS) for entry in texts]
    exact = [exact_hash(entry) for entry in texts]
    return Sketches(np.array(rows).reshape(-1, BINS), np.array(exact, dtype=np.uint64).reshape(-1, 2))


def copies(index: Index, *texts: str, name: str = "new") -> dict[int, str]:
    found = index.copies(sketches(*texts), lambda row: f"{name}{row}")
    return {row: f"{rejection.reason}: {rejection.detail}" for row, rejection in found.items()}


def test_a_copy_in_the_same_shard_is_found_and_the_first_one_stays() -> None:
    first = text(1)
    found = copies(Index(0.8, BINS), text(2), first, text(3), first.upper() + " \n")
    assert found == {3: "duplicate: same text as new1"}


def test_a_copy_of_an_earlier_shards_document_is_found_and_named() -> None:
    index = Index(0.8, BINS)
    index.add(sketches(text(1), text(2)), lambda row: f"a{row}")
    index.add(sketches(text(3)), lambda row: f"b{row}")
    found = copies(index, text(4), text(3), edited(text(2), 4))
    assert found[1] == "duplicate: same text as b0"
    assert found[2].startswith("near_duplicate: similarity 0.") and found[2].endswith(" to a1")
    assert 0 not in found


def test_a_copy_of_a_copy_is_compared_with_what_was_kept_only() -> None:
    chain = [text(1)]
    for seed in range(6):
        chain.append(edited(chain[-1], 6, seed))  # each like its neighbour, the last unlike the first
    found = copies(Index(0.8, BINS), *chain)
    assert 1 in found and 0 not in found
    kept = [row for row in range(len(chain)) if row not in found]
    assert len(kept) > 1 and all(found[row].endswith(tuple(f"new{other}" for other in kept)) for row in found)


def test_different_texts_are_kept_however_many_there_are() -> None:
    assert copies(Index(0.8, BINS), *(text(seed, 60) for seed in range(300))) == {}


def test_short_texts_are_compared_too() -> None:
    assert set(copies(Index(0.8, BINS), "one two three", "four five six", "One, two: three!", "")) == {2}


def test_a_threshold_of_one_looks_for_equal_texts_only() -> None:
    assert set(copies(Index(1, BINS), text(1), edited(text(1), 1), text(1))) == {2}


def test_where_a_shard_ends_changes_nothing() -> None:
    texts = [text(seed % 30) if seed % 3 else edited(text(seed % 30), 5, seed) for seed in range(90)]
    together = set(copies(Index(0.8, BINS), *texts))
    index, apart = Index(0.8, BINS), set()
    for start in range(0, 90, 7):
        piece = texts[start : start + 7]
        found = copies(index, *piece)
        apart |= {start + row for row in found}
        kept = [entry for row, entry in enumerate(piece) if row not in found]
        index.add(sketches(*kept), lambda row: str(row))
    assert apart == together


@pytest.mark.parametrize("changes", [2, 8, 20])
def test_the_estimate_is_within_its_stated_error(changes: int) -> None:
    errors = []
    for seed in range(60):
        one, other = text(seed), edited(text(seed), changes, seed)
        shingles = [set(shingle_hashes(Measures(entry)).tolist()) for entry in (one, other)]
        true = len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])
        rows = sketches(one, other).signatures
        errors.append(similarities(rows[0], rows[1:])[0] - true)
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.5 / np.sqrt(BINS) * 1.2


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9])
def test_pairs_at_the_threshold_become_candidates_as_often_as_stated(similarity: float) -> None:
    bands, rows = banding(similarity, BINS)
    assert expected_recall(similarity, bands, rows) >= 0.99
    assert rows == 1 or expected_recall(similarity, BINS // (rows + 1), rows + 1) < 0.99


@pytest.mark.parametrize(("true", "low", "high"), [(0.8, 0.4, 0.65), (0.85, 0.9, 0.99), (0.9, 0.995, 1)])
def test_pairs_are_found_as_often_as_the_how_to_says(true: float, low: float, high: float) -> None:
    draw, num_pairs, size = np.random.default_rng(0), 400, 1000
    shared = round(2 * size * true / (1 + true))

    def side(common: np.ndarray) -> Sketches:
        own = draw.integers(0, 2**64, (num_pairs, size - shared), dtype=np.uint64)
        rows = [signature(np.concatenate(pair), BINS) for pair in zip(common, own, strict=True)]
        return Sketches(np.array(rows), draw.integers(0, 2**64, (num_pairs, 2), dtype=np.uint64))

    common = draw.integers(0, 2**64, (num_pairs, shared), dtype=np.uint64)
    index = Index(0.8, BINS)
    index.add(side(common), str)
    assert low <= len(index.copies(side(common), str)) / num_pairs <= high


def test_empty_bins_take_values_of_full_ones_and_full_ones_stay() -> None:
    row = signature(shingle_hashes(Measures("some seven words that fill few bins")), BINS)
    filled = densified(row[None])[0]
    assert (row == EMPTY).sum() > 100 and not (filled == EMPTY).any()
    assert (filled[row != EMPTY] == row[row != EMPTY]).all() and set(filled) == set(row) - {EMPTY}


def test_sketches_come_back_from_disk(tmp_path: Path) -> None:
    written = sketches(text(1), text(2))
    written.write(tmp_path)
    back = Sketches.read(tmp_path)
    assert (back.signatures == written.signatures).all() and (back.exact == written.exact).all()
    assert len(back) == 2
