"""Optimizers, their parameter groups, and the schedule of the rate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llm_core.config import Train
from llm_core.models.interface import Network
from llm_core.split_tensors import here, split_like, taken_here, whole

ADAM_BETAS = (0.9, 0.95)
SGD_MOMENTUM = 0.9
# Odd polynomials a x + b x^3 + c x^5, one after the other: of all three such they bring singular values from 0.01 to 1
# nearest to 1, to within 0.27. Each is the best (in the largest error) for what the one before it leaves (Amsel et al.,
# 2025, "The Polar Express").
POLAR_STEPS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)
ROUNDING = 1.03  # singular values stay below 1 in bfloat16 too: above it the first polynomial is steep


def rate_factor(step: int, cfg: Train) -> float:
    """Share of the peak rate in step `step` (from 0): linear warmup, then the recipe's schedule."""
    warmup = (step + 1) / cfg.warmup_steps if step < cfg.warmup_steps else 1.0
    return min(warmup, cfg.final_lr_share + (1 - cfg.final_lr_share) * _decay(step, cfg))


def _decay(step: int, cfg: Train) -> float:
    """From 1 down to 0 at the last step's end."""
    if cfg.schedule == "constant":
        return 1.0
    if cfg.schedule == "cosine":  # Loshchilov and Hutter, 2017, without restarts
        done = max(0, step - cfg.warmup_steps) / max(1, cfg.steps - cfg.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    decay_steps = round(cfg.decay_share * cfg.steps)
    return (cfg.steps - step) / decay_steps if step > cfg.steps - decay_steps else 1.0


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal (Jordan et al., 2024), scaled to AdamW's update size (Liu et al., 2025).

    Matrices of one shape are orthogonalised as one batch, which on a CPU is several times faster than one by one. Of
    matrices that FSDP has split, every rank does all and moves its rows.
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
                updates = orthogonalize(torch.stack([whole(self._momentum(p, group)) for p in parameters]))
                size = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    weight, change = here(parameter), taken_here(update, like=parameter)
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(change.to(weight.dtype), alpha=-group["lr"] * size)

    def _momentum(self, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"])  # Nesterov


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly (most singular values in 0.7 to 1.4), of a batch (N, rows, columns).

    The matrices are divided by the fourth root of the sum of their singular values' fourth powers, which the first
    product gives: unlike Frobenius' norm it hardly exceeds the largest one, so that fewer polynomials will do.
    """
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    gram = x @ x.mT
    size = ROUNDING * gram.float().norm(dim=(1, 2), keepdim=True) + 1e-7
    x, gram = (x / size.sqrt()).to(x.dtype), (gram / size).to(x.dtype)
    for step, (a, b, c) in enumerate(POLAR_STEPS):
        gram = x @ x.mT if step else gram
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


Role = Literal["embedding", "head", "hidden", "vector"]


def parameter_roles(network: Network) -> dict[str, Role]:
    """What each parameter is to the optimizer: a lookup table, the task's head, a hidden matrix, or a gain or bias."""
    tables = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}

    def role(name: str, parameter: Tensor) -> Role:
        if parameter.dim() < 2:
            return "vector"
        if id(parameter) in tables:
            return "embedding"
        return "head" if name.startswith(network.untrained_heads) else "hidden"

    return {name: role(name, parameter) for name, parameter in network.named_parameters()}


class Optimizers:
    """The recipe's optimizer, several where hidden matrices have their own, as one with tensors for a state."""

    def __init__(self, model: Network, cfg: Train) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        roles = parameter_roles(model)
        groups = {
            role: [p for p, name in self._names.items() if roles[name] == role]
            for role in ("hidden", "embedding", "head", "vector")
        }
        self._parts = _build(groups, cfg)
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
                    copies = {key: value.to(parameter.device, copy=True) for key, value in state.items()}
                    part.state[parameter] = {key: split_like(value, parameter) for key, value in copies.items()}


def _build(groups: Mapping[str, list[nn.Parameter]], cfg: Train) -> list[torch.optim.Optimizer]:
    everything = [p for group in groups.values() for p in group]
    if cfg.optimizer == "sgd":
        return [torch.optim.SGD(everything, cfg.lr, momentum=SGD_MOMENTUM, weight_decay=cfg.weight_decay)]
    if cfg.optimizer == "adam":
        adam = torch.optim.Adam(everything, cfg.lr, ADAM_BETAS, weight_decay=cfg.weight_decay, fused=True)
        return [adam]
    rates = {"hidden": cfg.lr, "embedding": cfg.embedding_lr, "head": cfg.head_lr, "vector": cfg.norm_lr}
    decayed = {"hidden": cfg.weight_decay}
    by_adam = [role for role in rates if groups[role] and not (role == "hidden" and cfg.optimizer == "muon")]
    parts: list[torch.optim.Optimizer] = []
    if cfg.optimizer == "muon" and groups["hidden"]:
        parts.append(Muon(groups["hidden"], lr=cfg.lr, weight_decay=cfg.weight_decay))
    if by_adam:
        adam_groups = [
            {"params": groups[role], "lr": rates[role], "weight_decay": decayed.get(role, 0.0)} for role in by_adam
        ]
        parts.append(torch.optim.AdamW(adam_groups, betas=ADAM_BETAS, eps=1e-10, fused=True))
    return parts
