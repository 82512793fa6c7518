"""The LSTM: equal to torch.nn.LSTM and to its formulas; segments, padding and parts of a text; its state as a cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.models import build, load_pretrained, save_pretrained
from llm_core.models import lstm as lstm_file
from llm_core.models.lstm import LstmConfig, LstmForCausalLM
from tests.llm_core.models import checks
from tests.llm_core.models.checks import assert_close, shaken, some_ids

VOCAB, B, T = 60, 3, 9
IDS = some_ids(B, T, vocab_size=VOCAB)
TASKS = {
    "LstmForCausalLM": "causal_lm",
    "LstmForSequenceClassification": "sequence_classification",
    "LstmForTokenClassification": "token_classification",
}


def tiny(task: Any = "causal_lm", seed: int = 1, **keys: Any) -> Any:
    shape = Model(family="lstm", num_layers=2, width=16, context=12, **{"dropout": 0.0, **keys})
    return build(shape, VOCAB, end_id=0, seed=seed, task=task, num_labels=3).eval()


def naive_layer(x: Tensor, lstm: nn.LSTM, layer: int) -> Tensor:
    """One sequence (T, E) through one layer, gate by gate (Gers et al., 2000, without peepholes)."""
    w_x, w_h, b_x, b_h = (
        getattr(lstm, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    width = w_h.shape[1]
    h = c = torch.zeros(width)
    outputs = []
    for x_t in x:
        gates = [
            w_x[rows] @ x_t + b_x[rows] + w_h[rows] @ h + b_h[rows]
            for rows in (slice(gate * width, (gate + 1) * width) for gate in range(4))
        ]
        inputs, forget, output = (1 / (1 + torch.exp(-gates[gate])) for gate in (0, 1, 3))
        c = forget * c + inputs * torch.tanh(gates[2])
        h = output * torch.tanh(c)
        outputs.append(h)
    return torch.stack(outputs)


@torch.no_grad()
def test_the_states_are_the_gates_formulas_written_out() -> None:
    model = shaken(tiny())
    for row in IDS:
        x = model.model.embedding.weight[row]
        for layer in range(2):
            x = naive_layer(x, model.model.lstm, layer)
        assert_close(model(row[None]).logits[0], x @ model.lm_head.weight.T)


@torch.no_grad()
def test_torchs_module_on_the_same_weights_gives_the_same() -> None:
    model, reference = tiny(), shaken(nn.LSTM(16, 16, 2, batch_first=True))
    model.model.lstm.load_state_dict(reference.state_dict())  # every name and shape fits
    y, _ = reference(model.model.embedding(IDS))
    assert torch.equal(model.features(IDS), y)


@torch.no_grad()
def test_an_embedding_of_another_width_is_projected_to_and_may_be_the_head() -> None:
    model = shaken(LstmForCausalLM(LstmConfig(VOCAB, 1, 16, 8, 12, tie_embeddings=True)))
    y, _ = model.model.lstm(model.model.embedding(IDS))
    expected = y @ model.model.projection.weight.T @ model.model.embedding.weight.T
    assert_close(model(IDS).logits, expected)


@torch.no_grad()
def test_a_packed_row_is_its_documents_alone() -> None:
    model = shaken(tiny())
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 3, 3], [7] * 9, [0, 0, 1, 1, 0, 0, 0, 0, 0]])
    packed = model(IDS, segments=segments).logits
    parts = [model(part).logits for part in IDS[:1].split((4, 3, 2), dim=1)]
    assert_close(packed[:1], torch.cat(parts, dim=1))
    assert_close(packed[1:2], model(IDS[1:2]).logits)
    assert_close(packed[2:, 2:4], model(IDS[2:, 2:4]).logits)


def test_gradients_of_a_packed_row_are_its_documents_too() -> None:
    model = shaken(tiny())
    parameters = list(model.parameters())
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2]])
    packed = torch.autograd.grad(model(IDS[:1], segments=segments).logits.square().sum(), parameters)
    parts = sum(model(part).logits.square().sum() for part in IDS[:1].split((4, 5), dim=1))
    for ours, expected in zip(packed, torch.autograd.grad(parts, parameters), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "causal_lm"])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(task: str) -> None:
    model = shaken(tiny(task))
    alone = model(IDS[:, :6]).logits
    padding, ones = torch.zeros(B, 3, dtype=torch.int64), torch.ones(B, 6, dtype=torch.int64)
    left = model(torch.cat((padding, IDS[:, :6]), 1), segments=torch.cat((padding, ones), 1)).logits
    right = model(torch.cat((IDS[:, :6], padding), 1), segments=torch.cat((ones, padding), 1)).logits
    if task != "sequence_classification":
        left, right = left[:, 3:], right[:, :6]
    assert_close(left, alone)
    assert_close(right, alone)


@pytest.mark.parametrize("parts", [(9,), (1,) * 9, (4, 5)])
@torch.no_grad()
def test_a_cached_reading_in_parts_gives_the_logits_of_one_reading(parts: tuple[int, ...]) -> None:
    model = shaken(tiny())
    cache = model.new_cache(batch_size=B, max_tokens=T)
    logits = [model(part, cache=cache).logits for part in IDS.split(parts, dim=1)]
    assert_close(torch.cat(logits, dim=1), model(IDS).logits)
    assert cache.length == T


@torch.no_grad()
def test_a_cache_goes_on_with_the_last_segment_and_follows_the_beams() -> None:
    model = shaken(tiny())
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [1, 1, 1, 1, 1, 1, 2, 2, 2]])
    expected = model(IDS, segments=segments).logits
    cache = model.new_cache(batch_size=B, max_tokens=T)
    first = model(IDS[:, :6], segments=segments[:, :6], cache=cache).logits
    then = model(IDS[:, 6:8], segments=segments[:, 6:8], cache=cache).logits  # one row goes to its next segment
    assert_close(torch.cat((first, then), dim=1), expected[:, :8])
    rows = torch.tensor([2, 0, 1, 1])
    cache.select(rows)
    assert_close(model(IDS[rows, 8:], cache=cache).logits, expected[rows, 8:])
    cache = model.new_cache(batch_size=B, max_tokens=T)  # no numbers first, then padding that is told by numbers
    first = model(IDS[:, :4], cache=cache).logits
    then = model(IDS[:, 4:], segments=torch.ones(B, 5, dtype=torch.int64), cache=cache).logits
    assert_close(torch.cat((first, then), dim=1), model(IDS).logits)


@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_a_saved_model_loads_with_the_same_bits(tmp_path: Path, name: str) -> None:
    model = shaken(tiny(TASKS[name], tie_embeddings=True))
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.architecture == name and loaded.config == model.config
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_training_aids_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm_file, "RECOMPUTED_TOKENS", 4)  # more than one part of a row
    model = tiny()
    checks.assert_recomputing_changes_nothing(model, lambda m: m(IDS).logits)
    checks.assert_dropout_only_in_training(tiny(dropout=0.3), lambda m: m(IDS).logits)


@pytest.mark.parametrize("task", TASKS.values())
def test_initial_weights_follow_from_the_seed_alone(task: str) -> None:
    checks.assert_initial_weights_follow_from_the_seed(tiny(task))


def test_cells_remember_from_the_first_step() -> None:
    lstm = tiny().model.lstm
    for layer in range(2):
        bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
        assert torch.equal(bias.view(4, 16).mean(1), torch.tensor([0.0, 1.0, 0.0, 0.0]))


def test_it_learns_a_text_in_bfloat16_too() -> None:
    """Also that the gradients of the low format are there and good."""
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny().train().to(dtype)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
        for _ in range(20):
            loss = F.cross_entropy(model(IDS[:, :-1]).logits.float().flatten(0, 1), IDS[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert loss.item() < 0.5 * math.log(VOCAB)


def test_it_exists_without_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = tiny()
        assert model(torch.zeros(2, 8, dtype=torch.int64)).logits.shape == (2, 8, VOCAB)
    assert all(parameter.is_meta for parameter in model.parameters())
