"""Attention weights are those of the references, for every family, and looking at them changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llm_core.config import Model
from llm_core.evals.attention import attention, rollout, strongest_heads
from llm_core.models import Task, build
from tests.llm_core.models import checks

SHAPE = {"num_layers": 3, "width": 32, "num_heads": 4, "num_kv_heads": 2, "mlp_width": 64, "context": 32}
IDS = [5, 9, 3, 14, 9, 21, 7]
TARGET = [0, 8, 11, 4]


def made(family: str, task: Task | None = None) -> Any:
    network = build(Model(family=family, **SHAPE), 40, end_id=1, seed=5, task=task).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and "norm" not in name.lower():
                # Drawn so narrow that all would look everywhere; much wider, and rounding is all that differs.
                parameter.mul_(10 if family == "bert" else 4)
    return network


@pytest.mark.parametrize(
    ("family", "name"), [("gpt2", "GPT2LMHeadModel"), ("llama", "LlamaForCausalLM"), ("bert", "BertForMaskedLM")]
)
def test_every_head_looks_where_transformers_says(family: str, name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = made(family)
    theirs = checks.exported(network, tmp_path, getattr(transformers, name))
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        expected = torch.cat(theirs(torch.tensor([IDS]), output_attentions=True).attentions)
    found = attention(network, IDS).own
    assert found.shape == (3, 4, len(IDS), len(IDS)) and expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_an_encoder_decoder_attends_as_transformers_says(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    network = made("t5")
    theirs = checks.exported(network, tmp_path, transformers.T5ForConditionalGeneration)
    theirs.set_attn_implementation("eager")
    inputs = {"input_ids": torch.tensor([IDS]), "decoder_input_ids": torch.tensor([TARGET])}
    with torch.no_grad():
        expected = theirs(**inputs, output_attentions=True)
    found = attention(network, IDS, TARGET)
    assert found.decoder is not None and found.cross is not None
    torch.testing.assert_close(found.own, torch.cat(expected.encoder_attentions), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.decoder, torch.cat(expected.decoder_attentions), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.cross, torch.cat(expected.cross_attentions), atol=1e-5, rtol=0)


def test_the_transformer_of_2017_attends_to_source_and_target() -> None:
    found = attention(made("transformer"), IDS, TARGET)
    assert found.decoder is not None and found.cross is not None
    assert found.cross.shape[-2:] == (len(TARGET), len(IDS))
    for weights in (found.own, found.decoder, found.cross):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert found.decoder.triu(1).abs().max() == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5"])
def test_classifiers_attend_and_say_the_same_before_and_after(family: str) -> None:
    network, ids = made(family, "sequence_classification"), torch.tensor([[*IDS, 1]])
    with torch.no_grad():
        before = network(ids).logits
        found = attention(network, [*IDS, 1])
        assert torch.equal(network(ids).logits, before)
    torch.testing.assert_close(found.own.sum(-1), torch.ones(found.own.shape[:-1]))


def test_a_network_in_bfloat16_is_looked_at_in_float32() -> None:
    for family in ("gpt2", "llama"):
        network = made(family).bfloat16()
        assert attention(network, IDS).own.shape == (3, 4, len(IDS), len(IDS))
        assert next(network.parameters()).dtype == torch.bfloat16


def test_what_has_no_attention_says_so() -> None:
    with pytest.raises(ValueError, match="LstmForCausalLM has no attention; explain it by attributions"):
        attention(made("lstm"), IDS)
    with pytest.raises(ValueError, match="give decoder_ids"):
        attention(made("t5"), IDS)


def test_rollout_follows_tokens_through_the_layers() -> None:
    to_the_left = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    flow = rollout(to_the_left[None, None].expand(2, 2, -1, -1))
    torch.testing.assert_close(flow, torch.tensor([[1.0, 0, 0], [0.75, 0.25, 0], [0.25, 0.5, 0.25]]))


def test_the_strongest_head_is_the_one_that_looks_elsewhere() -> None:
    own = torch.zeros(2, 3, 4, 4)
    own[..., 0] = 1  # all rest on the first token
    own[1, 2] = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])
    assert strongest_heads(own, 1) == [(1, 2)]
