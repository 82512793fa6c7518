"""The plots of a decision's page."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.decision import Decision
from tasks.plotting import SERIES, SOFT, Plot, legend, plot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes

MOST_BARS = 60
"""More documents than this are drawn as a line, which stays small and is read as well."""


def plots(decision: Decision) -> dict[str, Plot]:
    """What there is to draw, by name."""
    import pandas as pd

    drawn = {"gains": plot("Gain of each document", partial(_gains, gains=decision.scores["gain"].to_numpy()))}
    curve = pd.read_csv(path) if (path := decision.model.path / "loss.csv").exists() else pd.DataFrame()
    if len(curve):
        drawn["curve"] = plot("Loss over training", partial(_curve, curve=curve))
    bins = [each for each in decision.told["reliability"] if each["count"]]
    if bins:
        drawn["reliability"] = plot("Reliability of the next token", partial(_reliability, bins=bins))
    return drawn


def _gains(axes: Axes, gains: npt.NDArray[np.float64]) -> None:
    """Documents in the order of their gains: what is above the line was predicted better."""
    places = range(len(gains))
    colors = [SERIES[3] if gain > 0 else SERIES[2] for gain in gains]
    if len(gains) <= MOST_BARS:
        axes.bar(places, gains, width=0.85, color=colors)
    else:
        axes.fill_between(places, 0, gains, where=gains > 0, color=SERIES[3], linewidth=0)
        axes.fill_between(places, 0, gains, where=gains <= 0, color=SERIES[2], linewidth=0)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.axhline(float(gains.mean()), color=SERIES[0], linewidth=1.4, linestyle="--", label="mean of the documents")
    axes.set_xticks([])
    axes.set_xlabel(f"{len(gains)} documents, by their gain", color=SOFT)
    axes.set_ylabel("bits per byte", color=SOFT)
    legend(axes)


def _curve(axes: Axes, curve: pd.DataFrame) -> None:
    """At most some 400 points: a long training must not make a large page."""
    every = max(1, len(curve) // 400)
    thinned, checked = curve.iloc[::every], curve.dropna(subset="validation_loss")
    axes.plot(thinned["tokens"], thinned["train_loss"], color=SERIES[0], linewidth=1.2, label="training")
    if len(checked):
        marked: dict[str, Any] = {"marker": "o", "markersize": 3} if len(checked) <= 40 else {}
        axes.plot(checked["tokens"], checked["validation_loss"], color=SERIES[2], label="validation", **marked)
    axes.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1e6:g} M" if tokens >= 1e6 else f"{tokens / 1e3:g} k")
    axes.set_xlabel("tokens", color=SOFT)
    axes.set_ylabel("nats per token", color=SOFT)
    legend(axes)


def _reliability(axes: Axes, bins: list[dict[str, float]]) -> None:
    """A model that is as sure as it is right is on the diagonal."""
    middles, widths = [(each["low"] + each["high"]) / 2 for each in bins], [each["high"] - each["low"] for each in bins]
    axes.bar(middles, [each["accuracy"] for each in bins], [0.92 * width for width in widths], color=SERIES[0])
    sure = [each["confidence"] for each in bins]
    axes.plot(sure, [each["accuracy"] for each in bins], "o", color=SERIES[1], markersize=4, label="at mean confidence")
    axes.plot((0, 1), (0, 1), "--", color=SOFT, linewidth=1, label="as sure as right")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("probability of the likeliest token", color=SOFT)
    axes.set_ylabel("how often it is right", color=SOFT)
    legend(axes)
