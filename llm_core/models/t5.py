"""The T5 family: an encoder-decoder with relative positions and no scale in its attention (Raffel et al., 2020).

Version 1.0 has ReLU feed-forward layers, version 1.1 gated GELU ones (Shazeer, 2020). Parameters carry the names of the
Hugging Face layout. How an encoder-decoder is called and decoded stands in ``seq2seq.py``.
Positions are distances, so that a segment's tokens see the same in a packed row as alone, padded left or right.
Dimensions: B batch, T tokens of this call, K keys (K >= T behind a cache), S source tokens, C width, H heads,
D head size, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.models.attention import attend, combine, same_segment
from llm_core.models.heads import DEFAULT_LABELS, labels_from_json, labels_to_json, mean_of_text, numbered_labels
from llm_core.models.interface import LanguageModel, Network, Output, OutputHead, through
from llm_core.models.llama import RMSNorm
from llm_core.models.seq2seq import EncoderDecoder, Seq2SeqCache, shift_right

FEED_FORWARDS = {"relu": False, "gated-gelu": True}


@dataclass(frozen=True)
class T5Config:
    """Shape of a T5; `from_json` and `to_json` speak the Hugging Face names."""

    vocab_size: int
    num_layers: int
    num_decoder_layers: int
    width: int
    num_heads: int
    head_size: int
    mlp_width: int
    context: int = 512
    """Longest sequence that it is given; the relative positions themselves know no limit."""
    num_buckets: int = 32
    max_distance: int = 128
    gated: bool = True
    norm_eps: float = 1e-6
    tie_embeddings: bool = True
    scale_features: bool = True
    """Multiply what the head reads by C**-0.5, as version 1.0 does because its head is the embedding."""
    start_id: int = 0
    end_id: int | None = None
    pad_id: int | None = None
    dropout: float = 0.0
    head_dropout: float = 0.0
    labels: tuple[str, ...] = DEFAULT_LABELS

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, but for the architecture."""
        return {
            "model_type": "t5",
            "is_encoder_decoder": True,
            "vocab_size": self.vocab_size,
            "num_layers": self.num_layers,
            "num_decoder_layers": self.num_decoder_layers,
            "d_model": self.width,
            "num_heads": self.num_heads,
            "d_kv": self.head_size,
            "d_ff": self.mlp_width,
            "n_positions": self.context,
            "relative_attention_num_buckets": self.num_buckets,
            "relative_attention_max_distance": self.max_distance,
            "feed_forward_proj": "gated-gelu" if self.gated else "relu",
            "layer_norm_epsilon": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "scale_decoder_outputs": self.scale_features,
            "decoder_start_token_id": self.start_id,
            "bos_token_id": None,
            "eos_token_id": self.end_id,
            "pad_token_id": self.pad_id,
            "dropout_rate": self.dropout,
            "classifier_dropout": self.head_dropout,
            "dtype": "float32",
            **labels_to_json(self.labels),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> T5Config:
        """Read ``config.json``; a setting this implementation would silently ignore is an error naming it."""
        feed_forward = values.get("feed_forward_proj", "relu")
        if feed_forward not in FEED_FORWARDS:
            raise ValueError(
                f"feed_forward_proj {feed_forward!r} is not supported by this T5, only {', '.join(FEED_FORWARDS)}"
            )
        if values.get("is_decoder", False):
            raise ValueError("is_decoder True is not supported by this T5, only False")
        end_id = values.get("eos_token_id", 1)
        if isinstance(end_id, list):
            raise ValueError(f"eos_token_id {end_id!r} is not supported by this T5, only one id")
        tied = values.get("tie_word_embeddings", True)
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["num_layers"],
            num_decoder_layers=values.get("num_decoder_layers") or values["num_layers"],
            width=values["d_model"],
            num_heads=values["num_heads"],
            head_size=values["d_kv"],
            mlp_width=values["d_ff"],
            context=values.get("n_positions") or 512,
            num_buckets=values.get("relative_attention_num_buckets", 32),
            max_distance=values.get("relative_attention_max_distance", 128),
            gated=FEED_FORWARDS[feed_forward],
            norm_eps=values.get("layer_norm_epsilon", 1e-6),
            tie_embeddings=tied,
            scale_features=values.get("scale_decoder_outputs", tied),
            start_id=values.get("decoder_start_token_id") or 0,
            end_id=end_id,
            pad_id=values.get("pad_token_id", 0),
            dropout=values.get("dropout_rate", 0.1),
            head_dropout=values.get("classifier_dropout", 0.0),
            labels=labels_from_json(values),
        )


def from_recipe(architecture: Model, vocab_size: int, end_id: int, num_labels: int = 2) -> T5Config:
    """The config of a recipe's shape in version 1.1's form; the end-of-text id begins a text and pads too."""
    return T5Config(
        vocab_size=vocab_size,
        num_layers=architecture.num_layers,
        num_decoder_layers=architecture.num_layers,
        width=architecture.width,
        num_heads=architecture.num_heads,
        head_size=architecture.width // architecture.num_heads,
        mlp_width=architecture.mlp_width,
        context=architecture.context,
        start_id=end_id,
        end_id=end_id,
        pad_id=end_id,
        dropout=architecture.dropout,
        head_dropout=architecture.dropout,
        labels=numbered_labels(num_labels),
    )


def position_buckets(distances: Tensor, num_buckets: int, max_distance: int, both_ways: bool) -> Tensor:
    """The bucket of each distance (key's place minus query's), by Raffel et al. (2020), section 2.1.

    Half of the buckets hold one distance each, the others ever wider ranges up to `max_distance`; all that is farther
    falls into the last. An encoder spends half of its buckets on what comes later (`both_ways`).
    """
    buckets = torch.zeros_like(distances)
    if both_ways:
        num_buckets //= 2
        buckets = (distances > 0) * num_buckets
        distances = distances.abs()
    else:
        distances = -distances.clamp(max=0)
    num_exact = num_buckets // 2
    share = torch.log(distances.float() / num_exact) / math.log(max_distance / num_exact)
    far = num_exact + (share * (num_buckets - num_exact)).long().clamp(max=num_buckets - 1 - num_exact)
    return buckets + torch.where(distances < num_exact, distances, far)


class Attention(nn.Module):
    """Multi-head attention whose products are not scaled: the initialisation of `q` holds the 1 / sqrt(D)."""

    def __init__(self, config: T5Config, has_positions: bool = False) -> None:
        super().__init__()
        self.head_size, self.dropout = config.head_size, config.dropout
        inner = config.num_heads * config.head_size
        self.q = nn.Linear(config.width, inner, bias=False)
        self.k = nn.Linear(config.width, inner, bias=False)
        self.v = nn.Linear(config.width, inner, bias=False)
        self.o = nn.Linear(inner, config.width, bias=False)
        if has_positions:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, config.num_heads)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, K, D) of the states (B, K, C)."""
        return self._heads(self.k(x)), self._heads(self.v(x))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        y = attend(self._heads(self.q(x)), keys, values, causal=False, mask=mask, scale=1.0, dropout=dropout)
        return self.o(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)


class SelfAttentionLayer(nn.Module):
    """Attention of a sequence to itself, added to the residual stream."""

    def __init__(self, config: T5Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.SelfAttention = Attention(config, has_positions=index == 0)
        self.layer_norm = RMSNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, cache: Seq2SeqCache | None) -> Tensor:
        normed = self.layer_norm(x)
        keys, values = self.SelfAttention.keys_values(normed)
        if cache is not None:
            keys, values = cache.append(self.index, keys, values)
        return x + self.dropout(self.SelfAttention(normed, keys, values, mask))


class CrossAttentionLayer(nn.Module):
    """Attention of the decoder to the encoded source (B, S, C), added to the residual stream."""

    def __init__(self, config: T5Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.EncDecAttention = Attention(config)
        self.layer_norm = RMSNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, source: Tensor | None, mask: Tensor | None, cache: Seq2SeqCache | None) -> Tensor:
        if cache is not None:
            keys, values = cache.source[self.index]
        else:
            assert source is not None
            keys, values = self.EncDecAttention.keys_values(source)
        return x + self.dropout(self.EncDecAttention(self.layer_norm(x), keys, values, mask))


class Dense(nn.Module):
    """Version 1.0's feed-forward layer: ``wo(relu(wi(x)))``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi = nn.Linear(config.width, config.mlp_width, bias=False)
        self.wo = nn.Linear(config.mlp_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.dropout(F.relu(self.wi(x))))


class GatedDense(nn.Module):
    """Version 1.1's (Shazeer, 2020): ``wo(gelu(wi_0(x)) * wi_1(x))``, GELU in its tanh form."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.wi_1 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.wo = nn.Linear(config.mlp_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.dropout(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x)))


class FeedForwardLayer(nn.Module):
    """The feed-forward layer, added to the residual stream."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = GatedDense(config) if config.gated else Dense(config)
        self.layer_norm = RMSNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class EncoderBlock(nn.Module):
    """Attention to the own sequence, and feed-forward."""

    def __init__(self, config: T5Config, index: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList((SelfAttentionLayer(config, index), FeedForwardLayer(config)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        return feed_forward(attention(x, mask, None))


class DecoderBlock(nn.Module):
    """Attention to the own sequence up to here, attention to the source, and feed-forward."""

    def __init__(self, config: T5Config, index: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            (SelfAttentionLayer(config, index), CrossAttentionLayer(config, index), FeedForwardLayer(config))
        )

    def forward(
        self, x: Tensor, mask: Tensor, source: Tensor | None, seen: Tensor | None, cache: Seq2SeqCache | None
    ) -> Tensor:
        attention, cross_attention, feed_forward = self.layer
        return feed_forward(cross_attention(attention(x, mask, cache), source, seen, cache))


class Stack(nn.Module):
    """The blocks of one side and the norm behind them: embedded tokens (B, T, C) to states."""

    def __init__(self, config: T5Config, decodes: bool) -> None:
        super().__init__()
        self.config, self.decodes = config, decodes
        self.recompute = False
        block, num_layers = (DecoderBlock, config.num_decoder_layers) if decodes else (EncoderBlock, config.num_layers)
        self.block = nn.ModuleList(block(config, index) for index in range(num_layers))
        self.final_layer_norm = RMSNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor, *context: Any) -> Tensor:
        x = through(self.block, self.dropout(x), mask, *context, recompute=self.recompute)
        return self.dropout(self.final_layer_norm(x))

    def mask(self, length: int, start: int, segments: Tensor | None) -> Tensor:
        """What is added to the products of the T = `length` queries from `start` on with all keys, (B or 1, H, T, K).

        The first block's position bias serves all blocks; -inf stands where nothing is to be seen. `segments` (B, K).
        """
        first: Any = self.block[0]
        table: Tensor = first.layer[0].SelfAttention.relative_attention_bias.weight  # (buckets, H)
        keys = torch.arange(start + length, device=table.device)
        distances = keys - keys[start:, None]  # (T, K)
        config = self.config
        buckets = position_buckets(distances, config.num_buckets, config.max_distance, both_ways=not self.decodes)
        bias = F.embedding(buckets, table).permute(2, 0, 1)[None]
        if self.decodes and length > 1:
            bias = combine(distances <= 0, bias)
        return bias if segments is None else combine(same_segment(segments[:, start:], segments), bias)


class Body(EncoderDecoder):
    """Embedding, encoder and, where it `decodes`, decoder."""

    def __init__(self, config: T5Config, decodes: bool = True) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.width)
        self.encoder = Stack(config, decodes=False)
        if decodes:
            self.decoder = Stack(config, decodes=True)

    def encode(self, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """The encoder's states (B, S, C)."""
        return self.encoder(self.shared(input_ids), self.encoder.mask(input_ids.shape[1], 0, segments))

    def source_keys_values(self, source: Tensor) -> list[tuple[Tensor, ...]]:
        """What each decoder block looks up in the encoded source (B, S, C): keys and values (B, H, S, D)."""
        blocks: Any = self.decoder.block
        return [block.layer[1].EncDecAttention.keys_values(source) for block in blocks]

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
        mask = self.decoder.mask(ids.shape[1], start, segments)
        return self.decoder(self.shared(ids), mask, source, seen, cache)


class T5Network(Network):
    """What all tasks share: how the weights begin."""

    config: T5Config
    not_weights = ("embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight")  # copies, and one unused

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the shapes and `seed`, on any device."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * self._spread(name, parameter))

    def _spread(self, name: str, parameter: Tensor) -> float:
        """Standard deviation of a matrix, by the published scheme (Mesh TensorFlow): mostly 1 / sqrt(inputs).

        The embedding begins with a spread of 1, which wants the high rate of an embedding of its own, tied or not: the
        features that a tied head reads are scaled by C**-0.5, so that the first logits have a spread of 1. `q` holds
        the 1 / sqrt(D) that the attention leaves out; under Muon, which sets the size of each step by the shape alone,
        it grows to the size of `k` within the first steps and the softmax begins to be sharp: watch z_loss there.
        """
        fan_in = parameter.shape[1]
        if name.endswith("shared.weight"):
            return 1.0
        if name.endswith("relative_attention_bias.weight"):
            return self.config.width**-0.5
        if name.endswith("Attention.q.weight"):
            return (fan_in * self.config.head_size) ** -0.5
        return fan_in**-0.5


class T5ForConditionalGeneration(Body, T5Network, LanguageModel):
    """The language model over pairs: ``model(input_ids, decoder_input_ids).logits``, with an optional cache."""

    architecture = "T5ForConditionalGeneration"
    task = "seq2seq_lm"
    untrained_heads = ("lm_head.",)

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.shared.weight

    def features(self, *ids: Any, **inputs: Any) -> Tensor:
        """The decoder's states (B, T, C) as the head reads them; the arguments are those of `states`."""
        x = self.states(*ids, **inputs)
        return x * self.config.width**-0.5 if self.config.scale_features else x

    def output_head(self) -> OutputHead:
        """The live weight of the last product."""
        return OutputHead(self.lm_head.weight)

    def new_cache(self, batch_size: int, max_tokens: int) -> Seq2SeqCache:
        """An empty cache for `batch_size` sequences of at most `max_tokens` decoder ids."""
        config, like = self.config, self.shared.weight.detach()
        return Seq2SeqCache(config.num_decoder_layers, batch_size, config.num_heads, max_tokens, config.head_size, like)


class T5EncoderModel(Body, T5Network):
    """The encoder alone as an embedder: the mean of a text's states, padding left out."""

    architecture = "T5EncoderModel"
    task = "embedding"

    def __init__(self, config: T5Config) -> None:
        super().__init__(config, decodes=False)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        """Vectors (B, C) of the ids (B, T)."""
        return Output(mean_of_text(self.encode(input_ids, segments), segments))


class ClassificationHead(nn.Module):
    """``out_proj(tanh(dense(x)))``."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.width, len(config.labels))

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(x)))))


class T5ForSequenceClassification(T5Network):
    """One label a text: the text goes through both sides, the decoder's state at the end id is what the head reads."""

    architecture = "T5ForSequenceClassification"
    body = "transformer"
    task = "sequence_classification"
    untrained_heads = ("classification_head.",)

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        if config.end_id is None:
            raise ValueError("eos_token_id must be set: a T5 classifier reads its state at the end of the text")
        self.config, self.end_id = config, config.end_id
        self.transformer = Body(config)
        self.classification_head = ClassificationHead(config)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        """Logits (B, labels) at each row's last end id; a row without one (cut short) is read at its last token."""
        x = self.transformer.states(input_ids, shift_right(input_ids, self.config.start_id), segments)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = torch.where(input_ids.eq(self.end_id), places, -1).amax(dim=1)
        return Output(self.classification_head(x[torch.arange(len(x), device=x.device), last]))


class T5ForTokenClassification(T5Network):
    """A label for each token, from the encoder's states."""

    architecture = "T5ForTokenClassification"
    body = "transformer"
    task = "token_classification"
    untrained_heads = ("classifier.",)

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.transformer = Body(config, decodes=False)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.width, len(config.labels))

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        """Logits (B, T, labels)."""
        return Output(self.classifier(self.dropout(self.transformer.encode(input_ids, segments))))


class T5ForQuestionAnswering(Body, T5Network):
    """Where the answer begins and ends: the text goes through both sides."""

    architecture = "T5ForQuestionAnswering"
    task = "question_answering"
    untrained_heads = ("qa_outputs.",)

    def __init__(self, config: T5Config) -> None:
        super().__init__(replace(config, labels=DEFAULT_LABELS))  # the layout counts begin and end as two labels
        self.qa_outputs = nn.Linear(config.width, 2)

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        """Logits (B, T, 2) of each token to be the first and the last of the answer."""
        x = self.states(input_ids, shift_right(input_ids, self.config.start_id), segments)
        return Output(self.qa_outputs(x))
