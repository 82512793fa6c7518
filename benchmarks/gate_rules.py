"""Which rule for a year of nights finds improvements soonest and keeps its promise: the choice in docs/decisions.md.

    python benchmarks/gate_rules.py [--quick]

A simulation in standard errors. Nights without any improvement count false promotions; a line that improves by a little
every night counts promotions and how far the champion is behind, on average. Nights that look at the same documents err
alike: `alike` is the correlation of their errors while the champion stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from scipy.stats import norm  # noqa: E402

from llm_core.evals.stats.spending import shares  # noqa: E402

ALPHA, NIGHTS = 0.05, 365
SLOPES = (0.05, 0.2, 1.0)
"""Improvement a night, in standard errors of the comparison."""
BETS = np.array([0.5, 1.0, 2.0])
"""The e-process bets on these effects at once."""

Floats = npt.NDArray[np.float64]


class Shared:
    """Nights share alpha by falling weights; what a promotion spent is passed on or not."""

    def __init__(self, decay: float, passes: bool) -> None:
        self.own, self._passes = ALPHA * np.array(shares(NIGHTS, decay)), passes

    def start(self, series: int) -> None:
        self._passed = np.zeros(series)

    def promotes(self, night: int, z: Floats) -> npt.NDArray[np.bool_]:
        level = self.own[night] + self._passed
        won = norm.sf(z) < level
        self._passed = np.where(won & self._passes, level, 0.0)
        return won


class EProcess:
    """Evidence is multiplied over nights while the champion stays; Ville's inequality is its promise."""

    def start(self, series: int) -> None:
        self._evidence = np.zeros((series, len(BETS)))

    def promotes(self, night: int, z: Floats) -> npt.NDArray[np.bool_]:
        self._evidence += BETS * z[:, None] - BETS**2 / 2
        won = np.logaddexp.reduce(self._evidence, axis=1) - np.log(len(BETS)) >= -np.log(ALPHA)
        self._evidence[won] = 0
        return won


RULES: dict[str, Shared | EProcess] = {
    "alpha every night": Shared(0.0, passes=False),
    **{
        f"decay {decay:g}{', passed on' if passes else ''}": Shared(decay, passes)
        for decay in (0.0, 0.5, 1.0)
        for passes in (False, True)
    },
    "e-process": EProcess(),
}
RULES["alpha every night"].own = np.full(NIGHTS, ALPHA)  # type: ignore[union-attr]


def main() -> None:
    """Print a line for each rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 series instead of 4,000")
    series = 200 if parser.parse_args().quick else 4000
    for name, rule in RULES.items():
        print(json.dumps({"rule": name, **dict(_measured(rule, series))}))


def _measured(rule: Shared | EProcess, series: int) -> Iterator[tuple[str, float]]:
    for alike in (0.0, 0.9):
        promotions, _, _ = _simulate(rule, series, slope=0.0, alike=alike)
        yield f"false, alike {alike:g}", round(float(np.mean(promotions > 0)), 4)
    for slope in SLOPES:
        promotions, behind, first = _simulate(rule, series, slope, alike=0.5)
        yield f"promotions at {slope:g}", round(float(promotions.mean()), 1)
        yield f"behind at {slope:g}", round(float(behind.mean()), 2)
        yield f"first at {slope:g}", round(float(first.mean()), 1)


def _simulate(rule: Shared | EProcess, series: int, slope: float, alike: float) -> tuple[Floats, Floats, Floats]:
    """Of each series: promotions, standard errors that its champion was behind on average, the first promotion."""
    rng = np.random.default_rng(1)
    rule.start(series)
    gap, promotions, behind = np.zeros(series), np.zeros(series), np.zeros(series)
    kept, first = rng.normal(size=series), np.full(series, float(NIGHTS))
    for night in range(NIGHTS):
        gap += slope
        z = gap + np.sqrt(alike) * kept + np.sqrt(1 - alike) * rng.normal(size=series)
        won = rule.promotes(night, z)
        promotions += won
        first = np.where(won, np.minimum(first, night + 1), first)
        gap[won] = 0
        kept[won] = rng.normal(size=int(won.sum()))
        behind += gap / NIGHTS
    return promotions, behind, first


if __name__ == "__main__":
    main()
