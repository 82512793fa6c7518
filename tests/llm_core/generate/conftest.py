"""Tiny random models, the same in ours and in the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llm_core.config import Model
from llm_core.models import build, load_pretrained

VOCAB, CONTEXT, END = 40, 48, 1

Pair = tuple[nn.Module, Any]


def reference_model(family: str, vocab_size: int = VOCAB) -> Any:
    """A model of the reference with weights wide enough that its scores differ."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    special = {"eos_token_id": END, "pad_token_id": 0}
    if family == "llama":
        config = transformers.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.3,
            **special,
        )
        return transformers.LlamaForCausalLM(config).eval()
    if family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=CONTEXT,
            initializer_range=0.3,
            bos_token_id=END,
            **special,
        )
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        n_positions=CONTEXT,
        feed_forward_proj="gated-gelu",
        initializer_factor=4.0,
        decoder_start_token_id=0,
        **special,
    )
    return transformers.T5ForConditionalGeneration(config).eval()


def our_model(family: Any) -> nn.Module:
    """A model as a recipe makes it, with weights wide enough that its scores differ."""
    shape = Model(family=family, num_layers=2, width=32, num_heads=4, num_kv_heads=4, mlp_width=48, context=CONTEXT)
    model = build(shape, VOCAB, end_id=END, seed=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Makes (ours, the reference's) model of a family with the same weights."""
    made: dict[str, Pair] = {}

    def pair(family: str) -> Pair:
        if family not in made:
            folder: Path = tmp_path_factory.mktemp(family)
            if family in ("lstm", "transformer"):  # the reference has none of these
                made[family] = (our_model(family), None)
                return made[family]
            reference = reference_model(family)
            reference.save_pretrained(folder)
            made[family] = (load_pretrained(folder), reference)
        return made[family]

    return pair
