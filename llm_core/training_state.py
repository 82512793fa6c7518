"""The state of a training, which can be saved after any complete step and comes back bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_core.checkpoint import Snapshot
from llm_core.models.interface import Network
from llm_core.optim import Optimizers
from llm_core.ranks import Alone, Ranks
from llm_core.sharded import own_row, row_of_rank, split_state
from llm_core.split_tensors import here, is_split, rows_here, split_like


@dataclass(frozen=True)
class CurvePoint:
    """One row of the loss curve; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float
    validation_loss: float | None
    lr: float


@dataclass
class State:
    """Everything that a step changes."""

    model: Network
    """Weights in float32."""
    optimizers: Optimizers
    step: int = 0
    """Complete steps."""
    batch: int = 0
    """The next batch: the number of batches that were trained on or left out."""
    tokens: int = 0
    """Tokens trained on: those that the loss counted."""
    curve: list[CurvePoint] = field(default_factory=list)
    mean: dict[str, Tensor] = field(default_factory=dict)
    """The running mean of the weights, where the recipe keeps one."""
    left_out: list[int] = field(default_factory=list)
    """Numbers of the bad steps' batches."""
    seconds: float = 0.0
    """Time spent in steps."""
    ended: str = ""
    """Why training ended before its last step: the recipe's key."""
    whole: bool = True
    """False while a step is being applied: such a state must not be saved."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """The random generators at the last step's edge; a step that is broken off has moved them on."""

    ranks: Ranks = field(default_factory=Alone)
    num_ranks: list[list[int]] = field(default_factory=list)
    """Steps after which another number of ranks went on, and that number; nothing for one process throughout."""

    VALUES = ("batch", "tokens", "left_out", "seconds", "ended", "num_ranks")

    def snapshot(self) -> Snapshot:
        """The state as tensors and JSON values; the tensors are the live ones."""
        tensors = {f"weights/{name}": parameter.detach() for name, parameter in self.model.named_parameters()}
        tensors |= {f"optimizer/{name}": tensor for name, tensor in self.optimizers.tensors().items()}
        tensors |= {f"mean/{name}": tensor for name, tensor in self.mean.items()}
        random = self.random or random_state()
        values = {name: getattr(self, name) for name in self.VALUES}
        values["curve"] = [dict(vars(point)) for point in self.curve]
        if self.ranks.size == 1:
            return Snapshot(self.step, tensors | random, values)
        pieces, parts = split_state(tensors)
        for name, generator in random.items():
            pieces[name], parts[name] = row_of_rank(generator, self.ranks)
        return Snapshot(self.step, pieces, values, parts)

    def wanted(self, name: str, shape: tuple[int, ...]) -> tuple[slice, ...] | None:
        """What this rank holds of a tensor in a checkpoint, which any number of ranks may have saved."""
        if name in ("rng", "rng-cuda"):
            return own_row(shape, self.ranks)
        kind, _, rest = name.partition("/")
        weight = self.model.get_parameter(rest.rpartition("/")[0] if kind == "optimizer" else rest)
        rows = rows_here(weight) if shape == tuple(weight.shape) else None
        return () if rows is None else (rows,)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Become the saved state, bit for bit."""
        self.whole = False
        for name, parameter in self.model.named_parameters():
            here(parameter).copy_(snapshot.tensors[f"weights/{name}"])
        self.optimizers.restore(_below("optimizer/", snapshot.tensors))
        weights = dict(self.model.named_parameters())
        self.mean = {
            name: split_like(tensor.to(weights[name].device), weights[name])
            for name, tensor in _below("mean/", snapshot.tensors).items()
        }
        _restore_random(snapshot)
        self.random = random_state()
        self.step = snapshot.step
        for name in self.VALUES:
            setattr(self, name, snapshot.values[name])
        self.curve = [CurvePoint(**point) for point in snapshot.values["curve"]]
        self.whole = True

    @torch.no_grad()
    def update_mean(self, decay: float) -> None:
        """Move the running mean towards the weights; at first faster than `decay`, so that it forgets the start."""
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self.model.named_parameters():
            self.mean.setdefault(name, parameter.detach().clone()).lerp_(parameter, share)

    def note_ranks(self) -> None:
        """Keep how many ranks go on from here, if it is news."""
        before = self.num_ranks[-1][1] if self.num_ranks else 1
        if self.ranks.size != before:
            self.num_ranks = [*self.num_ranks, [self.step, self.ranks.size]]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network with its running mean for weights, where it has one."""
        if any(is_split(mean) for mean in self.mean.values()):  # FSDP keeps to its own memory
            with self._exchanged():
                yield
            return
        weights = {name: parameter.data for name, parameter in self.model.named_parameters()}
        try:
            for name, parameter in self.model.named_parameters():
                parameter.data = self.mean.get(name, parameter.data)
            yield
        finally:
            for name, parameter in self.model.named_parameters():
                parameter.data = weights[name]

    @contextmanager
    def _exchanged(self) -> Iterator[None]:
        pairs = [(here(p), here(self.mean[name])) for name, p in self.model.named_parameters() if name in self.mean]
        weights = [weight.detach().clone() for weight, _ in pairs]
        with torch.no_grad():
            torch._foreach_copy_([weight.detach() for weight, _ in pairs], [mean for _, mean in pairs])
            try:
                yield
            finally:
                torch._foreach_copy_([weight.detach() for weight, _ in pairs], weights)


def random_state() -> dict[str, Tensor]:
    """Torch's random generators, as they go into a checkpoint."""
    found = {"rng": torch.get_rng_state()}
    return found | {"rng-cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else found


def _restore_random(snapshot: Snapshot) -> None:
    if "rng" not in snapshot.tensors:  # saved by fewer ranks: what follows differs from rank to rank all the same
        torch.manual_seed(torch.initial_seed() + snapshot.step)
        return
    torch.set_rng_state(snapshot.tensors["rng"].flatten())
    if "rng-cuda" in snapshot.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(snapshot.tensors["rng-cuda"].flatten())


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
