"""How many floating point operations a network's training takes, counted from its matrices.

Dimensions: S tokens that an encoder reads, T tokens that the decoder (or a lone body) reads, C width, V vocabulary,
L layers, N parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from llm_core.config import Model, Train
from llm_core.models.interface import LanguageModel
from llm_core.objectives import objective_name, span_sizes

# Names of what reads the source: the encoder, and keys and values of the decoder's second attention (in the layout of
# torch.nn.Transformer stacked below its queries).
_ENCODER = re.compile(r"(^|\.)encoder\.")
_SOURCE_KEYS = re.compile(r"decoder\..*(EncDecAttention|encoder_attn|cross_attn)\.[kv](_proj)?\.")
_STACKED = re.compile(r"decoder\..*multihead_attn\.in_proj_weight")


class Sequences(NamedTuple):
    """Tokens of one sequence of a batch."""

    source: int
    """S: what an encoder in front of a decoder reads, 0 without one."""
    target: int
    """T: what the decoder, or a lone body, reads."""
    counted: int
    """Targets of the loss; the output head is computed for these alone."""


@dataclass(frozen=True)
class Operations:
    """Floating point operations of one sequence of a batch, a multiply-add counted as two.

    The forward pass multiplies every matrix once with each token that it reads and takes 2 per parameter and token
    (Kaplan et al., 2020, section 2.1). Attention adds the products with keys and values, 4 * queries * keys * C a layer
    (PaLM, Chowdhery et al., 2022, appendix B; all keys are counted, also those that a causal mask hides). The backward
    pass makes each product's gradient to both factors: twice the forward pass. For N parameters of matrices that comes
    to 6 N per token plus attention. Lookups, norms and activations are left out.
    """

    matrices: int
    """Forward pass through the matrices, head aside."""
    attention: int
    """Forward pass through the products of queries, keys and values."""
    head: int
    """Forward pass through the output head."""
    repeated: int
    """Forward pass that recompute does again."""

    @property
    def forward(self) -> int:
        return self.matrices + self.attention + self.head

    @property
    def backward(self) -> int:
        return 2 * self.forward

    @property
    def training(self) -> int:
        """All that one training step does for the sequence."""
        return self.forward + self.backward + self.repeated


def sequences_of(shape: Model, cfg: Train) -> Sequences:
    """What one sequence of `shape.context` tokens of text becomes: whole, masked, or with spans cut out."""
    tokens, objective = shape.context, objective_name(cfg, shape)
    hidden, spans = span_sizes(tokens, cfg.mask_share, cfg.span_tokens)
    if objective == "span":
        # Each leaves a sentinel in the source and stands behind it in the target, which ends with one more.
        return Sequences(tokens - hidden + spans, hidden + spans + 1, hidden + spans + 1)
    return Sequences(0, tokens, hidden if objective == "masked" else tokens)


def operations_of(model: LanguageModel, shape: Model, sequences: Sequences, recompute: bool = False) -> Operations:
    """The operations of one sequence."""
    source, target, counted = sequences
    read = source or target  # without a decoder an encoder reads the only tokens there are
    matrices = sum(2 * (by_source * read + by_target * target) for by_source, by_target in _products_by_side(model))
    attention = 4 * shape.width * shape.num_layers * _pairs(shape, source, target)
    return Operations(
        matrices=matrices,
        attention=attention,
        head=2 * model.output_head().weight.numel() * counted,
        repeated=matrices + attention if recompute else 0,
    )


def hidden_matrices(model: LanguageModel) -> list[Tensor]:
    """The matrices between embedding and head, which Muon fits."""
    return [matrix for _, matrix in _matrices(model)]


def _pairs(shape: Model, source: int, target: int) -> int:
    """Pairs of query and key in one layer."""
    if shape.family == "lstm":
        return 0
    return target * target + source * source + target * source


def _products_by_side(model: LanguageModel) -> Iterator[tuple[int, int]]:
    """Of each matrix the parameters that the source's tokens are multiplied with, and those that the target's are."""
    for name, matrix in _matrices(model):
        count = matrix.numel()
        if _ENCODER.search(name) or _SOURCE_KEYS.search(name):
            yield count, 0
        elif _STACKED.search(name):
            yield count // 3 * 2, count // 3
        else:
            yield 0, count


def _matrices(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Each matrix that tokens are multiplied with, the head aside."""
    tables, head = tables_of(model), model.output_head().weight
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter is not head and not is_table(parameter, tables):
            yield name, parameter


def tables_of(model: nn.Module) -> list[Tensor]:
    """The lookup tables: tokens, positions, kinds of text."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]


def is_table(parameter: Tensor, tables: Sequence[Tensor]) -> bool:
    """Whether a parameter is one of `tables`."""
    return any(parameter is table for table in tables)
