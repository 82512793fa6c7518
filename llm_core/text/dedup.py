"""Exact and near duplicates: the first document in order is kept, later copies of it are rejected.

Near copies are found with one-permutation MinHash (Li, Owen and Zhang 2012) of word shingles: a shingle's hash names
one of P bins and competes there for the smallest value, so that a text is hashed once and not P times. Empty bins are
filled by optimal densification (Shrivastava 2017) for the lookup only: locality-sensitive hashing in bands (Leskovec
et al., Mining of Massive Datasets, ch. 3). Each candidate is confirmed by the similarity that the two signatures
estimate, whose standard error is at most 0.5 / sqrt(P): of the pairs right at the threshold half are confirmed.

The index is the signatures of what was kept, in files that are only ever added to: a night looks its own documents up
in it and adds them.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_core.text.document import Rejection

Hashes = npt.NDArray[np.uint64]
Bins = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.int64]

EMPTY = np.uint32(0xFFFFFFFF)
CANDIDATE_RECALL = 0.99
# Odd multipliers of splitmix64 and MurmurHash3.
MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
SIGNATURES, EXACT = "signatures.npy", "exact.npy"

Place = Callable[[int], str]
"""Names the document in a row of a shard."""


def signature(shingles: Hashes, bins: int) -> Bins:
    """The smallest 32-bit value in each bin, EMPTY where no shingle fell; (bins,)."""
    smallest = np.full(bins, EMPTY)
    number = ((shingles >> np.uint64(32)) * np.uint64(bins)) >> np.uint64(32)
    np.minimum.at(smallest, number.astype(np.intp), shingles.astype(np.uint32))
    return smallest


def exact_hash(text: str) -> Hashes:
    """128 bits that texts share when they differ in letter case and white space at most; (2,)."""
    content = " ".join(text.casefold().split()).encode()
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), dtype="<u8")


def banding(similarity: float, bins: int) -> tuple[int, int]:
    """Bands and rows of the lookup: the longest rows that still find 99 % of the pairs right at the threshold."""
    for rows in range(bins // 2, 1, -1):
        if expected_recall(similarity, bins // rows, rows) >= CANDIDATE_RECALL:
            return bins // rows, rows
    return bins, 1


def expected_recall(similarity: float, bands: int, rows: int) -> float:
    """Share of the pairs of this similarity that become candidates: 1 - (1 - s^rows)^bands."""
    return 1 - (1 - similarity**rows) ** bands


@dataclass(frozen=True)
class Sketches:
    """What the documents of one shard are recognised by, a row each."""

    signatures: Bins
    """(documents, bins)"""
    exact: Hashes
    """(documents, 2)"""

    def write(self, folder: Path) -> None:
        """Write the two arrays into `folder`."""
        np.save(folder / SIGNATURES, self.signatures)
        np.save(folder / EXACT, self.exact)

    @classmethod
    def read(cls, folder: Path) -> Sketches:
        """Memory-map what `write` wrote."""
        arrays = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in (SIGNATURES, EXACT))
        return cls(*arrays)

    def __getitem__(self, rows: Rows) -> Sketches:
        return Sketches(self.signatures[rows], self.exact[rows])

    def __len__(self) -> int:
        return len(self.exact)


_Compare = Callable[[Sketches, int, Sketches, Rows], tuple[int, str] | None]


class Index:
    """The documents kept so far, in shards, and the copies of them among the next ones."""

    def __init__(self, similarity: float, bins: int) -> None:
        self.similarity = similarity
        self._bands, self._rows = banding(similarity, bins)
        self._shards: list[tuple[int, Sketches, Place]] = []
        self._unread: list[int] = []
        self._near, self._exact = _Table(), _Table()
        self._count = 0

    def add(self, kept: Sketches, place: Place) -> None:
        """Remember a shard of kept documents; `place` names the one in a row. Looked into when first needed."""
        self._unread.append(len(self._shards))
        self._shards.append((self._count, kept, place))
        self._count += len(kept)

    def copies(self, sketches: Sketches, place: Place) -> dict[int, Rejection]:
        """Which rows of a new shard are copies of kept documents, or of earlier rows that are none, and why."""
        self._read_the_unread()
        found: dict[int, Rejection] = {}
        self._mark(found, sketches, place, sketches.exact[:, :1], self._exact, self._same)
        if self.similarity < 1:
            keys = self._band_keys(sketches.signatures)
            self._mark(found, sketches, place, keys, self._near, self._alike)
        return found

    def _mark(
        self, found: dict[int, Rejection], new: Sketches, place: Place, keys: Hashes, table: _Table, compare: _Compare
    ) -> None:
        """Compare every row that shares a key with a kept document, or with an earlier row that is no copy."""
        earlier, groups = table.find(keys), _groups(keys)
        members: dict[int, list[int]] = defaultdict(list)
        for row in sorted(earlier.keys() | groups.keys()):
            if row in found:
                continue
            beside = sorted({other for group in groups.get(row, ()) for other in members[group]})
            match = self._match(new, row, earlier[row], compare) if row in earlier else None
            if match is None and beside and (hit := compare(new, row, new, np.array(beside))) is not None:
                match = _rejection(hit, place)
            if match is not None:
                found[row] = match
                continue
            for group in groups.get(row, ()):
                members[group].append(row)

    def _match(self, new: Sketches, row: int, numbers: Rows, compare: _Compare) -> Rejection | None:
        """Compare a row with kept documents, given by their ascending numbers; the first shard with a copy counts."""
        for start, kept, place in self._shards:
            first, last = numbers.searchsorted((start, start + len(kept)))
            if first < last and (hit := compare(new, row, kept, numbers[first:last] - start)) is not None:
                return _rejection(hit, place)
        return None

    def _same(self, new: Sketches, row: int, kept: Sketches, rows: Rows) -> tuple[int, str] | None:
        equal = rows[(kept.exact[rows] == new.exact[row]).all(axis=1)]
        return (int(equal[0]), "") if len(equal) else None

    def _alike(self, new: Sketches, row: int, kept: Sketches, rows: Rows) -> tuple[int, str] | None:
        estimates = similarities(new.signatures[row], kept.signatures[rows])
        best = int(estimates.argmax())
        return (int(rows[best]), f"{estimates[best]:.2f}") if estimates[best] >= self.similarity else None

    def _read_the_unread(self) -> None:
        for number in self._unread:
            start, kept, _ = self._shards[number]
            ids = np.arange(start, start + len(kept))
            self._exact.add(np.asarray(kept.exact[:, 0]), ids)
            if self.similarity < 1:
                self._near.add(self._band_keys(np.asarray(kept.signatures)).ravel(), ids.repeat(self._bands))
        self._unread.clear()

    def _band_keys(self, signatures: Bins) -> Hashes:
        """One 64-bit key for each band of each document; (documents, bands)."""
        filled = densified(signatures)[:, : self._bands * self._rows].astype(np.uint64)
        bands = filled.reshape(len(filled), self._bands, self._rows)
        keys = np.broadcast_to(np.arange(self._bands, dtype=np.uint64), bands.shape[:2]).copy()
        for row in range(self._rows):
            keys = (keys ^ bands[:, :, row]) * MIX[0]
            keys ^= keys >> np.uint64(29)
        return keys


def similarities(one: Bins, others: Bins) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of a signature, (bins,), to each of `others`, (n, bins)."""
    both_empty = ((others == EMPTY) & (one == EMPTY)).sum(axis=1)
    equal = ((others == one) & (one != EMPTY)).sum(axis=1)
    return equal / np.maximum(len(one) - both_empty, 1)


def densified(signatures: Bins) -> Bins:
    """Signatures whose empty bins took the value of a full one, found by the same probes in every document."""
    filled = np.array(signatures)
    empty = filled == EMPTY
    documents, bins = np.nonzero(empty & ~empty.all(axis=1, keepdims=True))
    attempt = 0
    while len(bins):
        attempt += 1
        probes = _mixed(bins.astype(np.uint64) * MIX[1] + np.uint64(attempt)) % np.uint64(filled.shape[1])
        values = signatures[documents, probes.astype(np.intp)]
        hit = values != EMPTY
        filled[documents[hit], bins[hit]] = values[hit]
        documents, bins = documents[~hit], bins[~hit]
    return filled


class _Table:
    """Which documents have a key: sorted runs that are merged as they grow, so that adding stays cheap."""

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, Rows]] = []

    def add(self, keys: Hashes, ids: Rows) -> None:
        """Remember that document `ids[i]` has key `keys[i]`."""
        if not len(keys):
            return
        order = keys.argsort(kind="stable")
        self._runs.append((keys[order], ids[order]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 2 * len(self._runs[-1][0]):
            (later, later_ids), (keys, ids) = self._runs.pop(), self._runs.pop()
            keys, ids = np.concatenate((keys, later)), np.concatenate((ids, later_ids))
            order = keys.argsort(kind="stable")
            self._runs.append((keys[order], ids[order]))

    def find(self, keys: Hashes) -> Mapping[int, Rows]:
        """For each row of `keys`, (n, k), that has any: the documents that share a key with it, ascending."""
        found: dict[int, list[Rows]] = defaultdict(list)
        flat = keys.ravel()
        order = flat.argsort()
        for known, ids in self._runs:
            first = known.searchsorted(flat[order], side="left")
            last = known.searchsorted(flat[order], side="right")
            for hit in np.nonzero(last > first)[0]:
                found[int(order[hit]) // keys.shape[1]].append(ids[first[hit] : last[hit]])
        return {row: np.unique(np.concatenate(numbers)) for row, numbers in found.items()}


def _groups(keys: Hashes) -> dict[int, list[int]]:
    """For each row of `keys`, (n, k), that shares some with other rows: names of those keys."""
    _, inverse, counts = np.unique(keys.ravel(), return_inverse=True, return_counts=True)
    groups: dict[int, list[int]] = defaultdict(list)
    for position in np.nonzero(counts[inverse] > 1)[0]:
        groups[int(position) // keys.shape[1]].append(int(inverse[position]))
    return groups


def _rejection(match: tuple[int, str], place: Place) -> Rejection:
    row, estimate = match
    if estimate:
        return Rejection("near_duplicate", f"similarity {estimate} to {place(row)}")
    return Rejection("duplicate", f"same text as {place(row)}")


def _mixed(values: Hashes) -> Hashes:
    values = (values ^ (values >> np.uint64(30))) * MIX[1]
    values = (values ^ (values >> np.uint64(27))) * MIX[2]
    return values ^ (values >> np.uint64(31))
