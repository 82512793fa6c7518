"""ROUGE-N and ROUGE-L (Lin 2004): shared words and shared order of words, as an F measure.

Words are runs of a-z and 0-9 after lower-casing, without stemming, as in Google's rouge-score, whose numbers these are.
Texts in other scripts have no such words and score 0: chrF is for them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def rouge_n(answer: str, reference: str, n: int) -> float:
    """F measure of the n-grams."""
    found, wanted = (Counter(_ngrams(words(text), n)) for text in (answer, reference))
    return f_measure((found & wanted).total(), found.total(), wanted.total())


def rouge_l(answer: str, reference: str) -> float:
    """F measure of the longest common subsequence of words."""
    found, wanted = words(answer), words(reference)
    return f_measure(_common(found, wanted), len(found), len(wanted))


def f_measure(shared: int, found: int, wanted: int) -> float:
    """Harmonic mean of precision and recall; 0 where nothing is shared."""
    return 2 * shared / (found + wanted) if shared else 0.0


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[first:] for first in range(n)), strict=False))


def _common(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence; only the last row of the table is kept."""
    row = [0] * (len(right) + 1)
    for token in left:
        diagonal = 0
        for place, other in enumerate(right, 1):
            diagonal, row[place] = row[place], diagonal + 1 if token == other else max(row[place], row[place - 1])
    return row[-1]
