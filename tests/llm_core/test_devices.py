"""How many threads compute."""

from __future__ import annotations

import os

import pytest
import torch

from llm_core.devices import computing, usable_threads

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("allowed", "threads"), [("1", 1), ("1,4", 1), ("1000", CORES), ("", CORES), ("0", CORES), ("many", CORES)]
)
def test_all_threads_are_one_for_each_core_or_as_many_as_openmp_may_use(
    monkeypatch: pytest.MonkeyPatch, allowed: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert usable_threads() == threads
    before = torch.get_num_threads()
    with computing(0) as in_force:
        assert in_force == torch.get_num_threads() == threads
    with computing(3) as in_force:
        assert in_force == 3  # a recipe's own number counts
    assert torch.get_num_threads() == before
