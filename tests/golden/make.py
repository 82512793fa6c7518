"""Golden loss curves: what a few steps of each family come to. ``python -m tests.golden.make`` writes them anew.

A change that moves a curve changes what models are trained: make them anew only in a commit that says why.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from llm_core.artifact import Silent
from llm_core.config import Model, Train
from llm_core.data import Batches, TokenShards, in_order
from llm_core.devices import computing
from llm_core.models import FAMILIES, build
from llm_core.objectives import control_tokens, make_objective
from llm_core.optim import Optimizers
from llm_core.train import State, fit
from llm_core.working_copy import Running

FOLDER = Path(__file__).parent
VOCABULARY, END, SEED = 64, 0, 11
CFG = Train(
    steps=30,
    batch_tokens=128,
    micro_batch_tokens=64,
    warmup_steps=5,
    validate_every=10,
    optimizer="adamw",
    lr=3e-3,
    embedding_lr=1e-2,
    head_lr=3e-3,
    label_smoothing=0.05,
    z_loss=1e-4,
    threads=1,
)


def text() -> np.ndarray:
    """Tokens of which most follow from the one before, so that there is something to learn in 30 steps."""
    rng = np.random.default_rng(SEED)
    ids = [1]
    for chance in rng.random(4000):
        ids.append(int(rng.integers(VOCABULARY)) if chance < 0.2 else (3 * ids[-1] + 1) % VOCABULARY)
    return np.array(ids, dtype=np.uint16)


def settings(family: str) -> Train:
    """AdamW's, and Muon's for the family that recipes start from; Muon rounds to bfloat16, which others amplify."""
    return CFG.model_copy(update={"optimizer": "muon"}) if family == "llama" else CFG


def curve(family: str, nudge: float = 0.0) -> dict[str, list[float]]:
    """The losses of training a tiny network of a family in float32 on one thread.

    `nudge` changes the weights by so much of themselves, to see what rounding in another order comes to.
    """
    cfg = settings(family)
    shape = Model.model_validate(
        {"family": family, "num_layers": 2, "width": 32, "num_kv_heads": 1, "mlp_width": 48, "context": 32}
    )
    ids, objective = TokenShards([text()]), make_objective(cfg, shape, VOCABULARY, END)
    network = build(shape, VOCABULARY + len(control_tokens(cfg, shape)), END, SEED)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1 + nudge)
    batches = Batches(ids, shape.context, cfg.batch_tokens // shape.context, SEED, objective)
    validation = list(in_order(ids.head(330), shape.context, 4, objective))
    state = State(network, Optimizers(network, cfg))
    with computing(cfg.threads):
        fit(state, cfg, batches, validation, Running(), Silent())
    return {
        "train": [round(point.train_loss, 6) for point in state.curve],
        "validation": [round(p.validation_loss, 6) for p in state.curve if p.validation_loss is not None],
    }


def main() -> None:
    """Write the curve of every family."""
    for family in FAMILIES:
        (FOLDER / f"{family}.json").write_text(json.dumps(curve(family), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
