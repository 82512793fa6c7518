"""A training of a second, which the fault tests break off.

It has everything that a resume must bring back: random numbers (dropout), optimizer states, a place in the data; and
the edges at which it may be broken off: micro-batches, growing batches, warm-up, validations, checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model, Train
from tasks.train import train

SHAPE = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=48, context=16, dropout=0.2)
CFG = Train(
    steps=8,
    batch_tokens=64,
    micro_batch_tokens=32,
    batch_warmup_steps=3,
    optimizer="muon",  # beside AdamW for the rest: two optimizers' states in a checkpoint
    warmup_steps=4,
    validate_every=4,
    checkpoint_every=2,
    keep_checkpoints=3,
    threads=1,
)


class Watcher:
    """Keeps the numbers of the steps that were trained, and calls `at_step` after each."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.steps: list[int] = []
        self.at_step = at_step

    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.at_step(step)


def make_inputs(root: Path, seed: int = 1) -> None:
    """The tokens and the tokenizer that the training reads."""
    rng = np.random.default_rng(seed)
    with Draft(root / "tokenize", kind="tokens", stage="tokenize") as out:
        for split, size in (("train", 4000), ("validation", 100)):
            np.save(out.path / f"0.{split}.tokens.npy", rng.integers(30, size=size).astype(np.uint16))
        out.publish({"vocab_size": 30, "end_id": 0})
    with Draft(root / "tokenizer", kind="tokenizer", stage="tokenizer") as out:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (out.path / name).write_text("{}")
        out.publish({})


def train_tiny(root: Path, name: str, watcher: Watcher | None = None, cfg: Train = CFG) -> str:
    """Train to the end, from the newest checkpoint in ROOT/NAME/checkpoints; gives the sha256 of the weights."""
    tokens, tokenizer = (Artifact.open(root / stage) for stage in ("tokenize", "tokenizer"))
    scratch = root / name / "checkpoints"
    with Draft(root / name / "model", "model", "train", scratch=scratch, observer=watcher or Watcher()) as out:
        artifact = train(cfg, SHAPE, 7, tokens, tokenizer, out)
    return str(artifact.files["model.safetensors"]["sha256"])
