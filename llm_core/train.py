"""The training loop: a function with its parts passed in, over one state that can be saved after any complete step."""

from __future__ import annotations

import csv
import math
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.artifact import Interrupted, Observer
from llm_core.checkpoint import Checkpoints, Snapshot
from llm_core.config import Train
from llm_core.data import IGNORED, Batches
from llm_core.losses import head_cross_entropy, num_counted
from llm_core.optim import Optimizers, WorkingCopy, rate_factor

__all__ = ["CurvePoint", "Interrupted", "State", "TrainingError", "fit", "write_curve"]

Batch = tuple[Tensor, Tensor]


class TrainingError(ValueError):
    """Training that cannot go on; the message names the step and what to try."""


@dataclass(frozen=True)
class CurvePoint:
    """One row of the loss curve; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float
    validation_loss: float | None
    lr: float


@dataclass
class State:
    """Everything that a step changes. The step is also the cursor of the data and of the schedule."""

    model: nn.Module
    """Weights in float32."""
    optimizers: Optimizers
    step: int = 0
    """Complete steps."""
    tokens: int = 0
    """Tokens trained on: those that the loss counted."""
    curve: list[CurvePoint] = field(default_factory=list)
    whole: bool = True
    """False while a step is being applied: such a state must not be saved."""

    def snapshot(self) -> Snapshot:
        """The state as tensors and JSON values; the tensors are the live ones."""
        tensors = {f"weights/{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizers.tensors().items()}
        tensors["rng"] = torch.get_rng_state()
        values = {"tokens": self.tokens, "curve": [asdict(point) for point in self.curve]}
        return Snapshot(step=self.step, tensors=tensors, values=values)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Become the saved state, bit for bit."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(snapshot.tensors[f"weights/{name}"])
        self.optimizers.restore(_below("optimizer/", snapshot.tensors))
        torch.set_rng_state(snapshot.tensors["rng"])
        self.step, self.tokens = snapshot.step, snapshot.values["tokens"]
        self.curve = [CurvePoint(**point) for point in snapshot.values["curve"]]


def fit(
    state: State,
    cfg: Train,
    batches: Batches,
    validation: Sequence[Batch],
    dtype: torch.dtype,
    observer: Observer,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train `state` up to `cfg.steps` steps, going on from the newest checkpoint if there is one.

    SIGTERM and SIGINT are answered at the next step's edge: checkpoint, then the signal goes where it would have gone;
    what would have killed the process raises Interrupted. Raises TrainingError when a loss or gradient is not finite.
    """
    saved = checkpoints.load_latest() if checkpoints else None
    if saved is not None:
        state.restore(saved)
    working = WorkingCopy(state.model, dtype)
    with _DeferredSignals() as signals:
        try:
            while state.step < cfg.steps and not signals.received:
                started = time.perf_counter()
                point = _advance(state, working, cfg, batches[state.step], validation)
                seconds = time.perf_counter() - started
                _report(observer, point, cfg, batches.tokens_per_batch / seconds)
                if checkpoints and state.step % cfg.checkpoint_every == 0 and state.step < cfg.steps:
                    checkpoints.save(state.snapshot())
            if signals.received and checkpoints:
                checkpoints.save(state.snapshot())
        except BaseException as stop:
            # Not an error but a request to stop, raised anywhere: keep the last step if nothing of the next is in.
            if checkpoints and state.whole and not isinstance(stop, Exception):
                checkpoints.save(state.snapshot())
            raise
    signals.deliver(state.step, resumable=checkpoints is not None)


def write_curve(path: Path, curve: Sequence[CurvePoint]) -> None:
    """Write the loss curve as CSV; steps without a validation have an empty cell."""
    with open(path, "x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("step", "tokens", "train_loss", "validation_loss", "lr"))
        for point in curve:
            validation = "" if point.validation_loss is None else f"{point.validation_loss:.6f}"
            writer.writerow((point.step, point.tokens, f"{point.train_loss:.6f}", validation, f"{point.lr:.6g}"))


def _advance(state: State, working: WorkingCopy, cfg: Train, batch: Batch, validation: Sequence[Batch]) -> CurvePoint:
    """One optimizer step; the state changes only after the loss and the gradients are known to be finite."""
    factor = rate_factor(state.step, cfg)
    loss = _loss(working.module, batch)
    loss.backward()
    norm = working.hand_over_gradients()
    train_loss = loss.item()
    if not math.isfinite(train_loss) or not math.isfinite(norm.item()):
        raise TrainingError(
            f"step {state.step + 1}: the loss is {train_loss}, the gradient's norm {norm.item()}; "
            f"try a lower train.lr (now {cfg.lr}) or train.clip_norm, or train.precision=float32"
        )
    state.whole = False
    nn.utils.clip_grads_with_norm_(state.model.parameters(), cfg.clip_norm, norm)
    state.optimizers.step(factor)
    working.take_weights()
    state.step += 1
    state.tokens += num_counted(batch[1])
    due = bool(validation) and (state.step % cfg.validate_every == 0 or state.step == cfg.steps)
    validation_loss = _validation_loss(working.module, validation) if due else None
    point = CurvePoint(state.step, state.tokens, train_loss, validation_loss, cfg.lr * factor)
    state.curve.append(point)
    state.whole = True
    return point


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean loss of a batch's counted targets in nats, computed without holding all logits."""
    network: Any = model  # a causal model: a body and a head
    inputs, targets = batch
    hidden = network.model(inputs.to(network.lm_head.weight.device)).flatten(0, 1)
    return head_cross_entropy(hidden, network.lm_head.weight, targets.flatten())


@torch.no_grad()
def _validation_loss(model: nn.Module, validation: Sequence[Batch]) -> float | None:
    """Mean loss of the counted targets, none where there is no such target."""
    num_targets = sum(num_counted(targets) for _, targets in validation)
    return sum(_exact_loss(model, batch) for batch in validation) / num_targets if num_targets else None


def _exact_loss(model: nn.Module, batch: Batch) -> float:
    """Sum of the losses of the counted targets: those that are IGNORED have none."""
    device = next(model.parameters()).device
    inputs, targets = (part.to(device) for part in batch)
    return F.cross_entropy(
        model(inputs).logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    ).item()


def _report(observer: Observer, point: CurvePoint, cfg: Train, tokens_per_second: float) -> None:
    values = {"train/loss": point.train_loss, "train/lr": point.lr, "train/tokens_per_second": tokens_per_second}
    if point.validation_loss is not None:
        values["validation/loss"] = point.validation_loss
    observer.metrics(point.step, values)
    observer.progress(point.step, cfg.steps, "steps")


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class _DeferredSignals:
    """Holds back the first SIGTERM or SIGINT until `deliver`; a second one goes through at once.

    Python runs handlers in the main thread only, so elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _DeferredSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                before = signal.getsignal(number)
                if before not in (signal.SIG_IGN, None):  # ignored stays ignored; None was not set from Python
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and callable(self._before[number]):
            self._before[number](number, frame)
        self.received = number

    def deliver(self, step: int, resumable: bool) -> None:
        """Give a held back signal to its former handler; if that was the system's, raise Interrupted."""
        if self.received is None:
            return
        before = self._before[self.received]
        if callable(before):
            before(self.received, sys._getframe())
        kept = "run it again to go on from there" if resumable else "nothing was kept, since the run has no checkpoints"
        raise Interrupted(f"{signal.Signals(self.received).name} after step {step}; {kept}")
