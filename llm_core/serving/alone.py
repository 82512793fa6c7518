"""Answers of models that the kernel does not run (LSTM, encoder-decoders, models on a GPU): each decoded by itself.

They take turns, a token each, so that short answers never wait for long ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from llm_core.generate import NotFinite, Token, decode
from llm_core.serving.counts import Counts
from llm_core.serving.jobs import Answer, Job


class AloneRunner:
    """All answers of one model version; one thread steps it."""

    is_idle = False
    trouble: str | None = None
    cache_usage = 0.0
    can_constrain = False
    num_bytes = 0

    def __init__(self, max_running: int) -> None:
        self.counts = Counts()
        self._max_running = max_running
        self._running: list[tuple[Answer, Iterator[Token]]] = []
        self._waiting: deque[Answer] = deque()

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, answer: Answer) -> None:
        """Take an answer in; it runs as soon as there is room."""
        self._waiting.append(answer)

    def step(self) -> None:
        """A token of each answer; those that are complete or cancelled leave."""
        while self._waiting and len(self._running) < self._max_running:
            self._begin(self._waiting.popleft())
        self._running = [(answer, tokens) for answer, tokens in self._running if self._advance(answer, tokens)]
        self.counts.steps += 1

    def fail_all(self, message: str, is_shutdown: bool = False) -> None:
        """End every answer with an error."""
        answers = [*(answer for answer, _ in self._running), *self._waiting]
        self._running, self._waiting = [], deque()
        for answer in answers:
            answer.fail(message, is_shutdown)

    def close(self) -> None:
        """Nothing is held outside of this process."""

    def _begin(self, answer: Answer) -> None:
        job = answer.job
        answer.begin()
        self.counts.prompt_tokens += len(job.ids)
        tokens = (
            decode(
                job.model.network,
                job.ids,
                max_tokens=answer.limit,
                sampling=job.sampling,
                num_top=job.num_top,
                stop_ids=job.stop_ids,
            )
            if answer.limit
            else iter(())
        )
        self._running.append((answer, tokens))

    def _advance(self, answer: Answer, tokens: Iterator[Token]) -> bool:
        """Write one token; False when the answer leaves."""
        if answer.is_cancelled:
            return False
        try:
            if answer.job.tells_prompt and not answer.num_tokens:
                answer.tell_prompt(prompt_of(answer.job))
            token = next(tokens, None)
        except NotFinite as problem:
            answer.fail(str(problem))
            return False
        if token is None:
            return answer.finish("length")
        self.counts.written_tokens += 1
        return answer.take(token)


@torch.inference_mode()
def prompt_of(job: Job) -> tuple[Token, ...]:
    """The prompt's tokens behind the first, with the model's log-probabilities; of decoders and recurrent networks."""
    network: Any = job.model.network
    ids = torch.tensor([job.ids], device=next(network.parameters()).device)
    logprobs = network(ids).logits[0, :-1].float().cpu().log_softmax(-1)  # (T - 1, V)
    told = logprobs.gather(1, ids[0, 1:, None].cpu())[:, 0].tolist()
    if not job.num_top:
        return tuple(Token(token_id, logprob) for token_id, logprob in zip(job.ids[1:], told, strict=True))
    values, places = logprobs.topk(min(job.num_top, logprobs.shape[1]))
    tops = [tuple(zip(each, some, strict=True)) for each, some in zip(places.tolist(), values.tolist(), strict=True)]
    return tuple(Token(*each) for each in zip(job.ids[1:], told, tops, strict=True))
