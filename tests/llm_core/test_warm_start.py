"""A training begins with another model's weights, or says why it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from llm_core.artifact import Artifact, Draft
from llm_core.config import Model
from llm_core.models import Network, build, save_pretrained
from llm_core.models.llama import LlamaForCausalLM
from llm_core.models.transfer import import_model
from llm_core.tokenizer import Tokenizer, read_existing
from llm_core.tokenizer.tokenizer import read_rust
from llm_core.warm_start import StartError, check_start, started

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


def begin(start: Artifact, tokenizer: Path, shape: Model = SHAPE, digest: str = "") -> Network:
    vocabulary = Tokenizer.load(tokenizer)
    check_start(start.path, "demo@3", digest or start.digest, tokenizer, ())
    return started(start.path, "demo@3", shape, vocabulary.vocab_size, vocabulary.end_id, seed=1)


def test_it_has_the_weights_of_its_start(start: Artifact, tokenizer: Path) -> None:
    vocabulary = Tokenizer.load(tokenizer)
    theirs = build(SHAPE, vocabulary.vocab_size, vocabulary.end_id, seed=7).state_dict()
    begun = begin(start, tokenizer, SHAPE.model_copy(update={"dropout": 0.1})).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in begun.items())


def test_another_shape_is_refused_by_key_and_values(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="demo@3 has another shape: model.mlp_width is 64 there and 96 here; set"):
        begin(start, tokenizer, SHAPE.model_copy(update={"mlp_width": 96}))


def test_another_family_is_refused(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="is a LlamaForCausalLM, model.family gpt2 makes a GPT2"):
        begin(start, tokenizer, SHAPE.model_copy(update={"family": "gpt2"}))


@pytest.mark.parametrize("vocab_size", [280, 300])
def test_other_tokens_are_refused_with_the_way_out(start: Artifact, tmp_path: Path, vocab_size: int) -> None:
    Tokenizer.train(["quite other words stand here, and again other words "] * 20, vocab_size).save(tmp_path)
    with pytest.raises(StartError, match="set tokenizer.source to champion"):
        begin(start, tmp_path)


def test_other_weights_than_the_pinned_ones_are_refused(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="train.start_sha256 is 0000"):
        begin(start, tokenizer, digest="0" * 64)


def test_another_variant_is_refused_by_the_recipes_key(start: Artifact, tokenizer: Path) -> None:
    with pytest.raises(StartError, match="model.qk_norm is False there and True here"):
        begin(start, tokenizer, SHAPE.model_copy(update={"qk_norm": True}))


def test_another_tools_model_starts_a_training_with_rows_for_our_control_tokens(tmp_path: Path) -> None:
    """It knows no tokens of turns, its norms have another epsilon, and it has more rows than tokens."""
    rust = read_rust(_plain_tokenizer(tmp_path / "theirs") / "tokenizer.json")
    rows = rust.get_vocab_size() + 1
    config = replace(build(SHAPE, rows, 0, seed=7).config, norm_eps=1e-5)
    theirs = LlamaForCausalLM(config)
    theirs.initialize(7)
    save_pretrained(theirs, tmp_path / "theirs")
    imported = import_model(str(tmp_path / "theirs"), tmp_path / "imported")
    ours = read_existing(imported.path)  # what the tokenizer stage makes of tokenizer.source folder
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours")
    assert ours.vocab_size > rows
    begun = begin(imported, tmp_path / "ours")
    assert (begun.config.norm_eps, begun.config.vocab_size) == (1e-5, ours.vocab_size)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(begun.state_dict()[name][: len(tensor)], tensor)
    again = begin(imported, tmp_path / "ours").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in begun.state_dict().items())


def _plain_tokenizer(folder: Path) -> Path:
    """Byte pairs and nothing else, as another library saves them."""
    rust = RustTokenizer(BPE())
    rust.pre_tokenizer = ByteLevel(add_prefix_space=False)
    rust.train_from_iterator(TEXTS, BpeTrainer(vocab_size=280, initial_alphabet=ByteLevel.alphabet()))
    folder.mkdir()
    rust.save(str(folder / "tokenizer.json"))
    return folder
