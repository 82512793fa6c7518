"""The recurrent baseline: embedding, stacked LSTM (Hochreiter and Schmidhuber, 1997; Gers et al., 2000), head.

The recurrence is ``torch.nn.LSTM``, whose parameters lie in ``model.model.lstm``; on a CPU with AMX its training in
bfloat16 takes half the time of float32. The saved folder is of our own layout: `transformers` has no such architecture.
Rows of several segments are read as the segments they consist of, so each begins with an empty state, exactly; that
needs the lengths on the CPU and breaks a compiled graph. There is no limit of length: `context` is that of training.
Dimensions: B batch, T tokens of this call, N segments in a batch, E embedding width, C width of the state,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from llm_core.config import Model
from llm_core.models.attention import positions_of
from llm_core.models.heads import DEFAULT_LABELS, labels_from_json, labels_to_json, last_of_text, numbered_labels
from llm_core.models.interface import LanguageModel, Network, Output, OutputHead

MODEL_TYPE = "tidemill-lstm"
RECOMPUTED_TOKENS = 32  # of a row at once, where the backward pass makes inner states again; segments stay whole


@dataclass(frozen=True)
class LstmConfig:
    """Shape of an LSTM; `to_json` and `from_json` use Hugging Face's names where it has some."""

    vocab_size: int
    num_layers: int
    width: int
    embedding_width: int
    """Another one than `width` puts a linear projection between the state and the head."""
    context: int
    tie_embeddings: bool = False
    end_id: int | None = None
    dropout: float = 0.0
    labels: tuple[str, ...] = DEFAULT_LABELS

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json``, but for the architecture."""
        return {
            "model_type": MODEL_TYPE,
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.width,
            "embedding_size": self.embedding_width,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tie_embeddings,
            "bos_token_id": self.end_id,
            "eos_token_id": self.end_id,
            "dropout": self.dropout,
            "dtype": "float32",
            **labels_to_json(self.labels),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LstmConfig:
        """Read ``config.json`` as `to_json` writes it."""
        return cls(
            vocab_size=values["vocab_size"],
            num_layers=values["num_hidden_layers"],
            width=values["hidden_size"],
            embedding_width=values["embedding_size"],
            context=values["max_position_embeddings"],
            tie_embeddings=values["tie_word_embeddings"],
            end_id=values["eos_token_id"],
            dropout=values["dropout"],
            labels=labels_from_json(values),
        )


def from_recipe(architecture: Model, vocab_size: int, end_id: int, num_labels: int = 2) -> LstmConfig:
    """The config of a recipe's shape."""
    return LstmConfig(
        vocab_size=vocab_size,
        num_layers=architecture.num_layers,
        width=architecture.width,
        embedding_width=architecture.width,
        context=architecture.context,
        tie_embeddings=architecture.tie_embeddings,
        end_id=end_id,
        dropout=architecture.dropout,
        labels=numbered_labels(num_labels),
    )


class LstmState(NamedTuple):
    """What the layers remember, each (layers, B, C): the output (h) and the cell (c)."""

    hidden: Tensor
    cell: Tensor

    def of(self, rows: Tensor) -> LstmState:
        """That of some of the batch's rows."""
        return LstmState(self.hidden[:, rows], self.cell[:, rows])


class LstmCache:
    """The state behind the tokens seen so far: of the same size however many they are."""

    def __init__(self, config: LstmConfig, batch_size: int, max_tokens: int, like: Tensor) -> None:
        zeros = like.new_zeros(config.num_layers, batch_size, config.width)
        self.state = LstmState(zeros, zeros)
        self.length = 0
        """Tokens seen so far."""
        self.max_tokens = max_tokens
        self.last_segments: Tensor | None = None
        """The segment numbers (B) of the last tokens seen; none while every row is one text."""

    def select(self, rows: Tensor) -> None:
        """Keep these sequences (int64 indices into the batch, repeats allowed) in this order."""
        self.state = self.state.of(rows)
        if self.last_segments is not None:
            self.last_segments = self.last_segments[rows]


class Body(nn.Module):
    """Embedding, recurrence and projection: token ids to the states that a head reads."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_width)
        self.dropout = nn.Dropout(config.dropout)
        between = config.dropout if config.num_layers > 1 else 0.0  # torch warns where there is no between
        self.lstm = nn.LSTM(config.embedding_width, config.width, config.num_layers, batch_first=True, dropout=between)
        if config.embedding_width != config.width:
            self.projection = nn.Linear(config.width, config.embedding_width, bias=False)

    def states(self, input_ids: Tensor, segments: Tensor | None = None, cache: LstmCache | None = None) -> Tensor:
        """The last layer's states (B, T, E) at each of the ids (B, T), which stand behind what `cache` has seen."""
        x = self.dropout(self.embedding(input_ids))
        if cache is not None:
            y, state = self._read(x, cache.state) if segments is None else self._go_on(x, segments, cache)
            cache.state, cache.length = state, cache.length + input_ids.shape[1]
            cache.last_segments = cache.last_segments if segments is None else segments[:, -1]
        else:
            y = self._read(x, None)[0] if segments is None else self._read_segments(x, segments)
        if self.config.embedding_width != self.config.width:
            y = self.projection(y)
        return self.dropout(y)

    def _read(self, x: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """The outputs (B, T, C) and the state behind them."""
        if not (self.recompute and self.training):
            y, state = self.lstm(x, state)
            return y, LstmState(*state)
        parts = []
        for part in x.split(RECOMPUTED_TOKENS, dim=1):
            y, state = checkpoint(self.lstm, part, state, use_reentrant=False)
            parts.append(y)
        assert state is not None
        return torch.cat(parts, dim=1), LstmState(*state)

    def _read_segments(self, x: Tensor, segments: Tensor) -> Tensor:
        """The outputs with an empty state where the segment's number changes: each segment is a row of its own.

        Segments whose lengths have the same power of two above them go together, so that at most half is padding.
        """
        places, numbers, lengths = _segmented(segments)
        sizes = lengths.float().log2().ceil()
        y = x.new_empty(len(numbers), self.config.width)
        for size in sizes.unique():
            members = sizes == size  # (N)
            tokens = members[numbers].nonzero()[:, 0]
            where = (members.cumsum(0) - 1)[numbers[tokens]], places[tokens]  # row of the group, place in it
            rows = x.new_zeros(int(members.sum()), int(lengths[members].max()), x.shape[2])
            rows = rows.index_put(where, x.flatten(0, 1)[tokens])
            y = y.index_put((tokens,), self.lstm(rows)[0][where])
        return y.unflatten(0, segments.shape)

    def _go_on(self, x: Tensor, segments: Tensor, cache: LstmCache) -> tuple[Tensor, LstmState]:
        """The same behind what `cache` has seen, and each row's last state; packed, which is slower but tells those."""
        places, numbers, lengths = _segmented(segments)
        rows = x.new_zeros(len(lengths), int(lengths.max()), x.shape[2])
        rows = rows.index_put((numbers, places), x.flatten(0, 1))
        by_row = numbers.view_as(segments)
        start = self._start(cache, segments[:, 0], by_row[:, 0], len(lengths))
        y, state = self.lstm(pack_padded_sequence(rows, lengths.cpu(), batch_first=True, enforce_sorted=False), start)
        outputs = pad_packed_sequence(y, batch_first=True)[0][numbers, places]
        return outputs.unflatten(0, segments.shape), LstmState(*state).of(by_row[:, -1])

    def _start(self, cache: LstmCache, segments: Tensor, numbers: Tensor, num_segments: int) -> LstmState:
        """The states (layers, N, C) to begin with: the cache's where a row's first segment (B) goes on, else empty."""
        before = torch.ones_like(segments) if cache.last_segments is None else cache.last_segments
        goes_on = (segments == before)[:, None]
        kept = (part * goes_on for part in cache.state)
        empty = (part.new_zeros(part.shape[0], num_segments, part.shape[2]) for part in cache.state)
        return LstmState(*(zeros.index_copy(1, numbers, part) for zeros, part in zip(empty, kept, strict=True)))


def _segmented(segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's place in its segment and the segment's number from 0, both (B * T); the segments' lengths (N)."""
    places = positions_of(segments).flatten()
    numbers = (places == 0).cumsum(0) - 1
    return places, numbers, numbers.bincount()


class LstmNetwork(Network):
    """What all tasks share: the body, and how the weights begin."""

    config: LstmConfig
    body = "model"

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the shapes and `seed`, on any device.

        The recurrence's matrices are uniform within 1 / sqrt(C), torch's own rule; biases are 0, those of the forget
        gate 1 (Jozefowicz et al., 2015), so that cells remember from the first step. Each matrix holds the four gates
        one above the other: Muon makes them orthogonal as one. The embedding has a spread of 1, as no norm follows it,
        and the high rate that goes with it; as a tied head it has to be narrow.
        """
        generator = torch.Generator().manual_seed(seed)
        width = self.config.width
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                parameter.zero_()
                if ".lstm.bias_ih" in name:  # there are two biases; the other one stays 0
                    parameter[width : 2 * width] = 1.0  # the gates' order is input, forget, cell, output
            elif ".lstm." in name:
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * width**-0.5)
            else:
                wide = name == "model.embedding.weight" and not self.config.tie_embeddings
                std = 1.0 if wide else parameter.shape[1] ** -0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


class LstmForCausalLM(LstmNetwork, LanguageModel):
    """The language model: ``model(input_ids).logits``, with an optional cache for decoding."""

    architecture = "LstmForCausalLM"
    task = "causal_lm"
    untrained_heads = ("lm_head.",)

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.embedding_width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embedding.weight

    def features(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """The states (B, T, E) that the head reads; the arguments are those of `Body.states`."""
        return self.model.states(input_ids, **inputs)

    def output_head(self) -> OutputHead:
        """The live weight of the last product."""
        return OutputHead(self.lm_head.weight)

    def new_cache(self, batch_size: int, max_tokens: int) -> LstmCache:
        """An empty state for `batch_size` sequences."""
        return LstmCache(self.config, batch_size, max_tokens, like=self.lm_head.weight.detach())


class LstmForSequenceClassification(LstmNetwork):
    """One label a text, from the state at its last token."""

    architecture = "LstmForSequenceClassification"
    task = "sequence_classification"
    untrained_heads = ("classifier.",)

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.embedding_width, len(config.labels))

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        """Logits (B, labels)."""
        x = self.model.states(input_ids, segments)
        return Output(self.classifier(last_of_text(x, input_ids, segments, pad_id=None)))


class LstmForTokenClassification(LstmNetwork):
    """A label for each token, from what came before it."""

    architecture = "LstmForTokenClassification"
    task = "token_classification"
    untrained_heads = ("classifier.",)

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.embedding_width, len(config.labels))

    def forward(self, input_ids: Tensor, segments: Tensor | None = None) -> Output:
        """Logits (B, T, labels)."""
        return Output(self.classifier(self.model.states(input_ids, segments)))
