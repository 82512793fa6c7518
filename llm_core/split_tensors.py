"""Tensors that FSDP has split over ranks by rows (DTensors), and plain ones, through the same functions.

Training in one process never imports torch.distributed.tensor, which takes half a second.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import Tensor


def is_split(tensor: Tensor) -> bool:
    """Whether FSDP has split the tensor over ranks."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def here(tensor: Tensor) -> Tensor:
    """The rows that lie on this rank, in the same memory; all of a plain tensor. Without gradients only."""
    local: Any = tensor
    return local.to_local() if is_split(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All rows. Every rank has to ask for the same tensor at the same time."""
    split: Any = tensor
    return split.full_tensor() if is_split(tensor) else tensor


def rows_here(tensor: Tensor) -> slice | None:
    """Which rows of a split tensor lie on this rank; None if it is whole here."""
    if not is_split(tensor):
        return None
    from torch.distributed.tensor import Shard

    split: Any = tensor
    if all(placement.is_replicate() for placement in split.placements):
        return None
    if tuple(split.placements) != (Shard(0),):
        raise ValueError(
            f"a tensor is placed as {split.placements}; only tensors that are split by rows are known here: (Shard(0),)"
        )
    # As torch.chunk cuts: equal shares, rounded up, so that the last ranks may have less or nothing.
    share = -(-split.shape[0] // split.device_mesh.size())
    start = min(split.device_mesh.get_local_rank() * share, split.shape[0])
    return slice(start, start + split.to_local().shape[0])


def taken_here(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a whole tensor the rows that lie here of `like`."""
    rows = rows_here(like)
    return tensor if rows is None else tensor[rows]


def split_like(piece: Tensor, like: Tensor) -> Tensor:
    """What this rank holds of a tensor of the shape of `like`, as one that is split like it, where that is."""
    if not is_split(like) or piece.dim() != like.dim():
        return piece
    from torch.distributed.tensor import DTensor

    split: Any = like
    placed: Tensor = DTensor.from_local(
        piece.to(split.device), split.device_mesh, split.placements, shape=split.shape, stride=split.stride()
    )
    return placed
