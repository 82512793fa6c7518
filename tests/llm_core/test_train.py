"""The training loop: it learns, it resumes bit for bit, and no stop or bad number spoils what is saved."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from llm_core.artifact import Interrupted
from llm_core.checkpoint import Checkpoints
from llm_core.config import Model, Train
from llm_core.data import Batches, MarkedShards, TokenShards, in_order
from llm_core.models import build
from llm_core.objectives import Causal
from llm_core.optim import Optimizers
from llm_core.train import State, TrainingError, fit, write_curve
from llm_core.working_copy import Running

SHAPE = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, context=16)
CFG = Train(steps=12, batch_tokens=64, warmup_steps=2, validate_every=5, checkpoint_every=4, lr=1e-2, threads=1)
# A cycle: the next token follows from the one before it.
IDS = np.tile(np.arange(20, dtype=np.uint16), 60)


class Watcher:
    """An observer that keeps what it is told and calls `at_step` after each step."""

    def __init__(self, at_step: Callable[[int], None] = lambda step: None) -> None:
        self.seen: dict[int, dict[str, float]] = {}
        self.at_step = at_step

    def progress(self, done: int, total: int, unit: str) -> None:
        pass

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.seen[step] = dict(values)
        self.at_step(step)


def new_state(cfg: Train = CFG) -> State:
    model = build(SHAPE, vocab_size=20, end_id=0, seed=1)
    return State(model, Optimizers(model, cfg))


def run(
    state: State,
    folder: Path | None = None,
    cfg: Train = CFG,
    watcher: Watcher | None = None,
    dtype: torch.dtype = torch.float32,
) -> State:
    ids = TokenShards([IDS])
    batches = Batches(ids, SHAPE.context, cfg.batch_tokens // SHAPE.context, 3, Causal())
    validation = list(in_order(ids.head(200), SHAPE.context, 4, Causal()))
    with Checkpoints(folder, {"run": "test"}, keep=2, pin_every=4) if folder else nullcontext() as checkpoints:
        fit(state, cfg, batches, validation, Running(dtype), watcher or Watcher(), checkpoints)
    return state


def weights(state: State) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in state.model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_cycle_is_learnt(optimizer: str, dtype: torch.dtype) -> None:
    cfg = CFG.model_copy(update={"steps": 80, "optimizer": optimizer})
    curve = run(new_state(cfg), cfg=cfg, dtype=dtype).curve
    assert curve[0].train_loss > 2.5
    assert curve[-1].validation_loss is not None and curve[-1].validation_loss < 0.5


def test_each_step_is_reported_and_validation_is_due_when_the_recipe_says() -> None:
    watcher = Watcher()
    state = run(new_state(), watcher=watcher)
    assert sorted(watcher.seen) == list(range(1, 13))
    assert set(watcher.seen[1]) == {"train/loss", "train/lr", "train/tokens_per_second"}
    assert [step for step, values in watcher.seen.items() if "validation/loss" in values] == [5, 10, 12]
    assert (state.step, state.tokens) == (12, 12 * 64)
    assert watcher.seen[1]["train/lr"] == pytest.approx(0.5 * CFG.lr)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_batches_without_a_counted_target_train_nothing_and_stay_finite(optimizer: str, dtype: torch.dtype) -> None:
    cfg = CFG.model_copy(update={"steps": 5, "optimizer": optimizer})
    state, ids = new_state(cfg), MarkedShards([IDS], [np.zeros(len(IDS), dtype=np.bool_)])
    before = weights(state)
    validation = list(in_order(ids.head(200), SHAPE.context, 4, Causal()))
    fit(state, cfg, Batches(ids, SHAPE.context, 4, 3, Causal()), validation, Running(dtype), Watcher())
    assert [(point.train_loss, point.validation_loss) for point in state.curve] == [(0.0, None)] * 5
    assert state.tokens == 0
    torch.testing.assert_close(weights(state), before, rtol=0.01, atol=0.01)  # weights decay, nothing else


class Stop(BaseException):
    """A request to stop as an orchestrator raises it."""


def stop_at(step: int) -> Callable[[int], None]:
    def at_step(now: int) -> None:
        if now == step:
            raise Stop

    return at_step


@pytest.mark.parametrize("step", [1, 4, 6, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stopped_run_goes_on_to_the_unbroken_runs_weights(tmp_path: Path, step: int, dtype: torch.dtype) -> None:
    unbroken = run(new_state(), dtype=dtype)
    with pytest.raises(Stop):
        run(new_state(), tmp_path, watcher=Watcher(stop_at(step)), dtype=dtype)
    resumed, watcher = new_state(), Watcher()
    run(resumed, tmp_path, watcher=watcher, dtype=dtype)
    assert min(watcher.seen) == step + 1  # nothing complete is done again
    assert torch.equal(weights(resumed), weights(unbroken))
    assert resumed.curve == unbroken.curve


def test_a_resume_without_the_optimizers_state_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = run(new_state())
    with pytest.raises(Stop):
        run(new_state(), tmp_path, watcher=Watcher(stop_at(6)))
    monkeypatch.setattr(Optimizers, "restore", lambda self, tensors: None)
    assert not torch.equal(weights(run(new_state(), tmp_path)), weights(unbroken))


def test_a_stop_inside_the_weights_update_falls_back_to_the_last_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run(new_state())
    original = torch.optim.AdamW.step

    def torn(self: torch.optim.AdamW, *args: Any) -> None:
        original(self, *args)
        if next(iter(self.state.values()))["step"] == 7:
            raise Stop  # AdamW's parameters are moved, the loop has not counted the step

    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(Stop):
        run(new_state(), tmp_path)
    monkeypatch.undo()
    watcher = Watcher()
    resumed = run(new_state(), tmp_path, watcher=watcher)
    assert min(watcher.seen) == 5  # the checkpoint of step 4
    assert torch.equal(weights(resumed), weights(unbroken))


@contextmanager
def handler(number: int, action: Any) -> Iterator[None]:
    before = signal.signal(number, action)
    try:
        yield
    finally:
        signal.signal(number, before)


def send_at(step: int, number: int) -> Callable[[int], None]:
    return lambda now: os.kill(os.getpid(), number) if now == step else None


def test_sigterm_saves_the_step_and_raises_interrupted(tmp_path: Path) -> None:
    with handler(signal.SIGTERM, signal.SIG_DFL):
        with pytest.raises(Interrupted, match="SIGTERM after step 6; run it again"):
            run(new_state(), tmp_path, watcher=Watcher(send_at(6, signal.SIGTERM)))
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert (tmp_path / "step-6").is_dir()
    assert torch.equal(weights(run(new_state(), tmp_path)), weights(run(new_state())))


def test_without_checkpoints_interrupted_says_that_nothing_was_kept() -> None:
    with (
        handler(signal.SIGTERM, signal.SIG_DFL),
        pytest.raises(Interrupted, match="after step 2; nothing was kept"),
    ):
        run(new_state(), watcher=Watcher(send_at(2, signal.SIGTERM)))


def test_ctrl_c_saves_the_step_and_stays_a_keyboard_interrupt(tmp_path: Path) -> None:
    with handler(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        run(new_state(), tmp_path, watcher=Watcher(send_at(5, signal.SIGINT)))
    assert (tmp_path / "step-5").is_dir()


def test_a_handler_that_was_there_gets_the_signal_after_the_checkpoint(tmp_path: Path) -> None:
    seen: list[bool] = []

    def raising(number: int, frame: FrameType | None) -> None:
        seen.append((tmp_path / "step-3").is_dir())
        raise Stop

    with handler(signal.SIGTERM, raising):
        with pytest.raises(Stop):
            run(new_state(), tmp_path, watcher=Watcher(send_at(3, signal.SIGTERM)))
        assert signal.getsignal(signal.SIGTERM) is raising
    assert seen == [True]


def test_a_second_signal_is_not_held_back(tmp_path: Path) -> None:
    def twice(now: int) -> None:
        if now == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal did not get through")

    with handler(signal.SIGINT, signal.default_int_handler), pytest.raises(KeyboardInterrupt):
        run(new_state(), tmp_path, watcher=Watcher(twice))


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path: Path) -> None:
    state = new_state()

    def poison(step: int) -> None:
        if step == 6:
            with torch.no_grad():
                state.model.lm_head.weight[0, 0] = float("nan")

    with pytest.raises(TrainingError, match=r"step 7: the loss is nan.*try a lower train.lr \(now 0.01\)"):
        run(state, tmp_path, watcher=Watcher(poison))
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-4"]


def test_the_curve_is_written_with_a_row_a_step(tmp_path: Path) -> None:
    write_curve(tmp_path / "loss.csv", run(new_state()).curve)
    rows = (tmp_path / "loss.csv").read_text().splitlines()
    assert rows[0] == "step,tokens,train_loss,validation_loss,lr"
    assert len(rows) == 13
    assert rows[1].split(",")[:2] == ["1", "64"] and rows[1].split(",")[3] == ""
    assert float(rows[5].split(",")[3]) > 0
