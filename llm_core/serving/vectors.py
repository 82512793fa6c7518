"""Texts as vectors of unit length: the mean of their tokens' states, several texts to a pass through the network.

Dimensions: N texts, B texts of a pass, T tokens of its longest, C width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_core.models.heads import mean_of_text
from llm_core.models.interface import Network
from llm_core.pipeline.understanding import states_of

MAX_PASS_TOKENS = 4096
"""Padding counts too; more in one pass is no faster on a CPU and holds others up."""


def width_of(network: Network) -> int:
    """Length of this network's vectors."""
    width: int = getattr(network.config, "embedding_width", network.config.width)
    return width


def embed(network: Network, texts: Sequence[Sequence[int]]) -> Iterator[dict[int, Tensor]]:
    """The vectors (C) of the texts by their numbers, pass by pass: texts of like length go together."""
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for numbers in _passes(order, texts):
        vectors = _mean_states(network, [texts[number] for number in numbers])
        yield dict(zip(numbers, F.normalize(vectors, dim=-1), strict=True))


def shortened(vector: Tensor, dimensions: int | None) -> Tensor:
    """The first `dimensions` numbers, at unit length again."""
    return vector if dimensions is None else F.normalize(vector[:dimensions], dim=-1)


def _passes(order: Sequence[int], texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    numbers: list[int] = []
    for number in order:  # shortest first, so that the next one is the longest so far
        if numbers and (len(numbers) + 1) * len(texts[number]) > MAX_PASS_TOKENS:
            yield numbers
            numbers = []
        numbers.append(number)
    if numbers:
        yield numbers


@torch.inference_mode()
def _mean_states(network: Network, texts: Sequence[Sequence[int]]) -> Tensor:
    """(B, C), in float32 on the CPU."""
    device = next(network.parameters()).device
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    lengths = torch.tensor([len(text) for text in texts], device=device)
    segments = (torch.arange(longest, device=device) < lengths[:, None]).long()  # 0 is padding
    # A pass without padding needs no mask, and is faster without.
    given = {} if bool(segments.all()) else {"segments": segments}
    states = states_of(network)(ids, **given)
    return mean_of_text(states, given.get("segments")).float().cpu()
