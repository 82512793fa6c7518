"""A recipe's network without its weights: layers, shapes, parameters and floating point operations.

Dimensions: S tokens that an encoder reads, T tokens that the decoder (or a lone body) reads, C width, V vocabulary,
L layers, N parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from llm_core.config import Model, Recipe, Train
from llm_core.models import LanguageModel, blank

ENCODER_DECODERS = ("t5", "transformer")
# Names of what reads the source: the encoder, and keys and values of the decoder's second attention (in the layout of
# torch.nn.Transformer stacked below its queries).
_BLOCK = re.compile(r"\.(\d+)(?=\.)|_l(\d+)$")  # the number of a block; torch's LSTM has it at the end
_ENCODER = re.compile(r"(^|\.)encoder\.")
_SOURCE_KEYS = re.compile(r"decoder\..*(EncDecAttention|encoder_attn|cross_attn)\.[kv](_proj)?\.")
_STACKED = re.compile(r"decoder\..*multihead_attn\.in_proj_weight")


class Layer(NamedTuple):
    """One parameter, or several alike in blocks that repeat."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    """Of all repeats together."""


@dataclass(frozen=True)
class Parameters:
    """How many parameters a network has, and where."""

    total: int
    embedding: int
    """Lookup tables: tokens, positions. A head that shares the table is counted here."""
    head: int
    """The output head's own matrix; 0 where it shares the embedding's."""
    per_layer: int
    """Of one block (of an encoder-decoder: of one block of the decoder)."""
    rest: int
    """Outside of the blocks, embedding and head: last norms, pooling, and so on."""


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


def on_meta(recipe: Recipe) -> LanguageModel:
    """The recipe's network on the meta device: shapes and names without storage.

    The vocabulary is the recipe's; a tokenizer of a champion or a folder may have another size.
    """
    with torch.device("meta"):
        network = blank(recipe.model, recipe.tokenizer.vocab_size, end_id=0)
    assert isinstance(network, LanguageModel)  # every family was made for one of its tasks
    return network


def layers_of(model: nn.Module) -> list[Layer]:
    """Every parameter in the order of the network; shared ones once."""
    return [Layer(name, tuple(p.shape), p.numel()) for name, p in model.named_parameters()]


def folded(layers: Sequence[Layer]) -> list[Layer]:
    """Like parameters of repeated blocks as one line, their numbers as a range: ``layers.0..7.mlp.up_proj.weight``."""
    lines: dict[tuple[str, str, tuple[int, ...]], list[Layer]] = {}
    for layer in layers:
        lines.setdefault((*_around_number(layer.name), layer.shape), []).append(layer)
    return [_one_line(before, behind, alike) for (before, behind, _), alike in lines.items()]


def _one_line(before: str, behind: str, alike: Sequence[Layer]) -> Layer:
    numbers = [number for layer in alike if (number := _block_of(layer.name)) is not None]
    unbroken = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
    shown = f"{numbers[0]}..{numbers[-1]}" if unbroken else ",".join(map(str, numbers))
    return Layer(before + shown + behind, alike[0].shape, sum(layer.parameters for layer in alike))


def parameters_of(model: LanguageModel, shape: Model) -> Parameters:
    """The network's parameters by where they are."""
    named, tables, head = dict(model.named_parameters()), _tables(model), model.output_head().weight
    embedding = sum(p.numel() for p in named.values() if any(p is table for table in tables))
    own_head = 0 if any(head is table for table in tables) else head.numel()
    blocks = {name: p.numel() for name, p in named.items() if _block_of(name) is not None and not _is_table(p, tables)}
    decoder = {name: count for name, count in blocks.items() if not _ENCODER.search(name)} or blocks
    per_layer = sum(count for name, count in decoder.items() if _block_of(name) == shape.num_layers - 1)
    total = sum(p.numel() for p in named.values())
    return Parameters(total, embedding, own_head, per_layer, total - embedding - own_head - sum(blocks.values()))


def sequences_of(shape: Model, cfg: Train) -> Sequences:
    """What one sequence of `shape.context` tokens of text becomes: whole, masked, or with spans cut out.

    Cut out (Raffel et al., 2020, section 3.1.4): each span leaves one mark in the source and stands behind the same
    mark in the target, which ends with one mark more.
    """
    tokens = shape.context
    hidden = max(1, round(cfg.mask_share * tokens))
    if shape.family in ENCODER_DECODERS:
        spans = max(1, round(hidden / cfg.span_tokens))
        return Sequences(tokens - hidden + spans, hidden + spans + 1, hidden + spans + 1)
    masked = cfg.objective == "masked" or (cfg.objective == "auto" and shape.family == "bert")
    return Sequences(0, tokens, hidden if masked else tokens)


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


def cache_bytes_per_token(shape: Model, bytes_per_value: int = 2) -> int:
    """Keys and values that decoding keeps of each token, in all layers; an encoder and an lstm keep none."""
    if shape.family in ("bert", "lstm"):
        return 0
    heads = shape.num_kv_heads if shape.family == "llama" else shape.num_heads
    return 2 * shape.num_layers * heads * (shape.width // shape.num_heads) * bytes_per_value


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
    tables, head = _tables(model), model.output_head().weight
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter is not head and not _is_table(parameter, tables):
            yield name, parameter


def _tables(model: nn.Module) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]


def _is_table(parameter: Tensor, tables: Sequence[Tensor]) -> bool:
    return any(parameter is table for table in tables)


def _around_number(name: str) -> tuple[str, str]:
    """What stands before a block's number and behind it."""
    match = _BLOCK.search(name)
    return (name[: match.start(match.lastindex or 0)], name[match.end() :]) if match else (name, "")


def _block_of(name: str) -> int | None:
    match = _BLOCK.search(name)
    return int(match[match.lastindex or 0]) if match else None
