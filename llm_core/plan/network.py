"""A recipe's network without its weights: layers, shapes and parameters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from llm_core.config import Model, Recipe
from llm_core.models import LanguageModel, blank
from llm_core.operations import is_table, tables_of

_BLOCK = re.compile(r"\.(\d+)(?=\.)|_l(\d+)$")  # the number of a block; torch's LSTM has it at the end
_ENCODER = re.compile(r"(^|\.)encoder\.")


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
    named, tables, head = dict(model.named_parameters()), tables_of(model), model.output_head().weight
    embedding = sum(p.numel() for p in named.values() if any(p is table for table in tables))
    own_head = 0 if any(head is table for table in tables) else head.numel()
    blocks = {name: p.numel() for name, p in named.items() if _block_of(name) is not None and not is_table(p, tables)}
    decoder = {name: count for name, count in blocks.items() if not _ENCODER.search(name)} or blocks
    per_layer = sum(count for name, count in decoder.items() if _block_of(name) == shape.num_layers - 1)
    total = sum(p.numel() for p in named.values())
    return Parameters(total, embedding, own_head, per_layer, total - embedding - own_head - sum(blocks.values()))


def cache_bytes_per_token(shape: Model, bytes_per_value: int = 2) -> int:
    """Keys and values that decoding keeps of each token, in all layers; an encoder and an lstm keep none."""
    if shape.family in ("bert", "lstm"):
        return 0
    heads = shape.num_kv_heads if shape.family == "llama" else shape.num_heads
    return 2 * shape.num_layers * heads * (shape.width // shape.num_heads) * bytes_per_value


def _around_number(name: str) -> tuple[str, str]:
    """What stands before a block's number and behind it."""
    match = _BLOCK.search(name)
    return (name[: match.start(match.lastindex or 0)], name[match.end() :]) if match else (name, "")


def _block_of(name: str) -> int | None:
    match = _BLOCK.search(name)
    return int(match[match.lastindex or 0]) if match else None
