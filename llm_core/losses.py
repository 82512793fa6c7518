"""The loss of each task, as a sum over what is counted; logits over a vocabulary are never whole in memory.

Dimensions: N tokens, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_core.data import IGNORED, Batch
from llm_core.models.interface import LanguageModel, Network, OutputHead

CHUNK_TOKENS = 1024  # logits of one chunk, in the weights' format
CONTRAST = 20.0  # inverse temperature of the embedders' loss, as sentence-transformers has it


@dataclass(frozen=True)
class LossTerms:
    """What a language model's loss holds besides the cross-entropy; for training, never for a score."""

    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over the vocabulary (Szegedy et al., 2016)."""
    z_loss: float = 0.0
    """Weight of the squared log of the softmax's sum (Chowdhery et al., 2022)."""


def batch_loss(network: Network, batch: Batch, terms: LossTerms, call: Callable[..., Any] | None = None) -> Tensor:
    """The loss in nats, summed over the counted targets; float32.

    `call` stands for the network's `features` (language models) or for its call (others) where it is compiled. The
    targets may lie on the CPU while the network is on a GPU, which then need not be waited for to look at them.
    """
    device = next(network.parameters()).device
    inputs = {name: values.to(device, non_blocking=True) for name, values in batch.inputs.items()}
    if isinstance(network, LanguageModel):
        features = (call or network.features)(**inputs)
        return head_cross_entropy(features.flatten(0, 1), network.output_head(), batch.targets.flatten(), terms)
    logits, targets = (call or network)(**inputs).logits.float(), batch.targets.to(device)
    if network.task == "embedding":
        return contrastive(logits, targets)
    if network.task == "question_answering":
        # (N, T, 2): a start and an end each, among the tokens that are text.
        if "segments" in inputs:
            logits = logits.masked_fill((inputs["segments"] == 0).unsqueeze(-1), float("-inf"))
        return F.cross_entropy(logits.mT.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def contrastive(vectors: Tensor, groups: Tensor) -> Tensor:
    """Each text's vector (N, C) has to find the other one of its group (N,) among all of the batch (InfoNCE)."""
    unit = F.normalize(vectors, dim=-1)
    likeness = (unit @ unit.T * CONTRAST).fill_diagonal_(float("-inf"))
    others = (groups[:, None] == groups[None, :]).fill_diagonal_(False)
    partner = torch.where(others.any(dim=1), others.int().argmax(dim=1), IGNORED)
    return F.cross_entropy(likeness, partner, ignore_index=IGNORED, reduction="sum")


class _HeadCrossEntropy(torch.autograd.Function):
    """The output head and the cross-entropy in one node: the gradients are made chunk by chunk, along with the loss."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, terms: LossTerms
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_grad, weight_grad = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        bias_grad = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        for first in range(0, len(hidden), CHUNK_TOKENS):
            part = slice(first, first + CHUNK_TOKENS)
            loss, slope = _loss_and_slope(F.linear(hidden[part], weight, bias), targets[part], terms)
            total += loss
            torch.mm(slope, weight, out=hidden_grad[part])
            weight_grad += slope.T @ hidden[part]
            if bias_grad is not None:
                bias_grad += slope.sum(dim=0, dtype=torch.float32)
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if g is None else (g * grads[0]).to(ctx.saved_tensors[0].dtype) for g in ctx.saved_tensors)
        return *scaled, None, None


def _loss_and_slope(logits: Tensor, targets: Tensor, terms: LossTerms) -> tuple[Tensor, Tensor]:
    """The summed loss of logits (N, V), which may be overwritten, and its gradient with respect to them."""
    rows = torch.arange(len(logits), device=logits.device)
    if terms == LossTerms():
        slope = torch.softmax(logits, dim=-1)
        hit = slope[rows, targets]
        # A probability that is rounded to 0 still has a finite loss, as with a log-softmax.
        loss = -hit.float().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
    else:
        log_sum = logits.logsumexp(dim=-1, keepdim=True).float()
        uniform = terms.label_smoothing / logits.shape[-1]
        aimed = (1 - terms.label_smoothing) * logits[rows, targets].float() + uniform * logits.sum(
            -1, dtype=torch.float32
        )
        loss = log_sum.sum() - aimed.sum() + terms.z_loss * log_sum.square().sum()
        slope = torch.softmax(logits, dim=-1) * (1 + 2 * terms.z_loss * log_sum).to(logits.dtype) - uniform
        hit = slope[rows, targets]
    slope[rows, targets] = hit - (1 - terms.label_smoothing)  # d loss / d logits = softmax - aim
    return loss, slope


def head_cross_entropy(hidden: Tensor, head: OutputHead, targets: Tensor, terms: LossTerms = LossTerms()) -> Tensor:  # noqa: B008
    """Cross-entropy in nats of ``hidden @ weight.T + bias``, hidden (N, C), targets (N,), summed; float32.

    Targets that are IGNORED are not counted, and the head is not computed for them. Where no gradient is wanted, the
    softmax is computed in float32.
    """
    counted = targets != IGNORED
    if not counted.all():
        hidden, targets = hidden[counted.to(hidden.device)], targets[counted]
    targets = targets.to(hidden.device)
    if torch.is_grad_enabled():
        loss: Tensor = _HeadCrossEntropy.apply(hidden, head.weight, head.bias, targets, terms)
        return loss
    return sum(
        (
            F.cross_entropy(F.linear(part, head.weight, head.bias).float(), aim, reduction="sum")
            for part, aim in zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
        ),
        start=torch.zeros((), device=hidden.device),
    )
