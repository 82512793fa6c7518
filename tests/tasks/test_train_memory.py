"""The memory that a plan expects of a training is what the train stage takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model, Recipe, Train
from llm_core.operations import sequences_of
from llm_core.plan import on_meta
from llm_core.plan.memory import memory_of
from tasks.train import train

TINY = Model(num_layers=3, width=64, num_heads=4, num_kv_heads=4, mlp_width=192, context=64)
TEN_MILLION = Model(num_layers=6, width=320, num_heads=5, num_kv_heads=5, mlp_width=896, context=256)


def artifact(root: Path, stage: str, vocab_size: int) -> Artifact:
    """What training reads; the validation split is too short to be looked at."""
    ids = np.random.default_rng(1).integers(vocab_size, size=40_000).astype(np.uint16)
    with Draft(root / stage, kind=stage, stage=stage) as out:
        if stage == "tokenizer":
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (out.path / name).write_text(f'"{name}"')
            return out.publish({})
        np.save(out.path / "0.train.tokens.npy", ids)
        np.save(out.path / "0.validation.tokens.npy", ids[:2])
        return out.publish({"vocab_size": vocab_size, "end_id": 0})


def peak_of(recorded: Any) -> int:
    """Most bytes in use at once, of those that were taken while the profiler ran."""
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak


@pytest.mark.parametrize(("precision", "optimizer"), [("bfloat16", "muon"), ("float32", "adamw")])
@pytest.mark.parametrize(
    ("shape", "vocab_size", "rows"),
    [(TINY, 512, 128), pytest.param(TEN_MILLION, 4096, 8, marks=pytest.mark.slow)],
    ids=["tiny", "10M"],
)
def test_the_planned_peak_is_within_a_fifth_of_what_training_allocates(
    tmp_path: Path, precision: str, optimizer: str, shape: Model, vocab_size: int, rows: int
) -> None:
    values = {"steps": 2, "warmup_steps": 1, "batch_tokens": rows * shape.context, "threads": 1, "compile": "off"}
    cfg = Train.model_validate({**values, "precision": precision, "optimizer": optimizer})
    recipe = Recipe.model_validate({"model": shape, "train": cfg, "tokenizer": {"vocab_size": vocab_size}, **STRIDE})
    planned = memory_of(on_meta(recipe), shape, cfg, sequences_of(shape, cfg), getattr(torch, precision))
    tokens, tokenizer = (artifact(tmp_path, stage, vocab_size) for stage in ("tokens", "tokenizer"))
    with (
        Draft(tmp_path / "model", kind="model", stage="train") as out,
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded,
    ):
        train(cfg, shape, 7, tokens, tokenizer, out)
    assert planned.peak == pytest.approx(peak_of(recorded), rel=0.2)
    assert planned.peak > 2 * planned.weights


STRIDE = {"evaluate": {"stride": 8}}
