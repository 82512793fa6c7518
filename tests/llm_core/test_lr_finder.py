"""The range test finds the rate at which a real training is fastest, and stops where it blows up."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from llm_core.artifact import Silent
from llm_core.config import Model, Train
from llm_core.data import Batches, TokenShards
from llm_core.lr_finder import HIGHEST, LOWEST, SAFE_SHARE, Finding, Trial, judge, sweep
from llm_core.models import build
from llm_core.objectives import Causal
from llm_core.optim import Optimizers
from llm_core.train import State, TrainingError, fit
from llm_core.working_copy import Running

SHAPE = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, context=16)


def trials(losses: list[float]) -> list[Trial]:
    return [Trial(10**place, 1e-4 * 10**place, loss, loss) for place, loss in enumerate(losses)]


def test_the_steepest_fall_counts_unless_it_is_too_near_to_the_blow_up() -> None:
    flat = judge(trials([4.0, 3.9, 3.0, 2.9, 2.88, 2.87]))
    assert (flat.steepest, flat.blow_up) == (pytest.approx(1e-3), None) and flat.lr == flat.steepest
    near = judge(trials([4.0, 3.99, 3.9, 2.8, 2.79, 9.0]))
    assert near.steepest == pytest.approx(1e-2) and near.blow_up == pytest.approx(10)
    assert near.lr == near.steepest
    assert Finding(steepest=0.5, blow_up=1.0).lr == SAFE_SHARE


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    with pytest.raises(ValueError, match="the loss never fell in 3 steps: give more --steps"):
        judge(trials([4.0, 4.1, 5.0]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_rates_rise_by_equal_factors_and_the_suggestion_learns_better_than_its_neighbours(optimizer: str) -> None:
    ids = TokenShards([np.tile(np.arange(20, dtype=np.uint16), 200)])
    batches = Batches(ids, SHAPE.context, 4, 3, Causal())
    rates = dict.fromkeys(("lr", "embedding_lr", "head_lr", "norm_lr"), 1e-3)
    cfg = Train.model_validate({"optimizer": optimizer, "batch_tokens": 64, "warmup_steps": 0, **rates})
    seen: list[int] = []
    network = build(SHAPE, 20, end_id=0, seed=1)
    found = sweep(network, cfg, batches, Running(), 80, lambda step, trial: seen.append(step))
    assert seen == list(range(len(found))) and found[0].factor == LOWEST
    ratio = (HIGHEST / LOWEST) ** (1 / 79)
    assert [b.lr / a.lr for a, b in zip(found, found[1:], strict=False)] == pytest.approx([ratio] * (len(found) - 1))
    assert all(math.isfinite(trial.loss) for trial in found)
    suggested = judge(found).lr

    def after(lr: float) -> float:
        """The loss that 25 steps at one rate end with."""
        fixed = {**dict.fromkeys(rates, lr), "steps": 25, "schedule": "constant"}
        trained = build(SHAPE, 20, end_id=0, seed=1)
        state = State(trained, Optimizers(trained, cfg.model_copy(update=fixed)))
        with contextlib.suppress(TrainingError):
            fit(state, cfg.model_copy(update=fixed), batches, [], Running(), Silent())
        return sum(point.train_loss for point in state.curve[-5:]) / 5 if state.step == 25 else math.inf

    at = after(suggested)
    assert at < after(suggested / 20) and at < after(suggested * 1000)
