"""Whether the gate keeps what it prints: false promotions of whole years, power, and planted losses that it stops.

    python benchmarks/gate.py [--quick] [--json FILE]

A night in which nothing changed is drawn from a real pair of models that differ in their seed alone
(`benchmarks/gate_pair.py`): each held-out document's difference gets a random sign, since which of two equal trainings
is the challenger says nothing. Models that were really trained again with other seeds (`benchmarks/gate_reseeded.py`)
are compared each with each. The last two rows draw documents with their differences anew instead, as they are and
mirrored: means that are equal, of differences that are skewed, which no test at such levels can promise much about.

All nights of a year are screened at once by their scores in standard errors; those that come near their level are
decided by the gate itself, as are all nights with something planted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np  # noqa: E402
from scipy.stats import beta, norm  # noqa: E402

from benchmarks.gate_nights import DRAWN, MIRRORED, SIGNS, Case, Floats, Night, Pair  # noqa: E402
from benchmarks.gate_plot import draw  # noqa: E402
from llm_core.config import Gate  # noqa: E402
from llm_core.evals.stats.power import detectable_gain  # noqa: E402
from llm_core.evals.stats.spending import budget  # noqa: E402

SEED = 1
RESEEDED = Path(__file__).resolve().parent / "results" / "gate-reseeded.json"
NEAR = 0.9
"""Nights of documents drawn anew are near their level down to so many standard errors below a normal score's; the most
that was seen in 40 draws of 400,000 patterns of signs was 0.81."""
WANTED_POWER = (0.3, 0.6, 0.9)
ALLOWED = 0.02
"""Beyond alpha, for what so many years cannot tell."""

Row = dict[str, Any]


def main() -> None:
    """Simulate, print and, with --json, write the rows; a whole run also draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer years and nights, no picture")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    years, skewed_years, nights = (1000, 50, 100) if options.quick else (5000, 500, 1000)
    with tempfile.TemporaryDirectory() as folder:
        night = Night(Pair.read(), Path(folder))
        flipped, every_night = false_promotions(night, years, SIGNS)
        powers = list(planted_gains(night, nights))
        guards = planted_losses(night, nights)
        p_values, promoted = reseeded_pairs(Path(folder))
        rows = [
            _years_row("A/A promotions under alpha", flipped, every_night),
            *(_power_row(*found, nights) for found in powers),
            _guard_row(*guards, nights),
            _reseeded_row(p_values, promoted),
            _years_row("equal means, skewed to losses", *false_promotions(night, skewed_years, DRAWN)),
            _years_row("equal means, skewed to gains", *false_promotions(night, skewed_years, MIRRORED)),
        ]
    if not options.quick:
        draw(flipped, every_night, powers, guards, p_values)
    text = json.dumps(rows, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def false_promotions(night: Night, years: int, case: Case) -> tuple[Floats, Floats]:
    """Of each year the night of the first promotion, infinite where there is none: the gate's, and at alpha a night."""
    cfg, rng = Gate(), np.random.default_rng(SEED)
    budgets = [budget(cfg.alpha, cfg.horizon_nights, looks) for looks in range(cfg.horizon_nights)]
    levels = [each.level for each in budgets]
    # With flipped signs every night has the same distribution; half as much again allows for its being sampled.
    near = norm.isf(levels) - NEAR if case != SIGNS else night.pair.scores(1.5 * np.array(levels))
    first, every_night = np.full(years, np.inf), np.full(years, np.inf)
    for year in range(years):
        documents, signs = night.pair.year(rng, cfg.horizon_nights, case)
        losses = night.pair.losses[documents] * signs
        z = -losses.sum(axis=1) / np.sqrt((losses**2).sum(axis=1))
        every_night[year] = _first(z > norm.isf(cfg.alpha))
        for number in np.flatnonzero(z > near):
            if night.outcome(cfg, budgets[number], losses[number], documents[number]) == "promote":
                first[year] = number + 1
                break
        if year % 100 == 99:
            print(f"{year + 1} years, {int(np.isfinite(first).sum())} with a false promotion", file=sys.stderr)
    return first, every_night


def planted_gains(night: Night, nights: int) -> Iterator[tuple[float, float, float]]:
    """Gains (twice min_gain), how often the gate finds each, and what its reports print on average."""
    rng, first = np.random.default_rng(SEED + 1), budget(Gate().alpha, Gate().horizon_nights, 0)
    for wanted in WANTED_POWER:
        least = detectable_gain(night.pair.error, night.pair.documents, first.level, wanted)
        cfg = Gate(min_gain=least)
        found, printed = [], []
        for _ in range(nights):
            documents, signs = night.pair.year(rng, 1, SIGNS)
            losses = (night.pair.losses * signs)[0] - 2 * least * night.pair.sizes
            evidence = night.evidence(cfg, first, losses, documents[0])
            found.append(night.decided(cfg, evidence) == "promote")
            printed.append(evidence.power)
        yield 2 * least, float(np.mean(found)), float(np.mean(printed))


def planted_losses(night: Night, nights: int) -> tuple[float, float]:
    """A source loses, the rest gains more: how often the gate keeps that out, with and without its guard."""
    rng, first = np.random.default_rng(SEED + 2), budget(Gate().alpha, Gate().horizon_nights, 0)
    kept: dict[str, list[bool]] = {"guarded": [], "unguarded": []}
    for _ in range(nights):
        documents, signs = night.pair.year(rng, 1, SIGNS)
        losses = np.concatenate([(night.pair.losses * signs)[0] + shift * night.pair.sizes for shift in (-0.3, 0.1)])
        both, sources = np.tile(documents[0], 2), ["gains"] * len(documents[0]) + ["forgotten"] * len(documents[0])
        for name, cfg in (("guarded", Gate()), ("unguarded", Gate(guards=()))):
            kept[name].append(night.outcome(cfg, first, losses, both, sources) == "keep")
    return float(np.mean(kept["guarded"])), float(np.mean(kept["unguarded"]))


def reseeded_pairs(folder: Path, place: Path = RESEEDED) -> tuple[Floats, int]:
    """The p value of each ordered pair of real trainings that differ in their seed alone, and how many are promoted.

    Each is decided as a line's first look, which may spend the most.
    """
    kept = json.loads(place.read_text(encoding="utf-8"))
    sizes, models = np.array(kept["num_bytes"], dtype=float), [np.array(bits) for bits in kept["bits"].values()]
    cfg, documents = Gate(), np.arange(len(sizes))
    first = budget(cfg.alpha, cfg.horizon_nights, 0)
    p_values, promoted = [], 0
    for challenger, champion in permutations(models, 2):
        night = Night(Pair(sizes, champion, challenger - champion), folder)
        evidence = night.evidence(cfg, first, night.pair.losses, documents)
        p_values.append(evidence.p_value)
        promoted += night.decided(cfg, evidence) == "promote"
    return np.array(p_values), promoted


def _guard_row(guarded: float, unguarded: float, nights: int) -> Row:
    low = float(beta.ppf(0.05, nights * guarded, nights * (1 - guarded) + 1)) if guarded else 0.0
    return _row("planted loss is kept out", guarded, unguarded, "the gate without guards", nights, guarded, low, 1.0)


def _reseeded_row(p_values: Floats, promoted: int) -> Row:
    """Pairs share their models, so their number says nothing of an interval: the ratio stands alone."""
    share, peer = promoted / len(p_values), float(np.mean(p_values < Gate().alpha))
    ratio = (Gate().alpha + ALLOWED) / max(share, 1 / len(p_values))
    return _row("retrained with another seed", share, peer, "a test at alpha", len(p_values), ratio, ratio, ratio)


def _years_row(claim: str, first: Floats, every_night: Floats) -> Row:
    """alpha + 0.02 over the share of years with a false promotion, at its upper bound of 95 %."""
    alpha, years, false = Gate().alpha, len(first), int(np.isfinite(first).sum())
    upper = float(beta.ppf(0.95, false + 1, years - false))
    lower = float(beta.ppf(0.05, false, years - false + 1)) if false else 0.0
    share, peer = false / years, float(np.isfinite(every_night).mean())
    ratio = (alpha + ALLOWED) / upper
    return _row(
        claim,
        share,
        peer,
        "a test at alpha every night",
        years,
        ratio,
        ratio,
        (alpha + ALLOWED) / max(lower, 1 / years),
    )


def _power_row(gain: float, seen: float, printed: float, nights: int) -> Row:
    error = 1.645 * (seen * (1 - seen) / nights) ** 0.5
    ends = [(seen + sign * error) / printed for sign in (-1, 1)]
    name = f"power, gain {gain:.4f}" if printed < max(WANTED_POWER) - 0.15 else "power"
    return _row(name, seen, printed, "what the report prints", nights, seen / printed, *ends)


def _row(
    claim: str, ours: float, peer: float, peer_name: str, number: int, ratio: float, low: float, high: float
) -> Row:
    figures = {"ours": ours, "peer": peer, "ratio": ratio, "low": low, "high": high}
    rounded = {name: round(float(value), 4) for name, value in figures.items()}
    return {"claim": claim, "peer_name": peer_name, "unit": f"share of {number:,}", **rounded}


def _first(promotes: Any) -> float:
    return float(np.argmax(promotes)) + 1 if promotes.any() else np.inf


if __name__ == "__main__":
    main()
