"""Scores are the bits of a real code: known models give known bits, whatever the windows and batches."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.evals.perplexity import (
    EvaluationError,
    Scoring,
    bits_per_byte,
    plan_windows,
    score_documents,
    score_texts,
)
from llm_core.models import build
from llm_core.models.interface import OutputHead
from llm_core.tokenizer import Tokenizer

V = 11
CONTEXT = 8


class Uniform(nn.Module):
    """Gives every token the same probability, or NaN."""

    def __init__(self, vocab_size: int = V, logit: float = 0.0) -> None:
        super().__init__()
        self.config = SimpleNamespace(context=CONTEXT, vocab_size=vocab_size)
        self.logit = nn.Parameter(torch.tensor(logit))

    def features(self, ids: Tensor) -> Tensor:
        return self.logit.expand(*ids.shape, self.config.vocab_size)

    def output_head(self) -> OutputHead:
        """Features are logits already."""
        return OutputHead(torch.eye(self.config.vocab_size))


class Bigram(Uniform):
    """Predicts from the last token alone, so that the true bits need no window."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, V, generator=torch.Generator().manual_seed(3)))

    def features(self, ids: Tensor) -> Tensor:
        return self.table[ids]

    def bits(self, document: list[int], end_id: int = 0) -> float:
        logprobs = self.table.detach().log_softmax(-1).double()
        pairs = zip([end_id, *document], document, strict=False)
        return -sum(float(logprobs[before, after]) for before, after in pairs) / math.log(2)


def _held_out(lengths: list[int]) -> tuple[np.ndarray, pd.DataFrame, list[list[int]]]:
    rng = np.random.default_rng(1)
    documents = [[*rng.integers(1, V, length - 1).tolist(), 0] for length in lengths]
    ids = np.array([token for document in documents for token in document], dtype=np.uint16)
    return ids, pd.DataFrame({"num_tokens": lengths, "num_bytes": [3 * n for n in lengths], "name": "x"}), documents


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
@pytest.mark.parametrize("batch_windows", [1, 4, 100])
def test_a_uniform_model_needs_log2_of_the_vocabulary_for_each_token(stride: int, batch_windows: int) -> None:
    ids, table, _ = _held_out([1, 5, 8, 9, 40])
    scored = score_documents(Uniform(), ids, table, Scoring(stride, batch_windows))
    assert scored["bits"].tolist() == pytest.approx([n * math.log2(V) for n in table["num_tokens"]])
    assert bits_per_byte(scored["bits"], scored["num_bytes"]) == pytest.approx(math.log2(V) / 3)
    assert list(scored.columns) == ["num_tokens", "num_bytes", "name", "bits"]


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
def test_only_marked_tokens_cost_bits_and_all_are_read(stride: int) -> None:
    ids, table, documents = _held_out([1, 5, 8, 9, 40])
    model, marks = Bigram(), np.arange(len(ids)) % 3 == 1
    scored = score_documents(model, ids, table, Scoring(stride, 4), marks=marks)
    start = 0
    for document, bits in zip(documents, scored["bits"], strict=True):
        each = [model.bits(document[: n + 1]) - model.bits(document[:n]) for n in range(len(document))]
        own = marks[start : start + len(document)]
        assert bits == pytest.approx(sum(one for one, marked in zip(each, own, strict=True) if marked), abs=1e-4)
        start += len(document)


@pytest.mark.parametrize("stride", [1, 3, CONTEXT])
@pytest.mark.parametrize("batch_windows", [1, 4, 100])
def test_every_token_is_scored_once_and_nothing_leaks_between_documents(stride: int, batch_windows: int) -> None:
    model = Bigram()
    ids, table, documents = _held_out([2, 30, 1, 8, 9, 17])
    scored = score_documents(model, ids, table, Scoring(stride, batch_windows))
    assert scored["bits"].tolist() == pytest.approx([model.bits(document) for document in documents], rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(2, 16), st.data())
def test_windows_score_each_token_once_with_enough_before_it(
    lengths: list[int], context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    windows = plan_windows(lengths, context, stride)
    starts = np.cumsum([0, *lengths])
    scored = [(window.document, token) for window in windows for token in range(window.scored, window.end)]
    assert scored == [(n, t) for n in range(len(lengths)) for t in range(starts[n], starts[n + 1])]
    for window in windows:
        first = starts[window.document]
        assert first <= window.start <= window.scored < window.end <= starts[window.document + 1]
        assert window.end - window.start <= context
        assert window.scored - window.start >= min(context - stride, window.scored - first)


def test_a_real_model_scores_a_document_that_fits_like_one_forward_pass() -> None:
    shape = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=2, mlp_width=16, context=32)
    model = build(shape, vocab_size=V, end_id=0, seed=1)
    ids, table, documents = _held_out([20, 32, 6])
    scored = score_documents(model, ids, table, Scoring(stride=16, batch_windows=3))
    for document, bits in zip(documents, scored["bits"], strict=True):
        logits = model(torch.tensor([[0, *document[:-1]]])).logits[0].detach()
        expected = nn.functional.cross_entropy(logits, torch.tensor(document), reduction="sum") / math.log(2)
        assert bits == pytest.approx(float(expected), rel=1e-5)


def test_half_precision_stays_close_and_repeats_exactly() -> None:
    shape = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=2, mlp_width=32, context=16)
    model = build(shape, vocab_size=V, end_id=0, seed=1)
    ids, table, _ = _held_out([50, 9])
    exact = score_documents(model, ids, table, Scoring(8, 4))["bits"]
    half = [score_documents(model, ids, table, Scoring(8, 4, torch.bfloat16))["bits"].tolist() for _ in range(2)]
    assert half[0] == half[1]
    assert half[0] == pytest.approx(exact.tolist(), rel=5e-3)
    assert half[0] != exact.tolist()


def test_texts_are_scored_with_the_models_own_tokenizer() -> None:
    tokenizer = Tokenizer.train(["some text to learn from " * 9], vocab_size=280)
    texts = ["some text", "grüße"]
    scored = score_texts(Uniform(tokenizer.vocab_size), tokenizer, iter(texts), Scoring(4, 2))
    num_tokens = [len(tokenizer.encode(text)) + 1 for text in texts]
    assert scored["num_tokens"].tolist() == num_tokens
    assert scored["num_bytes"].tolist() == [9, 7]
    assert scored["bits"].tolist() == pytest.approx([n * math.log2(tokenizer.vocab_size) for n in num_tokens])


def test_progress_is_reported_to_the_last_window() -> None:
    ids, table, _ = _held_out([40])
    seen: list[tuple[int, int]] = []
    score_documents(Uniform(), ids, table, Scoring(4, 4), lambda done, total: seen.append((done, total)))
    assert seen == [(4, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize("stride", [0, CONTEXT + 1])
def test_a_stride_outside_the_context_is_refused(stride: int) -> None:
    ids, table, _ = _held_out([4])
    with pytest.raises(EvaluationError, match=f"stride {stride} must be between 1 and the model's context 8"):
        score_documents(Uniform(), ids, table, Scoring(stride, 1))


def test_tokens_that_do_not_belong_to_the_model_or_the_table_are_refused() -> None:
    ids, table, _ = _held_out([4, 5])
    with pytest.raises(EvaluationError, match=r"outside the model's 5; give it its own tokenizer"):
        score_documents(Uniform(vocab_size=5), np.where(ids == 0, 0, 9), table, Scoring(4, 1))
    with pytest.raises(EvaluationError, match=r"8 held-out tokens, their table counts 9"):
        score_documents(Uniform(), ids[:-1], table, Scoring(4, 1))
    with pytest.raises(EvaluationError, match=r"do not end with one and the same end id"):
        score_documents(Uniform(), ids, table.assign(num_tokens=[5, 4]), Scoring(4, 1))
    with pytest.raises(EvaluationError, match=r"no held-out document to score; raise clean\.test_share"):
        score_documents(Uniform(), ids[:0], table[:0], Scoring(4, 1))


def test_a_model_that_is_not_finite_is_refused() -> None:
    ids, table, _ = _held_out([4])
    with pytest.raises(EvaluationError, match=r"document 0 scores nan bits: the model's weights are damaged"):
        score_documents(Uniform(logit=math.nan), ids, table, Scoring(4, 1))
