"""Training on two processes (gloo, CPU) is training on one: the same losses, resumed by any number of ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_core.data import IGNORED, Batch
from llm_core.parallel import share
from llm_core.sharded import own_row
from llm_core.signals import DeferredSignals
from llm_core.train import State, _agreed_signal
from tasks.processes import free_port
from tests.llm_core.ranks_work import Plan, alone

KINDS = ("ddp", "fsdp")
FAMILIES = ("gpt2", "bert", "t5", "transformer", "lstm")
ADAMW = {"optimizer": "adamw", "ema": 0.9}
DROPOUT = {"train": ADAMW, "model": {"dropout": 0.3}}
# What one process makes. The tolerance of the losses: float32 sums in another order; Muon computes in bfloat16.
ALONE = {
    "adamw": (Plan("", train=ADAMW), 1e-5),
    "one micro-batch": (Plan("", train=ADAMW, micro_rows=5, model={"tie_embeddings": True}), 1e-5),
    "sgd": (Plan("", train={"optimizer": "sgd"}), 1e-5),
    "muon": (Plan("", train={"optimizer": "muon"}), 1e-3),
    "bfloat16": (Plan("", train=ADAMW, dtype="bfloat16"), 1e-2),
}
for family in FAMILIES:
    short = {"steps": 3, "validate_every": 3, "optimizer": "adamw", "batch_warmup_steps": 2}  # the first batch: 3 rows
    shape = {"family": family, "num_kv_heads": 2, "mlp_width": 24}
    ALONE[family] = Plan("", train=short, model=shape), 1e-5


@dataclass(frozen=True)
class Results:
    one: Mapping[str, Any]
    """By name, of one process."""
    two: list[Mapping[str, Any]]
    """By kind and name, of each of two ranks."""
    folder: Path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Everything that is compared, trained by one process and by one pair of processes."""
    folder = tmp_path_factory.mktemp("ranks")
    one = {name: alone(plan) for name, (plan, _) in ALONE.items()}
    one["saved"] = alone(Plan("", train=ADAMW, folder=str(folder / "one")))
    plans: list[Plan] = []
    for kind in KINDS:
        plans += [Plan(**{**vars(plan), "name": f"{kind} {name}", "kind": kind}) for name, (plan, _) in ALONE.items()]
        shutil.copytree(folder / "one", folder / f"{kind}-of-one")
        plans += [
            Plan(f"{kind} from one", kind, ADAMW, folder=str(folder / f"{kind}-of-one")),
            Plan(f"{kind} dropout", kind, **DROPOUT, folder=str(folder / kind)),
            Plan(f"{kind} dropout resumed", kind, **DROPOUT, folder=str(folder / kind)),
            Plan(f"{kind} local count", kind, ADAMW, broken="divided by the local count"),
            Plan(f"{kind} all rows", kind, ADAMW, broken="all rows on each rank"),
            Plan(f"{kind} no optimizer", kind, **DROPOUT, folder=str(folder / kind), broken="optimizer not restored"),
            Plan(f"{kind} rng", kind, **DROPOUT, folder=str(folder / kind), broken="random numbers of rank 0 on all"),
            Plan(f"{kind} plain", kind, ADAMW, folder=str(folder / f"{kind}-plain")),
        ]
    plans.append(Plan("ddp unsynchronized", "ddp", ADAMW, broken="gradients not exchanged"))
    (folder / "plans.json").write_text(json.dumps([vars(plan) for plan in plans]))
    run_ranks(folder, 2)
    two = [json.loads((folder / f"results-{rank}.json").read_text()) for rank in (0, 1)]
    return Results(one, two, folder)


def run_ranks(folder: Path, size: int) -> None:
    shared = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.llm_core.ranks_work", str(folder)],
            env={**shared, "WORLD_SIZE": str(size), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    told = [process.communicate(timeout=280)[1] for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(told)[-3000:]


@pytest.mark.e2e
@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_of_two_ranks_are_those_of_one(results: Results, kind: str, name: str) -> None:
    one, tolerance = results.one[name], ALONE[name][1]
    for rank in results.two:
        two = rank[f"{kind} {name}"]
        assert two["losses"] == pytest.approx(one["losses"], rel=tolerance)
        assert two["validation"] == pytest.approx(one["validation"], rel=tolerance)
        assert two["tokens"] == one["tokens"]
    first, second = (rank[f"{kind} {name}"] for rank in results.two)
    assert first == second  # also the weights, to the bit


@pytest.mark.e2e
@pytest.mark.parametrize("broken", ["ddp local count", "ddp all rows", "ddp unsynchronized", "fsdp local count"])
def test_a_broken_exchange_would_be_seen(results: Results, broken: str) -> None:
    losses = results.two[0][broken]["losses"]
    assert losses != pytest.approx(results.one["adamw"]["losses"], rel=1e-3)


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_go_on_to_the_bit_with_the_random_numbers_of_each(results: Results, kind: str) -> None:
    for rank in results.two:
        unbroken, resumed = rank[f"{kind} dropout"], rank[f"{kind} dropout resumed"]
        assert unbroken == resumed  # it began at step 8: the last checkpoint of a whole run
        for broken in ("no optimizer", "rng"):
            wrong = rank[f"{kind} {broken}"]
            assert wrong["losses"][:8] == unbroken["losses"][:8]
            assert wrong["weights"] != unbroken["weights"], broken


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_process_saved_two_ranks_go_on_from(results: Results, kind: str) -> None:
    resumed = results.two[1][f"{kind} from one"]
    assert resumed["losses"][:8] == results.one["saved"]["losses"][:8]  # read, not trained again
    assert resumed["losses"] == pytest.approx(results.one["saved"]["losses"], rel=1e-5)
    assert resumed["num_ranks"] == [[8, 2]]


@pytest.mark.e2e
@pytest.mark.parametrize("kind", KINDS)
def test_what_two_ranks_saved_one_process_goes_on_from(results: Results, tmp_path: Path, kind: str) -> None:
    shutil.copytree(results.folder / f"{kind}-plain", tmp_path / "saved")
    resumed, two = alone(Plan("", train=ADAMW, folder=str(tmp_path / "saved"))), results.two[0][f"{kind} plain"]
    assert resumed["losses"][:8] == two["losses"][:8]
    assert resumed["losses"] == pytest.approx(two["losses"], rel=1e-5)
    assert resumed["num_ranks"] == [[0, 2], [8, 1]]


@pytest.mark.slow
def test_three_ranks_go_on_to_the_bit_although_sums_of_three_depend_on_their_order(tmp_path: Path) -> None:
    model = {"width": 64, "mlp_width": 160}
    plans = [Plan(name, "ddp", ADAMW, model, folder=str(tmp_path / "saved")) for name in ("whole", "resumed")]
    (tmp_path / "plans.json").write_text(json.dumps([vars(plan) for plan in plans]))
    run_ranks(tmp_path, 3)
    for rank in range(3):
        found = json.loads((tmp_path / f"results-{rank}.json").read_text())
        assert found["whole"] == found["resumed"]


@dataclass(frozen=True)
class Rank:
    rank: int
    size: int

    def gather(self, message: str) -> list[str]:
        raise AssertionError("nothing to say")


@pytest.mark.parametrize(("num_rows", "size", "micro"), [(5, 2, 2), (5, 2, 0), (8, 3, 1), (1, 3, 0), (6, 2, 4)])
def test_each_row_is_read_by_one_rank_and_all_read_as_often(num_rows: int, size: int, micro: int) -> None:
    ids = torch.arange(num_rows * 4).view(num_rows, 4)
    parts = [share(Batch({"input_ids": ids}, ids), Rank(rank, size), micro) for rank in range(size)]
    counted = torch.cat([part.targets for own in parts for part in own]).flatten()
    assert sorted(counted[counted != IGNORED].tolist()) == ids.flatten().tolist()
    assert len({len(own) for own in parts}) == 1
    assert all(len(part.targets) for own in parts for part in own)
    assert not micro or max(len(part.targets) for own in parts for part in own) <= micro


def test_random_numbers_of_more_ranks_than_before_begin_anew() -> None:
    assert own_row((100,), Rank(0, 2)) == () and own_row((100,), Rank(1, 2)) is None
    assert own_row((2, 100), Rank(1, 3)) == (slice(1, 2),) and own_row((2, 100), Rank(2, 3)) is None


def test_a_change_of_the_number_of_ranks_is_noted_once() -> None:
    state = State(None, None)  # type: ignore[arg-type]
    state.note_ranks()
    assert state.num_ranks == []
    for size in (2, 2, 1, 1):
        state.ranks, state.step = Rank(0, size), state.step + 5
        state.note_ranks()
    assert state.num_ranks == [[5, 2], [15, 1]]


@dataclass(frozen=True)
class Beside(Rank):
    """A rank beside one that says `other`."""

    other: str = ""

    def gather(self, message: str) -> list[str]:
        return [message, self.other]


def test_ranks_stop_by_the_slowest_clock_and_by_a_signal_that_any_of_them_received() -> None:
    state = State(None, None, seconds=61.0)  # type: ignore[arg-type]
    state.ranks = Beside(0, 2, json.dumps({"gives": [75.5, 15]}))
    assert _agreed_signal(state, DeferredSignals()) == 15
    assert state.seconds == 75.5
    state.ranks = Beside(0, 2, json.dumps({"gives": [60.0, 0]}))
    assert _agreed_signal(state, DeferredSignals()) is None
    assert state.seconds == 75.5
