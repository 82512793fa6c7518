"""The network as it computes: in a lower precision, compiled, in micro-batches, on one rank of several.

The weights that the optimizer moves stay in float32; this copy of them runs forward and backward.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llm_core.config import Train
from llm_core.data import Batch
from llm_core.losses import LossTerms, batch_loss
from llm_core.models.interface import LanguageModel, Network
from llm_core.optim import parameter_roles
from llm_core.parallel import BatchLoss, share_gradients
from llm_core.split_tensors import whole

log = logging.getLogger(__name__)

# A run pays for compiling (about a minute of a core) from this many operations on; below it is slower as a whole.
WORTH_COMPILING = 1e14
ALIKE = 0.2  # relative difference of loss or gradients that rounding and dropout may make; a wrong kernel makes more


@dataclass(frozen=True)
class Running:
    """How a network computes while it is trained."""

    dtype: torch.dtype = torch.float32
    compile: bool = False
    distributed: Literal["none", "ddp", "fsdp"] = "none"
    """How ranks share the work; with fsdp the network is one whose weights are split already."""


class WorkingCopy:
    """The copy of a float32 network that runs forward and backward; in float32 it is the network itself."""

    def __init__(self, network: Network, cfg: Train, running: Running) -> None:
        self._network = network
        self._low = running.dtype != torch.float32 and running.distributed != "fsdp"  # which does it on its own
        self.module: Network = copy.deepcopy(network).to(running.dtype) if self._low else network
        self.module.train()
        for part in self.module.modules():
            if hasattr(part, "recompute"):
                setattr(part, "recompute", cfg.recompute)  # noqa: B010 - torch types attributes of modules as tensors
        self._masters: list[Tensor] = list(network.parameters())
        self._copies: list[Tensor] = list(self.module.parameters())
        call = _compiled(self.module) if running.compile else None
        self._num_ranks = 1 if running.distributed == "none" else torch.distributed.get_world_size()
        if self._num_ranks > 1 and network.task == "embedding":
            raise ValueError("an embedder's loss compares all texts of a batch, which ranks keep apart; train on one")
        loss = BatchLoss(self.module, LossTerms(cfg.label_smoothing, cfg.z_loss), call)
        self._shared = share_gradients(loss) if running.distributed == "ddp" else None
        self._loss: Callable[[Batch], Tensor] = self._shared or loss

    def gradients(self, parts: Sequence[Batch], num_counted: int | None = None) -> tuple[float, Tensor]:
        """Forward and backward through micro-batches, as if they were one batch.

        Gives the mean loss of all counted targets in nats and the gradients' global norm, which are the masters' then.
        Of several ranks each gives its own share of a batch, in which `num_counted` targets count, and gets the whole's
        loss and gradients.
        """
        if num_counted is None:
            num_counted = sum(part.num_counted for part in parts)
        num_counted = max(num_counted, 1)  # nothing to predict costs nothing
        total = torch.zeros((), device=self._masters[0].device)
        for number, part in enumerate(parts, 1):
            with self._exchange(number == len(parts)):
                loss = self._loss(part)
                (loss * self._num_ranks / num_counted).backward()  # ranks' gradients are averaged
            total += loss.detach()
            self._hand_over_gradients()
        if self._num_ranks > 1:
            torch.distributed.all_reduce(total)
        norm = nn.utils.get_total_norm([master.grad for master in self._masters if master.grad is not None])
        return float(total) / num_counted, whole(norm)

    def _exchange(self, is_last: bool) -> AbstractContextManager[None]:
        """DDP may send gradients after the last micro-batch only, where they add up in float32 until then."""
        if self._shared is None or is_last or self._low:
            return nullcontext()
        shared: Any = self._shared
        waiting: AbstractContextManager[None] = shared.no_sync()
        return waiting

    @torch.no_grad()
    def take_weights(self) -> None:
        """Round the float32 weights, which have been stepped, into the copy; their gradients are forgotten."""
        for master in self._masters:
            master.grad = None
        if self.module is not self._network:
            torch._foreach_copy_(self._copies, self._masters)

    @torch.no_grad()
    def validation_loss(self, batches: Iterable[Batch]) -> float | None:
        """Mean cross-entropy of the counted targets in nats, none where there is no such target."""
        self.module.eval()
        total, num_counted = 0.0, 0
        for batch in batches:
            total += float(batch_loss(self.module, batch, LossTerms()))
            num_counted += batch.num_counted
        self.module.train()
        network: Any = self.module
        if hasattr(network, "reshard"):
            network.reshard()  # FSDP would keep the last weights whole for a backward pass
        return total / num_counted if num_counted else None

    def _hand_over_gradients(self) -> None:
        """Add the gradients to the float32 weights': many of one size would be lost in the sum of a lower precision."""
        for master, low in zip(self._masters, self._copies, strict=True):
            if master is low or low.grad is None:
                continue
            if master.grad is None:
                master.grad = low.grad.float()
            else:
                master.grad += low.grad
            low.grad = None


def pays_to_compile(choice: str, network: Network, cfg: Train) -> bool:
    """Whether a recipe's `compile` means yes: 'auto' does for long runs that compute in one shape.

    The operations are 6 for each weight of a product and token (Kaplan et al., 2020).
    """
    if choice != "auto":
        return choice == "on"
    roles = parameter_roles(network)
    weights = sum(p.numel() for name, p in network.named_parameters() if roles[name] in ("hidden", "head"))
    varies = bool(cfg.batch_warmup_steps or cfg.sequence_warmup_steps)
    return not varies and 6.0 * weights * cfg.steps * cfg.batch_tokens > WORTH_COMPILING


def compiles(network: Network, cfg: Train, running: Running, batch: Batch) -> bool:
    """Whether the network compiles and learns the same then from such a batch; if not, that is logged, not raised.

    A compiler may fail, and it may give wrong numbers: gradients that are NaN in one network and not in the next. The
    kernels are kept in the compiler's cache, so that training itself starts at once.
    """
    parts = batch.split(micro_rows(cfg, batch))
    with torch.random.fork_rng(devices=[]):
        plain = _trial(network, cfg, replace(running, compile=False), parts)
        try:
            compiled = _trial(network, cfg, running, parts)
        except Exception as problem:  # whatever the compiler or the C++ compiler behind it fails with
            reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
            log.warning("the network does not compile here, so it is trained as it is (slower): %s", reason)
            return False
    for what, found, wanted in zip(("loss", "gradient's norm"), compiled, plain, strict=True):
        if not math.isclose(found, wanted, rel_tol=ALIKE):
            log.warning(
                "compiled, the network's %s is %s instead of %s, so it is trained as it is (slower)",
                what,
                found,
                wanted,
            )
            return False
    return True


def _trial(network: Network, cfg: Train, running: Running, parts: Sequence[Batch]) -> tuple[float, float]:
    """The loss and the gradients' norm of a copy of the network."""
    loss, norm = WorkingCopy(copy.deepcopy(network), cfg, running).gradients(parts)
    return loss, float(norm)


def micro_rows(cfg: Train, batch: Batch) -> int:
    """Rows of a micro-batch; 0 for all of them."""
    if not cfg.micro_batch_tokens:
        return 0
    row_tokens = max(values[0].numel() for values in batch.inputs.values())
    return max(1, cfg.micro_batch_tokens // row_tokens)


def _compiled(network: Network) -> Callable[..., Any]:
    # Each shape is compiled for itself: kernels for any shape would depend on which shapes came first, and a resumed
    # run would not repeat the bits of one that never stopped.
    torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]
    call = network.features if isinstance(network, LanguageModel) else network.forward
    return torch.compile(call, dynamic=False)
