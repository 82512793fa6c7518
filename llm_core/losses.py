"""Next-token cross-entropy without the whole logits in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_core.data import IGNORED

CHUNK_TOKENS = 1024  # logits of one chunk, in the weights' format


class _HeadCrossEntropy(torch.autograd.Function):
    """The output head and the cross-entropy in one node: the gradients are made chunk by chunk, along with the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for first in range(0, len(hidden), chunk):
            part = slice(first, first + chunk)
            probs = torch.softmax(hidden[part] @ weight.T, dim=-1)
            rows = torch.arange(len(probs), device=hidden.device)
            hit = probs[rows, targets[part]]
            total -= hit.float().log().sum()
            probs[rows, targets[part]] = hit - 1  # d loss / d logits = softmax - one-hot
            torch.mm(probs, weight, out=hidden_grad[part])
            weight_grad += probs.T @ hidden[part]
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total / max(len(hidden), 1)  # nothing to predict costs nothing

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        scale = grads[0] / max(len(hidden_grad), 1)
        return hidden_grad * scale.to(hidden_grad.dtype), (weight_grad * scale).to(hidden_grad.dtype), None, None


def head_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = CHUNK_TOKENS) -> Tensor:
    """Mean cross-entropy in nats of ``hidden @ weight.T``, hidden (N, C), weight (V, C), targets (N,); float32.

    The mean is over the targets that are not IGNORED, 0 where all are; the head is not computed for the others.
    Targets may lie on the CPU while the rest is on a GPU, which then need not be waited for to look at them.
    """
    counted = targets != IGNORED
    if not counted.all():
        hidden, targets = hidden[counted.to(hidden.device)], targets[counted]
    loss: Tensor = _HeadCrossEntropy.apply(hidden, weight, targets.to(hidden.device), chunk)
    return loss


def num_counted(targets: Tensor) -> int:
    """How many targets are not IGNORED."""
    return int((targets != IGNORED).sum())
