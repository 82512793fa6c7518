"""Where a text comes from: the longest runs of words that it shares with the training documents.

A suffix array over the words of all documents (Manber and Myers, 1990) finds, from each place of a text, the longest
run that stands anywhere in them, in time that grows with the logarithm of their size. It is made once, in shards that
bound the memory, and read by memory maps. A word is a run of letters and digits in any case; letters of scripts that
are written without blanks are words of their own. Dimensions: N words of a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
"""Kana, Han, Hangul, Thai: a few of them are written with blanks, and lose nothing."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
SHARD_WORDS = 2**23
"""About 40 MB of English; making a shard takes some 600 MB."""
INDEX = "index.json"
END = 0
"""In place of a word: between documents, so that no run goes over an end."""
Ids = npt.NDArray[np.int64]


class NearestError(ValueError):
    """An index that cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """A document that can be copied from."""

    sha256: str
    source: str
    text: str


@dataclass(frozen=True)
class Passage:
    """A run of words that a text and a training document share."""

    num_words: int
    start: int
    end: int
    """Where it stands in the text, in characters."""
    sha256: str
    source: str
    """The document."""
    first: int
    last: int
    """Where it stands in the document, in characters."""
    passage: str
    """The document's own words, with some around them."""


def make_index(documents: Iterable[Source], folder: Path) -> None:
    """Write the index of these documents whole or not at all; their texts are kept beside it."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    shards = [_write_shard(some, draft / str(number)) for number, some in enumerate(_shards(documents))]
    (draft / INDEX).write_text(json.dumps({"shards": shards}), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(draft, folder)


def nearest(folder: Path, text: str, count: int = 5, least: int = 4, around: int = 60) -> list[Passage]:
    """The `count` longest runs of at least `least` words of `text`, longest first, none inside another.

    `around` characters of the document are shown on both sides. Raises NearestError without an index.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    words = _ids(text)
    runs: list[tuple[int, int, Path, int]] = []
    for shard in _read_shards(folder):
        runs += [(length, place, shard, found) for place, length, found in _runs(shard, words, least)]
    passages: list[Passage] = []
    taken: list[range] = []
    for length, place, shard, found in sorted(runs, key=lambda run: (-run[0], run[1])):
        if len(passages) == count:
            break
        if any(place in others or place + length - 1 in others for others in taken):
            continue
        taken.append(range(place, place + length))
        passages.append(_passage(shard, found, length, spans[place][0], spans[place + length - 1][1], around))
    return passages


def _runs(shard: Path, words: Ids, least: int) -> Iterator[tuple[int, int, int]]:
    """Place in the text, length, and place in the shard of the longest run from each place that continues no other."""
    ids, order = np.load(shard / "ids.npy", mmap_mode="r"), np.load(shard / "order.npy", mmap_mode="r")
    before = 0
    for place in range(len(words)):
        length, found = _longest(ids, order, words[place:])
        if length >= max(least, before):  # from the middle of a run on, its rest is no find of its own
            yield place, length, found
        before = length


def _longest(ids: Ids, order: Ids, words: Ids) -> tuple[int, int]:
    """How many of the first words stand somewhere in the shard in a row, and where."""
    low, high, found = 0, len(order), 0
    for depth, word in enumerate(words):
        new_low, new_high = _bound(ids, order, low, high, depth, word), 0
        new_high = _bound(ids, order, new_low, high, depth, word + 1)
        if new_low == new_high:
            return depth, found
        low, high, found = new_low, new_high, int(order[new_low])
    return len(words), found


def _bound(ids: Ids, order: Ids, low: int, high: int, depth: int, word: int) -> int:
    """First place in the order, between two, whose suffix has at `depth` a word not before this one."""
    while low < high:
        middle = (low + high) // 2
        place = int(order[middle]) + depth
        if (int(ids[place]) if place < len(ids) else END) < word:
            low = middle + 1
        else:
            high = middle
    return low


def _passage(shard: Path, found: int, length: int, start: int, end: int, around: int) -> Passage:
    documents = json.loads((shard / "documents.json").read_text(encoding="utf-8"))
    firsts = np.array([document["first_word"] for document in documents])
    document = documents[int(np.searchsorted(firsts, found, side="right")) - 1]
    text = document["text"]
    spans = [match.span() for match in WORD.finditer(text)]
    first = spans[found - document["first_word"]][0]
    last = spans[found - document["first_word"] + length - 1][1]
    shown = text[max(0, first - around) : last + around]
    return Passage(length, start, end, document["sha256"], document["source"], first, last, shown)


def _shards(documents: Iterable[Source]) -> Iterator[list[tuple[Source, Ids]]]:
    shard: list[tuple[Source, Ids]] = []
    size = 0
    for document in documents:
        words = _ids(document.text)
        if shard and size + len(words) >= SHARD_WORDS:
            yield shard
            shard, size = [], 0
        shard.append((document, words))
        size += len(words) + 1
    if shard:
        yield shard


def _write_shard(documents: Sequence[tuple[Source, Ids]], folder: Path) -> str:
    folder.mkdir()
    parts, described, first = [], [], 0
    for document, words in documents:
        parts += [words, np.array([END])]
        described.append({**asdict(document), "first_word": first})
        first += len(words) + 1
    ids = np.concatenate(parts)
    np.save(folder / "ids.npy", ids)
    np.save(folder / "order.npy", suffix_order(ids))
    (folder / "documents.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    return folder.name


def suffix_order(ids: Ids) -> npt.NDArray[np.int32]:
    """Places of all suffixes (N) in their order, by doubling the length that is sorted by (Manber and Myers, 1990)."""
    ranks = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    size, step = len(ids), 1
    while True:
        behind = np.zeros(size, dtype=np.int64)
        behind[: size - step] = ranks[step:] + 1
        keys = ranks * (size + 1) + behind
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        ranks[order] = np.concatenate(([0], np.cumsum(ordered[1:] != ordered[:-1])))
        step *= 2
        if step >= size or ranks[order[-1]] == size - 1:
            return order.astype(np.int32)


def _ids(text: str) -> Ids:
    """A number for each word, the same in every index: the start of its sha256, never END."""
    known: dict[str, int] = {}
    return np.array([known.get(word) or known.setdefault(word, _id(word)) for word in _words(text)], dtype=np.int64)


def _words(text: str) -> Iterator[str]:
    return (match[0].casefold() for match in WORD.finditer(text))


def _id(word: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(word.encode()).digest()[:7], "big")


def _read_shards(folder: Path) -> list[Path]:
    try:
        described: Any = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return [folder / name for name in described["shards"]]
    except (OSError, ValueError, KeyError) as problem:
        raise NearestError(f"{folder}: no index of documents ({problem}); delete it to have it made anew") from None
