"""The Llama family: a pre-norm decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU.

Parameters carry the names of the Hugging Face layout, so a saved folder loads in `transformers` as it is.
Dimensions: B batch, T tokens of this call, S tokens seen so far (S >= T), C width, H query heads, G key/value heads,
D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import llm_core.models.fused as fused

ARCHITECTURE = "LlamaForCausalLM"


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a Llama; `from_json` and `to_json` speak the Hugging Face names."""

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    mlp_width: int
    context: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = False
    end_id: int | None = None

    @property
    def head_size(self) -> int:
        return self.width // self.num_heads

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``."""
        return {
            "architectures": [ARCHITECTURE],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.width,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.mlp_width,
            "max_position_embeddings": self.context,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": self.end_id,
            "eos_token_id": self.end_id,
            "dtype": "float32",
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LlamaConfig:
        """Read ``config.json``; a setting this implementation would silently ignore is an error naming it."""
        rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
        num_heads = values["num_attention_heads"]
        head_size = values["hidden_size"] // num_heads
        only_supported = {
            "hidden_act": (values.get("hidden_act", "silu"), "silu"),
            "attention_bias": (values.get("attention_bias", False), False),
            "mlp_bias": (values.get("mlp_bias", False), False),
            "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
            "head_dim": (values.get("head_dim") or head_size, head_size),
        }
        for key, (value, supported) in only_supported.items():
            if value != supported:
                raise ValueError(f"{key} {value!r} is not supported by this Llama, only {supported!r}")
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["num_hidden_layers"],
            width=values["hidden_size"],
            num_heads=num_heads,
            num_kv_heads=values.get("num_key_value_heads") or num_heads,
            mlp_width=values["intermediate_size"],
            context=values["max_position_embeddings"],
            rope_theta=rope.get("rope_theta", values.get("rope_theta", 10_000.0)),
            norm_eps=values.get("rms_norm_eps", 1e-6),
            tie_embeddings=values.get("tie_word_embeddings", False),
            end_id=_single_id(values.get("eos_token_id")),
        )


class Output(NamedTuple):
    """What a call of the model gives."""

    logits: Tensor
    """Shape (B, T, V)."""


class Cache:
    """Keys and values of the tokens seen so far, so that decoding reads each token once.

    Its storage is allocated up front: ``num_layers`` times (B, G, max_tokens, D) for keys and for values.
    """

    def __init__(self, config: LlamaConfig, batch_size: int, max_tokens: int, like: Tensor) -> None:
        shape = (config.num_layers, batch_size, config.num_kv_heads, max_tokens, config.head_size)
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)
        self.length = 0
        """Tokens seen so far; a model call moves it on after its last layer."""

    @property
    def max_tokens(self) -> int:
        return self.keys.shape[3]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, G, T, D) behind what is there; give all of it, (B, G, S, D)."""
        start, end = self.length, self.length + keys.shape[2]
        self.keys[layer, :, :, start:end] = keys
        self.values[layer, :, :, start:end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def use_fused(x: Tensor) -> bool:
    """Whether `x` is in bfloat16 on a CPU, where torch's attention and norm are slower than plain products and sums."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if use_fused(x):
            return fused.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotary_table(config: LlamaConfig, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles (Su et al., 2021), each (context, D), the two halves alike."""
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32, device=device) / config.head_size
    positions = torch.arange(config.context, dtype=torch.float32, device=device)
    angles = torch.outer(positions, config.rope_theta**-exponents).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn (B, T, heads, D) by its positions' angles, each (T, 1, D); dimension d pairs with d + D/2."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention; each of the G key/value heads serves H/G query heads (Ainslie et al., 2023)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_size = layer, config.head_size
        kv_width = config.num_kv_heads * config.head_size
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        q, k, v = (proj(x).unflatten(-1, (-1, self.head_size)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if cache is None and use_fused(q):
            table = cos[:, 0].to(q.dtype), sin[:, 0].to(q.dtype)  # autocast leaves the table in float32
            return self.o_proj(fused.rotary_attention(q, k, v, *table))
        q, k, v = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        y = attend(q, k, v)  # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of the last T positions, q (B, H, T, D), to all S before and at each, k and v (B, G, S, D)."""
    T, S = q.shape[2], k.shape[2]
    grouped = q.shape[1] != k.shape[1]
    if S == T:
        return F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, enable_gqa=grouped)
    # is_causal would align the mask with the first key; behind a cache it belongs to the last.
    mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T) if T > 1 else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


class MLP(nn.Module):
    """The gated feed-forward layer SwiGLU (Shazeer, 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(fused.swiglu(gate, up) if use_fused(x) else F.silu(gate) * up)


class Block(nn.Module):
    """One decoder layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: token ids to the states that the head reads."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        cos, sin = rotary_table(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, input_ids: Tensor, cache: Cache | None = None) -> Tensor:
        start = 0 if cache is None else cache.length
        end = start + input_ids.shape[1]
        if end > self.config.context or (cache is not None and end > cache.max_tokens):
            room = self.config.context if cache is None else min(self.config.context, cache.max_tokens)
            raise ValueError(f"{end} tokens do not fit: the model reads {room} here; give it fewer")
        x = self.embed_tokens(input_ids)  # (B, T, C)
        cos, sin = self.cos[start:end, None].to(x.dtype), self.sin[start:end, None].to(x.dtype)
        for block in self.layers:
            x = block(x, cos, sin, cache)
        if cache is not None:
            cache.length = end
        return self.norm(x)


class Llama(nn.Module):
    """The language model: ``model(input_ids).logits``, with an optional cache for decoding."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, cache: Cache | None = None) -> Output:
        """Logits (B, T, V) after each of the ids (B, T), which stand behind what `cache` has seen."""
        return Output(self.lm_head(self.model(input_ids, cache)))

    def new_cache(self, batch_size: int, max_tokens: int) -> Cache:
        """An empty cache for `batch_size` sequences of at most `max_tokens` (prompt and answer together)."""
        return Cache(self.config, batch_size, max_tokens, like=self.lm_head.weight.detach())

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the shapes and `seed`, on any device."""
        generator = torch.Generator().manual_seed(seed)
        residual_scale = (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(1.0)
                continue
            # The embedding starts as wide as a norm's output, so that blocks refine it rather than drown it; as an
            # output head too it has to be narrow, or the first losses would be large.
            wide = "embed_tokens" in name and not self.config.tie_embeddings
            std = 1.0 if wide else parameter.shape[1] ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std *= residual_scale  # each block adds to the residual stream twice
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def _single_id(value: int | list[int] | None) -> int | None:
    return value[0] if isinstance(value, list) else value
