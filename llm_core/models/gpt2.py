"""The GPT-2 family: a pre-norm decoder with learned positions, LayerNorm and GELU (Radford et al., 2019).

Parameters carry the names and the layout of Hugging Face, whose linear layers here hold their weights as (inputs,
outputs). Dimensions: B sequences, T tokens of this call, S tokens seen so far (S >= T), C width, H heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.models.attention import attend, positions_of, visible
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
from llm_core.models.interface import LanguageModel, Network, Output, OutputHead, through

if TYPE_CHECKING:
    from llm_core.config import Model

# GELU (Hendrycks and Gimpel, 2016): x times the normal distribution up to x, or its approximation by tanh.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
}
SPREAD = 0.02  # of the first weights (Radford et al., 2018, section 4.1)
DROPOUT = 0.1  # Hugging Face's, where config.json names none


@dataclass(frozen=True)
class GPT2Config:
    """Shape of a GPT-2; `from_json` and `to_json` speak the Hugging Face names."""

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    context: int
    activation: str = "gelu_new"
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    dropout: float = 0.0
    """Share of each layer's output that is dropped while training."""
    attention_dropout: float = 0.0
    """The same of attention's probabilities."""
    embedding_dropout: float = 0.0
    """The same of the sum of token and position."""
    begin_id: int | None = None
    end_id: int | None = None
    pad_id: int | None = None
    labels: tuple[str, ...] = DEFAULT_LABELS
    """Names of a classifier's classes."""

    @property
    def head_size(self) -> int:
        return self.width // self.num_heads

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, the architecture's name aside."""
        return {
            "model_type": "gpt2",
            "vocab_size": self.vocab_size,
            "n_layer": self.num_layers,
            "n_embd": self.width,
            "n_head": self.num_heads,
            "n_inner": self.mlp_width,
            "n_positions": self.context,
            "activation_function": self.activation,
            "layer_norm_epsilon": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "resid_pdrop": self.dropout,
            "attn_pdrop": self.attention_dropout,
            "embd_pdrop": self.embedding_dropout,
            "bos_token_id": self.begin_id,
            "eos_token_id": self.end_id,
            "pad_token_id": self.pad_id,
            "dtype": "float32",
            **labels_to_json(self.labels),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GPT2Config:
        """Read ``config.json``; a setting this implementation would silently ignore is an error naming it."""
        only_supported: dict[str, tuple[Any, ...]] = {
            "model_type": ("gpt2",),
            "activation_function": tuple(ACTIVATIONS),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        }
        for key, supported in only_supported.items():
            if key in values and values[key] not in supported:
                allowed = ", ".join(repr(value) for value in supported)
                raise ValueError(f"{key} {values[key]!r} is not supported by this GPT-2, only {allowed}")
        width = values["n_embd"]
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["n_layer"],
            width=width,
            num_heads=values["n_head"],
            mlp_width=values.get("n_inner") or 4 * width,
            context=values["n_positions"],
            activation=values.get("activation_function", "gelu_new"),
            norm_eps=values.get("layer_norm_epsilon", 1e-5),
            tie_embeddings=values.get("tie_word_embeddings", True),
            dropout=values.get("resid_pdrop", DROPOUT),
            attention_dropout=values.get("attn_pdrop", DROPOUT),
            embedding_dropout=values.get("embd_pdrop", DROPOUT),
            begin_id=values.get("bos_token_id"),
            end_id=values.get("eos_token_id"),
            pad_id=values.get("pad_token_id"),
            labels=labels_from_json(values),
        )


def from_recipe(architecture: Model, vocab_size: int, end_id: int, num_labels: int = 2) -> GPT2Config:
    """The config of a recipe's model; the one dropout goes to all three places."""
    return GPT2Config(
        vocab_size=vocab_size,
        num_layers=architecture.num_layers,
        width=architecture.width,
        num_heads=architecture.num_heads,
        mlp_width=architecture.mlp_width,
        context=architecture.context,
        dropout=architecture.dropout,
        attention_dropout=architecture.dropout,
        embedding_dropout=architecture.dropout,
        begin_id=end_id,
        end_id=end_id,
        labels=numbered_labels(num_labels),
    )


class Reading(NamedTuple):
    """What all layers of one call share."""

    mask: Tensor | None
    """Which keys each query sees, ([B,] 1, T, S); None for all up to its own."""
    cache: KeyValueCache | None


class Linear(nn.Module):
    """``x @ weight + bias`` with the weight stored (inputs, outputs): GPT-2's layout, there called Conv1D."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.mT, self.bias)


class Attention(nn.Module):
    """Causal multi-head attention; queries, keys and values come out of one product."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.head_size = layer, config.head_size
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout
        self.c_attn = Linear(config.width, 3 * config.width)
        self.c_proj = Linear(config.width, config.width)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        parts = self.c_attn(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for part in parts)  # (B, H, T, D)
        if reading.cache is not None:
            k, v = reading.cache.append(self.layer, k, v)
        dropout = self.attention_dropout if self.training else 0.0
        y = attend(q, k, v, causal=reading.mask is None, mask=reading.mask, dropout=dropout)
        return F.dropout(self.c_proj(y.transpose(1, 2).flatten(2)), self.dropout, self.training)


class MLP(nn.Module):
    """The feed-forward layer, ``W2 gelu(W1 x + b1) + b2``."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.activation, self.dropout = ACTIVATIONS[config.activation], config.dropout
        self.c_fc = Linear(config.width, config.mlp_width)
        self.c_proj = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.c_proj(self.activation(self.c_fc(x))), self.dropout, self.training)


class Block(nn.Module):
    """One decoder layer: attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        # ``(x - mean) / sqrt(variance + eps) * weight + bias`` (Ba et al., 2016)
        self.ln_1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        x = x + self.attn(self.ln_1(x), reading)
        return x + self.mlp(self.ln_2(x))


class Decoder(nn.Module):
    """Embeddings of token and position, blocks and the last norm: token ids to the states that the head reads."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        """Make inner states again in the backward pass: less memory, a third more time."""
        self.wte = nn.Embedding(config.vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """States (B, T, C) of the ids (B, T), which stand behind what `cache` has seen."""
        T = input_ids.shape[1]
        start = 0 if cache is None else cache.length
        end = start + T
        if end > self.config.context or (cache is not None and end > cache.max_tokens):
            room = self.config.context if cache is None else min(self.config.context, cache.max_tokens)
            raise ValueError(f"{end} tokens do not fit: the model reads {room} here; give it fewer")
        seen = segments if cache is None else cache.note(T, segments)  # (B, S)
        places = self.wpe.weight[start:end] if seen is None else self.wpe(positions_of(seen)[:, start:])
        x = F.dropout(self.wte(input_ids) + places, self.config.embedding_dropout, self.training)  # (B, T, C)
        reading = Reading(visible(seen, T, end, None, input_ids.device), cache)
        x = through(self.h, x, reading, recompute=self.recompute and self.training)
        if cache is not None:
            cache.length = end
        return self.ln_f(x)


@torch.no_grad()
def draw(network: nn.Module, config: GPT2Config, seed: int) -> None:
    """Draw all weights anew: a pure function of the shapes and `seed`, on any device."""
    generator = torch.Generator().manual_seed(seed)
    residual_scale = (2 * config.num_layers) ** -0.5
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        std = SPREAD
        if name.endswith("c_proj.weight"):
            std *= residual_scale  # each block adds to the residual stream twice
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


class GPT2Network(Network):
    """What the heads share: the body, and the start of the weights."""

    config: GPT2Config
    body = "transformer"
    not_weights = (".attn.bias", ".attn.masked_bias")

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Decoder(config)

    def initialize(self, seed: int) -> None:
        draw(self, self.config, seed)


class GPT2LMHeadModel(GPT2Network, LanguageModel):
    """The language model: ``model(input_ids).logits``, with an optional cache for decoding."""

    architecture = "GPT2LMHeadModel"
    task = "causal_lm"
    untrained_heads = ("lm_head.",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def features(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        states: Tensor = self.transformer(input_ids, **inputs)
        return states

    def output_head(self) -> OutputHead:
        return OutputHead(self.lm_head.weight)

    def new_cache(self, batch_size: int, max_tokens: int) -> KeyValueCache:
        config, like = self.config, self.lm_head.weight.detach()
        return KeyValueCache(config.num_layers, batch_size, config.num_heads, max_tokens, config.head_size, like)


class GPT2ForSequenceClassification(GPT2Network):
    """Logits (B, labels) of each row, read off its last token of text."""

    architecture = "GPT2ForSequenceClassification"
    task = "sequence_classification"
    untrained_heads = ("score.",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.width, len(config.labels), bias=False)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        states = self.transformer(input_ids, segments)
        return Output(self.score(last_of_text(states, input_ids, segments, self.config.pad_id)))


class GPT2ForTokenClassification(GPT2Network):
    """Logits (B, T, labels) of each token."""

    architecture = "GPT2ForTokenClassification"
    task = "token_classification"
    untrained_heads = ("classifier.",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.width, len(config.labels))

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        states = self.transformer(input_ids, segments)
        return Output(self.classifier(F.dropout(states, CLASSIFIER_DROPOUT, self.training)))


class GPT2ForQuestionAnswering(GPT2Network):
    """Logits (B, T, 2): how much each token is the answer's first and last."""

    architecture = "GPT2ForQuestionAnswering"
    task = "question_answering"
    untrained_heads = ("qa_outputs.",)

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.width, 2)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        return Output(self.qa_outputs(self.transformer(input_ids, segments)))


class GPT2Model(Decoder, Network):
    """The bare body as an embedder: the mean (B, C) of the states of each row's text."""

    architecture = "GPT2Model"
    task = "embedding"
    not_weights = GPT2Network.not_weights

    def states(self, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """The states (B, T, C)."""
        return super().forward(input_ids, segments)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:  # type: ignore[override]
        return Output(mean_of_text(self.states(input_ids, segments), segments))

    def initialize(self, seed: int) -> None:
        draw(self, self.config, seed)
