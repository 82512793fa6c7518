"""64-bit hashes of the pieces of a text and of runs of them, and what repeats among them, with NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from llm_core.text.characters import Codes

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]

# Odd 64-bit numbers: the base of the polynomial over characters, of the one over words, and a mixer (splitmix64's).
CHARACTER_BASE = 0x9E3779B97F4A7C15
WORD_BASE = 0xD6E8FEB86659FD93
MIXER = np.uint64(0xBF58476D1CE4E5B9)
# Characters hashed at once: the arrays of a block stay in the processor's cache, and memory stays bounded.
BLOCK = 1 << 16
LONGEST_RUN = 64
"""Longest run of pieces that has a hash."""


def span_hashes(codes: Codes, starts: Positions, ends: Positions) -> Hashes:
    """64-bit hashes of pieces of a text: polynomials over their characters modulo 2**64, mixed; shape of starts.

    The polynomial of a piece is a difference of two prefix sums, divided by the power that its place brought in: an odd
    base has an inverse modulo 2**64. Made a block at a time, so that memory does not grow with the text; of a piece
    longer than a block the first block and the length count.
    """
    hashes = np.empty(len(starts), np.uint64)
    powers, inverses = _powers()
    cuts = np.minimum(ends, starts + BLOCK)
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(starts, starts[first] + BLOCK))
        begin, end = int(starts[first]), int(cuts[last - 1])
        sums = np.zeros(end - begin + 1, np.uint64)
        np.multiply(codes[begin:end], powers[: end - begin], out=sums[1:])
        np.cumsum(sums, out=sums)
        here, there = starts[first:last] - begin, cuts[first:last] - begin
        hashes[first:last] = (sums[there] - sums[here]) * inverses[here]
        first = last
    return mixed(hashes + (ends - starts).view(np.uint64) * MIXER)


def mixed(hashes: Hashes) -> Hashes:
    """The same hashes with every bit depending on every other one (the finalizer of splitmix64, shortened)."""
    hashes = (hashes ^ (hashes >> np.uint64(32))) * MIXER
    return hashes ^ (hashes >> np.uint64(29))


def ngram_hashes(hashes: Hashes, length: int) -> Hashes:
    """Hashes of all runs of `length` spans, (max(num_spans - length + 1, 0),): polynomials over their hashes.

    Doubles the length of the run as often as it can: 8 = ((1 + 1) + 2) + 4.
    """
    done, runs = 1, hashes
    while done < length and len(runs):
        step = min(done, length - done)
        # With step < done the two halves overlap, which only counts some spans twice, and every run in the same way.
        runs = runs[:-step] * WORD_BASES[done] + runs[step:]
        done += step
    return runs


def later_copies(hashes: Hashes) -> Positions:
    """Positions of the hashes that occurred before, in no particular order."""
    keys, bits = _ordered(hashes)
    upper = keys >> bits
    return _positions(keys[1:][upper[1:] == upper[:-1]], bits)


def commonest(hashes: Hashes) -> tuple[int, int]:
    """How often the commonest hash occurs and where first; of equally common ones, the one that is there first."""
    keys, bits = _ordered(hashes)
    upper = keys >> bits
    edges = np.ones(len(keys) + 1, np.bool_)
    np.not_equal(upper[1:], upper[:-1], out=edges[1:-1])
    groups = np.flatnonzero(edges)
    sizes = groups[1:] - groups[:-1]
    most = int(sizes.max())
    return most, int(_positions(keys[groups[:-1][sizes == most]], bits).min())


def _ordered(hashes: Hashes) -> tuple[Hashes, np.uint64]:
    """Sorted keys, and how many lower bits of a key hold the hash's position; the others are the hash's upper ones.

    One plain sort gives groups of equal hashes, each in the order of the text. A million spans leave 44 bits of each
    hash, and chance takes 0.06 pairs for equal.
    """
    bits = np.uint64(len(hashes).bit_length())
    keys = ((hashes >> bits) << bits) | np.arange(len(hashes), dtype=np.uint64)
    keys.sort()
    return keys, bits


def _positions(keys: Hashes, bits: np.uint64) -> Positions:
    return (keys & ((np.uint64(1) << bits) - np.uint64(1))).view(np.int64)


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """The powers of the character base, and their inverses modulo 2**64: 2 MB."""
    return _geometric(CHARACTER_BASE, 2 * BLOCK), _geometric(pow(CHARACTER_BASE, -1, 1 << 64), 2 * BLOCK)


def _geometric(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


WORD_BASES = _geometric(WORD_BASE, LONGEST_RUN + 1)
