"""What every side of `benchmarks/training.py` shares: its assignment, the clock, and the loss that they are judged by.

A side is a process of its own: `python SIDE.py ASSIGNMENT.json`. It trains through the windows in their order and says
on standard output what it measured, a JSON object a line. Imported by peers' interpreters too: torch and NumPy only.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

VALIDATION_WINDOWS = 16  # at once


@dataclass(frozen=True)
class Assignment:
    """What a side is to do."""

    tokens: str
    """Folder of token arrays, which the windows were drawn from."""
    windows: str
    """File of all windows, (steps * batch, context + 1) ids, in the order to train on them."""
    validation: str
    """File of the windows to validate on."""
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    vocab_size: int
    context: int
    steps: int
    warm_steps: int
    """Steps whose time is not counted: compilers and caches start up."""
    batch: int = 16
    """Windows of a step."""
    seed: int = 0
    threads: int = 2
    rounds: int = 0
    """In so many equal parts the counted steps are done, each when a line comes on standard input; 0: at once."""
    validate_at: tuple[int, ...] = ()
    """After which steps to validate; the clock stands still meanwhile."""
    setting: dict[str, Any] = field(default_factory=dict)
    """How: the side's own."""

    @classmethod
    def read(cls, path: str) -> Assignment:
        """The assignment in a file."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(**{**values, "validate_at": tuple(values["validate_at"])})

    def all_windows(self) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """The windows of all steps, memory-mapped."""
        windows: np.ndarray[Any, np.dtype[np.uint16]] = np.load(self.windows, mmap_mode="r", allow_pickle=False)
        return windows[: self.steps * self.batch]


class Meter:
    """Counts steps and the seconds between them, those of validation aside, and reports them."""

    def __init__(self, assignment: Assignment, model: nn.Module) -> None:
        self._assignment, self._model = assignment, model
        self._step = 0
        self._paused = (0.0, 0.0)
        self._part_began = (0.0, 0.0)
        report("model", parameters=sum(parameter.numel() for parameter in model.parameters()))

    def start(self) -> None:
        """To be called right before the first step."""
        self._began = seconds()

    def step_done(self) -> None:
        """To be called after each step."""
        self._step += 1
        todo = self._assignment
        counted = self._step - todo.warm_steps
        if counted == 0 or self._step in todo.validate_at or self._step == todo.steps:
            self._mark()
        if todo.rounds and counted >= 0:
            part = (todo.steps - todo.warm_steps) // todo.rounds
            if counted % part == 0:
                self._part_done(part if counted else 0)

    def _mark(self) -> None:
        now = seconds()
        cpu, wall = (at - began - paused for at, began, paused in zip(now, self._began, self._paused, strict=True))
        loss = None
        if self._step in self._assignment.validate_at:
            loss = validation_loss(self._model, self._assignment)
        report("step", step=self._step, cpu_seconds=cpu, wall_seconds=wall, validation_loss=loss, **_memory())
        after = seconds()
        self._paused = (self._paused[0] + after[0] - now[0], self._paused[1] + after[1] - now[1])

    def _part_done(self, steps: int) -> None:
        cpu, wall = (now - began for now, began in zip(seconds(), self._part_began, strict=True))
        if steps:
            report("part", steps=steps, cpu_seconds=cpu, wall_seconds=wall)
        else:
            report("ready")
        if self._step < self._assignment.steps and not sys.stdin.readline():
            sys.exit("nobody waits for this any more")
        self._part_began = seconds()


@torch.no_grad()
def validation_loss(model: nn.Module, assignment: Assignment) -> float:
    """Mean loss of the validation windows in nats: weights and losses in float32, products in bfloat16, for all."""
    training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    windows = np.load(assignment.validation, allow_pickle=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for inputs, targets in batches(windows, VALIDATION_WINDOWS):
            logits = model(inputs).logits.float().flatten(0, 1)
            total += F.cross_entropy(logits, targets.flatten(), reduction="sum").double()
    model.train(training)
    return total.item() / (len(windows) * assignment.context)


def batches(windows: np.ndarray[Any, np.dtype[np.uint16]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and next tokens, int64 of shape (size, context) each, in order."""
    for first in range(0, len(windows), size):
        rows = torch.from_numpy(windows[first : first + size].astype(np.int64))
        yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def seconds() -> tuple[float, float]:
    """CPU seconds of this process, its threads and finished children; seconds of the clock."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime, time.perf_counter()


def report(kind: str, **values: Any) -> None:
    """Say something to the process that started this side."""
    print(json.dumps({"report": kind, **values}), flush=True)


def _memory() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"peak_megabytes": used.ru_maxrss // 1024, "system_seconds": round(used.ru_stime, 2)}
