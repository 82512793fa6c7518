"""The seam between generation and models: read prompts once, then a token of each sequence at a time.

Decoders, recurrent networks and encoder-decoders look the same from here. Dimensions: B sequences, L tokens of the
longest text, N tokens behind the prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llm_core.generate.sampling import check_finite


class ContextExceeded(ValueError):
    """A prompt that leaves no room for an answer in the model's context; the message names both lengths."""


def reads_a_source(model: nn.Module) -> bool:
    """Whether the prompt goes into an encoder of its own and the answer begins afresh."""
    return getattr(model, "task", None) == "seq2seq_lm"


def room_for_answer(model: nn.Module, ids: Sequence[int]) -> int:
    """Tokens that fit behind the prompt; raises ContextExceeded when there are none."""
    if not ids:
        raise ValueError("the prompt has no tokens; give at least one (the end-of-text id starts a document)")
    config: Any = model.config
    context: int = config.context
    if reads_a_source(model):
        if len(ids) > context:
            raise ContextExceeded(f"this model reads {context} tokens and the source has {len(ids)}; shorten it")
        return context
    if len(ids) >= context:
        raise ContextExceeded(
            f"this model's context is {context} tokens and the prompt has {len(ids)}; "
            "shorten it so that at least one token is left for the answer"
        )
    return context - len(ids)


def rooms_for_answers(model: nn.Module, prompts: Sequence[Sequence[int]], max_tokens: int | Sequence[int]) -> list[int]:
    """How many tokens each answer may have: at most `max_tokens`, one limit for all or one for each prompt."""
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    return [min(limit, room_for_answer(model, prompt)) for limit, prompt in zip(limits, prompts, strict=True)]


def beginnings(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """What the answers are continuations of: the prompts, or the start id where a prompt is a source to read."""
    config: Any = model.config
    return [[config.start_id]] * len(prompts) if reads_a_source(model) else prompts


class Reading:
    """A model in the middle of some sequences."""

    logits: Tensor
    """Those of the token that comes next, (B, V), in float32 on the CPU."""
    written: Tensor
    """The tokens (B, N) that were read behind the prompts."""

    def __init__(self, model: nn.Module, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        self._model: Any = model  # torch types a module's own attributes as tensors
        self._device = next(model.parameters()).device
        self._has_source = reads_a_source(model)
        self._prompts, self._max_tokens = list(prompts), max_tokens
        self.written = torch.empty((len(prompts), 0), dtype=torch.int64)
        self._begin()

    # Not a `with` around a loop: a generator would leave the mode switched on between two of its tokens.
    @torch.inference_mode()
    def read(self, ids: Tensor) -> None:
        """Append a token (B,) to each sequence."""
        self.written = torch.cat((self.written, ids[:, None]), dim=1)
        if self._num_read == self._room:
            self._begin()
            return
        ids = ids.to(self._device)[:, None]
        inputs = (None, ids) if self._has_source else (ids,)
        self._keep(self._model(*inputs, cache=self._cache), num_tokens=1)

    @torch.inference_mode()
    def select(self, rows: Tensor) -> None:
        """Keep these sequences (int64 indices, repeats allowed) in this order."""
        self._cache.select(rows.to(self._device))
        self.logits, self.written = self.logits[rows], self.written[rows]
        self._prompts = [self._prompts[row] for row in rows.tolist()]

    @torch.inference_mode()
    def _begin(self) -> None:
        """Read all there is. With prompts of several lengths that happens again where the longest text has filled the
        context: it is complete then, and without it the others need less padding in front."""
        if self._has_source:
            self._room, self._num_read = 1 + self._max_tokens, 0
            self._cache = self._model.new_cache(batch_size=len(self._prompts), max_tokens=self._room)
            ids, inputs = self._padded(self._prompts)
            first = torch.tensor(beginnings(self._model, self._prompts), device=self._device)
            self._keep(self._model(ids, first, cache=self._cache, **inputs), num_tokens=1)
            return
        texts = [[*ids, *more] for ids, more in zip(self._prompts, self.written.tolist(), strict=True)]
        ids, inputs = self._padded(texts)
        left = self._max_tokens - self.written.shape[1]
        self._room, self._num_read = min(ids.shape[1] + left, self._model.config.context), 0
        self._cache = self._model.new_cache(batch_size=len(texts), max_tokens=self._room)
        self._keep(self._model(ids, cache=self._cache, **inputs), num_tokens=ids.shape[1])

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Ids (B, L) with padding in front, and the segments that mark it where there is any."""
        longest = max(map(len, texts))
        # No other token sees the one that fills up, and 0 is in every vocabulary.
        ids = torch.tensor([[0] * (longest - len(text)) + list(text) for text in texts], device=self._device)
        if all(len(text) == longest for text in texts):
            return ids, {}
        marks = [[0] * (longest - len(text)) + [1] * len(text) for text in texts]
        return ids, {"segments": torch.tensor(marks, device=self._device)}

    def _keep(self, output: Any, num_tokens: int) -> None:
        self._num_read += num_tokens
        self.logits = output.logits[:, -1].detach().float().cpu()
        check_finite(self.logits)
