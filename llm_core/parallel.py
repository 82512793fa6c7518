"""A network on several ranks: copies that share their gradients (DDP), or weights that are split by rows (FSDP2).

Each rank reads its rows of a batch. Losses are divided by the targets that count on all ranks, which every rank knows,
since every rank makes the whole batch; so the gradients' sum is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from llm_core.data import IGNORED, Batch
from llm_core.losses import LossTerms, batch_loss
from llm_core.models.interface import LanguageModel, Network
from llm_core.ranks import Ranks, TorchRanks
from llm_core.split_tensors import whole
from llm_core.workers import available_cores


@contextmanager
def joined() -> Iterator[tuple[TorchRanks, TorchRanks]]:
    """Join the ranks that torch's launcher has started; one set of them to train, one for the checkpoints' thread."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://"))
    # The store outlives ranks that died: those that begin again must not find the addresses of those before.
    attempt = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    torch.distributed.init_process_group(store=attempt, rank=rank, world_size=size)
    try:
        yield TorchRanks(), TorchRanks()
    finally:
        torch.distributed.destroy_process_group()


def threads_of_a_rank() -> int:
    """CPU threads for each of the ranks of this machine, whatever torchrun sets OMP_NUM_THREADS to."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def share(batch: Batch, ranks: Ranks, num_rows: int) -> list[Batch]:
    """This rank's micro-batches of `num_rows` rows (0: one), as many as on each other rank.

    Where rows are short a rank reads one that counts for nothing: all have to take part in all that is exchanged.
    """
    if ranks.size == 1:
        return batch.split(num_rows)
    mine = batch.rows(slice(ranks.rank, None, ranks.size))
    parts = mine.split(num_rows) if len(mine.targets) else []
    most = -(-len(batch.targets) // ranks.size)
    first = batch.rows(slice(0, 1))
    nothing = first._replace(targets=torch.full_like(first.targets, IGNORED))
    return parts + [nothing] * (-(-most // (num_rows or most)) - len(parts))


class BatchLoss(nn.Module):
    """The loss of a batch as a module's call, which is what DDP wraps."""

    def __init__(self, network: Network, terms: LossTerms, call: Callable[..., Any] | None) -> None:
        super().__init__()
        self.network, self.terms, self.call = network, terms, call

    def forward(self, batch: Batch) -> Tensor:
        return batch_loss(self.network, batch, self.terms, self.call)


def share_gradients(loss: BatchLoss) -> nn.parallel.DistributedDataParallel:
    """A loss whose backward pass leaves the mean of all ranks' gradients on each."""
    # To look for unused parameters costs little and keeps DDP from ordering its buckets anew after the first step: a
    # resumed run would begin in the first order again, and sums of more than two ranks would round otherwise.
    return nn.parallel.DistributedDataParallel(loss, find_unused_parameters=True, forward_sync_buffers=False)


def split_weights(network: Network, dtype: torch.dtype) -> None:
    """Leave a part of the rows of each weight on each rank; a block's are whole, in `dtype`, while it computes.

    The weights stay in float32, and so do the gradients' sums.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    low = dtype != torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if low else MixedPrecisionPolicy()
    for block in _blocks(network):
        fully_shard(block, mp_policy=policy)
    fully_shard(network, mp_policy=policy)
    if isinstance(network, LanguageModel):
        register_fsdp_forward_method(network, "features")  # the output head is whole then until the backward pass ends


def _blocks(network: Network) -> list[nn.Module]:
    """The layers that repeat; not one with a lookup table, which others may read too (T5's positions)."""
    lists = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.ModuleList)]
    outer = [part for name, part in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    blocks = [block for part in outer for block in part]
    return [block for block in blocks if not any(isinstance(part, nn.Embedding) for part in block.modules())]


@torch.no_grad()
def gather_weights(network: Network, blank: Callable[[], Network], ranks: Ranks) -> Network | None:
    """The network with whole weights on rank 0, put into what `blank` makes; None on the other ranks."""
    target = blank() if ranks.rank == 0 else None
    for name, parameter in network.named_parameters():
        weight = whole(parameter)
        if target is not None:
            target.get_parameter(name).copy_(weight)
    return target
