"""Exact and near duplicates: the first document in order is kept, later copies of it are rejected."""

from __future__ import annotations

import hashlib
import re
from zlib import crc32

import numpy as np
import numpy.typing as npt
from datasketch import MinHash, MinHashLSH

from llm_core.text.document import Document, Rejection
from llm_core.text.filters import UNSPACED

SHINGLE_WORDS = 5
SHINGLE_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
# Odd 64-bit multipliers (of splitmix64 and MurmurHash3), one for each position in a shingle.
MULTIPLIERS = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53],
    dtype=np.uint64,
)
# Bounds the matrix of (shingles x permutations) hash values.
SHINGLES_AT_ONCE = 8192
SEED = 1
SCHEME = "affine32"
CANDIDATE_RECALL = 0.99


class Deduplicator:
    """Remembers the documents it accepted, and recognises copies of them.

    Near copies are found with MinHash signatures of word shingles and locality-sensitive hashing (Broder 1997; Leskovec
    et al., Mining of Massive Datasets, ch. 3); each candidate is confirmed by the similarity that the two signatures
    estimate, whose standard error is at most 0.5 / sqrt(permutations).
    """

    def __init__(self, similarity: float, permutations: int) -> None:
        self.similarity = similarity
        self._empty = MinHash(num_perm=permutations, seed=SEED, scheme=SCHEME, hashfunc=int)
        self._index = MinHashLSH(num_perm=permutations, params=banding(similarity, permutations))
        self._exact: dict[bytes, str] = {}
        self._kept: list[tuple[MinHash, str]] = []

    def check(self, document: Document) -> Rejection | None:
        """Why this document is a copy of an earlier one; None, and it is remembered, when it is not."""
        content = hashlib.sha256(" ".join(document.text.casefold().split()).encode()).digest()
        if content in self._exact:
            return Rejection("duplicate", f"same text as {self._exact[content]}")
        signature = self._signature(document.text)
        nearest = self._nearest(signature)
        if nearest is not None:
            return Rejection("near_duplicate", f"similarity {nearest[0]:.2f} to {nearest[1]}")
        self._exact[content] = document.place
        self._index.insert(len(self._kept), signature)
        self._kept.append((signature, document.place))
        return None

    def _signature(self, text: str) -> MinHash:
        signature = self._empty.copy()
        hashes = shingle_hashes(text)
        for start in range(0, len(hashes), SHINGLES_AT_ONCE):
            signature.update_batch(hashes[start : start + SHINGLES_AT_ONCE].tolist())
        return signature

    def _nearest(self, signature: MinHash) -> tuple[float, str] | None:
        best: tuple[float, str] | None = None
        for index in sorted(self._index.query(signature)):
            kept, place = self._kept[index]
            similarity = signature.jaccard(kept)
            if similarity >= self.similarity and (best is None or similarity > best[0]):
                best = similarity, place
        return best


def shingle_hashes(text: str) -> npt.NDArray[np.uint32]:
    """32-bit hashes of all runs of five words, letter case and punctuation aside; (max(num_words - 4, 1),)."""
    found = SHINGLE_WORD.findall(text.casefold())
    found += [""] * (SHINGLE_WORDS - len(found))
    known = {word: crc32(word.encode()) for word in set(found)}
    hashed = np.fromiter((known[word] for word in found), dtype=np.uint64, count=len(found))
    rows = np.lib.stride_tricks.sliding_window_view(hashed, SHINGLE_WORDS)
    mixed: npt.NDArray[np.uint64] = (rows * MULTIPLIERS).sum(axis=1, dtype=np.uint64)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def banding(similarity: float, permutations: int) -> tuple[int, int]:
    """Bands and rows of the index: the longest rows that still find 99 % of the pairs right at the threshold."""
    for rows in range(permutations // 2, 1, -1):
        bands = permutations // rows
        if 1 - (1 - similarity**rows) ** bands >= CANDIDATE_RECALL:
            return bands, rows
    return permutations, 1
