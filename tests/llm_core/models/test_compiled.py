"""Every family is traced by torch.compile with the same outcome."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_core.config import Model
from llm_core.models import build
from tests.llm_core.models.checks import assert_close, some_ids

VOCAB = 60
SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "transformer", "lstm"])
def test_a_compiled_network_has_the_same_features_and_gradients(family: Any) -> None:
    model: Any = build(
        Model(family=family, num_layers=2, width=16, num_heads=4, mlp_width=24, context=12), VOCAB, end_id=0, seed=1
    )
    ids = [some_ids(2, 6, vocab_size=VOCAB)] * (2 if model.task == "seq2seq_lm" else 1)
    names = ("segments", "decoder_segments")[: len(ids)]
    compiled = torch.compile(model.features, backend="aot_eager")  # the graph, without minutes of a C++ compiler
    for segments in ({}, dict.fromkeys(names, SEGMENTS)):
        results = []
        for features in (model.features, compiled):
            y = features(*ids, **segments)
            model.zero_grad()
            y.square().mean().backward()
            results.append([y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert len(results[0]) == len(results[1]) > 5
        for eager, traced in zip(*results, strict=True):
            assert_close(traced, eager)
