"""Trainings of a second, alone or on ranks; run as a program it is one of the ranks (see test_ranks_training.py)."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from llm_core import train as trainer
from llm_core import training_state, working_copy
from llm_core.artifact import Silent
from llm_core.checkpoint import Checkpoints
from llm_core.config import Model, Train
from llm_core.data import Batches, MarkedShards, TokenShards, in_order
from llm_core.models import build
from llm_core.objectives import control_tokens, make_objective
from llm_core.optim import Optimizers
from llm_core.parallel import joined, split_weights
from llm_core.ranks import Alone, Ranks
from llm_core.split_tensors import whole
from llm_core.train import State, fit
from llm_core.working_copy import Running, WorkingCopy

SHAPE = {"num_layers": 2, "width": 20, "num_heads": 2, "num_kv_heads": 1, "mlp_width": 25, "context": 16}
# 5 rows a step, 2 at a time: three micro-batches alone; on two ranks two, of which the second rank's last is short.
SETTINGS = {"steps": 12, "batch_tokens": 80, "warmup_steps": 2, "validate_every": 4, "checkpoint_every": 4}
SETTINGS |= {"threads": 1, "lr": 1e-2, "embedding_lr": 1e-2, "clip_norm": 0.5}


@dataclass
class Plan:
    """One training, and where its checkpoints and results go."""

    name: str
    kind: Literal["none", "ddp", "fsdp"] = "none"
    train: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    micro_rows: int = 2
    dtype: str = "float32"
    folder: str = ""
    broken: str = ""
    """What of the build is broken, a key of BROKEN."""

    def run(self, ranks: Ranks, checkpoint_ranks: Ranks) -> State:
        cfg = Train(**{**SETTINGS, **self.train})
        cfg = cfg.model_copy(update={"micro_batch_tokens": self.micro_rows * 16})  # need not divide the batch
        shape = Model(**{**SHAPE, **self.model})
        objective = make_objective(cfg, shape, 30, 0)
        torch.manual_seed(5 + ranks.rank)
        network = build(shape, 30 + len(control_tokens(cfg, shape)), end_id=0, seed=1)
        dtype = getattr(torch, self.dtype)
        if self.kind == "fsdp":
            split_weights(network, dtype)
        state = State(network, Optimizers(network, cfg), ranks=ranks)
        ids = tokens()
        batches = Batches(ids, 16, 5, 3, objective, batch_warmup=cfg.batch_warmup_steps)
        validation = list(in_order(ids.head(200), 16, 4, objective))
        where = Path(self.folder)
        kept = Checkpoints(where, {"run": 1}, keep=9, ranks=checkpoint_ranks) if self.folder else None
        with broken_build(self.broken):
            fit(state, cfg, batches, validation, Running(dtype, distributed=self.kind), Silent(), kept)
        return state


RIGHT = WorkingCopy.gradients
BROKEN: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "divided by the local count": (WorkingCopy, "gradients", lambda self, parts, num_counted: RIGHT(self, parts)),
    "gradients not exchanged": (working_copy, "share_gradients", lambda loss: None),
    "all rows on each rank": (trainer, "share", lambda batch, ranks, num_rows: batch.split(num_rows)),
    "optimizer not restored": (Optimizers, "restore", lambda self, tensors: None),
    "random numbers of rank 0 on all": (training_state, "own_row", lambda shape, ranks: (slice(0, 1),)),
}


@contextmanager
def broken_build(name: str) -> Iterator[None]:
    """The trainer with one thing wrong; nothing for no name."""
    if not name:
        yield
        return
    place, attribute, wrong = BROKEN[name]
    right = getattr(place, attribute)
    setattr(place, attribute, wrong)
    try:
        yield
    finally:
        setattr(place, attribute, right)


def tokens() -> TokenShards:
    """Random ids with random lengths of text that counts and text that does not: rows weigh very differently."""
    rng = np.random.default_rng(1)
    marks = np.repeat(rng.random(200) < 0.5, rng.integers(1, 40, 200))
    return MarkedShards([rng.integers(30, size=len(marks)).astype(np.uint16)], [marks])


def result(state: State) -> dict[str, Any]:
    """What is compared: the losses, and what names the weights' bits."""
    weights = {name: whole(parameter.detach()) for name, parameter in state.model.named_parameters()}
    with state.averaged():
        averaged = {name: whole(parameter.detach()) for name, parameter in state.model.named_parameters()}
    return {
        "losses": [point.train_loss for point in state.curve],
        "validation": [point.validation_loss for point in state.curve if point.validation_loss is not None],
        "weights": _sha256(weights),
        "averaged": _sha256(averaged),
        "tokens": state.tokens,
        "num_ranks": state.num_ranks,
    }


def _sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors.values())).hexdigest()


def run_all(plans: list[Mapping[str, Any]], ranks: Ranks, checkpoint_ranks: Ranks) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return {plan["name"]: result(Plan(**plan).run(ranks, checkpoint_ranks)) for plan in plans}


def alone(plan: Plan) -> dict[str, Any]:
    threads = torch.get_num_threads()
    found = run_all([vars(plan)], Alone(), Alone())[plan.name]
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    return dict(found)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with joined() as (ranks, checkpoint_ranks):
        results = run_all(json.loads((folder / "plans.json").read_text()), ranks, checkpoint_ranks)
    (folder / f"results-{ranks.rank}.json").write_text(json.dumps(results))
