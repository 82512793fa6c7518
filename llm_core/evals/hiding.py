"""How well a model that fills in what is hidden predicts a text: every token is hidden once and has to be found.

The sum of the tokens' losses is the pseudo-likelihood (Salazar et al., 2020), not the length of a code: each token is
predicted with text behind it in sight. It compares models of one kind with each other, and not with decoders.
Dimensions: T tokens of a window, P rounds, in each of which another share of the window is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_core.data import IGNORED, Batch, Mask
from llm_core.models.interface import Network
from llm_core.objectives import MASK, pad, pairs, sentinel
from llm_core.tokenizer import Tokenizer

Ids = npt.NDArray[np.int64]
ROUNDS = 7  # one in seven tokens is hidden, about the share that the objectives train with
SPAN_TOKENS = 3
ROWS = 8 * ROUNDS  # of one forward pass
FILLING_TASKS = ("masked_lm", "seq2seq_lm")


@dataclass(frozen=True)
class Hiding:
    """What stands in the place of hidden tokens."""

    first_id: int
    """The mask, or the first sentinel."""
    start_id: int | None
    """What a decoder reads first; None hides single tokens behind a mask."""

    @classmethod
    def of(cls, network: Network, tokenizer: Tokenizer) -> Hiding | None:
        """How to hide from this network; None for one that predicts next tokens. Raises ValueError without a mask."""
        if network.task not in FILLING_TASKS:
            return None
        spans = network.task == "seq2seq_lm"
        name = sentinel(0) if spans else MASK
        found = tokenizer.control_id(name)
        if found is None:
            raise ValueError(
                f"the tokenizer has no {name}, which hides tokens from a {network.task}; train it with one"
            )
        config: Any = network.config
        return cls(found, config.start_id if spans else None)

    def batches(self, ids: Ids, context: int) -> Iterator[Batch]:
        """Batches that together hide every token (T,) of a document once, the end id behind it excepted."""
        rows = list(self._rows(ids, context))
        for first in range(0, len(rows), ROWS):
            questions, answers = zip(*rows[first : first + ROWS], strict=True)
            yield self._batch(questions, answers)

    def _rows(self, ids: Ids, context: int) -> Iterator[tuple[list[int], list[int]]]:
        """What is read and what is asked, of each window and round in which something is hidden."""
        for first in range(0, len(ids), context):
            window = ids[first : first + context]
            places = np.arange(len(window))
            unit = 1 if self.start_id is None else SPAN_TOKENS
            for number in range(ROUNDS):
                hidden = (places // unit % ROUNDS == number) & (places + first < len(ids) - 1)
                if hidden.any():
                    yield self._masked(window, hidden) if self.start_id is None else self._cut_out(window, hidden)

    def _batch(self, questions: Sequence[list[int]], answers: Sequence[list[int]]) -> Batch:
        if self.start_id is not None:
            batch = pairs(questions, answers, self.start_id, pad_id=self.start_id)
            # What a sentinel costs belongs to the question, not to the text.
            return Batch(batch.inputs, batch.targets.where(batch.targets < self.first_id, IGNORED))
        shown, segments = pad(questions, self.first_id)
        return Batch({"input_ids": shown, "segments": segments}, pad(answers, IGNORED)[0])

    def _masked(self, window: Ids, hidden: Mask) -> tuple[list[int], list[int]]:
        return np.where(hidden, self.first_id, window).tolist(), np.where(hidden, window, IGNORED).tolist()

    def _cut_out(self, window: Ids, hidden: Mask) -> tuple[list[int], list[int]]:
        source: list[int] = []
        target: list[int] = []
        edges = np.flatnonzero(np.diff(hidden, prepend=False, append=False)).reshape(-1, 2).tolist()
        before = 0
        for mark, (first, end) in enumerate(edges, start=self.first_id):
            source += [*window[before:first].tolist(), mark]
            target += [mark, *window[first:end].tolist()]
            before = end
        return [*source, *window[before:].tolist()], [*target, self.first_id + len(edges)]
