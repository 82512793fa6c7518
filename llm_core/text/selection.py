"""Selection: cleaned shards, in their order, without the copies of what came before.

Shard by shard, against the index of everything kept so far. What is kept of a shard follows from it and from the
shards before it, so its key contains theirs: a night finds all earlier shards done and looks at its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
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
        kept: list[int] = []
        seen: set[int] = set()  # hashes of the passages of the documents kept here
        with (
            ShardWriter(folder, CleanDocument, DOCUMENTS) as writer,
            ShardWriter(folder, Rejected, REJECTED) as rejected,
        ):
            for entry in _all(cleaned, REJECTED):
                count(profile, entry)
            documents = read_documents(cleaned, CleanDocument)
            for row, (document, passages) in enumerate(zip(documents, self._passages.of(cleaned), strict=True)):
                result = copies.get(row) or self._without(document, passages.repeated(seen))
                if isinstance(result, Rejection):
                    entry = reject(document, result)
                    rejected.add(entry)
                    count(profile, entry)
                    continue
                kept.append(row)
                seen.update(passages.hashes.tolist())
                writer.add(result, result.num_bytes)
                profile.add(result)
        sketches[np.array(kept, dtype=np.int64)].write(folder)
        np.save(folder / SEEN, self._passages.new_of(seen))
        (folder / PROFILE).write_text(profile.to_json() + "\n", encoding="utf-8")

    def _without(self, document: CleanDocument, repeated: list[bool]) -> CleanDocument | Rejection:
        if not any(repeated):
            return document
        text = without_passages(document.text, iter(repeated), self._cfg)
        words = len(Measures(text).words)
        if words < max(self._cfg.min_words, 1):
            return Rejection("repeated_text", f"{words} words are left without what came before")
        values = {name: value for name, value in vars(document).items() if name not in ("measures", "text")}
        return CleanDocument(**{**values, "text": text, "num_bytes": len(text.encode())})


@dataclass(frozen=True)
class _Row:
    """The passages of one document."""

    hashes: Hashes
    is_known: npt.NDArray[np.bool_]
    """Whether each was in an earlier shard."""

    def repeated(self, seen: Set[int]) -> list[bool]:
        """Which of the long ones came before: in an earlier shard, among the `seen` ones, or in the document itself."""
        own: set[int] = set()
        flags = []
        for value, is_known in zip(self.hashes.tolist(), self.is_known.tolist(), strict=True):
            flags.append(value != 0 and (is_known or value in seen or value in own))
            own.add(value)
        return flags


class _Passages:
    """Hashes of the long lines or paragraphs of everything kept so far."""

    def __init__(self) -> None:
        self._unread: list[Path] = []
        self._known: Hashes = np.zeros(0, dtype=np.uint64)

    def add(self, path: Path) -> None:
        """Remember a shard's; read when first needed."""
        self._unread.append(path)

    def of(self, cleaned: Path) -> Iterator[_Row]:
        """The passages of each document of a cleaned shard."""
        with np.load(cleaned / PASSAGES, allow_pickle=False) as arrays:
            hashes, ends = arrays["hashes"], np.cumsum(arrays["counts"], dtype=np.int64)
        is_known, start = self._knows(hashes), 0
        for end in ends.tolist():
            yield _Row(hashes[start:end], is_known[start:end])
            start = end

    def new_of(self, seen: Set[int]) -> Hashes:
        """Those of the hashes that were in no earlier shard, sorted."""
        hashes = np.array(sorted(seen), dtype=np.uint64)
        return hashes[~self._knows(hashes)]

    def _knows(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        if self._unread:
            self._known = np.unique(np.concatenate([self._known, *map(np.load, self._unread)]))
            self._unread.clear()
        places = self._known.searchsorted(hashes)
        return self._known.take(places, mode="clip") == hashes if len(self._known) else np.zeros(len(hashes), bool)


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
