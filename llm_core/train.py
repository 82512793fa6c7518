"""The training loop: a function with its parts passed in, over one state that can be saved after any complete step."""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from llm_core.artifact import Interrupted, Observer
from llm_core.checkpoint import Checkpoints
from llm_core.config import Train
from llm_core.data import Batch, Batches
from llm_core.optim import rate_factor
from llm_core.parallel import share
from llm_core.ranks import together
from llm_core.signals import DeferredSignals
from llm_core.split_tensors import whole
from llm_core.training_state import CurvePoint, State, random_state
from llm_core.working_copy import Running, WorkingCopy, micro_rows

__all__ = ["CurvePoint", "Interrupted", "Speed", "State", "TrainingError", "fit", "write_curve"]

SPIKE_WINDOW = 20  # losses whose median a spike is measured against


class TrainingError(ValueError):
    """Training that cannot go on; the message names the step and what to try."""


class BadStep(ValueError):
    """A step whose loss or gradient must not reach the weights; the message says what it was."""


@dataclass(frozen=True)
class Speed:
    """What turns tokens a second into a share of the machine's arithmetic (MFU, Chowdhery et al., 2022)."""

    operations_per_token: float
    """Floating-point operations of a forward and backward pass."""
    peak: float
    """Operations a second that the machine's matrix products reach."""


def fit(
    state: State,
    cfg: Train,
    batches: Batches,
    validation: Sequence[Batch],
    running: Running,
    observer: Observer,
    checkpoints: Checkpoints | None = None,
    speed: Speed | None = None,
) -> None:
    """Train `state` up to `cfg.steps` steps, going on from the newest checkpoint if there is one.

    A budget of time or cost, `stop_after` or patience ends it earlier: `state.ended` names the recipe's key. Patience
    goes back to the step with the best validation loss, which is in the checkpoints. SIGTERM and SIGINT are answered at
    the next step's edge: checkpoint, then the signal goes where it would have gone; what would have killed the process
    raises Interrupted. Raises TrainingError for a loss or gradient that is not finite, unless the recipe goes on after
    bad steps.
    """
    with DeferredSignals() as signals, checkpoints or nullcontext():
        saved = checkpoints.load_latest(state.wanted) if checkpoints else None
        if saved is not None:
            state.restore(saved)
        state.note_ranks()
        state.random = random_state()
        working = WorkingCopy(state.model, cfg, running)
        try:
            while not (stop := _agreed_signal(state, signals)) and not _is_over(state, cfg):
                started = time.perf_counter()
                point = _advance_or_leave_out(state, working, cfg, batches, validation, checkpoints)
                seconds = time.perf_counter() - started
                state.seconds += seconds
                if point is None:
                    continue
                _report(observer, point, cfg, batches.tokens_in(state.batch - 1) / seconds, speed)
                if checkpoints and _is_checkpoint_due(state, cfg):
                    checkpoints.save(_good(state).snapshot(), wait=False, score=point.validation_loss)
            if state.ended == "patience" and checkpoints:
                _go_back_to_the_best(state, checkpoints)
            elif state.ended:
                _validate_last(state, working, validation, observer)
            if state.ranks.size > 1:
                signals.received = stop  # of a later one the other ranks do not know
            if checkpoints and (signals.received or state.ended):
                checkpoints.save(_good(state).snapshot())
            _good(state)
        except BaseException as problem:
            # Not an error but a request to stop, raised anywhere: keep the last step if nothing of the next is in.
            if checkpoints and state.whole and state.ranks.size == 1 and not isinstance(problem, Exception):
                checkpoints.save(_good(state).snapshot())
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


def _agreed_signal(state: State, signals: DeferredSignals) -> int | None:
    """A signal that a rank received; like the time spent, on which budgets depend, it is the same on all then."""
    if state.ranks.size == 1:
        return signals.received
    answers = together(state.ranks, lambda: [state.seconds, signals.received or 0])
    state.seconds = max(seconds for seconds, _ in answers)
    return max(number for _, number in answers) or None


def _is_over(state: State, cfg: Train) -> bool:
    """Whether there is no further step; notes in the state why, where it is not the last one."""
    if state.ended or state.step >= cfg.steps:
        return True
    if cfg.stop_after and state.step >= cfg.stop_after:
        state.ended = "stop_after"
    elif _has_stalled(state.curve, cfg.patience):
        state.ended = "patience"
    elif cfg.max_minutes and state.seconds >= 60 * cfg.max_minutes:
        state.ended = "max_minutes"
    elif cfg.max_cost and state.seconds / 3600 * cfg.cost_per_hour >= cfg.max_cost:
        state.ended = "max_cost"
    return bool(state.ended)


def _has_stalled(curve: Sequence[CurvePoint], patience: int) -> bool:
    """Whether the last `patience` validations brought no better loss."""
    if not patience or not curve or curve[-1].validation_loss is None:
        return False
    losses = [point.validation_loss for point in curve if point.validation_loss is not None]
    return len(losses) > patience and min(losses[:-patience]) <= min(losses[-patience:])


def _is_checkpoint_due(state: State, cfg: Train) -> bool:
    """In the recipe's rhythm and, with patience, wherever the validation loss is the best so far."""
    due = state.step % cfg.checkpoint_every == 0 or (cfg.patience and _best(state.curve) is state.curve[-1])
    return bool(due) and state.step < cfg.steps


def _best(curve: Sequence[CurvePoint]) -> CurvePoint | None:
    """The first of the points with the lowest validation loss."""
    measured = ((point.validation_loss, point) for point in curve if point.validation_loss is not None)
    return min(measured, key=lambda pair: pair[0], default=(None, None))[1]


def _go_back_to_the_best(state: State, checkpoints: Checkpoints) -> None:
    """Become what training was at its best validation; the time spent stays what it is."""
    best = _best(state.curve)
    if best is None or best.step == state.step:
        return
    ended, seconds = state.ended, state.seconds
    state.restore(checkpoints.load(best.step, state.wanted))
    state.ended, state.seconds = ended, seconds


def _advance_or_leave_out(
    state: State,
    working: WorkingCopy,
    cfg: Train,
    batches: Batches,
    validation: Sequence[Batch],
    checkpoints: Checkpoints | None,
) -> CurvePoint | None:
    """One optimizer step, or none where it is a bad one."""
    try:
        return _advance(state, working, cfg, batches[state.batch], validation)
    except BadStep as problem:
        _leave_out(state, working, cfg, checkpoints, problem)
        return None


def _advance(state: State, working: WorkingCopy, cfg: Train, batch: Batch, validation: Sequence[Batch]) -> CurvePoint:
    """One optimizer step; the state changes only after the loss and the gradients are known to be good."""
    factor = rate_factor(state.step, cfg)
    parts = share(batch, state.ranks, micro_rows(cfg, batch))
    train_loss, norm = working.gradients(parts, batch.num_counted)
    _check_step(state, cfg, train_loss, float(norm))
    state.whole = False
    nn.utils.clip_grads_with_norm_(state.model.parameters(), cfg.clip_norm, norm)
    state.optimizers.step(factor)
    working.take_weights()
    state.step += 1
    state.batch += 1
    state.tokens += batch.num_counted
    if cfg.ema:
        state.update_mean(cfg.ema)
    due = bool(validation) and (state.step % cfg.validate_every == 0 or state.step == cfg.steps)
    validation_loss = _validate(state, working, validation) if due else None
    point = CurvePoint(state.step, state.tokens, train_loss, validation_loss, cfg.lr * factor)
    state.curve.append(point)
    state.random = random_state()
    state.whole = True
    return point


def _validate(state: State, working: WorkingCopy, validation: Sequence[Batch]) -> float | None:
    if not state.mean:
        loss = working.validation_loss(validation)
    else:
        with state.averaged():
            working.take_weights()
            loss = working.validation_loss(validation)
        working.take_weights()
    if loss is not None and not math.isfinite(loss):
        raise TrainingError(f"step {state.step}: the validation loss is {loss}; try a lower train.lr")
    return loss


def _validate_last(state: State, working: WorkingCopy, validation: Sequence[Batch], observer: Observer) -> None:
    """Measure what an early end leaves, as if it were the last step."""
    if not validation or not state.curve or state.curve[-1].validation_loss is not None:
        return
    loss = _validate(state, working, validation)
    state.curve[-1] = replace(state.curve[-1], validation_loss=loss)
    if loss is not None:
        observer.metrics(state.step, {"validation/loss": loss})


def _good(state: State) -> State:
    """The state, whose weights may be saved; raises TrainingError where the last update made one that is not finite."""
    weights = [parameter.detach() for parameter in state.model.parameters()]
    if not math.isfinite(whole(nn.utils.get_total_norm(weights))):
        raise TrainingError(f"step {state.step}: a weight is not finite any more; try a lower train.lr")
    return state


def _check_step(state: State, cfg: Train, loss: float, norm: float) -> None:
    """Raise BadStep for a loss or gradient that is not finite, or a loss far above the last ones."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise BadStep(f"the loss is {loss}, the gradient's norm {norm}")
    last = [point.train_loss for point in state.curve[-SPIKE_WINDOW:]]
    if cfg.spike_factor and len(last) == SPIKE_WINDOW and loss > cfg.spike_factor * statistics.median(last):
        raise BadStep(f"the loss is {loss}, above {cfg.spike_factor} times the last steps' {statistics.median(last)}")


def _leave_out(
    state: State, working: WorkingCopy, cfg: Train, checkpoints: Checkpoints | None, problem: BadStep
) -> None:
    """Do with a bad step what the recipe says: go on behind its batch, from here or from the checkpoint before.

    Only checkpoints of the recipe's rhythm are gone back to, so that a run that was stopped in between does the same.
    """
    bad = [*state.left_out, state.batch]
    if cfg.bad_steps == "stop" or len(bad) > cfg.max_bad_steps:
        raise TrainingError(
            f"step {state.step + 1}: {problem}; try a lower train.lr (now {cfg.lr}) or train.clip_norm, "
            "train.precision=float32, or train.bad_steps=skip or rewind"
        ) from None
    goal = state.step - state.step % cfg.checkpoint_every
    if cfg.bad_steps == "rewind" and checkpoints and goal:
        seconds = state.seconds
        state.restore(checkpoints.load(goal, state.wanted))
        state.seconds = seconds
    working.take_weights()
    state.left_out, state.batch = bad, bad[-1] + 1
    state.random = random_state()


def _report(observer: Observer, point: CurvePoint, cfg: Train, tokens_per_second: float, speed: Speed | None) -> None:
    values = {"train/loss": point.train_loss, "train/lr": point.lr, "train/tokens_per_second": tokens_per_second}
    if speed is not None:
        values["train/mfu"] = tokens_per_second * speed.operations_per_token / speed.peak
    if point.validation_loss is not None:
        values["validation/loss"] = point.validation_loss
    observer.metrics(point.step, values)
    observer.progress(point.step, cfg.steps, "steps")
