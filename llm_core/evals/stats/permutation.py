"""Exact tests of paired differences: signs that chance flips, and answers that are right or wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Random signs are drawn in blocks of about this many.
SIGNS_AT_ONCE = 2**22
# Sums closer than this share of all magnitudes are equal but for rounding.
ROUNDING = 1e-12


def sign_flip(differences: Floats, *, resamples: int, seed: int) -> float:
    """One-sided p value: how often a sum this low would come about, were each difference's sign a coin's flip.

    Fisher's randomisation test (1935), exact wherever differences are symmetric about 0, at any level.
    All patterns of signs are counted where there are no more than `resamples`; else that many are drawn, and the
    observed pattern counts as one of them. Equal arguments give equal results.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} differences, all of which must be finite; score the examples again")
    sizes = np.abs(values[values != 0])
    limit = float(values.sum()) + ROUNDING * float(sizes.sum())
    if len(sizes) < 63 and 2 ** len(sizes) <= resamples:
        return float(np.mean(_all_sums(sizes) <= limit))
    lower = sum(int(np.count_nonzero(sums <= limit)) for sums in _random_sums(sizes, resamples, seed))
    return (1 + lower) / (1 + resamples)


@dataclass(frozen=True)
class Discordant:
    """Examples that only one of two models has right."""

    gained: int
    """Only the challenger has them right."""
    lost: int
    """Only the champion has."""
    p_value: float
    """One-sided: how often chance alone would show this much, were the challenger no better."""


def mcnemar(challenger: Flags, champion: Flags) -> Discordant:
    """Exact McNemar test (1947): a fair coin decides whom each example goes to that only one has right."""
    from scipy.stats import binom

    mine, theirs = np.asarray(challenger, dtype=bool), np.asarray(champion, dtype=bool)
    if mine.shape != theirs.shape or mine.ndim != 1:
        raise ValueError(f"right or wrong of the same examples is needed, not of {mine.shape} and {theirs.shape}")
    gained, lost = int(np.sum(mine & ~theirs)), int(np.sum(theirs & ~mine))
    return Discordant(gained, lost, float(binom.sf(gained - 1, gained + lost, 0.5)))


def _all_sums(sizes: Floats) -> Floats:
    """The sum under each pattern of signs."""
    return reduce(lambda sums, size: np.concatenate((sums - size, sums + size)), sizes, np.zeros(1))


def _random_sums(sizes: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    """Sums under random patterns of signs, in blocks."""
    rng = np.random.default_rng(seed)
    rows, width = max(1, SIGNS_AT_ONCE // len(sizes)), -(-len(sizes) // 8)
    for first in range(0, resamples, rows):
        drawn = rng.integers(256, size=(min(rows, resamples - first), width), dtype=np.uint8)
        is_plus = np.unpackbits(drawn, axis=1, count=len(sizes)).astype(np.float64)
        yield 2 * (is_plus @ sizes) - sizes.sum()
