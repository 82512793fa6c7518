"""Try out learning rates for a recipe on the tokens that lie in the workspace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from llm_core.artifact import Artifact, ArtifactError, Observer
from llm_core.config import Recipe
from llm_core.data import Batches, open_tokens
from llm_core.devices import computing, pick_device, pick_precision
from llm_core.lr_finder import Finding, Trial, sweep
from llm_core.models import build
from llm_core.objectives import control_tokens, make_objective
from llm_core.working_copy import Running
from tasks.pinned import pinned
from tasks.stages import STAGES
from tasks.workspace import Workspace

DATA_STAGES = ("collect", "clean", "tokenizer", "tokenize")


def lr_find(ws: Workspace, recipe: Recipe, steps: int, observer: Observer) -> list[Trial]:
    """The trials of a recipe; raises ArtifactError where its tokens are not in the workspace."""
    tokens = recipes_tokens(ws, recipe)
    cfg, shape = recipe.train, recipe.model
    vocab_size, end_id = tokens.stats["vocab_size"], tokens.stats["end_id"]
    objective = make_objective(cfg, shape, vocab_size, end_id)
    ids = open_tokens(tokens.path, "train")
    batches = Batches(ids, shape.context, cfg.batch_tokens // shape.context, recipe.seed, objective)
    device = pick_device()

    def at_step(step: int, trial: Trial) -> None:
        observer.metrics(step, {"train/loss": trial.loss, "train/lr": trial.lr})
        observer.progress(step + 1, steps, "steps")

    with computing(cfg.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build(shape, vocab_size + len(control_tokens(cfg, shape)), end_id, recipe.seed).to(device)
        return sweep(network, cfg, batches, Running(pick_precision(cfg.precision, device)), steps, at_step)


def recipes_tokens(ws: Workspace, recipe: Recipe) -> Artifact:
    """The tokens in the workspace, if they were made by the recipe's own data stages."""
    recipe = pinned(ws, recipe)
    for name in DATA_STAGES:
        if not (ws.out / name).exists():
            raise ArtifactError(f"{ws.out / name}: not there; make it with: tidemill stage {name} {recipe.name}")
        made = Artifact.peek(ws.out / name, STAGES[name].makes)
        if made.recipe != recipe.slice(STAGES[name].reads):
            raise ArtifactError(
                f"{ws.out / name}: made with other values of {name} than recipe {recipe.name} has; "
                f"make it again with: tidemill stage {name} {recipe.name}"
            )
    return Artifact.open(ws.out / "tokenize", "tokens")


def draw(trials: Sequence[Trial], finding: Finding, path: Path) -> None:
    """The losses over the rates as a picture; the format follows from the name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rates = [trial.lr for trial in trials]
    axes.plot(rates, [trial.loss for trial in trials], color="#b8c4d0", linewidth=1, label="loss")
    axes.plot(rates, [trial.smoothed for trial in trials], color="#1f5fa8", linewidth=2, label="its running mean")
    axes.axvline(finding.lr, color="#1f5fa8", linestyle="--", label=f"suggested train.lr {finding.lr:.2g}")
    if finding.blow_up is not None:
        axes.axvline(finding.blow_up, color="#b3402a", linestyle=":", label=f"blows up at {finding.blow_up:.2g}")
    axes.set(xscale="log", xlabel="train.lr", ylabel="nats per token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
