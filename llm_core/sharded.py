"""Tensors that FSDP has split over ranks by rows, as pieces that a checkpoint writes and slices that it reads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from llm_core.checkpoint_shards import Part, Shape, Wanted


def split_state(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Part]]:
    """What this rank holds of the tensors, and the place of each piece: a Snapshot's `tensors` and `parts`."""
    local, parts = {}, {}
    for name, tensor in tensors.items():
        rows = rows_here(tensor)
        local[name] = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if rows is not None:
            parts[name] = Part(tuple(tensor.shape), (rows.start, *(0,) * (tensor.dim() - 1)))
    return local, parts


def wanted_like(tensors: Mapping[str, Tensor]) -> Wanted:
    """Load the rows that this rank holds of `tensors`, and whatever is not among them as a whole."""

    def wanted(name: str, shape: Shape) -> tuple[slice, ...]:
        rows = rows_here(tensors[name]) if name in tensors else None
        return () if rows is None else (rows,)

    return wanted


def rows_here(tensor: Tensor) -> slice | None:
    """Which rows of a split tensor lie on this rank; None if it is whole here."""
    if not isinstance(tensor, DTensor) or all(placement.is_replicate() for placement in tensor.placements):
        return None
    if tuple(tensor.placements) != (Shard(0),):
        raise ValueError(
            f"a tensor is placed as {tensor.placements}; checkpoints know tensors split by rows: (Shard(0),)"
        )
    # As torch.chunk cuts: equal shares, rounded up, so that the last ranks may have less or nothing.
    share = -(-tensor.shape[0] // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * share, tensor.shape[0])
    return slice(start, start + tensor.to_local().shape[0])
