"""What the encoder-decoders share: how they are called, their cache, and which source tokens a decoder sees.

An encoder-decoder is called as ``model(input_ids, decoder_input_ids, segments=.., decoder_segments=.., cache=..)``.
One token after the other it goes like a decoder with a cache, once the source was read::

    cache = model.new_cache(batch_size, max_tokens)                              # room for the decoder's ids
    logits = model(input_ids, first_ids, segments=segments, cache=cache).logits  # the source stays in the cache
    logits = model(None, next_ids, cache=cache).logits                           # as often as wanted
    cache.select(rows)                                                           # other beams, any number of them

`first_ids` (B, T) begin with ``model.config.start_id``; ``model.config.end_id`` ends a text.

Dimensions: B sequences, T decoder tokens of a call, S source tokens, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llm_core.models.cache import KeyValueCache


class Seq2SeqCache(KeyValueCache):
    """Keys and values of the decoder's tokens seen so far, and those of the source, which are made once."""

    source: Sequence[tuple[Tensor, ...]] = ()
    """For each layer the keys and values (B, H, S, D) of the encoded source; empty until a source was read."""
    source_segments: Tensor | None = None
    """The source's segment numbers (B, S), none where each row is one text."""

    def read(self, source: Sequence[tuple[Tensor, ...]], segments: Tensor | None) -> None:
        """Take what the decoder's layers look up in the source, and the source's segments."""
        self.source, self.source_segments = source, segments

    def select(self, rows: Tensor) -> None:
        """Keep these sequences (int64 indices into the batch, repeats allowed) in this order."""
        super().select(rows)
        self.source = [(keys[rows], values[rows]) for keys, values in self.source]
        if self.source_segments is not None:
            self.source_segments = self.source_segments[rows]


class EncoderDecoder(nn.Module):
    """An encoder-decoder's call, put together from three parts that each family has its own way of."""

    def encode(self, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
        """The encoder's states (B, S, C)."""
        raise NotImplementedError

    def source_keys_values(self, source: Tensor) -> list[tuple[Tensor, ...]]:
        """What each decoder block looks up in the encoded source (B, S, C): keys and values (B, H, S, D)."""
        raise NotImplementedError

    def decode(
        self,
        ids: Tensor,
        start: int,
        segments: Tensor | None,
        source: Tensor | None,
        seen: Tensor | None,
        cache: Seq2SeqCache | None,
    ) -> Tensor:
        """The decoder's states (B, T, C) of the ids (B, T), which are the places from `start` on.

        `segments` (B, start + T) begin at place 0. The `source` stays in the cache where there is one; `seen` is the
        mask of `source_mask`.
        """
        raise NotImplementedError

    def states(
        self,
        input_ids: Tensor | None,
        decoder_input_ids: Tensor,
        segments: Tensor | None = None,
        decoder_segments: Tensor | None = None,
        cache: Seq2SeqCache | None = None,
    ) -> Tensor:
        """The decoder's states (B, T, C); the call is that of this module's head."""
        check_call(input_ids, decoder_input_ids, cache)
        source = None if input_ids is None else self.encode(input_ids, segments)
        start, length = 0, decoder_input_ids.shape[1]
        if cache is not None:
            if source is not None:
                cache.read(self.source_keys_values(source), segments)
            segments, start = cache.source_segments, cache.length
            decoder_segments = cache.note(length, decoder_segments)
        seen = source_mask(segments, None if decoder_segments is None else decoder_segments[:, start:])
        x = self.decode(decoder_input_ids, start, decoder_segments, source, seen, cache)
        if cache is not None:
            cache.length = start + length
        return x


def check_call(input_ids: Tensor | None, decoder_input_ids: Tensor, cache: Seq2SeqCache | None) -> None:
    """Refuse calls that make no sense, in words that say what to do."""
    if cache is None:
        if input_ids is None:
            raise ValueError("an encoder-decoder without a cache reads a source: give input_ids")
        return
    if input_ids is None and not cache.source:
        raise ValueError("the cache holds no source yet: give input_ids with the first decoder_input_ids")
    if input_ids is not None and cache.length:
        raise ValueError("the cache holds the beginning of another text: take a new one for another source")
    end = cache.length + decoder_input_ids.shape[1]
    if end > cache.max_tokens:
        raise ValueError(f"{end} tokens do not fit: the cache has room for {cache.max_tokens}; give it fewer")


def source_mask(segments: Tensor | None, decoder_segments: Tensor | None) -> Tensor | None:
    """True where a decoder token sees a source token, (B, 1, T or 1, S); none where all see all.

    A decoder text sees the source of its own number. Without `decoder_segments` all that is not padding (0) is seen, as
    Hugging Face's attention mask has it; without `segments` the source is one text, which is everybody's.
    """
    if segments is None:
        return None
    if decoder_segments is None:
        return (segments != 0)[:, None, None, :]
    queries = decoder_segments[:, None, :, None]
    return (queries == segments[:, None, None, :]) | (queries == 0)  # padding sees anything: nothing would give NaN


def shift_right(ids: Tensor, start_id: int) -> Tensor:
    """The decoder's input (B, T) that predicts `ids`: each one place later, behind `start_id`."""
    return torch.cat((torch.full_like(ids[:, :1], start_id), ids[:, :-1]), dim=1)
