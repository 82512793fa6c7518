"""Checkpoints of several ranks: one manifest over their shards, read by any number of ranks, one decision for all."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_core import checkpoint as module
from llm_core.checkpoint import CheckpointError, Checkpoints, Part, Snapshot
from llm_core.ranks import Alone, Ranks
from tasks.processes import free_port


class Meeting:
    """Where the threads that play ranks exchange their messages."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.messages = [""] * size


@dataclass(frozen=True)
class ThreadRank:
    rank: int
    size: int
    meeting: Meeting

    def gather(self, message: str) -> list[str]:
        self.meeting.messages[self.rank] = message
        self.meeting.barrier.wait()
        messages = list(self.meeting.messages)
        self.meeting.barrier.wait()
        return messages


def on_ranks(size: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """What `work` gives, or the CheckpointError it raises, on each of `size` ranks."""

    def guarded(ranks: Ranks) -> Any:
        try:
            return work(ranks)
        except CheckpointError as problem:
            return problem

    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(guarded, [ThreadRank(rank, size, meeting) for rank in range(size)]))


def rows(rank: int, size: int, num_rows: int) -> slice:
    """A rank's share of the rows; with more ranks than rows some have none."""
    share = -(-num_rows // size)
    return slice(min(rank * share, num_rows), min((rank + 1) * share, num_rows))


def whole(step: int) -> dict[str, Tensor]:
    return {"w": torch.arange(35.0).view(7, 5) + step, "one": torch.ones(1, 2) * step, "count": torch.tensor(step)}


def state(step: int, ranks: Ranks) -> Snapshot:
    """This rank's rows of two tensors, a number that is the same on all, and a row of its own random state."""
    tensors, parts = whole(step), {}
    for name in ("w", "one"):
        cut = rows(ranks.rank, ranks.size, len(tensors[name]))
        parts[name] = Part(tuple(tensors[name].shape), (cut.start, 0))
        tensors[name] = tensors[name][cut]
    tensors["rng"] = torch.full((1, 3), ranks.rank, dtype=torch.uint8)
    parts["rng"] = Part((ranks.size, 3), (ranks.rank, 0))
    return Snapshot(step, tensors, {"tokens": step}, parts)


def save(folder: Path, ranks: Ranks, *steps: int, wait: bool = True) -> None:
    with Checkpoints(folder, {"run": 1}, keep=2, ranks=ranks) as checkpoints:
        for step in steps:
            checkpoints.save(state(step, ranks), wait=wait)


def load(folder: Path, ranks: Ranks) -> Snapshot | None:
    """This rank's rows of what two or more numbers of rows have; everything else whole, but not the random states."""

    def wanted(name: str, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
        return None if name == "rng" else (rows(ranks.rank, ranks.size, shape[0]),) if name in ("w", "one") else ()

    with Checkpoints(folder, {"run": 1}, keep=2, ranks=ranks) as checkpoints:
        return checkpoints.load_latest(wanted)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_what_some_ranks_saved_other_numbers_of_ranks_load(tmp_path: Path, before: int, after: int, wait: bool) -> None:
    on_ranks(before, lambda ranks: save(tmp_path, ranks, 4, 6, wait=wait))
    assert len(list((tmp_path / "step-6").glob(f"state-*-of-{before}.safetensors"))) == before
    loaded = on_ranks(after, lambda ranks: load(tmp_path, ranks))
    assert [(part.step, part.values) for part in loaded] == [(6, {"tokens": 6})] * after
    for name in ("w", "one"):
        assert torch.equal(torch.cat([part.tensors[name] for part in loaded]), whole(6)[name])
    assert all(part.tensors.keys() == {"w", "one", "count"} and part.tensors["count"] == 6 for part in loaded)
    with Checkpoints(tmp_path, {"run": 1}, keep=2) as checkpoints:
        alone = checkpoints.load(6).tensors
    assert torch.equal(alone["w"], whole(6)["w"]) and alone["rng"][:, 0].tolist() == list(range(before))


def test_a_slice_is_any_box_of_the_whole(tmp_path: Path) -> None:
    on_ranks(3, lambda ranks: save(tmp_path, ranks, 1))
    box = (slice(2, 6), slice(1, 3))
    with Checkpoints(tmp_path, {"run": 1}, keep=2) as checkpoints:
        loaded = checkpoints.load(1, lambda name, shape: box if name == "w" else None)
    assert torch.equal(loaded.tensors["w"], whole(1)["w"][box])


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_one_damaged_shard_takes_all_ranks_back_to_the_same_step(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    on_ranks(2, lambda ranks: save(tmp_path, ranks, 4, 6))
    damage(tmp_path / "step-6" / "state-1-of-2.safetensors")
    assert [part.step for part in on_ranks(2, lambda ranks: load(tmp_path, ranks))] == [4, 4]


@pytest.mark.parametrize("wait", [True, False])
def test_a_write_that_fails_on_one_rank_fails_on_all_and_keeps_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    def full(path: Path, tensors: object) -> Any:
        if path.name.startswith("state-1"):
            raise OSError(28, "No space left on device")
        return write(path, tensors)

    write = module.write_shard
    on_ranks(2, lambda ranks: save(tmp_path, ranks, 4))
    monkeypatch.setattr(module, "write_shard", full)
    told = [str(problem) for problem in on_ranks(2, lambda ranks: save(tmp_path, ranks, 6, wait=wait))]
    assert told[0] == f"rank 1: {told[1]}" and "state-1-of-2.safetensors: " in told[1] and "No space" in told[1]
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["step-4"]
    assert [part.step for part in on_ranks(2, lambda ranks: load(tmp_path, ranks))] == [4, 4]


def test_another_runs_checkpoint_is_refused_on_all_ranks(tmp_path: Path) -> None:
    def other(ranks: Ranks) -> None:
        with Checkpoints(tmp_path, {"run": 2}, keep=2, ranks=ranks) as checkpoints:
            checkpoints.load_latest()

    on_ranks(2, lambda ranks: save(tmp_path, ranks, 4))
    told = [str(problem) for problem in on_ranks(2, other)]
    assert all("run is 1 in the checkpoint and 2 now" in text for text in told)


@pytest.mark.parametrize("start", [0, 3, 5])  # twice the same rows, one row twice, beyond the end; right is 4
def test_pieces_that_do_not_make_up_the_tensor_are_refused(tmp_path: Path, start: int) -> None:
    def misplaced(ranks: Ranks) -> None:
        snapshot = state(1, ranks)
        if ranks.rank == 1:
            snapshot = replace(snapshot, parts={**snapshot.parts, "w": Part((7, 5), (start, 0))})
        with Checkpoints(tmp_path, {}, keep=1, ranks=ranks) as checkpoints:
            checkpoints.save(snapshot)

    told = [str(problem) for problem in on_ranks(2, misplaced)]
    assert all("do not make up a tensor of shape [7, 5]" in text for text in told)


PROCESS = """
import sys
from pathlib import Path
import torch.distributed
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from llm_core.checkpoint import Checkpoints, Snapshot
from llm_core.ranks import TorchRanks
from llm_core.sharded import split_state
from llm_core.split_tensors import rows_here
from tests.llm_core.test_checkpoint_ranks import whole
folder = Path(sys.argv[1])
mesh = init_device_mesh("cpu", (2,))
ranks = TorchRanks()
assert ranks.gather("é" * ranks.rank) == ["", "é"]
with Checkpoints(folder, {"run": 1}, keep=2, ranks=ranks) as checkpoints:
    for step in (4, 6):
        state = whole(step)
        state |= {name: distribute_tensor(state[name], mesh, [Shard(0)]) for name in ("w", "one")}
        local, parts = split_state(state)
        checkpoints.save(Snapshot(step, local, {"tokens": step}, parts), wait=False)
    checkpoints.wait()
    (folder / "step-6" / "state-1-of-2.safetensors").unlink(missing_ok=True)
    wanted = lambda name, shape: (rows,) if (rows := rows_here(state[name])) is not None else ()
    loaded = checkpoints.load_latest(wanted)
    before, _ = split_state({name: distribute_tensor(whole(4)[name], mesh, [Shard(0)]) for name in ("w", "one")})
    assert loaded.step == 4 and all(torch.equal(loaded.tensors[name], before[name]) for name in before)
torch.distributed.destroy_process_group()
"""


@pytest.mark.e2e
def test_two_processes_save_what_fsdp_has_split_and_go_back_together(tmp_path: Path) -> None:
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path)],
            cwd=Path(__file__).parents[2],
            env={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "PYTHONPATH": "."},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)[-3000:]
    loaded = load(tmp_path, Alone())
    assert loaded is not None and loaded.step == 4
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in whole(4).items())
