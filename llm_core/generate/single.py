"""One sequence, token by token, as a server or a terminal shows it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from llm_core.generate.reading import Reading, beginnings, room_for_answer
from llm_core.generate.sampling import Penalties, RandomStreams, Sampling, Token, choose


def generate(
    model: nn.Module,
    ids: Sequence[int],
    *,
    max_tokens: int,
    stop_ids: Collection[int] = (),
    **settings: Any,
) -> Iterator[int]:
    """Continue the prompt `ids` until a stop id (not given out), `max_tokens` or the end of the context.

    `model` is a language model of ``llm_core.models`` in evaluation mode; `settings` are those of Sampling. Equal
    arguments give equal ids. Raises ContextExceeded at once when the prompt fills the context.
    """
    tokens = decode(model, ids, max_tokens=max_tokens, sampling=Sampling(**settings), stop_ids=stop_ids)
    return _until_stop(tokens, frozenset(stop_ids))


def decode(
    model: nn.Module,
    ids: Sequence[int],
    *,
    max_tokens: int,
    sampling: Sampling,
    num_top: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[Token]:
    """Like `generate`, but tells log-probabilities, with `num_top` alternatives for each token, and goes on behind
    stop ids, which only `min_tokens` needs to know.

    The arguments are checked here, before the first token is asked for.
    """
    room = room_for_answer(model, ids)
    return _decode(model, list(ids), min(max_tokens, room), sampling, num_top, stop_ids)


def _until_stop(tokens: Iterator[Token], stop_ids: frozenset[int]) -> Iterator[int]:
    for token in tokens:
        if token.id in stop_ids:
            return
        yield token.id


def _decode(
    model: nn.Module, ids: list[int], max_tokens: int, sampling: Sampling, num_top: int, stop_ids: Collection[int]
) -> Iterator[Token]:
    if max_tokens < 1:
        return
    streams, penalties = RandomStreams([sampling.seed]), Penalties(sampling, beginnings(model, [ids]), stop_ids)
    reading = Reading(model, [ids], max_tokens)
    for num_left in reversed(range(max_tokens)):
        chosen = choose(penalties.apply(reading.logits, reading.written), sampling, streams)
        yield _token(reading.logits[0], int(chosen), num_top)
        if num_left:
            reading.read(chosen)


def _token(logits: Tensor, chosen: int, num_top: int) -> Token:
    logprobs = logits.log_softmax(-1)
    if not num_top:
        return Token(id=chosen, logprob=float(logprobs[chosen]))
    top = logprobs.topk(min(num_top, len(logprobs)))
    return Token(chosen, float(logprobs[chosen]), tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
