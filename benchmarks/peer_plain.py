"""A training loop in the well-known short style as a side of `benchmarks/training.py`: one file, nothing but torch.

    python benchmarks/peer_plain.py ASSIGNMENT.json

bfloat16 autocast over float32 weights, `torch.compile`, fused AdamW with one rate and two groups of weight decay, a
cosine with warmup. Settings: `attention` (sdpa is PyTorch's, plain is written out), `compile` (a mode, or nothing),
`lr`, `warmup_steps`. Dimensions: B batch, T tokens, C width, H heads, D head size, V vocabulary.
"""

from __future__ import annotations

# ruff: noqa: E402
import math
import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.training_side import Assignment, Meter, batches


class Output(NamedTuple):
    """What a call gives."""

    logits: Tensor
    loss: Tensor | None


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    mask: Tensor

    def __init__(self, todo: Assignment) -> None:
        super().__init__()
        self.num_heads = todo.num_heads
        self.fused = todo.setting["attention"] == "sdpa"
        mask = torch.ones(todo.context, todo.context, dtype=torch.bool).triu(1)
        self.register_buffer("mask", mask, persistent=False)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(todo.width, todo.width, bias=False))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            proj(x).view(B, T, self.num_heads, -1).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(self.mask[:T, :T], float("-inf"))
            y = F.softmax(scores, dim=-1).to(v.dtype) @ v
        return self.o_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, todo: Assignment) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(todo.width, todo.mlp_width, bias=False)
        self.up_proj = nn.Linear(todo.width, todo.mlp_width, bias=False)
        self.down_proj = nn.Linear(todo.mlp_width, todo.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream."""

    def __init__(self, todo: Assignment) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(todo.width, eps=1e-6)
        self.self_attn = Attention(todo)
        self.post_attention_layernorm = nn.RMSNorm(todo.width, eps=1e-6)
        self.mlp = MLP(todo)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and the last norm."""

    cos: Tensor
    sin: Tensor

    def __init__(self, todo: Assignment) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(todo.vocab_size, todo.width)
        self.layers = nn.ModuleList(Block(todo) for _ in range(todo.num_layers))
        self.norm = nn.RMSNorm(todo.width, eps=1e-6)
        size = todo.width // todo.num_heads
        angles = torch.arange(todo.context)[:, None] * 10_000.0 ** (-torch.arange(0, size, 2) / size)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)  # (T, D)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, self.cos, self.sin)
        return self.norm(x)


class Model(nn.Module):
    """The same network as the other sides', under the same names."""

    def __init__(self, todo: Assignment) -> None:
        super().__init__()
        self.model = Decoder(todo)
        self.lm_head = nn.Linear(todo.width, todo.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * todo.num_layers) if deep else 0.02)

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Output:
        logits = self.lm_head(self.model(ids))
        loss = None if targets is None else F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        return Output(logits, loss)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, H, T, D) turned by the angles of its positions."""
    half = x.shape[-1] // 2
    # In slices: of halves made by chunk() torch 2.13 compiles a backward pass whose gradients are NaN.
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)


def main() -> None:
    """Train as assigned."""
    todo = Assignment.read(sys.argv[1])
    torch.set_num_threads(todo.threads)
    torch.manual_seed(todo.seed)
    model = Model(todo)
    meter = Meter(todo, model)
    how = todo.setting
    compiled = torch.compile(model, mode=how["compile"]) if how["compile"] else model
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=how["lr"], betas=(0.9, 0.95), fused=True)
    meter.start()
    for step, (inputs, targets) in enumerate(batches(todo.all_windows(), todo.batch)):
        for group in optimizer.param_groups:
            group["lr"] = how["lr"] * cosine(step, how["warmup_steps"], todo.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled(inputs, targets).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        meter.step_done()


def cosine(step: int, warmup_steps: int, steps: int) -> float:
    """Share of the peak rate: up in a line, down along half a cosine to a tenth."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


if __name__ == "__main__":
    main()
