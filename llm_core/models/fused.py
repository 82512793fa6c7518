"""Training operations of decoders with gradients written by hand: fewer passes over memory than autograd would make.

They hold for any dtype and device, and pay on CPUs in bfloat16, where matrix products are so fast that the element-wise
passes between them take most of a step. Dimensions as in the model file: B batch, T tokens, H query heads, G key/value
heads, D head size, C width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        normed = x * scale
        ctx.save_for_backward(normed, gain, scale)
        return normed * gain

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        normed, gain, scale = ctx.saved_tensors
        product = grad * normed
        gain_grad = product.flatten(0, -2).sum(0)
        along = torch.mv(product.flatten(0, -2), gain).view_as(scale) / gain.numel()
        return (grad * gain).addcmul_(normed, along, value=-1).mul_(scale), gain_grad, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grads
        gate, up = ctx.saved_tensors
        up_grad = F.silu(gate).mul_(grad)
        return torch.ops.aten.silu_backward(grad * up, gate), up_grad


class _RotaryAttention(torch.autograd.Function):
    """Probabilities are kept for the backward pass: at training lengths that is cheaper than making them again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, H, D = q.shape
        G = k.shape[2]
        q, k = _rotate(q.transpose(1, 2), cos, sin), _rotate(k.transpose(1, 2), cos, sin)
        q = q.view(B * G, H // G * T, D)  # the query heads of one key head stand one after another
        k, v = k.view(B * G, T, D), v.transpose(1, 2).reshape(B * G, T, D)
        mask = _causal_mask(T, H // G, q.dtype, q.device)
        probs = torch.softmax(torch.baddbmm(mask, q, k.mT, alpha=D**-0.5), dim=-1)
        ctx.save_for_backward(q, k, v, probs, cos, sin)
        ctx.shape = B, T, H, G, D
        return (probs @ v).view(B, H, T, D).transpose(1, 2).reshape(B, T, H * D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, probs, cos, sin = ctx.saved_tensors
        B, T, H, G, D = ctx.shape
        grad = grads[0].view(B, T, H, D).transpose(1, 2).reshape(B * G, H // G * T, D)
        v_grad = probs.mT @ grad
        slope = torch._softmax_backward_data(grad @ v.mT, probs, -1, probs.dtype)
        q_grad = torch.baddbmm(q, slope, k, beta=0, alpha=D**-0.5).view(B, H, T, D).transpose(1, 2)
        k_grad = torch.baddbmm(k, slope.mT, q, beta=0, alpha=D**-0.5).view(B, G, T, D).transpose(1, 2)
        cos, sin = cos[:, None], -sin[:, None]  # the inverse of a rotation turns the other way
        return _rotate(q_grad, cos, sin), _rotate(k_grad, cos, sin), v_grad.view(B, G, T, D).transpose(1, 2), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x of any strides turned by its positions' angles; `sin` is negative in its first half. Contiguous."""
    turned = torch.mul(x, cos, out=torch.empty(x.shape, dtype=x.dtype, device=x.device))
    return turned.addcmul_(x.roll(x.shape[-1] // 2, dims=-1), sin)


@lru_cache(maxsize=4)
def _causal_mask(T: int, groups: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    mask = torch.full((T, T), float("-inf"), dtype=dtype, device=device).triu(1)
    return mask.repeat(groups, 1)


def rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    """Root mean square normalisation over the last dimension, times `gain` (C,)."""
    y: Tensor = _RMSNorm.apply(x, gain, eps)
    return y


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    y: Tensor = _SwiGLU.apply(gate, up)
    return y


def rotary_attention(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Causal attention (B, T, H * D) over q (B, T, H, D), k and v (B, T, G, D), q and k rotated by cos, sin (T, D)."""
    sin = torch.cat((-sin[:, : sin.shape[1] // 2], sin[:, sin.shape[1] // 2 :]), dim=1)
    y: Tensor = _RotaryAttention.apply(q, k, v, cos, sin)
    return y
