"""How far a batch of data is from the batches before it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_core.text.profile import Profile, bin_start, total

DEVIATIONS = 3.09
"""A normal variable is larger once in 1,000."""


@dataclass(frozen=True)
class Drift:
    """Distance of two distributions: 0 alike, 1 nothing in common."""

    distance: float
    """Jensen-Shannon distance to base 2."""
    by_chance: float
    """What two samples of these sizes from one distribution exceed once in 1,000: less than this means nothing."""


def drift_of_last(batches: Sequence[Profile]) -> dict[str, Drift]:
    """Drift of the last batch's lengths and languages from all earlier ones; empty where one side has no document."""
    return _drifts(batches[-1], total(batches[:-1])) if batches else {}


def drifts_of_all(batches: Sequence[Profile]) -> list[dict[str, Drift]]:
    """Drift of each batch from all those before it."""
    earlier = total(())
    drifts = []
    for batch in batches:
        drifts.append(_drifts(batch, earlier))
        earlier = total((earlier, batch))
    return drifts


def _drifts(batch: Profile, earlier: Profile) -> dict[str, Drift]:
    if not batch.kept or not earlier.kept:
        return {}
    return {
        "lengths": drift(octaves(batch), octaves(earlier)),
        "languages": drift(batch.language_documents, earlier.language_documents),
    }


def drift(found: Mapping[Any, int], expected: Mapping[Any, int]) -> Drift:
    """Compare two samples, given as counts by category; both must hold something."""
    return Drift(jensen_shannon(found, expected), distance_by_chance(found, expected))


def jensen_shannon(found: Mapping[Any, int], expected: Mapping[Any, int]) -> float:
    """Square root of the Jensen-Shannon divergence in bits, a metric from 0 to 1 (Endres and Schindelin 2003)."""
    terms = []
    sizes = sum(found.values()), sum(expected.values())
    for category in set(found) | set(expected):
        shares = [counts.get(category, 0) / size for counts, size in zip((found, expected), sizes, strict=True)]
        middle = sum(shares) / 2
        terms += [share / 2 * math.log2(share / middle) for share in shares if share]
    return math.sqrt(min(max(math.fsum(terms), 0.0), 1.0))


def distance_by_chance(found: Mapping[Any, int], expected: Mapping[Any, int]) -> float:
    """Distance that two samples from one distribution exceed once in 1,000; it shrinks with the root of their sizes.

    To second order the divergence is an eighth of a chi-square distance, which has one degree of freedom less than
    there are categories; its quantile is that of Wilson and Hilferty (1931).
    """
    degrees = len({key for counts in (found, expected) for key, count in counts.items() if count}) - 1
    if not degrees:
        return 0.0
    spread = 2 / (9 * degrees)
    quantile = degrees * (1 - spread + DEVIATIONS * math.sqrt(spread)) ** 3
    scatter = 1 / sum(found.values()) + 1 / sum(expected.values())
    return min(math.sqrt(quantile * scatter / (8 * math.log(2))), 1.0)


def octaves(profile: Profile) -> Counter[int]:
    """Documents by doubling of their length: fine bins would mostly show the chance of small batches."""
    counts: Counter[int] = Counter()
    for number, documents in profile.lengths.items():
        counts[bin_start(number).bit_length()] += documents
    return counts
