"""`tidemill lr-find`: a learning rate for a recipe, from a short run over rising ones. Mounted by flows/cli.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import Json, Overrides, RecipeName, recipe_named, workspace

if TYPE_CHECKING:
    from llm_core.config import Train
    from llm_core.lr_finder import Trial

ROWS = 20
RATES = ("lr", "embedding_lr", "head_lr", "norm_lr")


def lr_find(
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=10, help="Steps, each at a higher rate than the one before.")] = 100,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the losses over the rates (.png or .svg).", metavar="FILE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Suggest train.lr: try rising rates on the recipe's tokens for a moment (Smith, 2017)."""
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise typer.BadParameter(f"--plot {plot}: the name must end with .png or .svg")
    ws = workspace()
    chosen = recipe_named(ws, recipe, overrides)
    from llm_core.lr_finder import judge
    from tasks import lr_find as finder
    from tasks.observers import Terminal

    with Terminal("lr-find") as observer:
        trials = finder.lr_find(ws, chosen, steps, observer)
    finding = judge(trials)
    if plot is not None:
        finder.draw(trials, finding, plot)
    rates = _suggested(chosen.train, finding.lr / chosen.train.lr)
    if as_json:
        found = {"steepest": finding.steepest, "blow_up": finding.blow_up, "suggested": rates}
        print(json.dumps({**found, "trials": [asdict(trial) for trial in trials]}, indent=1))
        return
    _print(trials, rates, finding.steepest, finding.blow_up)
    if plot is not None:
        print(f"drawn in {plot}")


def _suggested(cfg: Train, factor: float) -> dict[str, float]:
    """All rates moved together, as they were in the trials; adam and sgd have one."""
    names = RATES[:1] if cfg.optimizer in ("adam", "sgd") else RATES
    return {f"train.{name}": float(f"{getattr(cfg, name) * factor:.2g}") for name in names}


def _print(trials: Sequence[Trial], rates: dict[str, float], steepest: float, blow_up: float | None) -> None:
    from flows import report

    every = max(1, len(trials) // ROWS)
    rows = [
        {"train.lr": f"{trial.lr:.3g}", "loss": f"{trial.loss:.3f}", "running mean": f"{trial.smoothed:.3f}"}
        for trial in trials[::every]
    ]
    report.print_rows("Losses at rising rates", rows, as_json=False)
    print(f"the loss falls fastest at {steepest:.3g}")
    print("it never blew up" if blow_up is None else f"it blows up at {blow_up:.3g}")
    print("suggested: " + " ".join(f"--set {name}={rate:g}" for name, rate in rates.items()))
