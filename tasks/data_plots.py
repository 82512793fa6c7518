"""The data report's plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import log2, nan
from typing import TYPE_CHECKING, Any

from llm_core.text.drift import drifts_of_all
from llm_core.text.profile import BINS_PER_OCTAVE, Profile, bin_start, total
from tasks.plotting import MOST_SERIES, SERIES, SOFT, Plot, legend, plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEWEST_BATCHES = 60
MOST_LABELS = 8
MOST_LANGUAGES = MOST_SERIES - 1


def plots(batches: Sequence[Profile], max_drift: float) -> dict[str, Plot]:
    """What there is to draw, by name: histories only of more than one batch, languages of more than one language."""
    newest = batches[-NEWEST_BATCHES:]
    drawn = {}
    if total(batches).kept:
        drawn["lengths"] = plot("Lengths of the documents", partial(_lengths, batches=batches))
    if len(newest) > 1:
        drawn["records"] = plot("Records by outcome", partial(_records, batches=newest))
        drawn["medians"] = plot("Length: median and middle 80 %", partial(_medians, batches=newest))
        drawn["drift"] = plot("Drift from all earlier batches", partial(_drift, batches=batches, max_drift=max_drift))
        if len(total(newest).language_documents) > 1:
            drawn["languages"] = plot("Languages of the documents", partial(_languages, batches=newest))
    return drawn


def _lengths(axes: Axes, batches: Sequence[Profile]) -> None:
    _density(axes, total(batches).lengths, "all batches", fill=True)
    if len(batches) > 1 and batches[-1].kept:
        _density(axes, batches[-1].lengths, f"newest batch, {_short(batches[-1].batch)}", fill=False)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: shown_bytes(size))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("length, bytes of UTF-8", color=SOFT)
    axes.set_ylabel("documents per doubling", color=SOFT)
    if len(batches) > 1:
        legend(axes)


def _density(axes: Axes, lengths: Counter[int], label: str, fill: bool) -> None:
    """Steps of half an octave; divided by their widths, which are not quite equal on a logarithmic axis."""
    step = BINS_PER_OCTAVE // 2
    shares: Counter[int] = Counter()
    for number, documents in lengths.items():
        shares[max(number // step, 1)] += documents  # no logarithmic axis has a place for 0
    steps = range(min(shares), max(shares) + 1)
    edges = [bin_start(number * step) for number in (*steps, max(shares) + 1)]
    heights = [
        shares[number] / lengths.total() / log2(end / start)
        for number, (start, end) in zip(steps, pairwise(edges), strict=True)
    ]
    if fill:
        axes.stairs(heights, edges, fill=True, color=SERIES[0], alpha=0.55, label=label)
    else:
        axes.stairs(heights, edges, color=SERIES[1], linewidth=1.8, label=label)


def _records(axes: Axes, batches: Sequence[Profile]) -> None:
    outcomes = {
        "kept": [batch.kept for batch in batches],
        "duplicates": [batch.duplicates for batch in batches],
        "otherwise rejected": [batch.rejected.total() - batch.duplicates for batch in batches],
    }
    _stack(axes, outcomes)
    axes.yaxis.set_major_formatter(lambda count, _: shown_count(count))
    _finish_history(axes, batches, "records")


def _medians(axes: Axes, batches: Sequence[Profile]) -> None:
    places = range(len(batches))
    low, median, high = ([batch.quantile(q) for batch in batches] for q in (0.1, 0.5, 0.9))
    axes.fill_between(places, low, high, color=SERIES[0], alpha=0.25, linewidth=0, label="10th to 90th percentile")
    axes.plot(places, median, color=SERIES[0], linewidth=1.8, marker="o", markersize=3, label="median")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda size, _: shown_bytes(size))
    _finish_history(axes, batches, "bytes of UTF-8")


def _drift(axes: Axes, batches: Sequence[Profile], max_drift: float) -> None:
    drifts = drifts_of_all(batches)[-NEWEST_BATCHES:]
    for name, color, marker in (("lengths", SERIES[0], "o"), ("languages", SERIES[1], "s")):
        distances = [each[name].distance if each else nan for each in drifts]
        axes.plot(range(len(drifts)), distances, color=color, linewidth=1.8, marker=marker, markersize=3, label=name)
    if max_drift < 1:
        axes.axhline(max_drift, color=SERIES[2], linewidth=1.2, linestyle="--", label="bound")
    axes.set_ylim(bottom=0)
    _finish_history(axes, batches[-NEWEST_BATCHES:], "distance, 0 to 1")


def _languages(axes: Axes, batches: Sequence[Profile]) -> None:
    together = total(batches).language_documents
    common = [code for code, _ in ranked(together)[:MOST_LANGUAGES]]
    sized = [(batch, max(batch.kept, 1)) for batch in batches]
    shares = {code or "unknown": [batch.language_documents[code] / size for batch, size in sized] for code in common}
    others = [(batch.kept - sum(batch.language_documents[code] for code in common)) / size for batch, size in sized]
    _stack(axes, shares | ({"others": others} if len(together) > MOST_LANGUAGES else {}))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    _finish_history(axes, batches, "documents")


def _stack(axes: Axes, series: Mapping[str, Sequence[float]]) -> None:
    bottom = [0.0] * len(next(iter(series.values())))
    for (name, values), color in zip(series.items(), SERIES, strict=False):
        axes.bar(range(len(values)), values, bottom=bottom, width=0.85, color=color, label=name)
        bottom = [below + value for below, value in zip(bottom, values, strict=True)]


def _finish_history(axes: Axes, batches: Sequence[Profile], unit: str) -> None:
    every = -(-len(batches) // MOST_LABELS)
    places = range(len(batches) - 1, -1, -every)
    names = [_short(batches[place].batch) for place in places]
    slanted: dict[str, Any] = {"rotation": 25, "ha": "right"} if max(map(len, names)) > 4 else {}
    axes.set_xticks(places, names, **slanted)
    axes.set_ylabel(unit, color=SOFT)
    legend(axes)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"


def ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    """The largest counts first, equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def shown_count(count: float) -> str:
    """A number of things with at most three or four digits: 950, 12.3 k, 4.5 M."""
    return _scaled(count, 1000, ("", " k", " M", " G", " T"))


def shown_bytes(size: float) -> str:
    """A size with its unit, in powers of 1024."""
    return _scaled(size, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units:
        if abs(value) < base or unit == units[-1]:
            break
        value /= base
    return f"{value:.3g}{unit}" if value < 1000 else f"{value:.0f}{unit}"
