"""A few rows drawn from Parquet shards, without reading the others into memory."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

# Rows held in memory at once: a row may be megabytes long.
BATCH_ROWS = 8


Row = Mapping[str, Any]
Taken = TypeVar("Taken")


def sample_rows(
    shards: Sequence[Path], columns: Sequence[str], count: int, seed: str, take: Callable[[Row], Taken]
) -> list[Taken]:
    """What `take` makes of up to `count` different rows, each row as likely as any other, in the order they are drawn.

    Equal shards and an equal seed draw the same rows: what is drawn follows from hashes, not from a generator's state.
    A row is let go once it was taken, so that memory holds a row group at most.
    """
    sizes = [pq.read_metadata(shard).num_rows for shard in shards]
    ends = list(accumulate(sizes))
    drawn = draw(ends[-1] if ends else 0, count, seed)
    taken: dict[int, Taken] = {}
    for number, shard in enumerate(shards):
        first = ends[number] - sizes[number]
        wanted = sorted(index - first for index in drawn if bisect_right(ends, index) == number)
        taken |= {first + index: take(row) for index, row in _read_rows(shard, columns, wanted)}
    return [taken[index] for index in drawn]


def draw(size: int, count: int, seed: str) -> list[int]:
    """Up to `count` different numbers below `size`, drawn with the hash of the seed and a running number."""
    drawn: dict[int, None] = {}
    attempt = 0
    while len(drawn) < min(count, size):
        digest = hashlib.sha256(f"{seed} {attempt}".encode()).digest()
        drawn.setdefault(int.from_bytes(digest, "big") % size)
        attempt += 1
    return list(drawn)


def _read_rows(shard: Path, columns: Sequence[str], wanted: Sequence[int]) -> Iterator[tuple[int, Row]]:
    if not wanted:
        return
    with pq.ParquetFile(shard, pre_buffer=False) as file:
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            inside = [index for index in wanted if first <= index < end]
            yield from _read_group(file, group, columns, inside, first)
            first = end


def _read_group(
    file: pq.ParquetFile, group: int, columns: Sequence[str], wanted: Sequence[int], first: int
) -> Iterator[tuple[int, Row]]:
    if not wanted:
        return
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=list(columns)):
        for index in wanted:
            if first <= index < first + batch.num_rows:
                yield index, batch.slice(index - first, 1).to_pylist()[0]
        first += batch.num_rows
        if first > wanted[-1]:
            return
