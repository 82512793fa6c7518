"""What several processes of one training (ranks) say to each other besides gradients: strings, and the first error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed


class Ranks(Protocol):
    """The processes of one training, seen from one of them."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, message: str) -> list[str]:
        """Every rank's message, in rank order, when all have come to this point (so it is a barrier as well)."""


@dataclass(frozen=True)
class Alone:
    """A training in one process."""

    rank: int = 0
    size: int = 1

    def gather(self, message: str) -> list[str]:
        return [message]


class TorchRanks:
    """The ranks of torch.distributed, over a process group of their own.

    Checkpoints talk from a background thread: in the group of the gradients their messages would get into the order of
    the training's own collectives. Every rank makes this object, at the same place in the program.
    """

    def __init__(self) -> None:
        self._group = torch.distributed.new_group(backend="gloo")
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def gather(self, message: str) -> list[str]:
        # As bytes: all_gather_object would pickle.
        content = torch.frombuffer(bytearray(message.encode() + b"\n"), dtype=torch.uint8)  # never empty
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        torch.distributed.all_gather(sizes, torch.tensor([len(content)]), group=self._group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(content)] = content
        found = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        torch.distributed.all_gather(found, padded, group=self._group)
        return [bytes(part[: int(size) - 1].numpy()).decode() for part, size in zip(found, sizes, strict=True)]


class RankError(ValueError):
    """Work that failed on a rank; raised on all of them."""


def together(ranks: Ranks, work: Callable[[], Any]) -> list[Any]:
    """Do `work` on every rank; what each gave (a JSON value), in rank order.

    Where it failed on a rank, that rank raises its error and the others a RankError with the text, so that none waits
    for one that has given up.
    """
    failed: Exception | None = None
    answer: dict[str, Any] = {}
    try:
        answer["gives"] = work()
    except Exception as problem:  # raised below, when all know of it
        failed = problem
        answer["error"] = str(problem) or repr(problem)
    answers = [json.loads(message) for message in ranks.gather(json.dumps(answer))]
    if failed is not None:
        raise failed
    for rank, other in enumerate(answers):
        if "error" in other:
            raise RankError(f"rank {rank}: {other['error']}")
    return [other["gives"] for other in answers]
