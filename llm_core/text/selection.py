"""Selection: cleaned shards, in their order, without the copies of what came before.

Shard by shard, against the index of everything kept so far. What is kept of a shard follows from it and from the
shards before it, so its key contains theirs: a night finds all earlier shards done and looks at its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from llm_core.config import Clean
from llm_core.parts import Memo, key_of
from llm_core.text.cleaning import PASSAGES, reject, without_passages
from llm_core.text.dedup import Hashes, Index, Sketches
from llm_core.text.document import CleanDocument, Rejection
from llm_core.text.measures import Measures
from llm_core.text.profile import Profile
from llm_core.text.shards import DOCUMENTS, REJECTED, Rejected, ShardWriter, read_documents, read_shard, shards

SEEN = "seen.npy"
PROFILE = "profile.json"


class Selection:
    """Takes cleaned shards one after another and gives what is left of each."""

    def __init__(self, cfg: Clean, code: str, memo: Memo) -> None:
        self._cfg, self._memo = cfg, memo
        self._index = Index(cfg.near_duplicate_similarity, cfg.minhash_permutations)
        self._passages = _Passages()
        facts = {"similarity": cfg.near_duplicate_similarity, "code": code, "min_words": cfg.min_words}
        self._key = key_of("selection", facts)

    def take(self, cleaned: Path, key: str, profile: Profile) -> Path:
        """A folder with the shard's documents that are kept, the copies, their sketches and its `profile`.

        `cleaned` is the shard's folder and `key` its part's; the profile comes with the records that never got here.
        """
        self._key = key_of("selection", {"after": self._key, "cleaned": key, "profile": profile.to_json()})
        place = self._memo.find(self._key) or self._memo.fill(self._key, partial(self._select, cleaned, profile))
        self._index.add(Sketches.read(place), partial(_name, place))
        self._passages.add(place / SEEN)
        return place

    def _select(self, cleaned: Path, profile: Profile, folder: Path) -> None:
        sketches = Sketches.read(cleaned)
        copies = self._index.copies(sketches, partial(_name, cleaned))
        repeats = self._passages.repeats(cleaned / PASSAGES, copies.keys())
        kept: list[int] = []
        with (
            ShardWriter(folder, CleanDocument, DOCUMENTS) as writer,
            ShardWriter(folder, Rejected, REJECTED) as rejected,
        ):
            for entry in _all(cleaned, REJECTED):
                count(profile, entry)
            for row, document in enumerate(read_documents(cleaned, CleanDocument)):
                result = copies.get(row) or self._without(document, repeats.get(row))
                if isinstance(result, Rejection):
                    entry = reject(document, result)
                    rejected.add(entry)
                    count(profile, entry)
                    continue
                kept.append(row)
                writer.add(result, result.num_bytes)
                profile.add(result)
        sketches[np.array(kept, dtype=np.int64)].write(folder)
        np.save(folder / SEEN, self._passages.new_of(cleaned / PASSAGES, kept))
        (folder / PROFILE).write_text(profile.to_json() + "\n", encoding="utf-8")

    def _without(self, document: CleanDocument, repeated: list[bool] | None) -> CleanDocument | Rejection:
        if repeated is None:
            return document
        text = without_passages(document.text, iter(repeated), self._cfg)
        words = len(Measures(text).words)
        if words < max(self._cfg.min_words, 1):
            return Rejection("repeated_text", f"{words} words are left without what came before")
        values = {name: value for name, value in vars(document).items() if name not in ("measures", "text")}
        return CleanDocument(**{**values, "text": text, "num_bytes": len(text.encode())})


class _Passages:
    """Hashes of the long lines or paragraphs of everything kept so far."""

    def __init__(self) -> None:
        self._unread: list[Path] = []
        self._known: Hashes = np.zeros(0, dtype=np.uint64)

    def add(self, path: Path) -> None:
        """Remember a shard's; read when first needed."""
        self._unread.append(path)

    def repeats(self, path: Path, rejected: object) -> dict[int, list[bool]]:
        """For each row that has some: which of its passages came before, in a kept document or in itself."""
        known = self._all()
        seen: set[int] = set()
        found: dict[int, list[bool]] = {}
        for row, hashes in enumerate(_rows(path)):
            if row in rejected or not len(hashes):  # type: ignore[operator]
                continue
            again = np.isin(hashes, known)
            flags = []
            for value, before in zip(hashes.tolist(), again.tolist(), strict=True):
                flags.append(value != 0 and (before or value in seen))
                seen.add(value)
            if any(flags):
                found[row] = flags
        return found

    def new_of(self, path: Path, kept: list[int]) -> Hashes:
        """The sorted hashes of the kept rows' passages that were not known."""
        rows = list(_rows(path))
        hashes = np.unique(np.concatenate([*(rows[row] for row in kept if rows), np.zeros(0, dtype=np.uint64)]))
        return hashes[~np.isin(hashes, self._all())]

    def _all(self) -> Hashes:
        if self._unread:
            self._known = np.unique(np.concatenate([self._known, *map(np.load, self._unread)]))
            self._unread.clear()
        return self._known


def _rows(path: Path) -> Iterator[Hashes]:
    with np.load(path, allow_pickle=False) as arrays:
        yield from np.split(arrays["hashes"], np.cumsum(arrays["counts"])[:-1])


def _all(folder: Path, stem: str) -> Iterator[Rejected]:
    for path in shards(folder, stem):
        yield from read_shard(path, Rejected)


def count(profile: Profile, entry: Rejected) -> None:
    """Count a rejected record in the profile of its batch."""
    size = entry.end - entry.start if entry.unit == "byte" else 0
    suites = (entry.suite,) if entry.suite else ()
    profile.reject(Rejection(entry.reason, entry.detail), size, suites)


def _name(folder: Path, row: int) -> str:
    """Where the document in a row of a folder's shards comes from."""
    return _names(folder)[row]


@lru_cache(maxsize=8)
def _names(folder: Path) -> list[str]:
    columns = ["source", "start", "end"]
    rows = (row for path in shards(folder, DOCUMENTS) for row in pq.read_table(path, columns=columns).to_pylist())
    return [f"{row['source']}[{row['start']}:{row['end']}]" for row in rows]
