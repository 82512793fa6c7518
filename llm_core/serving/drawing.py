"""Which tokens come next, for rows of one step that each have settings and a random stream of their own.

Dimensions: W rows of a step whose logits are known, B answers, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from llm_core.generate import Token
from llm_core.generate.sampling import NEVER, Penalties, RandomStreams, choose

if TYPE_CHECKING:
    from llm_core.kernels import StepResult
    from llm_core.serving.jobs import Job

LEAST = -1e30


class Draw:
    """How one answer's tokens are drawn: its settings, what they have to remember, and its random stream."""

    def __init__(self, job: Job) -> None:
        sampling = job.sampling
        self.num_top = job.num_top
        self.streams = RandomStreams([sampling.seed])
        self.sampling = sampling
        self.kind = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p)
        """What rows must have in common to be drawn together; penalties are applied before, row by row."""
        penalties = Penalties(sampling, [job.ids], job.stop_ids)
        self._penalties = None if penalties.changes_nothing else penalties
        self._form = None if job.constraint is None else job.constraint.begin()
        self._written: list[int] = []

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken as it is."""
        return self.sampling.temperature == 0 and self._penalties is None and self._form is None

    def note(self, token_id: int) -> None:
        """Remember a token that was written, for those that penalties and forms look at."""
        if self._penalties is not None:
            self._written.append(token_id)
        if self._form is not None:
            self._form.note(token_id)

    def scores(self, logits: np.ndarray) -> torch.Tensor:
        """Logits (V) as the draw sees them, (V)."""
        scores = torch.from_numpy(logits)
        if self._penalties is not None:
            written = torch.tensor([self._written], dtype=torch.int64)
            scores = self._penalties.apply(scores[None], written)[0]
        if self._form is not None:
            allowed = torch.from_numpy(self._form.allowed())
            # A ban (min_tokens, logit_bias) of all that the form allows would leave nothing to draw.
            scores = torch.where(allowed, scores.clamp_min(LEAST), NEVER)
        return scores


def draw_tokens(draws: Sequence[Draw], rows: np.ndarray, result: StepResult) -> list[Token]:
    """The next token of each answer from its row (B) of the step's results."""
    if not draws:
        return []
    chosen = result.likeliest[rows].astype(np.int64)
    together: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for place, draw in enumerate(draws):
        if not draw.is_greedy and np.isfinite(result.logsumexp[rows[place]]):
            together[draw.kind].append(place)
    for places in together.values():
        scores = torch.stack([draws[place].scores(result.logits[rows[place]]) for place in places])
        streams = RandomStreams.together([draws[place].streams for place in places])
        chosen[places] = choose(scores, draws[places[0]].sampling, streams).numpy()
    return tokens_of(result, rows, chosen, [draw.num_top for draw in draws])


def prompt_tokens(job: Job, result: StepResult, rows: range, num_read: int) -> list[Token]:
    """The tokens that rows of the prompt say something about, behind the `num_read` first: each the one behind it."""
    ids = np.array(job.ids[num_read + 1 : num_read + 1 + len(rows)], np.int64)
    return tokens_of(result, np.array(rows[: len(ids)], np.int64), ids, [job.num_top] * len(ids))


def tokens_of(result: StepResult, rows: np.ndarray, ids: np.ndarray, num_tops: Sequence[int]) -> list[Token]:
    """Tokens (B) with the model's own log-probabilities, and the likeliest alternatives where they are asked for."""
    logprobs = result.logits[rows, ids] - result.logsumexp[rows]
    found = [Token(token_id, logprob) for token_id, logprob in zip(ids.tolist(), logprobs.tolist(), strict=True)]
    return [
        replace(token, top=_likeliest(result, row, num_top)) if num_top else token
        for token, row, num_top in zip(found, rows, num_tops, strict=True)
    ]


def _likeliest(result: StepResult, row: int, count: int) -> tuple[tuple[int, float], ...]:
    logprobs = torch.from_numpy(result.logits[row]) - result.logsumexp[row]
    top = logprobs.topk(min(count, len(logprobs)))
    return tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True))
