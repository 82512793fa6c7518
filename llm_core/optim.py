"""Optimizers, their parameter groups, the schedule of the rate, and weights kept in float32 beside a bfloat16 copy."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llm_core.config import Train

ADAM_BETAS = (0.9, 0.95)
# Coefficients of the quintic Newton-Schulz iteration (Jordan et al., 2024, "Muon").
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def rate_factor(step: int, cfg: Train) -> float:
    """Share of the peak rate in step `step` (from 0): linear warmup, stable, linear decay to zero."""
    warmup = (step + 1) / cfg.warmup_steps if step < cfg.warmup_steps else 1.0
    decay_steps = round(cfg.decay_share * cfg.steps)
    decay = (cfg.steps - step) / decay_steps if step > cfg.steps - decay_steps else 1.0
    return min(warmup, decay)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al., 2024), scaled to AdamW's update size (Liu et al., 2025).

    Matrices of one shape are orthogonalised as one batch, which on a CPU is several times faster than one by one.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonalize(torch.stack([self._momentum(p, group) for p in parameters]))
                size = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.to(parameter.dtype), alpha=-group["lr"] * size)

    def _momentum(self, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])  # Nesterov


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """The nearest orthogonal matrices, roughly (singular values in 0.7 to 1.2), of a batch (N, rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Optimizers:
    """AdamW, and Muon for the hidden matrices where the recipe says so, as one optimizer with tensors for a state."""

    def __init__(self, model: nn.Module, cfg: Train) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        hidden = [p for p, name in self._names.items() if p.dim() == 2 and ".layers." in name]
        embedding = [p for p, name in self._names.items() if "embed_tokens" in name]
        head = [p for p, name in self._names.items() if name == "lm_head.weight"]
        norms = [p for p in self._names if p.dim() < 2]
        adam_groups = [
            {"params": embedding, "lr": cfg.embedding_lr, "weight_decay": 0.0},
            {"params": head, "lr": cfg.head_lr, "weight_decay": 0.0},
            {"params": norms, "lr": cfg.norm_lr, "weight_decay": 0.0},
        ]
        self._parts: list[torch.optim.Optimizer] = []
        if cfg.optimizer == "muon":
            self._parts.append(Muon(hidden, lr=cfg.lr, weight_decay=cfg.weight_decay))
        else:
            adam_groups.append({"params": hidden, "lr": cfg.lr, "weight_decay": cfg.weight_decay})
        adam_groups = [group for group in adam_groups if group["params"]]
        self._parts.append(torch.optim.AdamW(adam_groups, betas=ADAM_BETAS, eps=1e-10, fused=True))
        self._peaks = [[group["lr"] for group in part.param_groups] for part in self._parts]

    def step(self, factor: float) -> None:
        """Move the weights along their gradients, at `factor` times each group's peak rate."""
        for part, peaks in zip(self._parts, self._peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state by the parameters' names: ``NAME/exp_avg`` and so on."""
        states = (item for part in self._parts for item in part.state.items())
        return {f"{self._names[p]}/{key}": value for p, state in states for key, value in state.items()}  # type: ignore[index]

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave."""
        by_name: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for place, tensor in tensors.items():
            name, _, key = place.rpartition("/")
            by_name[name][key] = tensor
        for part in self._parts:
            for group in part.param_groups:
                for parameter in group["params"]:
                    state = by_name.get(self._names[parameter], {})
                    part.state[parameter] = {key: value.clone() for key, value in state.items()}


class WorkingCopy:
    """The copy of a float32 model that runs forward and backward in `dtype`; for float32 it is the model itself."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.module = model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
        self._masters: list[Tensor] = list(model.parameters())
        self._copies: list[Tensor] = list(self.module.parameters())

    def hand_over_gradients(self) -> Tensor:
        """Move the gradients to the float32 weights; gives their global norm."""
        for master, low in zip(self._masters, self._copies, strict=True):
            if master is not low:
                assert low.grad is not None
                master.grad, low.grad = low.grad.float(), None
        return nn.utils.get_total_norm([master.grad for master in self._masters if master.grad is not None])

    @torch.no_grad()
    def take_weights(self) -> None:
        """Round the float32 weights, which have been stepped, into the copy; their gradients are forgotten."""
        for master in self._masters:
            master.grad = None
        if self._copies[0] is not self._masters[0]:
            torch._foreach_copy_(self._copies, self._masters)
