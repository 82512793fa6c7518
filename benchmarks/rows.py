"""One row of results: ours beside a peer's, measured in turn in one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def paired_row(
    claim: str, peer_name: str, unit: str, pairs: Sequence[tuple[float, float]], *, less_is_better: bool
) -> dict[str, Any]:
    """The medians of (ours, the peer's) and how many times better ours is, pair by pair: median, lowest, highest."""
    ratios = [peer / ours if less_is_better else ours / peer for ours, peer in pairs]
    return {
        "claim": claim,
        "ours": round(statistics.median(ours for ours, _ in pairs), 3),
        "peer": round(statistics.median(peer for _, peer in pairs), 3),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
    }
