"""How a training ends early, leaves bad steps out and goes on: nothing bad is saved, nothing is read twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llm_core import train as loop
from llm_core.checkpoint import Checkpoints
from llm_core.config import Model, Train
from llm_core.data import Batch, Batches, TokenShards, in_order
from llm_core.models import build
from llm_core.objectives import Causal
from llm_core.optim import Optimizers
from llm_core.train import State, TrainingError, fit
from llm_core.working_copy import Running, WorkingCopy
from tests.llm_core.test_train import CFG, Stop, Watcher, stop_at, weights

SHAPE = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, context=16)
IDS = np.arange(600, dtype=np.uint16)  # an id is its own place
NAN = float("nan")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def changed(**values: Any) -> Train:
    return Train.model_validate({**CFG.model_dump(), **values})


def data(cfg: Train) -> Batches:
    return Batches(
        TokenShards([IDS]),
        SHAPE.context,
        cfg.batch_tokens // SHAPE.context,
        3,
        Causal(),
        cfg.batch_warmup_steps,
        cfg.sequence_warmup_steps,
    )


def run(
    cfg: Train,
    folder: Path | None = None,
    at_step: Callable[[int], None] = lambda step: None,
    dropout: float = 0.0,
    batches: Batches | None = None,
) -> State:
    """Train from the newest checkpoint in `folder`; random numbers begin where a process of its own would."""
    torch.manual_seed(5)
    model = build(SHAPE.model_copy(update={"dropout": dropout}), vocab_size=len(IDS), end_id=0, seed=1)
    state = State(model, Optimizers(model, cfg))
    checkpoints = Checkpoints(folder, {}, keep=2, pin_every=cfg.checkpoint_every) if folder else None
    validation = list(in_order(TokenShards([IDS[:200]]), SHAPE.context, 4, Causal()))
    fit(state, cfg, batches or data(cfg), validation, Running(), Watcher(at_step), checkpoints)
    return state


def poison(monkeypatch: pytest.MonkeyPatch, losses: Mapping[int, float]) -> None:
    """Batches of these numbers get that loss, and gradients to it that would ruin every weight."""
    read, compute = Batches.__getitem__, WorkingCopy.gradients
    number = -1

    def noting(self: Batches, wanted: int) -> Batch:
        nonlocal number
        number = wanted
        return read(self, wanted)

    def gradients(self: WorkingCopy, *arguments: Any) -> tuple[float, Tensor]:
        loss, norm = compute(self, *arguments)
        if number not in losses:
            return loss, norm
        for master in self._masters:
            assert master.grad is not None
            master.grad *= losses[number] * 100
        return losses[number], norm * losses[number] * 100

    monkeypatch.setattr(Batches, "__getitem__", noting)
    monkeypatch.setattr(WorkingCopy, "gradients", gradients)


class Without(Batches):
    """The same batches, where those of `gone` were never there."""

    gone: tuple[int, ...] = ()

    def __getitem__(self, number: int) -> Batch:
        return super().__getitem__([n for n in range(number + len(self.gone) + 1) if n not in self.gone][number])


def without(cfg: Train, *gone: int) -> Batches:
    batches = Without(**vars(data(cfg)))
    object.__setattr__(batches, "gone", gone)
    return batches


@pytest.mark.parametrize("loss", [NAN, float("inf"), 1e4])
def test_a_skipped_step_is_as_if_its_batch_were_not_there(monkeypatch: pytest.MonkeyPatch, loss: float) -> None:
    cfg = changed(steps=24, bad_steps="skip", spike_factor=10)
    plain = run(cfg, batches=without(cfg, 21))
    poison(monkeypatch, {21: loss})
    state = run(cfg)
    assert (state.step, state.batch, state.left_out) == (24, 25, [21])
    assert torch.equal(weights(state), weights(plain))


def test_a_rewound_run_goes_on_behind_the_bad_batch_from_the_checkpoint_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = changed(bad_steps="rewind")
    plain = run(cfg, batches=without(cfg, 4, 5, 6))  # the checkpoint of step 4 is the one before
    poison(monkeypatch, {6: NAN})
    seen: list[int] = []
    state = run(cfg, tmp_path, seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, *range(5, 13)]
    assert state.left_out == [6] and torch.equal(weights(state), weights(plain))


BAD = {6: NAN, 9: NAN, 10: NAN}


@lru_cache
def unbroken_with_bad_steps(bad_steps: str) -> State:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        poison(patch, BAD)
        return run(changed(bad_steps=bad_steps), Path(folder), dropout=0.2)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("bad_steps", ["skip", "rewind"])
@pytest.mark.parametrize("report", [4, 6, 7, 9, 13])
def test_a_run_with_bad_steps_that_is_stopped_goes_on_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bad_steps: str, report: int, kept: bool
) -> None:
    """`kept`: the stop saves its step, as a signal's; otherwise all since the last checkpoint is lost, as by a kill."""
    cfg, unbroken = changed(bad_steps=bad_steps), unbroken_with_bad_steps(bad_steps)
    poison(monkeypatch, BAD)
    reports = 0

    def stopping(step: int) -> None:
        nonlocal reports
        reports += 1
        if reports == report:
            raise Stop if kept else RuntimeError("killed")

    if report < 13 or bad_steps == "rewind":
        with pytest.raises((Stop, RuntimeError)):
            run(cfg, tmp_path, stopping, dropout=0.2)
    resumed = run(cfg, tmp_path, dropout=0.2)
    assert torch.equal(weights(resumed), weights(unbroken))
    assert resumed.left_out == unbroken.left_out == [6, 9, 10]


def test_after_too_many_bad_steps_training_ends_and_what_was_saved_is_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg = changed(bad_steps="skip", max_bad_steps=2, checkpoint_every=1)
    poison(monkeypatch, {2: NAN, 4: NAN, 6: NAN})
    with pytest.raises(TrainingError, match=r"step 5: the loss is nan.*try a lower train.lr"):
        run(cfg, tmp_path)
    saved = [load_file(path) for path in tmp_path.glob("step-*/*.safetensors")]
    assert len(saved) == 2
    assert all(tensor.isfinite().all() for tensors in saved for tensor in tensors.values())


@pytest.mark.parametrize(
    ("step", "problem"), [(4, "a weight is not finite any more"), (12, "the validation loss is nan")]
)
def test_an_update_that_makes_a_bad_weight_is_never_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int, problem: str
) -> None:
    update = Optimizers.step
    calls = 0

    def overflowing(self: Optimizers, factor: float) -> None:
        nonlocal calls
        calls += 1
        update(self, factor)
        if calls == step:
            self._parts[0].param_groups[0]["params"][0].data[0, 0] = float("inf")

    monkeypatch.setattr(Optimizers, "step", overflowing)
    with pytest.raises(TrainingError, match=rf"step {step}: {problem}; try a lower train.lr"):
        run(changed(), tmp_path)
    assert not (tmp_path / f"step-{step}").exists()


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step takes half a minute."""
    ticks: Iterator[float] = iter(np.arange(0, 1e6, 30.0))
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))


BUDGETS = [{"max_minutes": 2.0}, {"max_cost": 1.0, "cost_per_hour": 30.0}]


@pytest.mark.usefixtures("slow_clock")
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_budget_ends_with_a_checkpoint_and_a_rebuild_ends_at_the_same_step(
    tmp_path: Path, budget: dict[str, Any]
) -> None:
    state = run(changed(**budget), tmp_path)
    assert (state.step, state.ended) == (4, next(iter(budget)))
    assert state.curve[-1].validation_loss is not None  # measured, though step 4 is not due
    assert (tmp_path / "step-4").is_dir()
    again = run(changed(stop_after=4))
    assert again.ended == "stop_after" and torch.equal(weights(again), weights(state)) and again.curve == state.curve
    shorter = run(changed(steps=4))  # fewer steps are another schedule
    assert not torch.equal(weights(shorter), weights(state))


@pytest.mark.usefixtures("slow_clock")
def test_the_time_before_a_stop_counts_against_the_budget(tmp_path: Path) -> None:
    cfg = changed(max_minutes=2.0)
    with pytest.raises(Stop):
        run(cfg, tmp_path, stop_at(3))
    seen: list[int] = []
    assert run(cfg, tmp_path, seen.append).step == 4 and seen[0] == 4
    assert run(cfg, tmp_path).step == 4  # an ended run stays ended


@pytest.fixture
def validation_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validation loss of every second step from the second on, best at the sixth."""
    losses = {2: 3.0, 4: 2.5, 6: 2.0, 8: 2.2, 10: 2.0, 12: 2.1}
    monkeypatch.setattr(loop, "_validate", lambda state, *rest: losses[state.step])


@pytest.mark.usefixtures("validation_losses")
@pytest.mark.parametrize("settings", [{}, {"ema": 0.6}, {"checkpoint_every": 100}, {"keep_checkpoints": 1}])
def test_without_a_better_validation_loss_training_ends_with_the_best_weights(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    cfg = changed(patience=2, validate_every=2, **settings)
    seen: list[int] = []
    state = run(cfg, tmp_path, seen.append)
    assert seen == list(range(1, 11))  # the best, and two that are no better
    assert (state.step, state.ended, state.curve[-1].validation_loss) == (6, "patience", 2.0)
    until_then = run(changed(stop_after=6, validate_every=2, **settings))
    assert torch.equal(weights(state), weights(until_then)) and state.curve == until_then.curve
    assert all(torch.equal(state.mean[name], mean) for name, mean in until_then.mean.items())
    seen.clear()
    again = run(cfg, tmp_path, seen.append)  # an ended run stays ended
    assert (seen, again.step, again.ended) == ([], 6, "patience") and torch.equal(weights(again), weights(state))
    assert run(changed(patience=3, validate_every=2, **settings)).ended == ""


@pytest.mark.usefixtures("validation_losses")
@pytest.mark.parametrize("step", [3, 6, 7, 9, 10])
@pytest.mark.parametrize("problem", [Stop, RuntimeError])
def test_a_run_that_was_stopped_ends_with_the_same_best_weights(
    tmp_path: Path, step: int, problem: type[BaseException]
) -> None:
    cfg = changed(patience=2, validate_every=2)
    unbroken = run(cfg, tmp_path / "unbroken", dropout=0.2)

    def at_step(now: int) -> None:
        if now == step:
            raise problem

    with pytest.raises(problem):
        run(cfg, tmp_path / "stopped", at_step, dropout=0.2)
    resumed = run(cfg, tmp_path / "stopped", dropout=0.2)
    assert (resumed.step, resumed.ended) == (6, "patience") and torch.equal(weights(resumed), weights(unbroken))


def test_an_interruption_while_a_state_comes_back_saves_nothing_half_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second Ctrl-C in the middle of a rewind, when some weights are the checkpoint's and some are not."""
    cfg = changed(bad_steps="rewind")
    poison(monkeypatch, {6: NAN})
    unbroken = run(cfg, tmp_path / "unbroken")
    restore = Optimizers.restore

    def broken_off(self: Optimizers, tensors: Mapping[str, Tensor]) -> None:
        restore(self, tensors)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Optimizers, "restore", broken_off)
        with pytest.raises(KeyboardInterrupt):
            run(cfg, tmp_path / "stopped")
    assert {path.name for path in (tmp_path / "stopped").glob("step-*")} == {"step-4"}
    assert torch.equal(weights(run(cfg, tmp_path / "stopped")), weights(unbroken))


def test_the_running_mean_is_what_is_validated_and_saved_and_comes_back(tmp_path: Path) -> None:
    cfg = changed(ema=0.6)
    mean: list[Tensor] = []

    class Noting(Watcher):
        def metrics(self, step: int, values: Mapping[str, float]) -> None:
            now = weights(state)
            share = 1 - min(0.6, (1 + step) / (10 + step))
            mean[:] = [mean[0] + share * (now - mean[0])] if mean else [now]

    torch.manual_seed(5)
    model = build(SHAPE, vocab_size=len(IDS), end_id=0, seed=1)
    state = State(model, Optimizers(model, cfg))
    validation = list(in_order(TokenShards([IDS[:200]]), SHAPE.context, 4, Causal()))
    fit(state, cfg, data(cfg), validation, Running(), Noting())
    last = weights(state)
    with state.averaged():
        torch.testing.assert_close(weights(state), mean[0])
        loss = WorkingCopy(state.model, cfg, Running()).validation_loss(validation)
    assert torch.equal(weights(state), last) and not torch.equal(last, mean[0])
    assert state.curve[-1].validation_loss == pytest.approx(loss, rel=1e-6)
    with pytest.raises(Stop):
        run(cfg, tmp_path, stop_at(7))
    resumed = run(cfg, tmp_path)
    assert all(torch.equal(resumed.mean[name], tensor) for name, tensor in state.mean.items())


@pytest.mark.parametrize("step", [6, 7, 8])
def test_a_step_that_is_broken_off_leaves_no_trace_in_the_random_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: int
) -> None:
    cfg = changed()
    unbroken = run(cfg, dropout=0.2)
    compute, calls = WorkingCopy.gradients, 0

    def broken_off(self: WorkingCopy, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        done = compute(self, *arguments)  # dropout has drawn
        if calls == step:
            raise Stop
        return done

    with monkeypatch.context() as patch:
        patch.setattr(WorkingCopy, "gradients", broken_off)
        with pytest.raises(Stop):
            run(cfg, tmp_path, dropout=0.2)
    assert (tmp_path / f"step-{step - 1}").is_dir()
    assert torch.equal(weights(run(cfg, tmp_path, dropout=0.2)), weights(unbroken))


def test_dropout_without_the_saved_random_numbers_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unbroken = run(changed(), dropout=0.2)
    with pytest.raises(Stop):
        run(changed(), tmp_path, stop_at(6), dropout=0.2)
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    assert not torch.equal(weights(run(changed(), tmp_path, dropout=0.2)), weights(unbroken))


def test_a_failed_fit_has_saved_its_last_checkpoint_and_lets_go_of_the_folder(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        if step == 5:
            raise RuntimeError("an observer's own")

    with pytest.raises(RuntimeError, match="an observer's own"):
        run(changed(), tmp_path, fail)
    with Checkpoints(tmp_path, {}, keep=2) as others:  # the folder is free
        assert others.steps() == [4]


class Ledger(Watcher):
    """What the network read in each complete step; a step that was done again counts as it was done last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.read: dict[int, list[int]] = {}
        self.parts: list[int] = []
        compute = WorkingCopy.gradients

        def gradients(working: WorkingCopy, *arguments: Any) -> Any:
            self.parts = [int(i) for part in arguments[0] for i in part.inputs["input_ids"].flatten()]
            return compute(working, *arguments)

        monkeypatch.setattr(WorkingCopy, "gradients", gradients)

    def note(self, step: int) -> None:
        self.read[step] = self.parts


WARMUPS = [
    {},
    {"micro_batch_tokens": 16},
    {"batch_warmup_steps": 9},
    {"sequence_warmup_steps": 7},
    {"micro_batch_tokens": 40, "batch_warmup_steps": 5, "sequence_warmup_steps": 11},
]


@pytest.mark.parametrize("settings", WARMUPS)
def test_every_token_is_read_once_an_epoch_through_stops_and_kills(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, int]
) -> None:
    cfg = changed(steps=24, checkpoint_every=3, batch_tokens=80, **settings)
    ledger = Ledger(monkeypatch)
    stops = {2: Stop, 5: RuntimeError, 7: Stop, 8: RuntimeError, 13: RuntimeError, 15: Stop}  # beside and at edges

    def at_step(step: int) -> None:
        ledger.note(step)
        if problem := stops.pop(step, None):
            raise problem

    while stops:
        with pytest.raises((Stop, RuntimeError)):
            run(cfg, tmp_path, at_step)
    resumed = run(cfg, tmp_path, ledger.note)
    assert torch.equal(weights(resumed), weights(run(cfg)))
    read = [i for step in sorted(ledger.read) for i in ledger.read[step]]
    size = data(cfg).windows_per_epoch * SHAPE.context
    assert len(ledger.read) == 24 and len(read) > 2 * size
    for epoch in range(2):
        seen = sorted(read[epoch * size : (epoch + 1) * size])
        assert seen == list(range(seen[0], seen[0] + size))  # all from the epoch's offset on, none twice


def test_a_cursor_that_is_not_saved_would_be_seen_in_the_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cfg, ledger = changed(), Ledger(monkeypatch)

    def at_step(step: int) -> None:
        ledger.note(step)
        stop_at(6)(step)

    with pytest.raises(Stop):
        run(cfg, tmp_path, at_step)
    load = Checkpoints.load_latest

    def forgetful(self: Checkpoints, *arguments: Any) -> Any:
        saved = load(self, *arguments)
        assert saved is not None
        return replace(saved, values={**saved.values, "batch": 0})

    monkeypatch.setattr(Checkpoints, "load_latest", forgetful)
    run(cfg, tmp_path, ledger.note)
    read = [i for step in range(1, 10) for i in ledger.read[step]]
    assert len(set(read)) < len(read)
