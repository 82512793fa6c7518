"""The picture of `benchmarks/gate.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.gate_nights import Floats
from llm_core.config import Gate
from llm_core.evals.stats.spending import budget

PLOT = Path(__file__).resolve().parent.parent / "docs" / "images" / "gate.png"
OURS, OTHER = "#1f6f8b", "#b3541e"
LEVEL = budget(Gate().alpha, Gate().horizon_nights, 0).level


def draw(
    first: Floats,
    every_night: Floats,
    powers: Sequence[tuple[float, float, float]],
    guards: tuple[float, float],
    p_values: Floats,
) -> None:
    """False promotions over a year, power that was printed and seen, retrained models, and a planted loss."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    alpha, nights = Gate().alpha, np.arange(1, Gate().horizon_nights + 1)
    with rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(8.8, 6.2), layout="constrained")
        (years, power), (reseeded, guard) = figure.subplots(2, 2)
        for found, color, label in ((every_night, OTHER, "alpha every night"), (first, OURS, "the gate")):
            years.plot(nights, [np.mean(found <= night) for night in nights], color=color, label=label)
        years.axhline(alpha, color="#888888", linewidth=0.6, linestyle=":")
        years.set(yscale="log", ylim=(0.001, 1), xlabel="nights in which nothing improved", ylabel="share of years")
        years.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        years.set_title("any false promotion so far", loc="left", fontsize=10)
        gains = [gain for gain, _, _ in powers]
        power.plot(gains, [printed for *_, printed in powers], color=OTHER, marker="o", label="printed")
        power.plot(gains, [seen for _, seen, _ in powers], color=OURS, marker="o", label="seen")
        power.set(ylim=(0, 1), xlabel="planted gain, bits per byte", ylabel="share of nights")
        power.set_title("promotions of a real improvement", loc="left", fontsize=10)
        expected = (np.arange(len(p_values)) + 0.5) / len(p_values)
        reseeded.plot(expected, np.sort(p_values), ".", color=OURS, markersize=3, label="pairs of two seeds")
        reseeded.plot((1e-3, 1), (1e-3, 1), color="#888888", linewidth=0.6, linestyle=":")
        reseeded.axhline(LEVEL, color=OTHER, linewidth=0.8, label="a first night may spend")
        reseeded.set(xscale="log", yscale="log", xlabel="if only chance were at work", ylabel="p value")
        for axis in (reseeded.xaxis, reseeded.yaxis):
            axis.set_major_formatter("{x:g}")
        reseeded.set_title("models trained again with another seed", loc="left", fontsize=10)
        guard.barh(["without guards", "the gate"], guards[::-1], color=(OTHER, OURS), height=0.5)
        guard.set(xlim=(0, 1), xlabel="share of nights")
        guard.set_title("a source loses, the rest gains: kept out", loc="left", fontsize=10)
        for axes in (years, power, reseeded):
            axes.legend(frameon=False, fontsize=8)
        for axes in (years, power, reseeded, guard):
            axes.spines[["top", "right"]].set_visible(False)
        PLOT.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(PLOT, dpi=160)
