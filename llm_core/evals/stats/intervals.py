"""Intervals of means of paired differences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Resamples are drawn in blocks of about this many indices.
INDICES_AT_ONCE = 2**22


def bca_interval(
    differences: Floats, *, resamples: int, seed: int, confidence: float = 0.95
) -> tuple[float, float, float]:
    """The mean of paired differences and the ends of its bias-corrected and accelerated bootstrap interval.

    Efron (1987): percentiles of the resampled means, moved by their bias in the median and by how fast the standard
    error changes, which the jackknife tells. Suits skewed differences, where mean plus or minus errors does not.
    """
    from scipy.stats import norm

    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"two or more finite differences are needed, not {len(values)}")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean, mean
    means = np.concatenate(list(_resampled_means(values, resamples, seed)))
    ties = np.count_nonzero(means == mean) / 2
    share = (np.count_nonzero(means < mean) + ties) / resamples
    # A share of 0 or 1 would put the interval at infinity.
    bias = norm.ppf(np.clip(share, 0.5 / resamples, 1 - 0.5 / resamples))
    tails = bias + norm.ppf([(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = np.quantile(means, norm.cdf(bias + tails / (1 - _acceleration(values) * tails)))
    return mean, float(low), float(high)


def _resampled_means(values: Floats, resamples: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    rows = max(1, INDICES_AT_ONCE // len(values))
    for first in range(0, resamples, rows):
        yield values[rng.integers(len(values), size=(min(rows, resamples - first), len(values)))].mean(axis=1)


def _acceleration(values: Floats) -> float:
    """A sixth of the skewness of the means that leave one out."""
    pulls = values - values.mean()  # the jackknife's deviations but for a factor that cancels
    return float((pulls**3).sum() / (6 * (pulls**2).sum() ** 1.5))
