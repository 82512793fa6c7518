"""Token arrays on disk, and training batches as a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.unsignedinteger]


class DataError(ValueError):
    """Token arrays that cannot train a model; the message names the file and what to do."""


class TokenShards:
    """The token ids of a split as one 1-D array that lies in several memory-mapped files."""

    def __init__(self, shards: Sequence[Ids]) -> None:
        self._shards = shards or [np.zeros(0, dtype=np.uint16)]
        self._ends = np.cumsum([len(shard) for shard in self._shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, part: slice) -> Ids:
        """The ids of a slice of step 1; a copy only where it spans several shards."""
        start, stop, step = part.indices(len(self))
        assert step == 1
        first = int(self._ends.searchsorted(start, side="right"))
        pieces = []
        while start < stop:
            offset = int(self._ends[first]) - len(self._shards[first])
            end = min(stop, int(self._ends[first]))
            pieces.append(self._shards[first][start - offset : end - offset])
            start, first = end, first + 1
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else self._shards[0][:0]


def open_tokens(folder: Path, split: str) -> TokenShards:
    """Memory-map the token ids of a split: every document followed by the end-of-text id, shard after shard.

    Raises DataError when the folder has no tokens of any split, or a file is no array of ids.
    """
    if not any(folder.glob("*.tokens.npy")):
        raise DataError(f"{folder}: no token arrays here; run the tokenize stage again")
    return TokenShards([_open_shard(path) for path in sorted(folder.glob(f"*.{split}.tokens.npy"))])


def _open_shard(path: Path) -> Ids:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as problem:
        raise DataError(f"{path}: not a token array ({problem}); run the tokenize stage again") from None
    if ids.ndim != 1 or ids.dtype not in (np.uint16, np.uint32):
        raise DataError(f"{path}: {ids.ndim}-D {ids.dtype}, a token array is 1-D uint16 or uint32")
    return ids


@dataclass(frozen=True)
class Batches:
    """Batches of `windows` windows of `context` tokens, drawn without replacement within an epoch.

    Windows do not overlap; each epoch has its own order and its own offset of the first window. Nothing but the step
    has to be remembered to go on where a run stopped.
    """

    ids: TokenShards
    context: int
    windows: int
    seed: int

    def __post_init__(self) -> None:
        if self.windows_per_epoch < 1:
            raise DataError(
                f"{len(self.ids)} training tokens are fewer than two windows of {self.context}; "
                "add text or lower model.context"
            )

    @property
    def tokens_per_batch(self) -> int:
        return self.windows * self.context

    @property
    def windows_per_epoch(self) -> int:
        # One window is given up to the random offset, one token to the last target.
        return (len(self.ids) - 1) // self.context - 1

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and their next tokens, int64 of shape (windows, context) each, for a step counted from 0."""
        first = step * self.windows
        starts = [self._start(window) for window in range(first, first + self.windows)]
        return _stack(self.ids, starts, self.context)

    def _start(self, window: int) -> int:
        epoch, place = divmod(window, self.windows_per_epoch)
        offset, order = _epoch_order(self.seed, epoch, self.windows_per_epoch, self.context)
        return offset + int(order[place]) * self.context


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch_order(seed: int, epoch: int, num_windows: int, context: int) -> tuple[int, NDArray[np.int64]]:
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(context)), rng.permutation(num_windows)


def in_order(ids: TokenShards, context: int, windows: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All whole windows from front to back, `windows` at a time (the last batch may be smaller)."""
    starts = list(range(0, len(ids) - context, context))
    for first in range(0, len(starts), windows):
        yield _stack(ids, starts[first : first + windows], context)


def _stack(ids: TokenShards, starts: list[int], context: int) -> tuple[Tensor, Tensor]:
    rows = np.stack([ids[start : start + context + 1] for start in starts]).astype(np.int64)
    batch = torch.from_numpy(rows)
    return batch[:, :-1], batch[:, 1:]
