"""How varied continuations are: distinct-n, repetition within them, and self-BLEU between them.

An example is {"prompt": text}. Words are what white space separates. Distinct-n (Li et al. 2016) and self-BLEU (Zhu et
al. 2018, as sacrebleu counts) belong to all rows together, so they are functions of the rows' texts; a resample holds
some texts twice and so is less varied than what it is drawn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from llm_core.evals.suite import Example, Metric, Subject, Suite

ORDER = 4
"""Repetition counts n-grams of this many words."""
MOST_TEXTS = 200
"""Self-BLEU compares each of the first so many with all others: its time grows with their square."""


def diversity_suite(name: str = "diversity", max_tokens: int = 64) -> Suite:
    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        return score_texts(subject.write([example["prompt"] for example in examples], max_tokens))

    return Suite(name, METRICS, score)


def score_texts(texts: Sequence[str]) -> pd.DataFrame:
    """A row a text: the text, and how many of its n-grams stood in it before."""
    grams = [ngrams(text, ORDER) for text in texts]
    return pd.DataFrame(
        {
            "text": list(texts),
            "repeated_ngrams": [len(found) - len(set(found)) for found in grams],
            "num_ngrams": [len(found) for found in grams],
        }
    )


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return list(zip(*(words[first:] for first in range(n)), strict=False))


def distinct(rows: pd.DataFrame, n: int) -> float:
    """Different n-grams of all texts over all their n-grams."""
    found = [gram for text in rows["text"] for gram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else float("nan")


def self_bleu(rows: pd.DataFrame) -> float:
    """Mean BLEU, 0 to 100, of each text with the others as references: 100 says that all are the same."""
    from sacrebleu import sentence_bleu

    texts = list(rows["text"][:MOST_TEXTS])
    if len(texts) < 2:
        return float("nan")
    scores = [sentence_bleu(text, texts[:place] + texts[place + 1 :]).score for place, text in enumerate(texts)]
    return float(sum(scores) / len(scores))


METRICS = (
    Metric("distinct_2", function=partial(distinct, n=2)),
    Metric("distinct_1", function=partial(distinct, n=1)),
    Metric("repetition", "repeated_ngrams", over="num_ngrams", higher_is_better=False),
    Metric("self_bleu", function=self_bleu, higher_is_better=False),
)
