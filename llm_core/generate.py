"""Text generation: one token at a time from a causal model, with a key/value cache and a random stream of its own.

Dimensions: T tokens of a call, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class NotFinite(ValueError):
    """A model whose output is not a number any more; its weights are damaged or its training diverged."""


class ContextExceeded(ValueError):
    """A prompt that leaves no room for an answer in the model's context; the message names both lengths."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; the order is temperature, then top_k, then top_p."""

    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = 1.0
    """Keep the likeliest tokens whose probabilities reach this sum (nucleus sampling, Holtzman et al. 2020)."""
    top_k: int = 0
    """Keep this many of the likeliest tokens; 0 keeps all."""
    seed: int = 0
    """Seed of this request's own random stream."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} must be a finite number of at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be at least 0 (0 keeps all tokens)")


@dataclass(frozen=True)
class Token:
    """A generated token with the model's own log-probabilities (natural, before temperature and cuts)."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at this position and their log-probabilities, best first."""


def generate(
    model: nn.Module,
    ids: Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Continue the prompt `ids` until a stop id (not given out), `max_tokens` or the end of the context.

    `model` is one of ``llm_core.models``: its call gives ``.logits`` and fills the cache of ``model.new_cache``.
    Equal arguments give equal ids. Raises ContextExceeded at once when the prompt fills the context.
    """
    tokens = decode(model, ids, max_tokens=max_tokens, sampling=Sampling(temperature, top_p, top_k, seed))
    return _until_stop(tokens, frozenset(stop_ids))


def decode(
    model: nn.Module, ids: Sequence[int], *, max_tokens: int, sampling: Sampling, num_top: int = 0
) -> Iterator[Token]:
    """Like `generate`, but knows no stop ids and tells log-probabilities, with `num_top` alternatives for each token.

    The arguments are checked here, before the first token is asked for.
    """
    room = room_for_answer(model, ids)
    return _decode(model, list(ids), min(max_tokens, room), sampling, num_top)


def room_for_answer(model: nn.Module, ids: Sequence[int]) -> int:
    """Tokens that fit behind the prompt; raises ContextExceeded when there are none."""
    if not ids:
        raise ValueError("the prompt has no tokens; give at least one (the end-of-text id starts a document)")
    config: Any = model.config
    room: int = config.context - len(ids)
    if room < 1:
        raise ContextExceeded(
            f"this model's context is {config.context} tokens and the prompt has {len(ids)}; "
            "shorten it so that at least one token is left for the answer"
        )
    return room


def _until_stop(tokens: Iterator[Token], stop_ids: frozenset[int]) -> Iterator[int]:
    for token in tokens:
        if token.id in stop_ids:
            return
        yield token.id


def _decode(model: nn.Module, ids: list[int], max_tokens: int, sampling: Sampling, num_top: int) -> Iterator[Token]:
    causal: Any = model  # torch types a module's own attributes as tensors
    cache = causal.new_cache(batch_size=1, max_tokens=len(ids) + max_tokens)
    random = torch.Generator().manual_seed(sampling.seed)
    unread = ids
    for _ in range(max_tokens):
        logits = _read(model, unread, cache)
        token = _choose(logits, sampling, random, num_top)
        yield token
        unread = [token.id]


# Not a `with` around the loop: a generator would leave the mode switched on between two of its tokens.
@torch.inference_mode()
def _read(model: nn.Module, ids: list[int], cache: Any) -> Tensor:
    """Append `ids` to the cache and give the logits (V) behind the last one, in float32 on the CPU."""
    device = next(model.parameters()).device
    logits: Tensor = model(torch.tensor([ids], device=device), cache=cache).logits[0, -1].float().cpu()
    if not logits.isfinite().all():
        raise NotFinite("the model's output holds NaN or infinity; train it again or serve another version")
    return logits


@torch.inference_mode()
def _choose(logits: Tensor, sampling: Sampling, random: torch.Generator, num_top: int) -> Token:
    """Draw one token from logits (V)."""
    logprobs = logits.log_softmax(-1)
    if sampling.temperature == 0:
        chosen = int(logits.argmax())
    else:
        chosen = int(torch.multinomial(_allowed(logits, sampling), 1, generator=random))
    top = logprobs.topk(min(num_top, len(logprobs))) if num_top else None
    alternatives = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)) if top else ()
    return Token(id=chosen, logprob=float(logprobs[chosen]), top=alternatives)


def _allowed(logits: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities (V) of the tokens that the cuts leave, zero for the others."""
    # Shifted first, so that a tiny temperature cannot overflow.
    logits = (logits - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], float("-inf"))
    probabilities = logits.softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        # The token that crosses the sum stays, hence the sum before each token is compared.
        is_cut = ordered.cumsum(-1) - ordered >= sampling.top_p
        probabilities = probabilities.index_fill(0, order[is_cut], 0.0)
    return probabilities
