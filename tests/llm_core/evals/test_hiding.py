"""Hidden tokens: each one of a document is asked for exactly once, and the bits are what the network says of it."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from llm_core.config import Model
from llm_core.data import IGNORED
from llm_core.evals.hiding import Hiding
from llm_core.evals.perplexity import Scoring, score_documents
from llm_core.models import build
from llm_core.tokenizer import Tokenizer

VOCAB, END = 60, 0
DOCUMENT = np.concatenate((np.arange(1, 46) % 50 + 1, [END]))  # 45 tokens of text, read in windows of 16


@pytest.mark.parametrize("start_id", [None, END], ids=["mask", "spans"])
def test_every_token_is_asked_for_once_and_the_end_never(start_id: int | None) -> None:
    asked: list[int] = []
    for batch in Hiding(first_id=52, start_id=start_id).batches(DOCUMENT, context=16):
        asked += batch.targets[batch.targets != IGNORED].tolist()
    assert sorted(asked) == sorted(DOCUMENT[:-1].tolist())


def test_a_hidden_token_is_not_in_sight() -> None:
    (batch,) = Hiding(first_id=52, start_id=None).batches(DOCUMENT, context=64)
    hidden = batch.targets != IGNORED
    assert (batch.inputs["input_ids"][hidden] == 52).all()
    assert (batch.inputs["input_ids"][~hidden] != 52).all()


def test_a_source_and_its_target_make_the_window_again() -> None:
    (batch,) = Hiding(first_id=52, start_id=END).batches(DOCUMENT[:16], context=16)
    for source, target in zip(batch.inputs["input_ids"], batch.inputs["decoder_input_ids"], strict=True):
        spans: dict[int, list[int]] = {}
        for token in target[1:].tolist():
            spans.setdefault(token, []) if token >= 52 else spans[max(spans)].append(token)
        whole = [part for token in source.tolist() for part in spans.get(token, [token])]
        assert whole == DOCUMENT[:16].tolist()


def test_the_bits_of_a_document_are_those_of_its_tokens_one_by_one() -> None:
    shape = Model(family="bert", num_layers=1, width=16, num_heads=2, mlp_width=16, context=64)
    network = build(shape, VOCAB, END, seed=1).eval()
    table = pd.DataFrame({"num_tokens": [len(DOCUMENT)], "num_bytes": [100]})
    scoring = Scoring(stride=1, batch_windows=1, hiding=Hiding(first_id=52, start_id=None))
    found = score_documents(network, DOCUMENT.astype(np.uint16), table, scoring)["bits"][0]
    nats = 0.0
    with torch.no_grad():
        for hides in range(7):
            places = [place for place in range(len(DOCUMENT) - 1) if place % 7 == hides]
            ids = torch.from_numpy(DOCUMENT.copy())[None]
            ids[0, places] = 52
            logprobs = network(ids).logits[0].log_softmax(-1)
            nats -= sum(float(logprobs[place, DOCUMENT[place]]) for place in places)
    assert found == pytest.approx(nats / math.log(2), rel=1e-5)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    network = build(Model(family="bert", num_layers=1, width=16, num_heads=2, mlp_width=16), VOCAB, END, seed=1)
    with pytest.raises(ValueError, match=r"no <\|mask\|>, which hides tokens from a masked_lm"):
        Hiding.of(network, Tokenizer.train(["some text"], 300))
