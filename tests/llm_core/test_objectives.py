"""What a language model is asked: masked tokens, spans that were cut out, documents that do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm_core.config import Model, Train
from llm_core.data import IGNORED, Batch, Batches, TokenShards, Windows
from llm_core.losses import LossTerms, batch_loss
from llm_core.models import build
from llm_core.objectives import Causal, Masked, Spans, control_tokens, labelled, make_objective, objective_name, pairs

VOCABULARY, END = 500, 0
MASK_ID = VOCABULARY


def windows(rows: int = 40, length: int = 128, marks: bool = False) -> Windows:
    rng = np.random.default_rng(1)
    ids = rng.integers(0, VOCABULARY, (rows, length + 1))
    ids[rng.random(ids.shape) < 0.1] = END
    return Windows(ids, rng.random(ids.shape) < 0.5 if marks else None, [(7, row) for row in range(rows)])


def test_of_the_hidden_tokens_8_in_10_show_a_mask_1_another_token_1_themselves() -> None:
    given = windows(rows=300)
    original = torch.from_numpy(given.ids[:, :-1])
    batch = Masked(0.15, MASK_ID, END)(given)
    shown, hidden = batch.inputs["input_ids"], batch.targets != IGNORED
    assert torch.equal(batch.targets[hidden], original[hidden]) and torch.equal(shown[~hidden], original[~hidden])
    assert not (original[hidden] == END).any()
    assert hidden.sum() / (original != END).sum() == pytest.approx(0.15, abs=0.002)
    masked, same = shown[hidden] == MASK_ID, shown[hidden] == original[hidden]
    assert masked.float().mean() == pytest.approx(0.8, abs=0.02)
    assert same.float().mean() == pytest.approx(0.1, abs=0.02)
    others = shown[hidden][~masked & ~same]
    assert others.max() < VOCABULARY and len(others.unique()) > VOCABULARY / 2


def test_masks_follow_from_a_windows_number_alone() -> None:
    given, objective = windows(), Masked(0.15, MASK_ID, END)
    whole, alone = objective(given), objective(Windows(given.ids[3:5], None, given.numbers[3:5]))
    assert torch.equal(whole.targets[3:5], alone.targets)
    assert torch.equal(whole.inputs["input_ids"][3:5], alone.inputs["input_ids"])
    same_text = objective(Windows(np.repeat(given.ids[:1], 2, axis=0), None, [(7, 0), (7, 1)]))
    assert not torch.equal(*same_text.targets)


def test_only_what_a_loss_mask_marks_is_hidden() -> None:
    given = windows(marks=True)
    assert given.marks is not None
    hidden = Masked(0.5, MASK_ID, END)(given).targets != IGNORED
    assert hidden.any() and not (hidden & ~torch.from_numpy(given.marks[:, :-1])).any()


@pytest.mark.parametrize("length", [8, 16, 61, 128])
def test_source_and_spans_put_together_are_the_text(length: int) -> None:
    given = windows(length=length)
    batch = Spans(0.15, 3.0, VOCABULARY, END)(given)
    for row, source, target in zip(given.ids, batch.inputs["input_ids"], batch.targets, strict=True):
        spans: dict[int, list[int]] = {}
        for token in target.tolist():
            if token >= VOCABULARY:
                last = spans.setdefault(token, [])
            else:
                last.append(token)
        assert spans.pop(max(spans)) == [] and all(spans.values())  # the sentinel that ends it
        text = [i for token in source.tolist() for i in spans.get(token, [token])]
        assert text == row[:-1].tolist()
    shifted = batch.inputs["decoder_input_ids"]
    assert torch.equal(shifted[:, 1:], batch.targets[:, :-1]) and (shifted[:, 0] == END).all()


def test_spans_have_the_share_and_mean_length_of_the_recipe_and_the_sentinels_suffice() -> None:
    cfg, shape = Train(mask_share=0.2, span_tokens=4.0), Model(family="t5", context=128)
    names = control_tokens(cfg, shape)
    batch = make_objective(cfg, shape, VOCABULARY, END)(windows())
    hidden = (batch.targets < VOCABULARY).sum(dim=1).float()
    spans = (batch.inputs["input_ids"] >= VOCABULARY).sum(dim=1).float()
    assert (hidden == 26).all() and (spans == 6).all()
    assert int(batch.targets.max()) == VOCABULARY + len(names) - 1 and names[-1] == "<extra_id_6>"


def test_an_objective_that_the_family_cannot_learn_and_a_mask_that_spans_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="train.objective 'masked': a llama learns by 'causal' only"):
        objective_name(Train(objective="masked"), Model())
    with pytest.raises(ValueError, match="train.document_mask true: spans are cut out of whole windows"):
        objective_name(Train(document_mask=True), Model(family="t5"))


def row_of(documents: list[list[int]], length: int) -> Windows:
    ids = [token for document in documents for token in (*document, END)][: length + 1]
    return Windows(np.array([ids + [5] * (length + 1 - len(ids))]), None, [(0,)])


@pytest.mark.parametrize("family", ["llama", "gpt2", "lstm"])
def test_with_a_document_mask_a_documents_loss_is_the_same_beside_any_other(family: str) -> None:
    shape = Model(family=family, num_layers=2, width=16, num_heads=2, num_kv_heads=2, mlp_width=24, context=24)
    network = build(shape, vocab_size=50, end_id=END, seed=1)
    document = [7, 8, 9, 10, 11]

    def loss_of_document(before: list[int], masked: bool) -> float:
        batch = Causal(END if masked else None)(row_of([before, document], 20))
        first = len(before)  # the end id in front, from which the first token is predicted
        targets = torch.full_like(batch.targets, IGNORED)
        last = first + len(document) + 1  # and the end id behind
        targets[:, first:last] = batch.targets[:, first:last]
        return float(batch_loss(network, Batch(batch.inputs, targets), LossTerms()).detach())

    losses = [loss_of_document(before, True) for before in ([1, 2, 3], [30, 31, 32], [40, 4, 2, 9, 3])]
    assert losses == pytest.approx([losses[0]] * 3, abs=2e-5)
    alone = torch.tensor([[END, *document]])  # as texts are scored
    scored = batch_loss(network, Batch({"input_ids": alone}, torch.tensor([[*document, END]])), LossTerms())
    assert losses[0] == pytest.approx(float(scored.detach()), abs=2e-5)
    without = [loss_of_document(before, False) for before in ([1, 2, 3], [30, 31, 32])]
    assert abs(without[0] - without[1]) > 2e-4


def test_rows_of_a_sequence_warmup_are_masked_one_by_one() -> None:
    batches = Batches(TokenShards([np.arange(1, 400, dtype=np.uint16)]), 32, 4, 3, Masked(0.2, MASK_ID, END), 0, 6)
    first, last = batches[0], batches[6]
    assert first.targets.shape == (32, 4) and last.targets.shape == (4, 32)
    assert torch.equal(first.targets, batches[0].targets)
    assert len({tuple((row != IGNORED).tolist()) for row in first.targets}) > 1


def test_pairs_and_labelled_texts_are_padded_behind() -> None:
    batch = pairs([[1, 2, 3], [4]], [[5], [6, 7]], start_id=9, pad_id=0)
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch.inputs["segments"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[9, 5], [9, 6]]
    assert batch.targets.tolist() == [[5, IGNORED], [6, 7]]
    assert labelled([[1, 2], [3]], torch.tensor([0, 1]), pad_id=0).inputs["segments"].tolist() == [[1, 1], [1, 0]]
