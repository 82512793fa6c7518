"""What a model must beat: token frequencies, and xz with and without the training text."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.unsignedinteger[Any]]
Mask = npt.NDArray[np.bool_]
Lengths = npt.NDArray[np.int64]
Texts = Callable[[], Iterable[bytes]]

# The encoder's memory is about 11 times its dictionary: 0.4 GB for the largest.
LARGEST_DICTIONARY = 32 * 2**20
SMALLEST_DICTIONARY = 2**20
# Token ids counted at once, so that a memory-mapped array is never whole in memory.
COUNTED_AT_ONCE = 2**24


class Sliceable(Protocol):
    """A 1-D array of token ids, or what is sliced like one: shards on disk."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Ids: ...


def unigram_bits(
    train_ids: Sliceable, ids: Ids, num_tokens: Lengths, vocab_size: int, marks: Mask | None = None
) -> npt.NDArray[np.float64]:
    """Bits of each document under the training tokens' add-one smoothed frequencies, its end id included.

    `ids` holds all documents one after another, `num_tokens` their lengths; with `marks`, only marked ids cost bits.
    """
    counts = np.ones(vocab_size)
    for first in range(0, len(train_ids), COUNTED_AT_ONCE):
        counts += np.bincount(train_ids[first : first + COUNTED_AT_ONCE], minlength=vocab_size)
    costs = np.log2(counts.sum()) - np.log2(counts)
    starts = np.cumsum(num_tokens) - num_tokens
    return np.add.reduceat(costs[ids] if marks is None else costs[ids] * marks, starts)


def xz_bits(train: Texts, held_out: Texts) -> tuple[float, float]:
    """Bits that xz needs for the held-out texts: alone, and after it has seen the training texts.

    Primed is size(train + held out) - size(train). The dictionary spans both together up to 32 MiB; of more training
    text only the last 32 MiB help. The texts are asked for as they are read: memory holds three of them, and encoders.
    """
    total = sum(map(len, chain(train(), held_out())))
    dictionary = min(max(1 << (total - 1).bit_length(), SMALLEST_DICTIONARY), LARGEST_DICTIONARY)
    streams: list[Texts] = [held_out, train, lambda: chain(train(), held_out())]
    # Threads, since the encoder works outside the interpreter's lock.
    with ThreadPoolExecutor(len(streams)) as threads:
        alone, trained, both = threads.map(lambda stream: _xz_bytes(stream(), dictionary), streams)
    return 8.0 * alone, 8.0 * (both - trained)


def _xz_bytes(texts: Iterable[bytes], dictionary: int) -> int:
    # lc=4 and pb=0 suit text, which has no alignment; raw streams have no header or checksum to count.
    settings = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary, "lc": 4, "lp": 0, "pb": 0}
    encoder = lzma.LZMACompressor(format=lzma.FORMAT_RAW, filters=[settings])
    return sum(len(encoder.compress(text)) for text in texts) + len(encoder.flush())
