"""The memory of a training step and the size of what it leaves on disk, from shapes alone.

Dimensions: T tokens of a sequence, C width, M width of the feed-forward layers, H query heads, G key/value heads,
D head size, V vocabulary, N parameters.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from llm_core.config import Model, Train
from llm_core.losses import CHUNK_TOKENS
from llm_core.models import LanguageModel
from llm_core.operations import Sequences, hidden_matrices

MASTER_BYTES = 4
"""Weights, their gradients and the optimizer's moments are in float32."""

LSTM_BYTES = {torch.float32: 62, torch.bfloat16: 44}
"""What the CPU's LSTM kernel keeps besides, per token, layer and state: measured, since no shape tells it."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process while it trains; `peak` is the most that is there at once, and not the sum."""

    weights: int
    """In float32."""
    working_copy: int
    """The weights again in bfloat16, where that is the precision."""
    optimizer: int
    """AdamW: two moments of each weight (Loshchilov and Hutter, 2019). Muon: one of each hidden matrix. And the EMA."""
    gradients: int
    """In float32, after the backward pass."""
    activations: int
    """What the forward pass of one micro-batch keeps for the backward pass."""
    output_head: int
    """The loss: gradients of the head and of its inputs, and one chunk of logits and their probabilities."""
    update: int
    """What the optimizer's step needs for a moment: Muon stacks the matrices of one shape."""
    checkpoint: int
    """On disk: weights and optimizer."""
    model: int
    """On disk: the trained model, float32."""
    accumulates: bool
    """Whether the gradients of earlier micro-batches are there too when a later one's activations are."""

    @property
    def held(self) -> int:
        """What is there all the time."""
        return self.weights + self.working_copy + self.optimizer

    @property
    def peak(self) -> int:
        """The larger of both moments: the loss, when all activations are there, and the optimizer's step."""
        kept = self.gradients if self.accumulates else 0
        return self.held + max(kept + self.activations + self.output_head, self.gradients + self.update)


def memory_of(
    model: LanguageModel, shape: Model, cfg: Train, sequences: Sequences, dtype: torch.dtype, flash: bool = False
) -> Memory:
    """The memory of one process of the recipe's training; with `flash` attention keeps no probabilities."""
    # FSDP (Rajbhandari et al., 2020, stage 3) divides weights, gradients and moments by the processes; DDP does not.
    shards = cfg.ranks if cfg.distributed == "fsdp" else 1
    count = sum(parameter.numel() for parameter in model.parameters()) // shards
    hidden = hidden_matrices(model)
    num_hidden = sum(matrix.numel() for matrix in hidden) // shards
    moments = {"adamw": 2 * count, "adam": 2 * count, "muon": 2 * count - num_hidden, "sgd": count}[cfg.optimizer]
    optimizer = MASTER_BYTES * (moments + (count if cfg.ema else 0))
    rows = rows_at_once(shape, cfg)
    weights = MASTER_BYTES * count
    return Memory(
        weights=weights,
        working_copy=0 if dtype == torch.float32 else dtype.itemsize * count,
        optimizer=optimizer,
        gradients=weights,
        activations=activation_bytes(model, shape, sequences, dtype, rows, cfg.recompute, flash),
        output_head=_head_bytes(model, rows * sequences.counted, dtype),
        update=_stacked_bytes(hidden) // shards if cfg.optimizer == "muon" else 0,
        checkpoint=weights + optimizer,
        model=MASTER_BYTES * sum(parameter.numel() for parameter in model.parameters()),
        accumulates=rows * cfg.ranks * shape.context < cfg.batch_tokens,
    )


def rows_at_once(shape: Model, cfg: Train) -> int:
    """Sequences that go through the network of one process at once."""
    of_the_batch = math.ceil(cfg.batch_tokens // shape.context / cfg.ranks)
    return max(1, min(of_the_batch, cfg.micro_batch_tokens // shape.context or of_the_batch))


def activation_bytes(
    model: LanguageModel,
    shape: Model,
    sequences: Sequences,
    dtype: torch.dtype,
    rows: int,
    recompute: bool = False,
    flash: bool = False,
) -> int:
    """What autograd keeps of a forward pass of `rows` sequences, head aside.

    Counted, not estimated: the network runs on tensors that have shapes and no data, and what is saved for the backward
    pass is added up. For a llama in bfloat16 on a CPU that is, per token and layer, ``6 C + 2 G D + 3 M + H T + 2``
    numbers (both norms' states and results, queries, keys, values and the input of the next product, gate, up and their
    product, probabilities, both norms' scales). Korthikanti et al. (2022), equation 1, count the same way for GPT.

    `flash` counts the float32 path, whose attention keeps no probabilities (Dao et al., 2022), at the size of `dtype`:
    an accelerator's kernels. With `recompute` only the input of each block stays, and the inner states of one block at
    a time (there: full activation recomputation).
    """
    traced = torch.float32 if flash else dtype
    # A single row is left out: what is copied of several may be a view of one.
    two, three = (_saved_bytes(model, sequences, traced, count) for count in (2, 3))
    saved = two + (rows - 2) * (three - two)  # what does not grow with the rows is a mask or a table
    saved = saved * dtype.itemsize // traced.itemsize
    if shape.family == "lstm":
        saved += LSTM_BYTES[dtype] * rows * sequences.target * shape.num_layers * shape.width
    if not recompute:
        return saved
    tokens, blocks = sequences.source + sequences.target, shape.num_layers * (2 if sequences.source else 1)
    return shape.num_layers * rows * tokens * shape.width * dtype.itemsize + saved // blocks


def _head_bytes(model: LanguageModel, num_targets: int, dtype: torch.dtype) -> int:
    head = model.output_head().weight
    vocabulary, width = head.shape
    chunk = min(num_targets, CHUNK_TOKENS) * vocabulary * dtype.itemsize
    return head.numel() * MASTER_BYTES + num_targets * width * dtype.itemsize + 2 * chunk


def _stacked_bytes(matrices: list[Tensor]) -> int:
    """Updates of the largest group of one shape, apart and stacked."""
    groups: dict[torch.Size, int] = defaultdict(int)
    for matrix in matrices:
        groups[matrix.shape] += 2 * MASTER_BYTES * matrix.numel()
    return max(groups.values(), default=0)


def _saved_bytes(model: LanguageModel, sequences: Sequences, dtype: torch.dtype, rows: int) -> int:
    """Bytes saved for the backward pass, each storage once, weights aside."""
    with _fresh_caches(), FakeTensorMode(), _without_data(model, dtype):
        own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        saved: dict[int, Any] = {}  # keeps the storages, so that no address comes twice

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                saved[storage._cdata] = storage
            return tensor

        inputs = [torch.zeros(rows, length, dtype=torch.int64) for length in sequences[:2] if length]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
            # The result, like all that is saved, has to live until it is counted.
            result = model.features(*inputs)
        del result
        return sum(storage.nbytes() for storage in saved.values())


@contextmanager
def _fresh_caches() -> Iterator[None]:
    """Masks that model files remember are made anew inside and after: one without data must never reach a training."""
    remembered = [
        value
        for name, module in sys.modules.items()
        if name.startswith("llm_core.models")
        for value in vars(module).values()
        if hasattr(value, "cache_clear")
    ]
    for function in remembered:
        function.cache_clear()
    try:
        yield
    finally:
        for function in remembered:
            function.cache_clear()


@contextmanager
def _without_data(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """The network's tensors on a CPU that holds no data (inside a FakeTensorMode), and back on the meta device."""
    before: list[tuple[Any, dict[str, Any]]] = [
        (store, dict(store)) for module in model.modules() for store in (module._parameters, module._buffers)
    ]
    made: dict[Tensor, Any] = {}
    for store, tensors in before:
        for name, tensor in tensors.items():
            if tensor is not None:
                if tensor not in made:  # shared ones stay shared
                    kind = dtype if tensor.is_floating_point() else tensor.dtype
                    empty = torch.empty(tensor.shape, dtype=kind, device="cpu")
                    made[tensor] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
                store[name] = made[tensor]
    try:
        yield
    finally:
        for store, tensors in before:
            store.update(tensors)
