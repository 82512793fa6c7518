"""Attention as all families use it, and which tokens may see which.

Dimensions: B sequences, T queries, S keys (S >= T behind a cache), H query heads, G key/value heads, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WRITTEN_OUT = 1024 * 1024  # scores of a head, above which torch's kernel, which never holds them, is the better one


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    mask: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """``softmax(q k^T * scale + mask) v`` (Vaswani et al., 2017, equation 1), scale 1 / sqrt(D) unless given.

    q (B, H, T, D); k and v (B, G, S, D), each shared by H / G query heads; gives (B, H, T, D). `causal` lets the last
    query see all keys and each one before it one key less. `mask` is added to the products, or true where a query may
    see a key; its shape broadcasts to (B, H, T, S).
    """
    T, S = q.shape[2], k.shape[2]
    grouped = q.shape[1] != k.shape[1]
    if causal and T > 1 and (mask is not None or S != T):
        # is_causal would align the mask with the first key; behind a cache it belongs to the last.
        seen = triangle(T, S, q.device)
        mask = seen if mask is None else combine(seen, mask)
    plain_causal = causal and T > 1 and mask is None
    if _writes_out(q, S):
        shown = triangle(T, T, q.device) if plain_causal else mask
        return _written_out(q, k, v, shown, scale or q.shape[-1] ** -0.5, dropout)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=plain_causal, scale=scale, enable_gqa=grouped
    )


def _writes_out(q: Tensor, S: int) -> bool:
    """Whether plain products beat torch's kernel: in bfloat16 on a CPU, where the scores are small."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[2] > 1 and q.shape[2] * S <= WRITTEN_OUT


def _written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    scores = (q.reshape(B, G, H // G * T, D) @ k.mT).view(B, H, T, S) * scale
    if mask is not None:
        scores = scores + _added(mask, scores.dtype)
    probs = F.dropout(torch.softmax(scores, dim=-1), dropout)
    return (probs.view(B, G, H // G * T, S) @ v).view(B, H, T, D)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as numbers to add to the scores.

    The lowest number instead of minus infinity: a query that may see nothing sees all alike, and is no NaN.
    """
    if mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)


def triangle(T: int, S: int, device: torch.device) -> Tensor:
    """True (T, S) where a key does not stand behind its query; the last query stands at the last key.

    Places in 32 bits compile to a faster loop than `tril`, which compares in 64.
    """
    places = torch.arange(S, dtype=torch.int32, device=device)
    return places[S - T :, None] >= places


def combine(seen: Tensor, mask: Tensor) -> Tensor:
    """One mask out of a boolean one and one of either kind."""
    return seen & mask if mask.dtype == torch.bool else mask.masked_fill(~seen, float("-inf"))


def same_segment(queries: Tensor, keys: Tensor) -> Tensor:
    """True (B, 1, T, S) where a query (B, T) and a key (B, S) have the same segment number."""
    return queries[:, None, :, None] == keys[:, None, None, :]


def visible(seen: Tensor | None, T: int, S: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which of S keys the last T see, ([B,] 1, T, S): of their segment, none after, at most `window`; None for all."""
    windowed = window is not None and window < S
    if seen is None and not windowed:
        return None
    mask = triangle(T, S, device)
    if windowed:
        assert window is not None
        mask = mask.triu(S - T - window + 1)
    return mask if seen is None else mask & same_segment(seen[:, S - T :], seen)


def positions_of(segments: Tensor) -> Tensor:
    """Each token's place (B, T) in its run of equal segment numbers, from 0."""
    B, T = segments.shape
    places = torch.arange(T, device=segments.device).expand(B, T)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return places - torch.where(begins, places, 0).cummax(dim=1).values
