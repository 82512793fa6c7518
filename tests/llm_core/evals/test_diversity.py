"""Repeated and equal continuations are told from varied ones."""

from __future__ import annotations

import math

import pytest
import sacrebleu

from llm_core.evals.diversity import METRICS, diversity_suite, score_texts
from tests.llm_core.evals.answering import Answering


def _totals(*texts: str) -> dict[str, float]:
    rows = score_texts(texts)
    return {metric.name: metric.of(rows) for metric in METRICS}


def test_distinct_n_counts_over_all_texts() -> None:
    totals = _totals("a b a b", "a b c")
    assert (totals["distinct_1"], totals["distinct_2"]) == pytest.approx((3 / 7, 3 / 5))


def test_repetition_is_the_share_of_ngrams_that_stood_before() -> None:
    assert _totals("w x y z w x y z", "a b c d")["repetition"] == pytest.approx(1 / 6)


def test_self_bleu_is_sacrebleus_of_each_text_against_the_others() -> None:
    texts = ["the river runs over the mill", "the river runs over a stone", "nothing of that is shared here"]
    theirs = [sacrebleu.sentence_bleu(t, [o for o in texts if o != t]).score for t in texts]
    assert _totals(*texts)["self_bleu"] == pytest.approx(sum(theirs) / 3, abs=1e-4)
    assert _totals(*["one two three four five"] * 3)["self_bleu"] == pytest.approx(100)


def test_texts_without_words_have_no_numbers() -> None:
    assert all(math.isnan(value) for value in _totals("").values())


def test_a_models_continuations_are_scored() -> None:
    suite = diversity_suite()
    rows = suite.rows(Answering(lambda prompt: prompt * 2), [{"prompt": "x y "}, {"prompt": "z z "}])
    assert suite.totals(rows)["diversity/distinct_1"] == pytest.approx(3 / 8)
