"""A 5-gram model of tokens with interpolated, modified Kneser-Ney smoothing: what counting alone comes to.

After Chen and Goodman (1999): an n-gram's count is lowered by a discount that depends on it (1, 2, or 3 and more), and
what that frees goes to the shorter n-gram. Shorter ones are counted by how many different tokens they stand behind.

Dimensions: N training tokens, M held-out tokens with an end id in front of each document, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llm_core.evals.baselines import Ids, Lengths, Mask, Sliceable

ORDER = 5
MOST_TOKENS = 2**24
"""Training tokens that are counted, the last ones: sorting them takes about 100 bytes each."""

Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Level:
    """All n-grams of one length. The history of an n-gram is its place among those of the length before."""

    codes: Whole
    """History * V + last token, ascending."""
    counts: Whole
    discounts: Floats
    """What is taken from a count of 0, 1, 2, and 3 or more."""
    totals: Floats
    """Of each history: the sum of its counts."""
    freed: Floats
    """Of each history: the sum of what was taken from them."""

    @classmethod
    def of(cls, codes: Whole, counts: Whole, num_histories: int, vocab_size: int) -> Level:
        """The level of these n-grams and counts."""
        discounts = _discounts(counts)
        histories = codes // vocab_size
        taken = discounts[np.minimum(counts, 3)]
        totals, freed = (np.bincount(histories, each, num_histories).astype(np.float64) for each in (counts, taken))
        return cls(codes, counts, discounts, totals, freed)

    def find(self, codes: Whole) -> Whole:
        """Places of these n-grams; -1 for one that was never seen."""
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[places] == codes, places, -1)

    def probabilities(self, histories: Whole, places: Whole, shorter: Floats) -> Floats:
        """Of the n-grams at `places` given their histories, both -1 where unknown; `shorter` are those without the
        history's first token."""
        counts = np.where(places >= 0, self.counts[places], 0)
        kept = counts - self.discounts[np.minimum(counts, 3)]
        is_known = (histories >= 0) & (self.totals[histories] > 0)
        totals = np.where(is_known, self.totals[histories], 1)
        return np.where(is_known, (kept + self.freed[histories] * shorter) / totals, shorter)


def ngram_bits(
    train_ids: Sliceable,
    ids: Ids,
    num_tokens: Lengths,
    vocab_size: int,
    marks: Mask | None = None,
    order: int = ORDER,
) -> Floats:
    """Bits of each document under the n-grams of the training tokens, its end id included.

    `ids` holds all documents one after another, each followed by the end id, `num_tokens` their lengths; with `marks`,
    only marked ids cost bits. A document's first token stands behind an end id, as in training.
    """
    trained = np.asarray(train_ids[max(0, len(train_ids) - MOST_TOKENS) : len(train_ids)], np.int64)
    starts = np.cumsum(num_tokens) - num_tokens
    padded = np.insert(ids.astype(np.int64), starts, int(ids[-1]))
    within = np.arange(len(padded)) - np.repeat(starts + np.arange(len(starts)), num_tokens + 1)
    costs = -np.log2(_probabilities(fit(trained, vocab_size, order), padded, within, vocab_size))[within > 0]
    return np.add.reduceat(costs if marks is None else costs * marks, starts)


def fit(ids: Whole, vocab_size: int, order: int = ORDER) -> list[Level]:
    """The levels of 1 to `order` tokens of a text (N), or of as many as it has."""
    levels: list[Level] = []
    histories, num_histories = np.zeros(len(ids), np.int64), 1  # of the n-gram that begins at each token
    before: tuple[Whole, Whole, int] | None = None
    for length in range(1, min(order, len(ids)) + 1):
        count = len(ids) - length + 1
        codes, first, places, counts = np.unique(
            histories[:count] * vocab_size + ids[length - 1 :],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if before is not None:  # an n-gram counts by how many different ones end with it
            shorter, at, of = before
            levels.append(Level.of(shorter, np.bincount(at[first + 1], minlength=len(shorter)), of, vocab_size))
        before = codes, places, num_histories
        histories, num_histories = places, len(codes)
    assert before is not None, "a text without tokens"
    return [*levels, Level.of(codes, counts, before[2], vocab_size)]


def _probabilities(levels: list[Level], padded: Whole, within: Whole, vocab_size: int) -> Floats:
    """Of each token (M) behind those before it in its document; `within` are places in the document."""
    found = np.full(len(padded), 1 / vocab_size)
    grams = np.zeros(len(padded), np.int64)  # the n-gram so far that begins at each token; -1 was never seen
    for length, level in enumerate(levels):
        ends = padded[length:]
        histories = np.where(within[length:] >= length, grams[: len(ends)], -1)
        places = np.where(histories >= 0, level.find(histories * vocab_size + ends), -1)
        found[length:] = level.probabilities(histories, places, found[length:])
        grams = places
    return found


def _discounts(counts: Whole) -> Floats:
    """Chen and Goodman's estimates from how many counts are 1, 2, 3 and 4; halves where there are too few to tell.

    Estimates that leave nothing to unseen tokens give way to one for all counts (Ney, Essen and Kneser 1994).
    """
    seen = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if not seen[1:5].all():
        return np.array([0, 0.5, 0.5, 0.5])
    share = seen[1] / (seen[1] + 2 * seen[2])
    estimates = [number - (number + 1) * share * seen[number + 1] / seen[number] for number in (1, 2, 3)]
    return np.array([0, *(estimates if min(estimates) > 0 else [share] * 3)])
