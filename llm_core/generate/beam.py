"""Beam search: of all continuations of the best few texts the best few, until none can beat those that are complete.

It gives what `transformers` gives for the same settings. Dimensions: P prompts, W beams of each, V vocabulary,
K candidates of a step, N tokens generated so far.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from llm_core.generate.batch import Generated
from llm_core.generate.reading import Reading, beginnings, rooms_for_answers
from llm_core.generate.sampling import NEVER, Penalties, Sampling

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True)
class Beams:
    """How wide is searched, and when the search ends."""

    num_beams: int = 4
    """Texts of each prompt that are continued at a time."""
    length_penalty: float = 1.0
    """A complete text's sum of log-probabilities is divided by its length to this power; above 0 favours long ones."""
    early_stopping: EarlyStopping = False
    """True ends when `num_beams` texts are complete. False ends when the best running text, scored as if it ended now,
    is not better than the worst complete one; "never" when, at its best possible length, it cannot become better."""
    num_return_sequences: int = 1
    """How many of the complete texts are given."""

    def __post_init__(self) -> None:
        if self.num_beams < 2:
            raise ValueError(f"num_beams {self.num_beams} must be at least 2 (one beam is temperature 0)")
        if not 1 <= self.num_return_sequences <= self.num_beams:
            raise ValueError(
                f"num_return_sequences {self.num_return_sequences} must be at least 1 "
                f"and at most num_beams, {self.num_beams}"
            )
        if self.early_stopping not in (True, False, "never"):
            raise ValueError(f"early_stopping {self.early_stopping!r} must be true, false or 'never'")
        if not abs(self.length_penalty) < float("inf"):
            raise ValueError(f"length_penalty {self.length_penalty} must be a finite number")


def beam_search(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | Sequence[int],
    beams: Beams,
    penalties: Sampling | None = None,
    stop_ids: Collection[int] = (),
) -> list[list[Generated]]:
    """For each prompt the best complete texts, best first; fewer than asked for where the vocabulary gives no more.

    A text is complete with a stop id, which is not given out but counts, or with `max_tokens`, or where the context
    ends. Of `penalties` all settings that draw nothing are used; those of the draw are ignored.
    """
    work = searching(model, prompts, max_tokens=max_tokens, beams=beams, penalties=penalties, stop_ids=stop_ids)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: list[list[Generated]] = end.value
            return found


def searching(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int | Sequence[int],
    beams: Beams,
    penalties: Sampling | None = None,
    stop_ids: Collection[int] = (),
) -> Generator[None, None, list[list[Generated]]]:
    """The same, a token at a time: yields after each, so that others get their turn."""
    rooms = rooms_for_answers(model, prompts, max_tokens)
    if rooms and min(rooms) < 1:
        raise ValueError(f"max_tokens {min(rooms)} must be at least 1 for beam search")
    searches = [_Search(beams, room, frozenset(stop_ids)) for room in rooms]
    if searches:
        drawn = Penalties(penalties or Sampling(), beginnings(model, prompts), stop_ids)
        yield from _search(model, prompts, searches, drawn)
    return [search.best() for search in searches]


def _search(
    model: nn.Module, prompts: Sequence[Sequence[int]], searches: list[_Search], penalties: Penalties
) -> Generator[None, None, None]:
    reading = Reading(model, prompts, max(search.max_tokens for search in searches))
    while True:
        logprobs = penalties.apply(reading.logits.log_softmax(-1), reading.written)
        parts = logprobs.split([len(search.scores) for search in searches])
        starts = accumulate((len(part) for part in parts), initial=0)
        moves = [
            (search, start, search.advance(part)) for search, part, start in zip(searches, parts, starts, strict=False)
        ]
        searches = [search for search in searches if not search.is_over]
        if not searches:
            return
        rows = torch.cat([start + rows for search, start, rows in moves if not search.is_over])
        reading.select(rows)
        penalties.select(rows)
        yield
        reading.read(torch.cat([search.written[:, -1] for search in searches]))


@dataclass
class _Search:
    """The search for one prompt's texts. It begins with one beam, the empty text."""

    beams: Beams
    max_tokens: int
    stop_ids: frozenset[int]
    written: Tensor = field(default_factory=lambda: torch.empty((1, 0), dtype=torch.int64))
    """Running texts (W, N)."""
    scores: Tensor = field(default_factory=lambda: torch.zeros(1))
    """Their sums of log-probabilities (W,), best first."""
    complete: list[Generated] = field(default_factory=list)
    """The best complete texts, best first."""
    is_over: bool = False

    def advance(self, logprobs: Tensor) -> Tensor:
        """Take the log-probabilities (W, V) of the next tokens; gives the rows that the new beams continue."""
        num_beams, vocab_size = self.beams.num_beams, logprobs.shape[-1]
        totals = (logprobs + self.scores[:, None]).flatten()
        # So many that num_beams are left to go on even if every beam's best continuations are stop ids.
        num_candidates = min(max(2, 1 + len(self.stop_ids)) * num_beams, len(totals))
        best, places = totals.topk(num_candidates)
        rows, ids = places // vocab_size, places % vocab_size
        is_last = self.written.shape[1] + 1 >= self.max_tokens
        is_full = self.beams.early_stopping is True and len(self.complete) >= num_beams
        going: list[int] = []
        for place, (token_id, score) in enumerate(zip(ids.tolist(), best.tolist(), strict=True)):
            if score == NEVER:
                break
            stops = token_id in self.stop_ids
            if (stops or is_last) and place < num_beams and not is_full:
                self._complete(self.written[rows[place]].tolist(), token_id, score, stops)
            if not stops and not is_last and len(going) < num_beams:
                going.append(place)
        self.written = torch.cat((self.written[rows[going]], ids[going, None]), dim=1)
        self.scores = best[going]
        self.is_over = not going or self._cannot_improve()
        return rows[going]

    def best(self) -> list[Generated]:
        """The texts that are given."""
        return self.complete[: self.beams.num_return_sequences]

    def _complete(self, ids: list[int], last: int, total: float, stops: bool) -> None:
        score = total / (len(ids) + 1) ** self.beams.length_penalty
        text = Generated(tuple(ids if stops else [*ids, last]), score, "stop" if stops else "length")
        self.complete = sorted([*self.complete, text], key=lambda found: -found.score)[: self.beams.num_beams]

    def _cannot_improve(self) -> bool:
        if len(self.complete) < self.beams.num_beams:
            return False
        if self.beams.early_stopping is True:
            return True
        longest = self.beams.early_stopping == "never" and self.beams.length_penalty > 0
        length = self.max_tokens if longest else self.written.shape[1]
        return float(self.scores[0]) / length**self.beams.length_penalty <= self.complete[-1].score
