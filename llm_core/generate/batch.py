"""Many sequences at once: prompts of any lengths, several answers to each, none of which depends on the others.

Dimensions: B sequences that still run, N tokens generated so far, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from llm_core.generate.reading import Reading, beginnings, rooms_for_answers
from llm_core.generate.sampling import Penalties, RandomStreams, Sampling, choose
from llm_core.generate.stop import StopStrings, TextStream

Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generated:
    """A finished answer."""

    ids: tuple[int, ...]
    """Its tokens, without the stop id that ended it."""
    score: float
    """Sum of the model's own log-probabilities (natural) of these tokens and of the stop id; of beam search, divided by
    the number of tokens to the power of the length penalty."""
    reason: Reason
    """Whether a stop id or stop string ended it, or its length."""
    text: str | None = None
    """What it says up to a stop string, where a `new_text` was given."""


def generate_batch(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | Sequence[int],
    sampling: Sampling | None = None,
    num_return_sequences: int = 1,
    seeds: Sequence[int] | None = None,
    stop_ids: Collection[int] = (),
    stop: Sequence[str] = (),
    new_text: Callable[[Sequence[int]], TextStream] | None = None,
) -> list[list[Generated]]:
    """For each prompt `num_return_sequences` answers of at most `max_tokens`, one limit for all or one for each.

    Sequence i (answer i % num_return_sequences of prompt i // num_return_sequences) is drawn from `seeds[i]`, or from
    ``sampling.seed + i``, and is the same whatever else is in the batch. A prompt is read once however many answers it
    gets. Stop strings need `new_text`, which makes, for a prompt's ids, what turns the ids behind it into text
    (``lambda prompt: StreamDecoder(tokenizer)``).
    """
    sampling = sampling or Sampling()
    rooms = rooms_for_answers(model, prompts, max_tokens)
    if stop and new_text is None:
        raise ValueError("stop strings need new_text, which turns ids into text")
    if num_return_sequences < 1:
        raise ValueError(f"num_return_sequences {num_return_sequences} must be at least 1")
    total = len(prompts) * num_return_sequences
    seeds = [sampling.seed + place for place in range(total)] if seeds is None else seeds
    if len(seeds) != total:
        raise ValueError(f"{len(seeds)} seeds for {total} sequences; give each one a seed")
    answers = [
        _Answer(room, StopStrings(stop), None if new_text is None else new_text(prompt))
        for prompt, room in zip(prompts, rooms, strict=True)
        for _ in range(num_return_sequences)
    ]
    if writing := [place for place, answer in enumerate(answers) if answer.room > 0]:
        asked = [prompt for prompt, room in zip(prompts, rooms, strict=True) if room > 0]
        to_fill, drawn = [answers[place] for place in writing], [seeds[place] for place in writing]
        _write(model, asked, to_fill, sampling, drawn, frozenset(stop_ids))
    finished = [answer.finished() for answer in answers]
    return [finished[start : start + num_return_sequences] for start in range(0, total, num_return_sequences)]


@dataclass
class _Answer:
    """An answer in the making."""

    room: int
    stop: StopStrings
    stream: TextStream | None
    ids: list[int] = field(default_factory=list)
    score: float = 0.0
    reason: Reason = "length"
    text: str = ""

    def push(self, token_id: int, logprob: float, stop_ids: frozenset[int]) -> bool:
        """Take a token; False when the answer is complete."""
        self.score += logprob
        if token_id in stop_ids:
            self.reason = "stop"
            return False
        self.ids.append(token_id)
        if self.stream is not None:
            self.text += self.stop.feed(self.stream.push(token_id))
        return not self.stop.is_hit and len(self.ids) < self.room

    def finished(self) -> Generated:
        if self.stream is not None:
            self.text += self.stop.feed(self.stream.finish()) + self.stop.flush()
        reason: Reason = "stop" if self.stop.is_hit else self.reason
        return Generated(tuple(self.ids), self.score, reason, None if self.stream is None else self.text)


def _write(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    answers: list[_Answer],
    sampling: Sampling,
    seeds: Sequence[int],
    stop_ids: frozenset[int],
) -> None:
    """Fill the answers, which stand in the order of their prompts; those that are complete leave the batch."""
    reading = Reading(model, prompts, max(answer.room for answer in answers))
    penalties, streams = Penalties(sampling, beginnings(model, prompts), stop_ids), RandomStreams(seeds)
    if len(answers) != len(prompts):
        rows = torch.arange(len(prompts)).repeat_interleave(len(answers) // len(prompts))
        reading.select(rows)
        penalties.select(rows)
    while True:
        chosen = choose(penalties.apply(reading.logits, reading.written), sampling, streams)
        logprobs = _logprobs(reading.logits, chosen)
        taken = zip(answers, chosen.tolist(), logprobs.tolist(), strict=True)
        goes_on = [answer.push(token_id, logprob, stop_ids) for answer, token_id, logprob in taken]
        if not all(goes_on):
            kept = [row for row, is_open in enumerate(goes_on) if is_open]
            if not kept:
                return
            rows, answers = torch.tensor(kept), [answers[row] for row in kept]
            reading.select(rows)
            penalties.select(rows)
            streams.select(kept)
            chosen = chosen[rows]
        reading.read(chosen)


def _logprobs(logits: Tensor, chosen: Tensor) -> Tensor:
    """The model's own log-probabilities (B,) of the tokens chosen from logits (B, V)."""
    return logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
