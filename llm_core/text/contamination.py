"""Decontamination: training documents that hold text of an evaluation suite are kept out.

A document counts as contaminated when it shares a run of N words with a suite, letter case and punctuation aside
(N = 13: Brown et al. 2020, appendix C). Items of a suite that are shorter count as a whole, from 8 words on; shorter
ones still say too little to be told from chance.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_core.parts import key_of
from llm_core.text.document import Document, Rejection
from llm_core.text.measures import Measures, shingle_hashes
from llm_core.text.shards import read_documents

Hashes = npt.NDArray[np.uint64]

SHORTEST_ITEM = 8
NAMES, GRAMS = "suites.json", "grams.npz"
# Bits of the filter for each run of words: one lookup in 16 that finds nothing still has to be looked up exactly.
FILTER_FACTOR = 16
SMALLEST_FILTER = 2**16


class Suites:
    """The runs of words of all evaluation suites."""

    def __init__(self, names: Sequence[str], grams: Mapping[int, tuple[Hashes, npt.NDArray[np.int64]]]) -> None:
        self.names = tuple(names)
        self._grams = {length: (_filter(hashes), hashes, owners) for length, (hashes, owners) in grams.items()}

    @classmethod
    def of(cls, names: Sequence[str], documents: Iterable[tuple[str, Document]], words: int) -> Suites:
        """Learn the suites' texts, given as (suite, document), in runs of `words`."""
        found: dict[int, list[tuple[Hashes, int]]] = {}
        for suite, document in documents:
            owner = names.index(suite)
            measures = Measures(document.text)
            length = min(len(measures.folded.names), words)
            if length >= min(SHORTEST_ITEM, words):
                found.setdefault(length, []).append((shingle_hashes(measures, length), owner))
        return cls(names, {length: _merged(pieces) for length, pieces in sorted(found.items())})

    def write(self, folder: Path) -> None:
        """Write names and runs into `folder`."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for length, (_, hashes, owners) in self._grams.items():
            arrays |= {f"hashes{length}": hashes, f"owners{length}": owners}
        np.savez(folder / GRAMS, **arrays)  # type: ignore[arg-type]
        (folder / NAMES).write_text(json.dumps(self.names), encoding="utf-8")

    @staticmethod
    @lru_cache(maxsize=2)
    def read(folder: Path) -> Suites:
        """Read what `write` wrote; once a process."""
        with np.load(folder / GRAMS, allow_pickle=False) as arrays:
            lengths = sorted(int(name.removeprefix("hashes")) for name in arrays if name.startswith("hashes"))
            grams = {length: (arrays[f"hashes{length}"], arrays[f"owners{length}"]) for length in lengths}
        return Suites(json.loads((folder / NAMES).read_text(encoding="utf-8")), grams)

    def check(self, document: Document) -> tuple[Rejection, str] | None:
        """Why this document is contaminated, and by which suite; None where it is not."""
        for length, (known, hashes, owners) in self._grams.items():
            shingles = shingle_hashes(document.measures, length)
            for position in np.nonzero(known[shingles & np.uint64(len(known) - 1)])[0]:
                place = int(hashes.searchsorted(shingles[position]))
                if place < len(hashes) and hashes[place] == shingles[position]:
                    suite = self.names[int(owners[place])]
                    return Rejection("contaminated", f"{length} words in a row of {suite}, from word {position}"), suite
        return None


@dataclass(frozen=True)
class SuiteGrams:
    """The part of a clean stage that learns the suites: folder `documents`/NUMBER holds the shards of one."""

    documents: Path
    names: tuple[str, ...]
    files: Mapping[str, str]
    """sha256 of all those shards by name."""
    words: int
    code: str

    @property
    def key(self) -> str:
        facts = {"names": self.names, "files": dict(self.files), "words": self.words, "code": self.code}
        return key_of("suites", facts)

    def make(self, folder: Path) -> None:
        """Write what `Suites.read` reads."""
        Suites.of(self.names, self._documents(), self.words).write(folder)

    def _documents(self) -> Iterator[tuple[str, Document]]:
        for number, name in enumerate(self.names):
            yield from ((name, document) for document in read_documents(self.documents / f"{number:03d}", Document))


def _merged(pieces: Sequence[tuple[Hashes, int]]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Sorted hashes without repeats, each with the first suite that has it."""
    hashes = np.concatenate([piece for piece, _ in pieces])
    owners = np.repeat([owner for _, owner in pieces], [len(piece) for piece, _ in pieces])
    values, first = np.unique(hashes, return_index=True)
    return values, owners[first]


def _filter(hashes: Hashes) -> npt.NDArray[np.bool_]:
    size = max(SMALLEST_FILTER, 1 << (FILTER_FACTOR * len(hashes) - 1).bit_length())
    known = np.zeros(size, dtype=bool)
    known[hashes & np.uint64(size - 1)] = True
    return known
