"""The encoder-decoder of "Attention Is All You Need" (Vaswani et al., 2017): sinusoidal positions, post-norm, ReLU.

Inside ``model.transformer`` the parameters carry the names of ``torch.nn.Transformer`` and give its outputs. The saved
folder is of our own layout: `transformers` has no such architecture and cannot load it.
How an encoder-decoder is called and decoded stands in ``seq2seq.py``.
Dimensions: B batch, T tokens of this call, K keys (K >= T behind a cache), S source tokens, C width, H heads,
D head size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.models.attention import attend, positions_of, same_segment
from llm_core.models.interface import LanguageModel, OutputHead, through
from llm_core.models.seq2seq import EncoderDecoder, Seq2SeqCache

MODEL_TYPE = "tidemill-transformer"


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of a Transformer; `to_json` and `from_json` use Hugging Face's names where it has some."""

    vocab_size: int
    num_layers: int
    num_decoder_layers: int
    width: int
    num_heads: int
    mlp_width: int
    context: int
    norm_eps: float = 1e-5
    final_norm: bool = True
    """One more norm behind the last block of each side: torch's module has it, the paper has not."""
    tie_embeddings: bool = True
    start_id: int = 0
    end_id: int | None = None
    pad_id: int | None = None
    dropout: float = 0.0

    @property
    def head_size(self) -> int:
        return self.width // self.num_heads

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, but for the architecture."""
        return {
            "model_type": MODEL_TYPE,
            "is_encoder_decoder": True,
            "vocab_size": self.vocab_size,
            "encoder_layers": self.num_layers,
            "decoder_layers": self.num_decoder_layers,
            "d_model": self.width,
            "num_attention_heads": self.num_heads,
            "ffn_dim": self.mlp_width,
            "max_position_embeddings": self.context,
            "layer_norm_eps": self.norm_eps,
            "final_norm": self.final_norm,
            "tie_word_embeddings": self.tie_embeddings,
            "decoder_start_token_id": self.start_id,
            "eos_token_id": self.end_id,
            "pad_token_id": self.pad_id,
            "dropout": self.dropout,
            "dtype": "float32",
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """Read ``config.json`` as `to_json` writes it."""
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["encoder_layers"],
            num_decoder_layers=values["decoder_layers"],
            width=values["d_model"],
            num_heads=values["num_attention_heads"],
            mlp_width=values["ffn_dim"],
            context=values["max_position_embeddings"],
            norm_eps=values["layer_norm_eps"],
            final_norm=values["final_norm"],
            tie_embeddings=values["tie_word_embeddings"],
            start_id=values["decoder_start_token_id"],
            end_id=values["eos_token_id"],
            pad_id=values["pad_token_id"],
            dropout=values["dropout"],
        )


def from_recipe(architecture: Model, vocab_size: int, end_id: int, num_labels: int = 2) -> TransformerConfig:
    """The config of a recipe's shape; the end-of-text id begins a text and pads too. It has no classifier."""
    return TransformerConfig(
        vocab_size=vocab_size,
        num_layers=architecture.num_layers,
        num_decoder_layers=architecture.num_layers,
        width=architecture.width,
        num_heads=architecture.num_heads,
        mlp_width=architecture.mlp_width,
        context=architecture.context,
        tie_embeddings=architecture.tie_embeddings,
        start_id=end_id,
        end_id=end_id,
        pad_id=end_id,
        dropout=architecture.dropout,
    )


def sinusoidal_positions(context: int, width: int) -> Tensor:
    """The paper's section 3.5, (context, C): even columns 2i are sin(place / 10000^(2i / C)), odd ones the cosine."""
    rates = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), rates)  # (context, C / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


class Attention(nn.Module):
    """Multi-head attention (section 3.2.2); the projections of queries, keys and values lie in one matrix (3C, C)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.width, self.head_size, self.dropout = config.width, config.head_size, config.dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * config.width, config.width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * config.width))
        self.out_proj = nn.Linear(config.width, config.width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def project(self, x: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
        """Those of queries (0), keys (1) and values (2) from `first` to before `last`, each (B, H, K, D)."""
        rows = slice(first * self.width, last * self.width)
        y = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return y.unflatten(-1, (last - first, -1, self.head_size)).transpose(1, 3).unbind(2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
        y = attend(q, k, v, causal=causal, mask=mask, dropout=self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention to the own sequence, and ``linear2(relu(linear1(x)))``; a norm behind each sum (sections 3.1, 3.3)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.linear1 = nn.Linear(config.width, config.mlp_width)
        self.linear2 = nn.Linear(config.mlp_width, config.width)
        self.norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.self_attn(*self.self_attn.project(x, 0, 3), mask)
        x = self.norm1(x + self.dropout(y))
        return self.norm2(x + self.feed_forward(x))

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))


class DecoderBlock(EncoderBlock):
    """The same with attention to the source between the two, and each token sees no later one."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__(config)
        self.index = index
        self.multihead_attn = Attention(config)
        self.norm3 = nn.LayerNorm(config.width, config.norm_eps)

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None, source: Tensor | None, seen: Tensor | None, cache: Seq2SeqCache | None
    ) -> Tensor:
        q, k, v = self.self_attn.project(x, 0, 3)
        if cache is not None:
            k, v = cache.append(self.index, k, v)
        x = self.norm1(x + self.dropout(self.self_attn(q, k, v, mask, causal=True)))
        (q,) = self.multihead_attn.project(x, 0, 1)
        if cache is not None:
            k, v = cache.source[self.index]
        else:
            assert source is not None
            k, v = self.multihead_attn.project(source, 1, 3)
        x = self.norm2(x + self.dropout(self.multihead_attn(q, k, v, seen)))
        return self.norm3(x + self.feed_forward(x))


class Stack(nn.Module):
    """The blocks of one side."""

    def __init__(self, config: TransformerConfig, decodes: bool) -> None:
        super().__init__()
        self.recompute = False
        if decodes:
            self.layers = nn.ModuleList(DecoderBlock(config, index) for index in range(config.num_decoder_layers))
        else:
            self.layers = nn.ModuleList(EncoderBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, config.norm_eps) if config.final_norm else nn.Identity()

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.norm(through(self.layers, x, *context, recompute=self.recompute))


class Body(nn.Module):
    """Encoder and decoder between embeddings and head: what ``torch.nn.Transformer`` is."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.encoder = Stack(config, decodes=False)
        self.decoder = Stack(config, decodes=True)


class TransformerForSeq2SeqLM(EncoderDecoder, LanguageModel):
    """The language model over pairs: ``model(input_ids, decoder_input_ids).logits``, with an optional cache."""

    architecture = "TransformerForSeq2SeqLM"
    task = "seq2seq_lm"
    untrained_heads = ("lm_head.",)
    config: TransformerConfig
    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = Body(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight
        self.register_buffer("positions", sinusoidal_positions(config.context, config.width), persistent=False)

    def embed(self, ids: Tensor, segments: Tensor | None = None, start: int = 0) -> Tensor:
        """Tokens' vectors times sqrt(C), plus their positions' (section 3.4), (B, T, C).

        The ids (B, T) are the places from `start` on; `segments` (B, K) begin at place 0.
        """
        end = start + ids.shape[1]
        if end > self.config.context:
            raise ValueError(f"{end} tokens do not fit: the model reads {self.config.context} here; give it fewer")
        x = self.embedding(ids) * self.config.width**0.5
        places = slice(start, end) if segments is None else positions_of(segments)[:, start:]
        return self.dropout(x + self.positions[places].to(x.dtype))

    def encode(self, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """The encoder's states (B, S, C)."""
        mask = None if segments is None else same_segment(segments, segments)
        return self.transformer.encoder(self.embed(input_ids, segments), mask)

    def features(self, *ids: Any, **inputs: Any) -> Tensor:
        """The decoder's states (B, T, C); the arguments are those of `states`."""
        return self.states(*ids, **inputs)

    def source_keys_values(self, source: Tensor) -> list[tuple[Tensor, ...]]:
        """What each decoder block looks up in the encoded source (B, S, C): keys and values (B, H, S, D)."""
        blocks: Any = self.transformer.decoder.layers
        return [block.multihead_attn.project(source, 1, 3) for block in blocks]

    def decode(
        self,
        ids: Tensor,
        start: int,
        segments: Tensor | None,
        source: Tensor | None,
        seen: Tensor | None,
        cache: Seq2SeqCache | None,
    ) -> Tensor:
        """The decoder's states (B, T, C); the arguments are those of ``seq2seq.py``."""
        mask = None if segments is None else same_segment(segments[:, start:], segments)
        x = self.embed(ids, segments, start)
        return self.transformer.decoder(x, mask, source, seen, cache)

    def output_head(self) -> OutputHead:
        """The live weight of the last product."""
        return OutputHead(self.lm_head.weight)

    def new_cache(self, batch_size: int, max_tokens: int) -> Seq2SeqCache:
        """An empty cache for `batch_size` sequences of at most `max_tokens` decoder ids."""
        config, like = self.config, self.embedding.weight.detach()
        return Seq2SeqCache(config.num_decoder_layers, batch_size, config.num_heads, max_tokens, config.head_size, like)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the shapes and `seed`, on any device.

        Xavier uniform (Glorot and Bengio, 2010) for each matrix, the three of `in_proj_weight` on their own. The
        embedding has a spread of 1 / sqrt(C) as in the paper's own code: times sqrt(C) it is as wide as the positions,
        and as a tied head it gives first logits with a spread of 1. Tied, it wants the low rate of a head.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name in ("embedding.weight", "lm_head.weight"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * self.config.width**-0.5)
            else:
                outputs = parameter.shape[0] // 3 if name.endswith("in_proj_weight") else parameter.shape[0]
                bound = (6 / (outputs + parameter.shape[1])) ** 0.5
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
