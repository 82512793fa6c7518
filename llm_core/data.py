"""Token arrays on disk, and training batches as a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.unsignedinteger]
Mask = NDArray[np.bool_]
IGNORED = -100
"""The target that no loss counts; PyTorch's own losses take the same number for it."""


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

    def head(self, size: int) -> TokenShards:
        """The first `size` tokens."""
        return TokenShards([self[:size]])


class MarkedShards(TokenShards):
    """Tokens of which a loss counts only those that a mask marks: the others are read, never learned."""

    def __init__(self, shards: Sequence[Ids], masks: Sequence[Mask]) -> None:
        super().__init__(shards)
        # A mask is cut like the ids, and sliced by the same code.
        self._marks: Any = TokenShards(masks)  # type: ignore[arg-type]

    def marks(self, part: slice) -> Mask:
        """Which ids of a slice count."""
        marks: Mask = self._marks[part]
        return marks

    def head(self, size: int) -> MarkedShards:
        return MarkedShards([self[:size]], [self.marks(slice(size))])


def open_tokens(folder: Path, split: str) -> TokenShards:
    """Memory-map the token ids of a split: every document followed by the end-of-text id, shard after shard.

    They are MarkedShards where a ``.loss.npy`` lies beside the ids of a shard; in shards without one every id counts.
    Raises DataError when the folder has no tokens of any split, a file is no array of ids, or a mask does not fit.
    """
    if not any(folder.glob("*.tokens.npy")):
        raise DataError(f"{folder}: no token arrays here; run the tokenize stage again")
    paths = sorted(folder.glob(f"*.{split}.tokens.npy"))
    shards = [_open_shard(path) for path in paths]
    masks = [path.with_name(path.name.removesuffix("tokens.npy") + "loss.npy") for path in paths]
    if not any(mask.exists() for mask in masks):
        return TokenShards(shards)
    return MarkedShards(shards, [_open_mask(mask, len(ids)) for mask, ids in zip(masks, shards, strict=True)])


def _open_shard(path: Path) -> Ids:
    ids = _map(path, "a token array", "run the tokenize stage again")
    if ids.ndim != 1 or ids.dtype not in (np.uint16, np.uint32):
        raise DataError(f"{path}: {ids.ndim}-D {ids.dtype}, a token array is 1-D uint16 or uint32")
    return ids


def _open_mask(path: Path, num_tokens: int) -> Mask:
    """The mask of a shard; one that marks everything, without memory of its own, where the shard has none."""
    if not path.exists():
        return np.broadcast_to(np.True_, num_tokens)
    mask: Mask = _map(path, "a loss mask", "make the tokens again")
    if mask.shape != (num_tokens,) or mask.dtype != np.bool_:
        raise DataError(
            f"{path}: {mask.dtype} of shape {mask.shape}, the mask of these tokens is bool of shape ({num_tokens},); "
            "make the tokens again"
        )
    return mask


def _map(path: Path, what: str, remedy: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as problem:  # EOFError: an empty file
        raise DataError(f"{path}: not {what} ({problem}); {remedy}") from None
    return array


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
        """Inputs and their next tokens, int64 of shape (windows, context) each, for a step counted from 0.

        Targets that a mask does not mark are IGNORED.
        """
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
    inputs, targets = batch[:, :-1], batch[:, 1:]
    if isinstance(ids, MarkedShards):
        marks = np.stack([ids.marks(slice(start + 1, start + context + 1)) for start in starts])
        targets = targets.where(torch.from_numpy(marks), IGNORED)
    return inputs, targets
