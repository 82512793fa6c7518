"""What a model of any family offers to training, generation and evaluation.

Dimensions: B sequences, T tokens of a call, S tokens seen so far (S >= T), C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Task = Literal[
    "causal_lm",
    "masked_lm",
    "seq2seq_lm",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "embedding",
]


class ModelError(ValueError):
    """A model that cannot be loaded, built or saved; the message names the file or key and what is wrong."""


class Output(NamedTuple):
    """What a call of a model gives."""

    logits: Tensor
    """(B, T, V) of a language model, (B, labels) or (B, T, labels) of a classifier, (B, T, 2) of an extractive question
    answerer (start, end), (B, C) vectors of an embedder."""


class OutputHead(NamedTuple):
    """The last product of a language model: ``logits = features @ weight.T + bias``."""

    weight: Tensor
    """(V, C)."""
    bias: Tensor | None = None
    """(V,)."""


class DecodingCache(Protocol):
    """What a decoder remembers of the tokens seen so far, so that each is read once."""

    length: int
    """Tokens seen so far; a model call moves it on."""

    @property
    def max_tokens(self) -> int:
        """Tokens that there is room for."""

    def select(self, rows: Tensor) -> None:
        """Keep these sequences (int64 indices into the batch, repeats allowed) in this order, as beam search does."""


class Network(nn.Module):
    """A body with a head. Its parameters carry the names of the Hugging Face layout.

    `segments` (B, T), where a call takes it, numbers the text that each token belongs to: tokens see only tokens of
    their own number, and positions are counted anew where the number changes. Hugging Face's attention mask is the case
    of two numbers (1 text, 0 padding), packed documents are another; None is one text a row.
    """

    architecture: str
    """Hugging Face's name of it in ``config.json``; of an instance, where one class stands behind several names."""
    task: ClassVar[Task]
    config: Any
    """The family's config: ``vocab_size``, ``context`` (longest sequence), ``end_id``, ``to_json``."""
    untrained_heads: ClassVar[tuple[str, ...]] = ()
    """Name prefixes of the parameters of the head: what a body of another task lacks, and trains at the head's rate."""
    body: str = ""
    """Name of the submodule that is the body, a prefix of its parameters' names; none where the network is the body."""
    not_weights: ClassVar[tuple[str, ...]] = ()
    """Endings of names that older checkpoints hold and that are no weights of this network, such as stored masks."""

    def initialize(self, seed: int) -> None:
        """Draw all weights anew: a pure function of the shapes and `seed`, on any device."""
        raise NotImplementedError


class LanguageModel(Network):
    """A network over a vocabulary: features of every token, then one product with the output head."""

    def features(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """The states (B, T, C) that the output head reads; the arguments are those of the call."""
        raise NotImplementedError

    def output_head(self) -> OutputHead:
        """The live parameters of the last product."""
        raise NotImplementedError

    def forward(self, input_ids: Tensor, *others: Tensor, **inputs: Any) -> Output:
        """Logits (B, T, V) at each of the ids (B, T); encoder-decoders take the decoder's ids second."""
        head = self.output_head()
        return Output(F.linear(self.features(input_ids, *others, **inputs), head.weight, head.bias))

    def new_cache(self, batch_size: int, max_tokens: int) -> DecodingCache:
        """An empty cache for `batch_size` sequences of at most `max_tokens` (prompt and answer together)."""
        raise NotImplementedError(f"{type(self).__name__} does not write text one token after the other")


def through(blocks: Iterable[nn.Module], x: Tensor, *context: Any, recompute: bool = False) -> Tensor:
    """`x` through `blocks` in order; with `recompute` the backward pass makes inner states again (less memory)."""
    for block in blocks:
        x = checkpoint(block, x, *context, use_reentrant=False) if recompute else block(x, *context)
    return x


def together(x: Tensor, *projections: nn.Linear) -> tuple[Tensor, ...]:
    """What each projection makes of `x`; while training on a CPU by one product, which is faster than narrow ones."""
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return tuple(projection(x) for projection in projections)
    weight = torch.cat([projection.weight for projection in projections])
    biases = [projection.bias for projection in projections if projection.bias is not None]
    assert len(biases) in (0, len(projections))
    product = F.linear(x, weight, torch.cat(tuple(biases)) if biases else None)
    return torch.split(product, [projection.out_features for projection in projections], dim=-1)
