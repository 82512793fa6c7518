"""Which learning rate a training can take, from a short run over rising ones (the range test of Smith, 2017).

Smith, "Cyclical Learning Rates for Training Neural Networks", section 3.3. Averaging and the margin below the blow-up
are those that fastai made common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from llm_core.config import Train
from llm_core.data import Batches
from llm_core.models.interface import Network
from llm_core.optim import Optimizers
from llm_core.working_copy import Running, WorkingCopy, micro_rows

LOWEST, HIGHEST = 1e-3, 1e3
"""Factors of the recipe's rates at the ends of the run."""
AVERAGED = 0.9
"""Share of the mean before in the running mean of the losses, which are noisy by themselves."""
BLOWN_UP = 0.1
"""A loss that is so much above its lowest, as a share of all that was gained, is on its way up."""
SAFE_SHARE = 0.1
"""Of the rate where the loss blows up."""


@dataclass(frozen=True)
class Trial:
    """One step at one rate."""

    factor: float
    """Of the recipe's rates, of all groups."""
    lr: float
    """The hidden matrices' rate: train.lr times the factor."""
    loss: float
    """In nats per token, before the step."""
    smoothed: float
    """Its running mean."""


@dataclass(frozen=True)
class Finding:
    """What the trials say about train.lr."""

    steepest: float
    """The rate at which the loss fell fastest."""
    blow_up: float | None
    """The rate at which it began to rise again; none where it never did."""

    @property
    def lr(self) -> float:
        """The rate to take: where the loss falls fastest, but well below where it blows up."""
        return self.steepest if self.blow_up is None else min(self.steepest, SAFE_SHARE * self.blow_up)


def sweep(
    network: Network,
    cfg: Train,
    batches: Batches,
    running: Running,
    steps: int,
    at_step: Callable[[int, Trial], None] = lambda step, trial: None,
) -> list[Trial]:
    """Train for `steps` at rates that rise by equal factors; ends early where the loss has blown up for good.

    The network's weights are of no use afterwards.
    """
    working, optimizers = WorkingCopy(network, cfg, running), Optimizers(network, cfg)
    trials: list[Trial] = []
    mean = 0.0
    for step in range(steps):
        factor = LOWEST * (HIGHEST / LOWEST) ** (step / max(1, steps - 1))
        batch = batches[step]
        loss, norm = working.gradients(batch.split(micro_rows(cfg, batch)))
        if not math.isfinite(loss) or not math.isfinite(norm):
            break
        mean = AVERAGED * mean + (1 - AVERAGED) * loss
        trials.append(Trial(factor, cfg.lr * factor, loss, mean / (1 - AVERAGED ** (step + 1))))
        at_step(step, trials[-1])
        lowest = min(trial.smoothed for trial in trials)
        if trials[-1].smoothed > 2 * lowest or trials[-1].smoothed > trials[0].loss + 1:
            break
        nn.utils.clip_grads_with_norm_(network.parameters(), cfg.clip_norm, norm)
        optimizers.step(factor)
        working.take_weights()
    return trials


def judge(trials: Sequence[Trial]) -> Finding:
    """What the trials say; raises ValueError where no rate made the loss fall."""
    lowest = min(range(len(trials)), key=lambda place: trials[place].smoothed, default=0)
    if lowest < 2:
        raise ValueError(
            f"the loss never fell in {len(trials)} steps: give more --steps, or look at the recipe's other rates"
        )
    # All rates are equally far apart on a logarithmic scale, so differences are slopes.
    falls = [trials[place + 1].smoothed - trials[place - 1].smoothed for place in range(1, lowest)]
    steepest = trials[1 + min(range(len(falls)), key=falls.__getitem__)]
    gained = trials[0].smoothed - trials[lowest].smoothed
    limit = trials[lowest].smoothed + BLOWN_UP * gained
    risen = [trial.lr for trial in trials[lowest:] if trial.smoothed > limit]
    return Finding(steepest.lr, risen[0] if risen else None)
