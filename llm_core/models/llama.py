"""The Llama family: a pre-norm decoder with RMSNorm, rotary positions, grouped-query attention and SwiGLU.

Mistral, Qwen2 and Qwen3 are the same network with other settings (a window, biases, normed queries and keys), so they
are values of one config. Parameters carry the names of the Hugging Face layout.
Dimensions: B sequences, T tokens of this call, S tokens seen so far (S >= T), C width, H query heads, G key/value
heads, D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import llm_core.models.fused as fused
from llm_core.models.attention import WRITTEN_OUT, attend, positions_of, visible
from llm_core.models.cache import KeyValueCache
from llm_core.models.heads import (
    CLASSIFIER_DROPOUT,
    DEFAULT_LABELS,
    labels_from_json,
    labels_to_json,
    last_of_text,
    mean_of_text,
    numbered_labels,
)
from llm_core.models.interface import LanguageModel, Network, Output, OutputHead, through, together
from llm_core.models.rotary import BY_LENGTH, read_scaling, rotary_table, rotate

if TYPE_CHECKING:
    from llm_core.config import Model

Variant = Literal["llama", "mistral", "qwen2", "qwen3"]
NAMES: Mapping[str, str] = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
QWEN3_HEAD_SIZE, MISTRAL_WINDOW = 128, 4096  # Hugging Face's, where config.json names none


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
    variant: Variant = "llama"
    head_dim: int | None = None
    """Size of a head where it is not width / num_heads."""
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    """How rotary positions are stretched, in Hugging Face's words; nothing for as they are."""
    attention_bias: bool = False
    """Biases on all four projections of attention; Qwen2 has them on three of them always."""
    mlp_bias: bool = False
    sliding_window: int | None = None
    """Tokens that a layer with a window sees, itself included."""
    sliding_layers: tuple[int, ...] = ()
    """The layers that have the window."""
    dropout: float = 0.0
    """Share of attention's probabilities that are dropped while training, as Hugging Face's attention_dropout."""
    begin_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    """Further ids that end a text."""
    labels: tuple[str, ...] = DEFAULT_LABELS
    """Names of a classifier's classes."""

    def __post_init__(self) -> None:
        if self.attention_bias and self.variant in ("mistral", "qwen2"):
            raise ValueError(f"attention_bias is not supported by {self.variant}, only by llama and qwen3")
        if self.head_size % 2:
            raise ValueError(f"head_dim {self.head_size} is odd, rotary positions turn pairs; make it even")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.width // self.num_heads

    @property
    def qkv_bias(self) -> bool:
        return self.attention_bias or self.variant == "qwen2"

    @property
    def qk_norm(self) -> bool:
        return self.variant == "qwen3"

    def window_of(self, layer: int) -> int | None:
        """Tokens that the layer sees; None for all before."""
        return self.sliding_window if layer in self.sliding_layers else None

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, the architecture's name aside; RoPE in new and old spelling."""
        max_positions = self.rope_scaling.get("original_max_position_embeddings", self.context)
        dynamic = self.rope_scaling.get("rope_type") == "dynamic"
        scaling = {k: v for k, v in self.rope_scaling.items() if not (dynamic and k.startswith("original"))}
        return {
            "model_type": self.variant,
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.width,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.mlp_width,
            "max_position_embeddings": max_positions if dynamic else self.context,
            "rope_parameters": {"rope_type": "default", **scaling, "rope_theta": self.rope_theta},
            "rope_theta": self.rope_theta,
            **({"rope_scaling": scaling} if scaling else {}),
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_dropout": self.dropout,
            "bos_token_id": self.begin_id,
            "eos_token_id": [self.end_id, *self.stop_ids] if self.stop_ids else self.end_id,
            "pad_token_id": self.pad_id,
            "dtype": "float32",
            **self._variant_json(),
            **labels_to_json(self.labels),
        }

    def _variant_json(self) -> dict[str, Any]:
        if self.variant == "llama":
            return {"attention_bias": self.attention_bias, "mlp_bias": self.mlp_bias}
        if self.variant == "mistral":
            return {"sliding_window": self.sliding_window}
        kinds = ["full_attention" if self.window_of(i) is None else "sliding_attention" for i in range(self.num_layers)]
        return {
            "use_sliding_window": self.sliding_window is not None,
            "sliding_window": self.sliding_window,
            "max_window_layers": min(self.sliding_layers, default=self.num_layers),
            "layer_types": kinds,
            **({"attention_bias": self.attention_bias} if self.variant == "qwen3" else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LlamaConfig:
        """Read ``config.json``; a setting this implementation would silently ignore is an error naming it."""
        variant = _supported_variant(values)
        num_heads, context = values["num_attention_heads"], values["max_position_embeddings"]
        theta, scaling = read_scaling(values)
        if scaling.get("rope_type") == "dynamic":
            context = int(context * scaling["factor"])  # made for texts longer than max_position_embeddings
        window, sliding_layers = _windows(variant, values)
        ends = values.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [ends]
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["num_hidden_layers"],
            width=values["hidden_size"],
            num_heads=num_heads,
            num_kv_heads=values.get("num_key_value_heads") or num_heads,
            mlp_width=values["intermediate_size"],
            context=context,
            rope_theta=theta,
            norm_eps=values.get("rms_norm_eps", 1e-6),
            tie_embeddings=values.get("tie_word_embeddings", False),
            end_id=ends[0],
            variant=variant,
            head_dim=values.get("head_dim") or (QWEN3_HEAD_SIZE if variant == "qwen3" else None),
            rope_scaling=scaling,
            attention_bias=variant in ("llama", "qwen3") and values.get("attention_bias", False),
            mlp_bias=variant == "llama" and values.get("mlp_bias", False),
            sliding_window=window,
            sliding_layers=sliding_layers,
            dropout=values.get("attention_dropout", 0.0),
            begin_id=values.get("bos_token_id"),
            pad_id=values.get("pad_token_id"),
            stop_ids=tuple(ends[1:]),
            labels=labels_from_json(values),
        )


def from_recipe(architecture: Model, vocab_size: int, end_id: int, num_labels: int = 2) -> LlamaConfig:
    """The config of a recipe's model: normed queries and keys make it a Qwen3, biases alone a Qwen2, else a Llama."""
    variant: Variant = "qwen3" if architecture.qk_norm else "qwen2" if architecture.attention_bias else "llama"
    return LlamaConfig(
        vocab_size=vocab_size,
        num_layers=architecture.num_layers,
        width=architecture.width,
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_kv_heads,
        mlp_width=architecture.mlp_width,
        context=architecture.context,
        rope_theta=architecture.rope_theta,
        tie_embeddings=architecture.tie_embeddings,
        end_id=end_id,
        begin_id=end_id,
        variant=variant,
        attention_bias=variant == "qwen3" and architecture.attention_bias,
        dropout=architecture.dropout,
        labels=numbered_labels(num_labels),
    )


def _supported_variant(values: Mapping[str, Any]) -> Variant:
    variant: Variant = values.get("model_type", "llama")
    only_supported: dict[str, tuple[Any, ...]] = {
        "model_type": tuple(NAMES),
        "hidden_act": ("silu", "swish"),
        "partial_rotary_factor": (None, 1.0),
        "attention_bias": (False, True) if variant in ("llama", "qwen3") else (None, variant == "qwen2", False),
        "mlp_bias": (False, True) if variant == "llama" else (None, False),
    }
    for key, supported in only_supported.items():
        if key in values and values[key] not in supported:
            allowed = ", ".join(repr(value) for value in supported if value is not None)
            raise ValueError(f"{key} {values[key]!r} is not supported by this Llama, only {allowed}")
    return variant


def _windows(variant: Variant, values: Mapping[str, Any]) -> tuple[int | None, tuple[int, ...]]:
    """The window and the layers that have it, as each variant's config says it."""
    num_layers = values["num_hidden_layers"]
    if variant == "mistral":
        window = values.get("sliding_window", MISTRAL_WINDOW)
        return window, tuple(range(num_layers)) if window else ()
    if variant == "llama" or not values.get("use_sliding_window", False):
        return None, ()
    kinds = values.get("layer_types")
    if kinds is None:
        layers = list(range(values.get("max_window_layers", 28), num_layers))
    else:
        layers = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
    return (values.get("sliding_window", 4096), tuple(layers)) if layers else (None, ())


class Reading(NamedTuple):
    """What all layers of one call share."""

    cos: Tensor
    """The positions' angles, (T, 1, D) or (B, T, 1, D)."""
    sin: Tensor
    mask: Tensor | None
    """Which keys each query sees, ([B,] 1, T, S); None for all up to its own."""
    window_mask: Tensor | None
    """The same in layers with a window."""
    cache: KeyValueCache | None


def use_fused(x: Tensor) -> bool:
    """Whether `x` is in bfloat16 on a CPU and nothing compiles, which would fuse the passes over memory by itself."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.compiler.is_compiling()


class RMSNorm(nn.Module):
    """Root mean square normalisation, ``x / sqrt(mean(x^2) + eps) * weight`` (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if use_fused(x):
            return fused.rms_norm(x, self.weight, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Causal self-attention; each of the G key/value heads serves H/G query heads (Ainslie et al., 2023)."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_size, self.dropout = layer, config.head_size, config.dropout
        self.has_window = config.window_of(layer) is not None
        q_width, kv_width = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.q_proj = nn.Linear(config.width, q_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_width, config.width, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_size, config.norm_eps)
            self.k_norm = RMSNorm(config.head_size, config.norm_eps)
        self.qk_norm = config.qk_norm

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        projected = together(x, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (part.unflatten(-1, (-1, self.head_size)) for part in projected)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        cos, sin, mask = reading.cos, reading.sin, reading.window_mask if self.has_window else reading.mask
        dropout = self.dropout if self.training else 0.0
        small = q.shape[1] ** 2 <= WRITTEN_OUT  # the scores are held
        if reading.cache is None and mask is None and not dropout and small and use_fused(q):
            table = cos[:, 0].to(q.dtype), sin[:, 0].to(q.dtype)  # autocast leaves the table in float32
            return self.o_proj(fused.rotary_attention(q, k, v, *table))
        q, k, v = rotate(q, cos, sin).transpose(1, 2), rotate(k, cos, sin).transpose(1, 2), v.transpose(1, 2)
        if reading.cache is not None:
            k, v = reading.cache.append(self.layer, k, v)
        y = attend(q, k, v, causal=mask is None, mask=mask, dropout=dropout)  # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """The gated feed-forward layer SwiGLU, ``W_down(silu(W_gate x) * W_up x)`` (Shazeer, 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = together(x, self.gate_proj, self.up_proj)
        return self.down_proj(fused.swiglu(gate, up) if use_fused(x) else F.silu(gate) * up)


class Block(nn.Module):
    """One decoder layer: attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), reading)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: token ids to the states that the head reads."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Make inner states again in the backward pass: less memory, a third more time."""
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        cos, sin = self._table(1 if config.rope_scaling.get("rope_type") in BY_LENGTH else config.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """States (B, T, C) of the ids (B, T), which stand behind what `cache` has seen."""
        reading = self._reading(input_ids, segments, cache)
        x = self.embed_tokens(input_ids)  # (B, T, C)
        reading = reading._replace(cos=reading.cos.to(x.dtype), sin=reading.sin.to(x.dtype))
        x = through(self.layers, x, reading, recompute=self.recompute and self.training)
        if cache is not None:
            cache.length += input_ids.shape[1]
        return self.norm(x)

    def _reading(self, input_ids: Tensor, segments: Tensor | None, cache: KeyValueCache | None) -> Reading:
        T = input_ids.shape[1]
        start = 0 if cache is None else cache.length
        end = start + T
        if end > self.config.context or (cache is not None and end > cache.max_tokens):
            room = self.config.context if cache is None else min(self.config.context, cache.max_tokens)
            raise ValueError(f"{end} tokens do not fit: the model reads {room} here; give it fewer")
        seen = segments if cache is None else cache.note(T, segments)  # (B, S)
        table = self.cos, self.sin
        if self.config.rope_scaling.get("rope_type") in BY_LENGTH:
            table = self._table(end if seen is None else int(positions_of(seen).max()) + 1, input_ids.device)
        if seen is None:
            cos, sin = (values[start:end, None] for values in table)
        else:
            positions = positions_of(seen)[:, start:]  # (B, T)
            cos, sin = (values[positions][:, :, None] for values in table)
        mask = visible(seen, T, end, None, input_ids.device)
        window = self.config.sliding_window
        window_mask = mask if window is None else visible(seen, T, end, window, input_ids.device)
        return Reading(cos, sin, mask, window_mask, cache)

    def _table(self, num_positions: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        config = self.config
        return rotary_table(config.rope_theta, config.head_size, num_positions, config.rope_scaling, device)


@torch.no_grad()
def draw(network: nn.Module, config: LlamaConfig, seed: int) -> None:
    """Draw all weights anew: a pure function of the shapes and `seed`, on any device."""
    generator = torch.Generator().manual_seed(seed)
    residual_scale = (2 * config.num_layers) ** -0.5
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        # The embedding starts as wide as a norm's output, so that blocks refine it rather than drown it; as an
        # output head too it has to be narrow, or the first losses would be large.
        wide = "embed_tokens" in name and not config.tie_embeddings
        std = 1.0 if wide else parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std *= residual_scale  # each block adds to the residual stream twice
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


class LlamaNetwork(Network):
    """What the heads share: a body under its name, and the start of the weights."""

    config: LlamaConfig
    not_weights = (".rotary_emb.inv_freq",)

    def __init__(self, config: LlamaConfig, head: str) -> None:
        super().__init__()
        self.config = config
        self.architecture = NAMES[config.variant] + head
        # Hugging Face's question answerers call it otherwise, Mistral's aside.
        self.body = "transformer" if head == "ForQuestionAnswering" and config.variant != "mistral" else "model"
        self.add_module(self.body, Decoder(config))

    def states(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """The body's states (B, T, C)."""
        states: Tensor = self.get_submodule(self.body)(input_ids, **inputs)
        return states

    def initialize(self, seed: int) -> None:
        draw(self, self.config, seed)


class LlamaForCausalLM(LlamaNetwork, LanguageModel):
    """The language model: ``model(input_ids).logits``, with an optional cache for decoding."""

    task = "causal_lm"
    untrained_heads = ("lm_head.",)
    model: Decoder

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, "ForCausalLM")
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def features(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        return self.states(input_ids, **inputs)

    def output_head(self) -> OutputHead:
        return OutputHead(self.lm_head.weight)

    def new_cache(self, batch_size: int, max_tokens: int) -> KeyValueCache:
        config, like = self.config, self.lm_head.weight.detach()
        return KeyValueCache(config.num_layers, batch_size, config.num_kv_heads, max_tokens, config.head_size, like)


class LlamaForSequenceClassification(LlamaNetwork):
    """Logits (B, labels) of each row, read off its last token of text."""

    task = "sequence_classification"
    untrained_heads = ("score.",)

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, "ForSequenceClassification")
        self.score = nn.Linear(config.width, len(config.labels), bias=False)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        states = self.states(input_ids, segments=segments)
        return Output(self.score(last_of_text(states, input_ids, segments, self.config.pad_id)))


class LlamaForTokenClassification(LlamaNetwork):
    """Logits (B, T, labels) of each token."""

    task = "token_classification"
    untrained_heads = ("score.",)

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, "ForTokenClassification")
        self.score = nn.Linear(config.width, len(config.labels))

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        states = self.states(input_ids, segments=segments)
        return Output(self.score(F.dropout(states, CLASSIFIER_DROPOUT, self.training)))


class LlamaForQuestionAnswering(LlamaNetwork):
    """Logits (B, T, 2): how much each token is the answer's first and last."""

    task = "question_answering"
    untrained_heads = ("qa_outputs.",)

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config, "ForQuestionAnswering")
        self.qa_outputs = nn.Linear(config.width, 2)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        return Output(self.qa_outputs(self.states(input_ids, segments=segments)))


class LlamaModel(Decoder, Network):
    """The bare body as an embedder: the mean (B, C) of the states of each row's text."""

    task = "embedding"
    not_weights = LlamaNetwork.not_weights

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.architecture = NAMES[config.variant] + "Model"

    def states(self, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """The states (B, T, C)."""
        return super().forward(input_ids, segments)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:  # type: ignore[override]
        return Output(mean_of_text(self.states(input_ids, segments), segments))

    def initialize(self, seed: int) -> None:
        draw(self, self.config, seed)
