"""What a model must beat: token frequencies, and xz with and without the training text."""

from __future__ import annotations

import lzma
import os
from collections.abc import Callable, Iterable
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
    text only the last 32 MiB help. The texts are asked for as they are read: memory holds one of them, and encoders.
    """
    total = sum(map(len, chain(train(), held_out())))
    dictionary = min(max(1 << (total - 1).bit_length(), SMALLEST_DICTIONARY), LARGEST_DICTIONARY)
    alone = _encoder(dictionary)
    alone_bytes = _encoded(alone, held_out()) + len(alone.flush())
    primed = _encoder(dictionary)
    trained_bytes = _encoded(primed, train())
    ended_bytes = trained_bytes + _bytes_if_ended(primed)
    both_bytes = trained_bytes + _encoded(primed, held_out()) + len(primed.flush())
    return 8.0 * alone_bytes, 8.0 * (both_bytes - ended_bytes)


def _encoder(dictionary: int) -> lzma.LZMACompressor:
    # lc=4 and pb=0 suit text, which has no alignment; raw streams have no header or checksum to count.
    settings = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": dictionary, "lc": 4, "lp": 0, "pb": 0}
    return lzma.LZMACompressor(format=lzma.FORMAT_RAW, filters=[settings])


def _encoded(encoder: lzma.LZMACompressor, texts: Iterable[bytes]) -> int:
    return sum(len(encoder.compress(text)) for text in texts)


def _bytes_if_ended(encoder: lzma.LZMACompressor) -> int:
    """What the stream would still say if it ended here; the encoder itself goes on.

    Neither xz nor Python copies an encoder, and reading the training text twice is most of the cost: a forked process
    ends the stream and says how long that was. It touches nothing else.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, str(len(encoder.flush())).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="ascii") as said:
        size = said.read()
    os.waitpid(child, 0)
    return int(size)
