"""The training loop: a function with its parts passed in, over one state that can be saved after any complete step."""

from __future__ import annotations

import csv
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from llm_core.artifact import Interrupted, Observer
from llm_core.checkpoint import Checkpoints, Snapshot
from llm_core.config import Train
from llm_core.data import Batch, Batches
from llm_core.models.interface import Network
from llm_core.optim import Optimizers, rate_factor
from llm_core.parallel import share
from llm_core.ranks import Alone, Ranks, together
from llm_core.sharded import own_row, row_of_rank, split_state
from llm_core.signals import DeferredSignals
from llm_core.split_tensors import here, is_split, rows_here, split_like, whole
from llm_core.working_copy import Running, WorkingCopy, micro_rows

__all__ = ["CurvePoint", "Interrupted", "Speed", "State", "TrainingError", "fit", "write_curve"]

SPIKE_WINDOW = 20  # losses whose median a spike is measured against


class TrainingError(ValueError):
    """Training that cannot go on; the message names the step and what to try."""


class BadStep(ValueError):
    """A step whose loss or gradient must not reach the weights; the message says what it was."""


@dataclass(frozen=True)
class CurvePoint:
    """One row of the loss curve; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float
    validation_loss: float | None
    lr: float


@dataclass(frozen=True)
class Speed:
    """What turns tokens a second into a share of the machine's arithmetic (MFU, Chowdhery et al., 2022)."""

    operations_per_token: float
    """Floating-point operations of a forward and backward pass."""
    peak: float
    """Operations a second that the machine's matrix products reach."""


@dataclass
class State:
    """Everything that a step changes."""

    model: Network
    """Weights in float32."""
    optimizers: Optimizers
    step: int = 0
    """Complete steps."""
    batch: int = 0
    """The next batch: the number of batches that were trained on or left out."""
    tokens: int = 0
    """Tokens trained on: those that the loss counted."""
    curve: list[CurvePoint] = field(default_factory=list)
    mean: dict[str, Tensor] = field(default_factory=dict)
    """The running mean of the weights, where the recipe keeps one."""
    left_out: list[int] = field(default_factory=list)
    """Numbers of the bad steps' batches."""
    seconds: float = 0.0
    """Time spent in steps."""
    ended: str = ""
    """Why training ended before its last step: the recipe's key."""
    whole: bool = True
    """False while a step is being applied: such a state must not be saved."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """The random generators at the last step's edge; a step that is broken off has moved them on."""

    ranks: Ranks = field(default_factory=Alone)
    num_ranks: list[list[int]] = field(default_factory=list)
    """Steps after which another number of ranks went on, and that number; nothing for one process throughout."""

    VALUES = ("batch", "tokens", "left_out", "seconds", "ended", "num_ranks")

    def snapshot(self) -> Snapshot:
        """The state as tensors and JSON values; the tensors are the live ones."""
        tensors = {f"weights/{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizers.tensors().items()}
        tensors |= {f"mean/{name}": tensor for name, tensor in self.mean.items()}
        random = self.random or _random_state()
        values = {name: getattr(self, name) for name in self.VALUES}
        values["curve"] = [dict(vars(point)) for point in self.curve]
        if self.ranks.size == 1:
            return Snapshot(self.step, tensors | random, values)
        pieces, parts = split_state(tensors)
        for name, generator in random.items():
            pieces[name], parts[name] = row_of_rank(generator, self.ranks)
        return Snapshot(self.step, pieces, values, parts)

    def wanted(self, name: str, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
        """What this rank holds of a tensor in a checkpoint, which any number of ranks may have saved."""
        if name in ("rng", "rng-cuda"):
            return own_row(shape, self.ranks)
        kind, _, rest = name.partition("/")
        weight = self.model.get_parameter(rest.rpartition("/")[0] if kind == "optimizer" else rest)
        rows = rows_here(weight) if shape == tuple(weight.shape) else None
        return () if rows is None else (rows,)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Become the saved state, bit for bit."""
        for name, parameter in self.model.named_parameters():
            here(parameter).copy_(snapshot.tensors[f"weights/{name}"])
        self.optimizers.restore(_below("optimizer/", snapshot.tensors))
        weights = dict(self.model.named_parameters())
        self.mean = {
            name: split_like(tensor.to(weights[name].device), weights[name])
            for name, tensor in _below("mean/", snapshot.tensors).items()
        }
        _restore_random(snapshot)
        self.random = _random_state()
        self.step = snapshot.step
        for name in self.VALUES:
            setattr(self, name, snapshot.values[name])
        self.curve = [CurvePoint(**point) for point in snapshot.values["curve"]]

    @torch.no_grad()
    def update_mean(self, decay: float) -> None:
        """Move the running mean towards the weights; at first faster than `decay`, so that it forgets the start."""
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self.model.named_parameters():
            self.mean.setdefault(name, parameter.detach().clone()).lerp_(parameter, share)

    def note_ranks(self) -> None:
        """Keep how many ranks go on from here, if it is news."""
        before = self.num_ranks[-1][1] if self.num_ranks else 1
        if self.ranks.size != before:
            self.num_ranks = [*self.num_ranks, [self.step, self.ranks.size]]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with its running mean for weights, where it has one."""
        if any(is_split(mean) for mean in self.mean.values()):  # FSDP keeps to its own memory
            with self._exchanged():
                yield
            return
        weights = {name: parameter.data for name, parameter in self.model.named_parameters()}
        try:
            for name, parameter in self.model.named_parameters():
                parameter.data = self.mean.get(name, parameter.data)
            yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.data = weights[name]

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        pairs = [(here(p), here(self.mean[name])) for name, p in self.model.named_parameters() if name in self.mean]
        weights = [weight.detach().clone() for weight, _ in pairs]
        with torch.no_grad():
            torch._foreach_copy_([weight.detach() for weight, _ in pairs], [mean for _, mean in pairs])
            try:
                yield
            finally:
                torch._foreach_copy_([weight.detach() for weight, _ in pairs], weights)


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

    A budget of time or cost, `stop_after` or patience ends it earlier: `state.ended` names the recipe's key. SIGTERM
    and SIGINT are answered at the next step's edge: checkpoint, then the signal goes where it would have gone; what
    would have killed the process raises Interrupted. Raises TrainingError for a loss or gradient that is not finite,
    unless the recipe goes on after bad steps.
    """
    with DeferredSignals() as signals, checkpoints or nullcontext():
        saved = checkpoints.load_latest(state.wanted) if checkpoints else None
        if saved is not None:
            state.restore(saved)
        state.note_ranks()
        state.random = _random_state()
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
                if checkpoints and state.step % cfg.checkpoint_every == 0 and state.step < cfg.steps:
                    checkpoints.save(_good(state).snapshot(), wait=False, score=point.validation_loss)
            if state.ended:
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
    state.random = _random_state()
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
    state.random = _random_state()


def _report(observer: Observer, point: CurvePoint, cfg: Train, tokens_per_second: float, speed: Speed | None) -> None:
    values = {"train/loss": point.train_loss, "train/lr": point.lr, "train/tokens_per_second": tokens_per_second}
    if speed is not None:
        values["train/mfu"] = tokens_per_second * speed.operations_per_token / speed.peak
    if point.validation_loss is not None:
        values["validation/loss"] = point.validation_loss
    observer.metrics(point.step, values)
    observer.progress(point.step, cfg.steps, "steps")


def _random_state() -> dict[str, Tensor]:
    """Torch's random generators, as they go into a checkpoint."""
    found = {"rng": torch.get_rng_state()}
    return found | {"rng-cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else found


def _restore_random(snapshot: Snapshot) -> None:
    if "rng" not in snapshot.tensors:  # saved by fewer ranks: what follows differs from rank to rank all the same
        torch.manual_seed(torch.initial_seed() + snapshot.step)
        return
    torch.set_rng_state(snapshot.tensors["rng"].flatten())
    if "rng-cuda" in snapshot.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(snapshot.tensors["rng-cuda"].flatten())


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
