"""Token arrays on disk, and training batches as a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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


class Batch(NamedTuple):
    """Rows that go through a network together."""

    inputs: dict[str, Tensor]
    """The arguments of the network's call; each has a row for each row of the targets."""
    targets: Tensor
    """What it should answer, of any shape; IGNORED ones are not counted."""

    @property
    def num_counted(self) -> int:
        """Targets that are not IGNORED."""
        return int((self.targets != IGNORED).sum())

    def rows(self, part: slice) -> Batch:
        """Some of the rows."""
        return Batch({name: values[part] for name, values in self.inputs.items()}, self.targets[part])

    def split(self, num_rows: int) -> list[Batch]:
        """The rows from front to back, `num_rows` at a time; all at once for 0."""
        size = num_rows or len(self.targets)
        return [self.rows(slice(first, first + size)) for first in range(0, len(self.targets), size)]


class Windows(NamedTuple):
    """Runs of consecutive tokens, before an objective makes a batch of them."""

    ids: NDArray[np.int64]
    """(N, T + 1): each row overlaps the text behind it by one token, the last one's target."""
    marks: Mask | None
    """(N, T + 1), which ids a loss may count; None for all."""
    numbers: Sequence[tuple[int, ...]]
    """What names each row, for random choices of its own."""


Objective = Callable[[Windows], Batch]
"""Makes inputs and targets of windows; see ``objectives.py``."""


@dataclass(frozen=True)
class Batches:
    """Batches of `windows` windows of `context` tokens, drawn without replacement within an epoch.

    Windows do not overlap; each epoch has its own order and its own offset of the first window. Nothing but the number
    of the batch has to be remembered to go on where a run stopped.
    """

    ids: TokenShards
    context: int
    windows: int
    seed: int
    objective: Objective
    batch_warmup: int = 0
    """Batches over which they grow to `windows`."""
    sequence_warmup: int = 0
    """Batches over which rows grow from an eighth of the context to all of it, at the same tokens."""

    def __post_init__(self) -> None:
        if self.windows_per_epoch < 1:
            raise DataError(
                f"{len(self.ids)} training tokens are fewer than two windows of {self.context}; "
                "add text or lower model.context"
            )

    @property
    def windows_per_epoch(self) -> int:
        # One window is given up to the random offset, one token to the last target.
        return (len(self.ids) - 1) // self.context - 1

    def __getitem__(self, number: int) -> Batch:
        """The batch of a number from 0; equal numbers give equal batches."""
        windows = _stack(self.ids, [self._start(window) for window in self.span(number)], self.context)
        named = windows._replace(numbers=[(self.seed, window) for window in self.span(number)])
        return self.objective(_cut(named, self._pieces(number)))

    def span(self, number: int) -> range:
        """The windows of a batch, counted on through the epochs."""
        return range(self._first(number), self._first(number + 1))

    def tokens_in(self, number: int) -> int:
        """Tokens that the network reads in a batch."""
        return len(self.span(number)) * self.context

    def batches_in(self, epochs: float) -> int:
        """How many batches cover that many epochs."""
        wanted = epochs * self.windows_per_epoch
        grown = int(np.searchsorted(self._growth, wanted))
        if grown < len(self._growth):
            return max(grown, 1)
        return grown - 1 + int(np.ceil((wanted - self._growth[-1]) / self.windows))

    def _first(self, number: int) -> int:
        grown = min(number, self.batch_warmup)
        return int(self._growth[grown]) + (number - grown) * self.windows

    @cached_property
    def _growth(self) -> NDArray[np.int64]:
        """Windows before each batch of the warm-up, and before the first full one."""
        sizes = np.ceil(np.arange(1, self.batch_warmup + 1) * self.windows / max(self.batch_warmup, 1))
        return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

    def _pieces(self, number: int) -> int:
        """Into how many rows a window is cut: 8, 4 and 2 in the thirds of the warm-up."""
        if number >= self.sequence_warmup:
            return 1
        pieces: int = 8 >> (3 * number // self.sequence_warmup)
        while self.context % pieces:
            pieces //= 2
        return pieces

    def _start(self, window: int) -> int:
        epoch, place = divmod(window, self.windows_per_epoch)
        offset, order = _epoch_order(self.seed, epoch, self.windows_per_epoch, self.context)
        return offset + int(order[place]) * self.context


@lru_cache(maxsize=2)  # a batch may span two epochs
def _epoch_order(seed: int, epoch: int, num_windows: int, context: int) -> tuple[int, NDArray[np.int64]]:
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(context)), rng.permutation(num_windows)


def in_order(ids: TokenShards, context: int, windows: int, objective: Objective) -> Iterator[Batch]:
    """All whole windows from front to back, `windows` at a time (the last batch may be smaller)."""
    starts = list(range(0, len(ids) - context, context))
    for first in range(0, len(starts), windows):
        yield objective(_stack(ids, starts[first : first + windows], context))


def _stack(ids: TokenShards, starts: Sequence[int], context: int) -> Windows:
    parts = [slice(start, start + context + 1) for start in starts]
    rows = np.stack([ids[part] for part in parts]).astype(np.int64)
    marks = np.stack([ids.marks(part) for part in parts]) if isinstance(ids, MarkedShards) else None
    return Windows(rows, marks, [(start,) for start in starts])


def _cut(windows: Windows, pieces: int) -> Windows:
    """Every window as `pieces` rows, each overlapping the next by one token."""
    if pieces == 1:
        return windows
    length = (windows.ids.shape[1] - 1) // pieces
    places = np.arange(pieces)[:, None] * length + np.arange(length + 1)  # (pieces, length + 1)
    marks = None if windows.marks is None else windows.marks[:, places].reshape(-1, length + 1)
    names = [(*name, piece) for name in windows.numbers for piece in range(pieces)]
    return Windows(windows.ids[:, places].reshape(-1, length + 1), marks, names)
