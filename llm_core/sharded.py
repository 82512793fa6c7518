"""Tensors that FSDP has split over ranks by rows, as pieces that a checkpoint writes and slices that it reads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from llm_core.checkpoint_shards import Part, Shape
from llm_core.ranks import Ranks
from llm_core.split_tensors import here, rows_here


def split_state(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Part]]:
    """What this rank holds of the tensors, and the place of each piece: a Snapshot's `tensors` and `parts`."""
    local, parts = {}, {}
    for name, tensor in tensors.items():
        rows = rows_here(tensor)
        local[name] = here(tensor)
        if rows is not None:
            parts[name] = Part(tuple(tensor.shape), (rows.start, *(0,) * (tensor.dim() - 1)))
    return local, parts


def row_of_rank(tensor: Tensor, ranks: Ranks) -> tuple[Tensor, Part]:
    """What each rank has a different one of, as a row of one tensor (a Snapshot's tensor and part)."""
    return tensor[None], Part((ranks.size, *tensor.shape), (ranks.rank, *(0,) * tensor.dim()))


def own_row(shape: Shape, ranks: Ranks) -> tuple[slice, ...] | None:
    """Where such a vector lies in a checkpoint; None if fewer ranks saved it. One process saves it as it is."""
    if len(shape) == 1:
        return () if ranks.rank == 0 else None
    return (slice(ranks.rank, ranks.rank + 1),) if ranks.rank < shape[0] else None
