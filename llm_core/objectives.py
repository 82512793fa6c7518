"""What a language model is asked about a window of text: its next tokens, masked tokens, or spans that were cut out.

Each objective makes a batch of windows (``data.py``). Random choices follow from a window's own number, so that a batch
is the same whenever it is made. Dimensions: N windows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_core.config import Model, Train
from llm_core.data import IGNORED, Batch, Mask, Objective, Windows

FAMILY_OBJECTIVES = {"bert": "masked", "t5": "span", "transformer": "span"}
MASK = "<|mask|>"
Ids = NDArray[np.int64]


def objective_name(cfg: Train, architecture: Model) -> str:
    """The recipe's objective, or the family's own; raises ValueError for one that the family cannot learn."""
    own = FAMILY_OBJECTIVES.get(architecture.family, "causal")
    if own == "span" and cfg.document_mask:
        raise ValueError("train.document_mask true: spans are cut out of whole windows; set it to false")
    if cfg.objective not in ("auto", own):
        raise ValueError(f"train.objective {cfg.objective!r}: a {architecture.family} learns by {own!r} only")
    return own


def control_tokens(cfg: Train, architecture: Model) -> tuple[str, ...]:
    """What the objective adds to the vocabulary, in the order of the ids: a mask, or a sentinel for each span."""
    name = objective_name(cfg, architecture)
    if name == "span":
        num_spans = span_sizes(architecture.context, cfg.mask_share, cfg.span_tokens)[1]
        return tuple(sentinel(number) for number in range(num_spans + 1))
    return (MASK,) if name == "masked" else ()


def sentinel(number: int) -> str:
    """What stands for a span that was cut out, numbered from 0; T5's own name of it."""
    return f"<extra_id_{number}>"


def make_objective(cfg: Train, architecture: Model, vocab_size: int, end_id: int) -> Objective:
    """The recipe's objective for a tokenizer of `vocab_size` ids, whose control tokens come behind them."""
    name = objective_name(cfg, architecture)
    separator = end_id if cfg.document_mask else None
    if name == "masked":
        return Masked(cfg.mask_share, vocab_size, end_id, separator)
    if name == "span":
        return Spans(cfg.mask_share, cfg.span_tokens, vocab_size, end_id)
    return Causal(separator)


@dataclass(frozen=True)
class Causal:
    """The next token behind each."""

    separator: int | None = None
    """The id between two documents, where tokens may only see their own document."""

    def __call__(self, windows: Windows) -> Batch:
        ids = torch.from_numpy(windows.ids)
        inputs, targets = ids[:, :-1], ids[:, 1:]
        if windows.marks is not None:
            targets = targets.where(torch.from_numpy(windows.marks[:, 1:]), IGNORED)
        return Batch({"input_ids": inputs, **_segments(inputs, self.separator)}, targets)


@dataclass(frozen=True)
class Masked:
    """Tokens that were hidden: of the share, 8 of 10 show a mask, 1 any token, 1 themselves (Devlin et al., 2019)."""

    share: float
    mask_id: int
    """The id behind the tokenizer's last, which the mask has."""
    end_id: int
    """Never hidden."""
    separator: int | None = None

    def __call__(self, windows: Windows) -> Batch:
        original = windows.ids[:, :-1]
        shown, hidden = original.copy(), np.zeros(original.shape, dtype=np.bool_)
        for row, name in enumerate(windows.numbers):
            may_hide = original[row] != self.end_id
            if windows.marks is not None:
                may_hide &= windows.marks[row, :-1]
            hidden[row] = self._hide(shown[row], may_hide, np.random.default_rng(name))
        inputs = torch.from_numpy(shown)
        targets = torch.from_numpy(np.where(hidden, original, IGNORED))
        return Batch({"input_ids": inputs, **_segments(torch.from_numpy(original), self.separator)}, targets)

    def _hide(self, row: Ids, may_hide: Mask, rng: np.random.Generator) -> Mask:
        candidates = np.flatnonzero(may_hide)
        chosen = rng.choice(candidates, round(self.share * len(candidates)), replace=False)
        fate = rng.random(len(chosen))
        row[chosen[fate < 0.8]] = self.mask_id
        random = chosen[(fate >= 0.8) & (fate < 0.9)]
        row[random] = rng.integers(self.mask_id, size=len(random))
        return np.isin(np.arange(len(row)), chosen)


@dataclass(frozen=True)
class Spans:
    """Spans that were cut out, each behind its sentinel (Raffel et al., 2020, section 3.1.4).

    The source has one sentinel in the place of each span; the target has the spans, each behind its sentinel, and one
    sentinel more. All rows of a window length have equal lengths. Marks of a loss mask are not looked at.
    """

    share: float
    mean_tokens: float
    first_sentinel: int
    """The id behind the tokenizer's last."""
    start_id: int
    """What the decoder reads first."""

    def __call__(self, windows: Windows) -> Batch:
        rows = [
            self._corrupt(row[:-1], np.random.default_rng(name))
            for row, name in zip(windows.ids, windows.numbers, strict=True)
        ]
        sources, targets = (torch.from_numpy(np.stack(part)) for part in zip(*rows, strict=True))
        shifted = targets.roll(1, dims=1)
        shifted[:, 0] = self.start_id
        return Batch({"input_ids": sources, "decoder_input_ids": shifted}, targets)

    def _corrupt(self, row: Ids, rng: np.random.Generator) -> tuple[Ids, Ids]:
        hidden, num_spans = span_sizes(len(row), self.share, self.mean_tokens)
        kept_lengths = _cut_randomly(len(row) - hidden, num_spans, rng)
        hidden_lengths = _cut_randomly(hidden, num_spans, rng)
        ends = np.cumsum(np.stack((kept_lengths, hidden_lengths), axis=1).ravel())
        pieces = np.split(row, ends[:-1])  # kept and hidden in turn
        sentinels = self.first_sentinel + np.arange(num_spans + 1)[:, None]
        source = [part for kept, mark in zip(pieces[::2], sentinels, strict=False) for part in (kept, mark)]
        target = [part for mark, span in zip(sentinels, pieces[1::2], strict=False) for part in (mark, span)]
        return np.concatenate(source), np.concatenate((*target, sentinels[-1]))


def span_sizes(length: int, share: float, mean_tokens: float) -> tuple[int, int]:
    """How many tokens of `length` are hidden, in how many spans."""
    hidden = min(max(1, round(share * length)), length - 1)
    num_spans = min(max(1, round(hidden / mean_tokens)), length - hidden)
    return hidden, num_spans


def _cut_randomly(total: int, parts: int, rng: np.random.Generator) -> Ids:
    """Lengths of `parts` non-empty pieces of `total`, every choice of them equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


def _segments(ids: Tensor, separator: int | None) -> dict[str, Tensor]:
    """The number of each token's document in its row, from 1.

    A separator is of the document behind it, whose first token is predicted from it: a text that is scored or continued
    begins with one too, and nothing of the document before is seen.
    """
    return {} if separator is None else {"segments": (ids == separator).cumsum(dim=1) + 1}


def pairs(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], start_id: int, pad_id: int) -> Batch:
    """Texts and what is to be written of them (translation, summaries), padded behind; for encoder-decoders."""
    source, segments = pad(sources, pad_id)
    target, counted = pad(targets, pad_id)
    shifted = target.roll(1, dims=1)
    shifted[:, 0] = start_id
    inputs = {"input_ids": source, "segments": segments, "decoder_input_ids": shifted}
    return Batch(inputs, target.where(counted > 0, IGNORED))


def labelled(texts: Sequence[Sequence[int]], labels: Tensor, pad_id: int) -> Batch:
    """Texts, padded behind, with a label each (N,), one a token (N, T), or an answer's first and last token (N, 2)."""
    ids, segments = pad(texts, pad_id)
    return Batch({"input_ids": ids, "segments": segments}, labels)


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of several lengths as one (N, longest), and 1 where there is text, 0 where there is padding."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (longest - len(row))] for row in rows])
    lengths = torch.tensor([[len(row)] for row in rows])
    return ids, (torch.arange(longest) < lengths).long()
