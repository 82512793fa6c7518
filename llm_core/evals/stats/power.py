"""What a test could have seen: its power, the least gain that it finds, and whether a loss stays within a margin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llm_core.evals.stats.bootstrap import Floats, PairedComparison, paired_bootstrap, ratio_of_sums

# The t distribution's tails hold no more than rounding beyond this many standard errors from its critical value.
CERTAIN = 12.0


def standard_error(challenger_bits: Floats, champion_bits: Floats, num_bytes: npt.NDArray[np.int64]) -> float:
    """Of the difference in bits per byte between two models on these documents."""
    gains = np.asarray(challenger_bits, dtype=np.float64) - np.asarray(champion_bits, dtype=np.float64)
    return float(ratio_of_sums(gains[None], np.asarray(num_bytes, dtype=np.float64)[None])[1][0])


def power(gain: float, error: float, documents: int, level: float) -> float:
    """Chance that a one-sided paired test at `level` finds a gain (above the margin) of this size.

    `error` is the standard error that the paired differences showed; Student's distribution allows for its being an
    estimate from few documents.
    """
    from scipy.stats import nct, t

    if error <= 0:
        return 1.0 if gain > 0 else level
    critical, shift = float(t.isf(level, documents - 1)), gain / error
    if abs(shift - critical) > CERTAIN:
        return 1.0 if shift > critical else 0.0
    return float(np.clip(nct.sf(critical, documents - 1, shift), 0.0, 1.0))


def detectable_gain(error: float, documents: int, level: float, wanted: float = 0.8) -> float:
    """The least gain (above the margin) that a test at `level` finds with power `wanted`."""
    from scipy.optimize import brentq
    from scipy.stats import t

    if error <= 0:
        return 0.0
    highest = float(t.isf(level, documents - 1)) + CERTAIN
    return error * float(brentq(lambda shift: power(shift, 1.0, documents, level) - wanted, 0.0, highest))


def non_inferior(
    challenger: Floats, champion: Floats, over: npt.NDArray[np.int64], *, margin: float, resamples: int, seed: int
) -> PairedComparison:
    """Is the challenger not worse than by `margin`? Scores are costs: less is better, as with bits.

    The p value is the chance of what was seen, were it worse by the whole margin: low values show that it is not.
    """
    if margin <= 0:
        raise ValueError(f"margin {margin} must be above 0: no number of examples shows that nothing at all is lost")
    return paired_bootstrap(challenger, champion, over, resamples=resamples, seed=seed, margin=-margin)
