"""Where each token looks: the attention weights of every layer and head, and their way through all layers.

The weights are worked out beside the model's own kernel, which never holds them: the numbers of the fast path stay what
they are. They say where information flows, not why; integrated gradients (`explain.py`) speak about an answer.
Dimensions: L layers, H heads, T queries, S keys, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from llm_core.models.attention import triangle
from llm_core.models.interface import Network


@dataclass(frozen=True)
class Attention:
    """Weights of a text's tokens; every row of keys sums to 1."""

    own: Tensor
    """(L, H, T, T): of the only stack, or of an encoder-decoder's encoder."""
    decoder: Tensor | None = None
    """(L, H, T, T) of a decoder behind an encoder, to its own tokens."""
    cross: Tensor | None = None
    """(L, H, T, S) of the same decoder, to the encoder's tokens."""


@torch.no_grad()
def attention(network: Network, ids: Sequence[int], decoder_ids: Sequence[int] = ()) -> Attention:
    """The weights over `ids` (T), and of an encoder-decoder that writes over `decoder_ids` too.

    Raises ValueError for a network without attention, and for an encoder-decoder without decoder ids.
    """
    if network.task == "seq2seq_lm" and not decoder_ids:
        raise ValueError("an encoder-decoder attends from what it writes: give decoder_ids")
    given = torch.tensor([list(ids)], device=next(network.parameters()).device)
    others = (given.new_tensor([list(decoder_ids)]),) if decoder_ids else ()
    with _Watch() as watch:
        _in_float32(network)(given, *others)
    if not watch.weights:
        raise ValueError(f"{type(network).__name__} has no attention; explain it by attributions")
    num_layers = network.config.num_layers
    own, decoder = watch.weights[:num_layers], watch.weights[num_layers:]
    if not decoder:
        return Attention(torch.stack(own))
    return Attention(torch.stack(own), torch.stack(decoder[::2]), torch.stack(decoder[1::2]))


def rollout(own: Tensor) -> Tensor:
    """How much of each token (T, T) reaches each place on top: heads' means, half of it the residual stream, multiplied
    through the layers (Abnar and Zuidema, 2020). Rows sum to 1."""
    means = own.mean(dim=1)
    flow = torch.eye(own.shape[-1], dtype=own.dtype, device=own.device)
    for layer in means:
        flow = (layer + torch.eye(len(layer), dtype=own.dtype, device=own.device)) / 2 @ flow
    return flow


def strongest_heads(own: Tensor, count: int) -> list[tuple[int, int]]:
    """Layer and head of those whose queries look most sharply at something else than themselves or the first token.

    Most heads rest on the first token where they have nothing to say (Xiao et al., 2024), which no picture needs.
    """
    others = own.clone()
    others[..., 0] = 0
    others.diagonal(dim1=-2, dim2=-1).zero_()
    sharpness = others.amax(dim=-1).mean(dim=-1)  # (L, H)
    best = sharpness.flatten().argsort(descending=True, stable=True)[:count]
    return [divmod(int(place), own.shape[1]) for place in best]


def _in_float32(network: Network) -> Any:
    """The network itself, or a copy in float32: in bfloat16 our own kernels attend, past torch's that is watched."""
    is_plain = not network.training and all(weight.dtype == torch.float32 for weight in network.parameters())
    return network if is_plain else copy.deepcopy(network).float().eval()


class _Watch(TorchFunctionMode):
    """Notes the weights of each attention of this thread, on their way to torch's kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.weights.append(_weights(*args, **(kwargs or {}))[0].cpu())
        return func(*args, **(kwargs or {}))


def _weights(q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """``softmax(q k^T * scale + mask)`` (B, H, T, S), with the arguments of torch's kernel."""
    keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scale = settings["scale"] if settings["scale"] is not None else q.shape[-1] ** -0.5
    scores = q @ keys.mT * scale
    mask = triangle(q.shape[2], k.shape[2], q.device) if settings["is_causal"] else settings["attn_mask"]
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)
