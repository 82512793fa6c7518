"""A training begins with another model's weights, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.tokenizer import Tokenizer
from llm_core.warm_start import StartError, start_from

SHAPE = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=64, context=64)
TEXTS = ["the state of the union is strong and the people of the states are well "] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(TEXTS, vocab_size=280).save(folder)
    return folder


@pytest.fixture(scope="module")
def start(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    vocabulary = Tokenizer.load(tokenizer)
    with Draft(tmp_path_factory.mktemp("start") / "model", "model", "train") as out:
        save_pretrained(build(SHAPE, vocabulary.vocab_size, vocabulary.end_id, seed=7), out.path)
        vocabulary.save(out.path)
        return out.publish({})


def begin(start: Artifact, tokenizer: Path, shape: Model = SHAPE, digest: str = "") -> torch.nn.Module:
    vocabulary = Tokenizer.load(tokenizer)
    network = build(shape, vocabulary.vocab_size, vocabulary.end_id, seed=1)
    start_from(network, start.path, "demo@3", digest or start.digest, tokenizer, ())
    return network


def test_it_has_the_weights_of_its_start(start: Artifact, tokenizer: Path) -> None:
    vocabulary = Tokenizer.load(tokenizer)
    theirs = build(SHAPE, vocabulary.vocab_size, vocabulary.end_id, seed=7).state_dict()
    begun = begin(start, tokenizer, SHAPE.model_copy(update={"dropout": 0.1})).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in begun.items())


def test_another_shape_is_refused_by_key_and_values(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="demo@3 has another shape: intermediate_size is 64 there and 96 here"):
        begin(start, tokenizer, SHAPE.model_copy(update={"mlp_width": 96}))


def test_another_family_is_refused(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="is a LlamaForCausalLM, the recipe makes a GPT2"):
        begin(start, tokenizer, SHAPE.model_copy(update={"family": "gpt2"}))


@pytest.mark.parametrize("vocab_size", [280, 300])
def test_other_tokens_are_refused_with_the_way_out(start: Artifact, tmp_path: Path, vocab_size: int) -> None:
    Tokenizer.train(["quite other words stand here, and again other words "] * 20, vocab_size).save(tmp_path)
    with pytest.raises(StartError, match="set tokenizer.source to champion"):
        begin(start, tmp_path)


def test_other_weights_than_the_pinned_ones_are_refused(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="train.start_sha256 is 0000"):
        begin(start, tokenizer, digest="0" * 64)
