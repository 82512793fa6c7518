"""Whether one model is better than another on the same documents, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Resamples are drawn in blocks of about this many document indices.
INDICES_AT_ONCE = 2**22
# Below this share of the difference, a standard error is rounding.
NO_SPREAD = 1e-9


@dataclass(frozen=True)
class PairedComparison:
    """A challenger against a champion, in bits per byte: challenger minus champion, so below 0 is better."""

    difference: float
    low: float
    high: float
    """Ends of the two-sided confidence interval of the difference."""
    p_value: float
    """One-sided: how often chance alone would show this much, were the challenger no better than the margin."""
    documents: int
    """Independent documents that were resampled."""


def paired_bootstrap(
    challenger_bits: Floats,
    champion_bits: Floats,
    num_bytes: npt.NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
    margin: float = 0.0,
    confidence: float = 0.95,
) -> PairedComparison:
    """Compare bits per byte (ratio of sums) on the same documents, resampling whole documents in pairs.

    The paired bootstrap of Koehn (2004) with studentised resamples (bootstrap-t, Efron and Tibshirani 1993, ch. 12):
    each resample's deviation is divided by its own standard error, which keeps false positives at their nominal rate
    with a few dozen documents of very different lengths, where plain percentiles promise too much. The challenger is
    better when it gains more than `margin`. Equal arguments give equal results.
    """
    _check(challenger_bits, champion_bits, num_bytes)
    gains = np.asarray(challenger_bits, dtype=np.float64) - np.asarray(champion_bits, dtype=np.float64)
    sizes = np.asarray(num_bytes, dtype=np.float64)
    difference, error = (float(value[0]) for value in ratio_of_sums(gains[None], sizes[None]))
    if error <= NO_SPREAD * abs(difference):
        certain = 1 / (resamples + 1) if difference + margin < 0 else 1.0
        return PairedComparison(difference, difference, difference, certain, len(sizes))
    deviations = np.sort(np.concatenate(list(_deviations(gains, sizes, difference, resamples, seed))))
    below = int(np.searchsorted(deviations, (difference + margin) / error, side="right"))
    tails = np.array([(1 + confidence) / 2, (1 - confidence) / 2])
    # No interpolation: with few documents the outermost deviations are infinite.
    low, high = difference - error * np.quantile(deviations, tails, method="inverted_cdf")
    return PairedComparison(difference, float(low), float(high), (1 + below) / (resamples + 1), len(sizes))


def _deviations(gains: Floats, sizes: Floats, difference: float, resamples: int, seed: int) -> Iterator[Floats]:
    """Studentised deviations of the resampled differences, in blocks."""
    rng = np.random.default_rng(seed)
    rows = max(1, INDICES_AT_ONCE // len(sizes))
    for first in range(0, resamples, rows):
        drawn = rng.integers(len(sizes), size=(min(rows, resamples - first), len(sizes)))
        ratios, errors = ratio_of_sums(gains[drawn], sizes[drawn])
        # A resample of copies of one document has no error: its deviation is unbounded, or none.
        with np.errstate(divide="ignore", invalid="ignore"):
            yield np.nan_to_num((ratios - difference) / errors, nan=0.0, posinf=np.inf, neginf=-np.inf)


def ratio_of_sums(gains: Floats, sizes: Floats) -> tuple[Floats, Floats]:
    """Ratio of sums of each row and its standard error, linearised (Cochran 1977, ch. 6)."""
    count = gains.shape[1]
    total = sizes.sum(axis=1)
    ratio = gains.sum(axis=1) / total
    residuals = gains - ratio[:, None] * sizes
    return ratio, np.sqrt((residuals**2).sum(axis=1) * count / (count - 1)) / total


def _check(challenger_bits: Floats, champion_bits: Floats, num_bytes: npt.NDArray[np.int64]) -> None:
    lengths = len(challenger_bits), len(champion_bits), len(num_bytes)
    if len(set(lengths)) != 1 or lengths[0] < 2:
        raise ValueError(f"paired scores of the same two or more documents are needed, not of {lengths}")
    if not (np.isfinite(challenger_bits).all() and np.isfinite(champion_bits).all() and np.greater(num_bytes, 0).all()):
        raise ValueError("bits must be finite and num_bytes positive; score the documents again")
