"""Sampled rows are different, reproducible, fair, and the only ones that are read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_core.text.samples import draw, sample_rows


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """100 numbered rows in three files, seven rows to a row group; one file is empty."""
    paths = []
    for number, rows in enumerate((range(40), range(0), range(40, 100))):
        paths.append(tmp_path / f"{number}.parquet")
        table = pa.table({"number": pa.array(rows, pa.int64()), "text": pa.array([f"text {row}" for row in rows])})
        pq.write_table(table, paths[-1], row_group_size=17)
    return paths


def test_the_drawn_rows_are_read_in_the_order_they_were_drawn(shards: list[Path]) -> None:
    rows = sample_rows(shards, ["number", "text"], 20, "seed", dict)
    assert [row["number"] for row in rows] == draw(100, 20, "seed")
    assert all(row["text"] == f"text {row['number']}" for row in rows)


def test_more_than_there_are_is_all_of_them(shards: list[Path]) -> None:
    rows = sample_rows(shards, ["number"], 1000, "seed", dict)
    assert sorted(row["number"] for row in rows) == list(range(100))
    assert sample_rows([], ["number"], 5, "seed", dict) == sample_rows(shards[1:2], ["number"], 5, "seed", dict) == []


@given(st.integers(0, 200), st.integers(0, 50), st.text())
def test_what_is_drawn_is_different_and_in_range(size: int, count: int, seed: str) -> None:
    drawn = draw(size, count, seed)
    assert len(drawn) == len(set(drawn)) == min(size, count)
    assert all(0 <= number < size for number in drawn)


def test_every_row_is_as_likely_as_any_other() -> None:
    seen = Counter(number for seed in range(2000) for number in draw(10, 3, str(seed)))
    assert all(500 < seen[number] < 700 for number in range(10))


def test_another_seed_draws_other_rows() -> None:
    assert draw(10**6, 20, "a") != draw(10**6, 20, "b")
    assert draw(10**6, 3, "a") == draw(10**6, 20, "a")[:3]
