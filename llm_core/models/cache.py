"""The keys and values of the tokens seen so far, so that decoding reads each token once.

Dimensions: B sequences, T tokens of a call, S tokens seen so far (S >= T), G key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """A decoder's memory, allocated up front: (layers, B, G, max_tokens, D) for keys and as much for values."""

    def __init__(
        self, num_layers: int, batch_size: int, num_heads: int, max_tokens: int, head_size: int, like: Tensor
    ) -> None:
        shape = (num_layers, batch_size, num_heads, max_tokens, head_size)
        self.keys = like.new_zeros(shape)
        self.values = like.new_zeros(shape)
        self.length = 0
        """Tokens seen so far; a model call moves it on after its last layer."""
        self.segments: Tensor | None = None
        """Segment numbers (B, S) of the tokens seen; None while every row is one text."""

    @property
    def max_tokens(self) -> int:
        return self.keys.shape[3]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, G, T, D) behind what is there; give all of it, (B, G, S, D)."""
        start, end = self.length, self.length + keys.shape[2]
        self.keys[layer, :, :, start:end] = keys
        self.values[layer, :, :, start:end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def note(self, num_tokens: int, segments: Tensor | None) -> Tensor | None:
        """Segment numbers (B, S) with those of the T tokens that come, which continue their row's last without any."""
        if self.segments is None and segments is None:
            return None
        batch_size, seen = self.keys.shape[1], self.segments
        if seen is None:
            seen = self.keys.new_ones((batch_size, self.length), dtype=torch.int64)
        if segments is None:
            segments = seen[:, -1:].expand(batch_size, num_tokens)
        self.segments = torch.cat((seen, segments.to(seen)), dim=1)
        return self.segments

    def select(self, rows: Tensor) -> None:
        """Keep these sequences (int64 indices into the batch, repeats allowed) in this order, as beam search does."""
        self.keys, self.values = (self._selected(kept, rows) for kept in (self.keys, self.values))
        if self.segments is not None:
            self.segments = self.segments[rows]

    def _selected(self, kept: Tensor, rows: Tensor) -> Tensor:
        used = kept[:, rows, :, : self.length]
        if len(rows) != kept.shape[1]:
            layers, _, heads, max_tokens, size = kept.shape
            kept = kept.new_zeros((layers, len(rows), heads, max_tokens, size))
        kept[:, :, :, : self.length] = used
        return kept
