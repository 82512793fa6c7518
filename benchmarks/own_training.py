"""This project as a side of `benchmarks/training.py`: the shipped loop with a recipe's defaults.

    python benchmarks/own_training.py ASSIGNMENT.json

Settings are those of a recipe's `train` section.
"""

from __future__ import annotations

# ruff: noqa: E402
import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.training_side import Assignment, Meter
from llm_core.artifact import Silent
from llm_core.config import Model, Train
from llm_core.data import Batches, open_tokens
from llm_core.devices import computing, pick_device, pick_precision
from llm_core.models import build
from llm_core.objectives import Causal
from llm_core.optim import Optimizers
from llm_core.train import State, fit
from llm_core.working_copy import Running, compiles, pays_to_compile


class Metered(Silent):
    """The observer that tells the meter of every step."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._meter.step_done()


def main() -> None:
    """Train as assigned, as `tasks/train.py` does."""
    todo = Assignment.read(sys.argv[1])
    cfg = Train(steps=todo.steps, batch_tokens=todo.batch * todo.context, threads=todo.threads, **todo.setting)
    architecture = Model(
        num_layers=todo.num_layers,
        width=todo.width,
        num_heads=todo.num_heads,
        num_kv_heads=todo.num_heads,
        mlp_width=todo.mlp_width,
        context=todo.context,
    )
    batches = drawn(Path(todo.tokens), todo.context, todo.batch, todo.seed)
    device = pick_device()
    with computing(cfg.threads):
        torch.manual_seed(todo.seed)
        model = build(architecture, todo.vocab_size, end_id=0, seed=todo.seed)
        meter = Meter(todo, model)
        meter.start()  # compiling is part of the start-up
        running = Running(pick_precision(cfg.precision, device), pays_to_compile(cfg.compile, model, cfg))
        if running.compile and not compiles(model, cfg, running, batches[0]):
            raise SystemExit("the network does not compile")
        fit(State(model, Optimizers(model, cfg)), cfg, batches, (), running, Metered(meter))


def drawn(tokens: Path, context: int, windows: int, seed: int) -> Batches:
    """The batches of training tokens in the order of this seed."""
    return Batches(open_tokens(tokens, "train"), context, windows, seed, Causal())


def windows_of(tokens: Path, context: int, windows: int, seed: int, steps: int) -> NDArray[np.uint16]:
    """The same as windows of ids, (steps * windows, context + 1), for the peers."""
    batches = drawn(tokens, context, windows, seed)
    rows = [
        np.hstack((found.inputs["input_ids"], found.targets[:, -1:]))
        for found in map(batches.__getitem__, range(steps))
    ]
    return np.concatenate(rows).astype(np.uint16)


if __name__ == "__main__":
    main()
