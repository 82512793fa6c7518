"""The runs behind `time to loss`, kept and drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.training_runs import FOLDER, Run
from benchmarks.training_settings import OURS, TRAINER

CURVES = FOLDER / "results" / "training-curves.json"
PLOT = FOLDER.parent / "docs" / "images" / "training.png"


def keep_runs(runs: Sequence[Run]) -> None:
    """Write and draw the runs, beside those of sizes that were not measured this time."""
    earlier = [Run(**values) for values in json.loads(CURVES.read_text(encoding="utf-8"))] if CURVES.exists() else []
    names = {run.size for run in runs}
    kept = sorted([*(run for run in earlier if run.size not in names), *runs], key=lambda run: run.size)
    CURVES.write_text(json.dumps([asdict(run) for run in kept], indent=1) + "\n", encoding="utf-8")
    draw(kept)


def draw(runs: Sequence[Run]) -> None:
    """Validation loss over CPU seconds: a panel for each size."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.size for run in runs))
    with rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _draw_size(axes, [run for run in runs if run.size == name])
            axes.set_title(f"{name} parameters", loc="left", fontsize=10)
        panels[0].set_ylabel("validation loss, nats per token")
        PLOT.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(PLOT, dpi=160)


def _draw_size(axes: Any, runs: Sequence[Run]) -> None:
    colors = {TRAINER: "#b3541e", OURS: "#1f6f8b"}
    labelled: set[str] = set()
    for number, run in enumerate(runs):
        last_of_seed = number + 1 == len(runs) or runs[number + 1].side == TRAINER
        counts = run.side == TRAINER or last_of_seed
        label = f"{run.side}, {run.end['tokens'] / 1e6:.2g}M tokens" if counts else f"{run.side}, shorter"
        axes.plot(
            [point["cpu_seconds"] for point in run.points],
            [point["validation_loss"] for point in run.points],
            color=colors[run.side],
            alpha=0.9 if counts else 0.3,
            linewidth=1.4 if counts else 0.9,
            marker="o" if counts else None,
            markersize=2.5,
            label=None if label in labelled else label,
        )
        labelled.add(label)
        if run.side == TRAINER:
            axes.axhline(run.end["validation_loss"], color="#888888", linewidth=0.6, linestyle=":")
    axes.set_xlabel("CPU seconds, start-up aside")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
