"""GGUF files that are written here: read back they are the same network and tokenizer, and what they lack is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from llm_core.config import Model
from llm_core.models import ModelError, Network, build, save_pretrained
from llm_core.models.gguf import CUTS, read_gguf, write_tokenizer
from llm_core.models.gguf_export import NEAREST_CUT, Format, write_gguf
from llm_core.models.llama import LlamaForCausalLM
from llm_core.models.transfer import export_gguf
from llm_core.tokenizer import Tokenizer, read_existing
from llm_core.tokenizer.byte_level import from_ranks, learn_ranks
from llm_core.tokenizer.tokenizer import SPECIALS
from tests.llm_core.models.test_gguf import LOSSES, TEXTS

gguf = pytest.importorskip("gguf")

SHAPE: dict[str, Any] = {
    "num_layers": 2,
    "width": 64,
    "num_heads": 4,
    "num_kv_heads": 2,
    "mlp_width": 96,
    "context": 64,
}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}

DYNAMIC = {"rope_type": "dynamic", "original_max_position_embeddings": 32}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, vocab_size=320)


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A model folder with a tokenizer that was learned here."""
    made = tmp_path / "model"
    made.mkdir()
    save_pretrained(network(tokenizer.vocab_size), made)
    tokenizer.save(made)
    return made


def network(vocab_size: int = 300, **more: Any) -> Network:
    return build(Model(**SHAPE, **more), vocab_size, end_id=0, seed=1).eval()


def changed(**values: Any) -> LlamaForCausalLM:
    """A Llama with settings that recipes do not have."""
    config: Any = network().config
    made = LlamaForCausalLM(replace(config, **values))
    made.initialize(1)
    return made.eval()


VARIANTS: dict[str, Any] = {
    "llama": network,
    "tied": lambda: network(tie_embeddings=True),
    "qwen2": lambda: network(attention_bias=True),
    "qwen3": lambda: network(qk_norm=True),
    "llama with biases": lambda: changed(attention_bias=True),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_float_file_read_back_is_the_same_network(name: str, tmp_path: Path) -> None:
    model = VARIANTS[name]()
    for weights in model.parameters():
        torch.nn.init.normal_(weights)
    write_gguf(model, None, tmp_path / "model.gguf")
    back, values = read_gguf(tmp_path / "model.gguf")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert values["general.architecture"] == model.config.variant
    assert values["tokenizer.ggml.tokens"][:2] == ["<0>", "<1>"]


@pytest.mark.parametrize("kind", SCALINGS)
def test_stretched_positions_come_back(kind: str, tmp_path: Path) -> None:
    model = changed(rope_scaling=SCALINGS[kind])
    write_gguf(model, None, tmp_path / "model.gguf")
    back, _ = read_gguf(tmp_path / "model.gguf")
    for ours, theirs in zip(model.model._table(60), back.model._table(60), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_weights_of_each_type_come_back_within_its_loss(kind: Format, tmp_path: Path) -> None:
    model = network()
    write_gguf(model, None, tmp_path / "model.gguf", kind)
    sizes = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert (sizes["blk.0.attn_q.weight"], sizes["output_norm.weight"]) == (kind.upper(), "F32")
    back, _ = read_gguf(tmp_path / "model.gguf")
    for name, tensor in model.state_dict().items():
        assert (back.state_dict()[name] - tensor).abs().max() <= LOSSES[kind.upper()] * tensor.abs().max()


def test_rows_that_are_no_whole_blocks_stay_f16(tmp_path: Path) -> None:
    odd = build(Model(**{**SHAPE, "mlp_width": 40}), 300, 0, 1)
    write_gguf(odd, None, tmp_path / "model.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_a_learned_tokenizer_comes_back_and_what_llama_cpp_does_otherwise_is_said(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    facts = export_gguf(folder, tmp_path / "model.gguf")
    (note,) = facts["warnings"]
    assert "differs on numbers" in note
    _, values = read_gguf(tmp_path / "model.gguf")
    assert (values["general.description"], values["tokenizer.ggml.pre"]) == (note, NEAREST_CUT)
    back = tmp_path / "back"
    back.mkdir()
    write_tokenizer(values, back)
    again = read_existing(back)
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert again.special_ids == tokenizer.special_ids
    written = json.loads((back / "tokenizer_config.json").read_text())
    original = json.loads((folder / "tokenizer_config.json").read_text())
    assert all(written[key] == original[key] for key in ("bos_token", "eos_token", "chat_template"))


@pytest.mark.parametrize("cut", ["gpt-2", "llama-bpe", "qwen2"])
def test_a_way_of_cutting_that_llama_cpp_knows_goes_by_its_name(cut: str, folder: Path, tmp_path: Path) -> None:
    ranks = learn_ranks(TEXTS * 3, 317)
    (folder / "tokenizer.json").write_text(from_ranks(ranks, CUTS[cut][0], SPECIALS).to_str())
    assert export_gguf(folder, tmp_path / "model.gguf")["warnings"] == []
    assert read_gguf(tmp_path / "model.gguf")[1]["tokenizer.ggml.pre"] == cut


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sliding_window": 8, "sliding_layers": (0,)}, "sliding_window 8: llama.cpp would ignore it"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"variant": "qwen3", "attention_bias": True}, "attention_bias True"),
        ({"rope_scaling": {**SCALINGS["linear"], **DYNAMIC}}, "rope_scaling .*dynamic"),
        ({"rope_scaling": {**SCALINGS["yarn"], "beta_fast": 16}}, "rope_scaling .*beta_fast"),
    ],
)
def test_what_the_format_does_not_hold_is_refused(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        write_gguf(changed(**values), None, tmp_path / "model.gguf")


def test_another_family_or_tokenizer_is_refused_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    shape = {"family": "gpt2", "num_layers": 1, "width": 32, "num_heads": 2, "num_kv_heads": 2, "context": 32}
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no GGUF form here"):
        write_gguf(build(Model(**shape), 300, 0, 1), None, tmp_path / "model.gguf")
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["normalizer"] = {"type": "NFC"}
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    with pytest.raises(ModelError, match="only byte-level BPE can be written as GGUF"):
        export_gguf(folder, tmp_path / "model.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_the_command_writes_a_file_and_leaves_one_that_exists_alone(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "out" / "model.gguf"
    command = ["export", str(folder), "--gguf", str(place), "--type", "q8_0", "--json"]
    done = CliRunner().invoke(app, command)
    facts = json.loads(done.output)
    assert (facts["type"], facts["bytes"]) == ("q8_0", place.stat().st_size) and "numbers" in facts["warnings"][0]
    assert [path.name for path in place.parent.iterdir()] == ["model.gguf"]
    again = CliRunner().invoke(app, command)
    assert "exists already and is left alone" in str(again.exception)
    for wrong in ([], ["--gguf", "a.gguf", "--output", "a"]):
        assert CliRunner().invoke(app, ["export", str(folder), *wrong]).exit_code == 2
