"""What llama.cpp gets to serve is our checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.peer_llama_cpp import Precision, write_gguf
from benchmarks.serving_sides import Files
from llm_core.models import load_pretrained
from llm_core.models.gguf import read_gguf, write_tokenizer
from llm_core.tokenizer import Tokenizer


@pytest.mark.parametrize("precision", ["F32", "BF16"])
def test_the_file_holds_the_checkpoints_weights_bit_by_bit(files: Files, tmp_path: Path, precision: Precision) -> None:
    write_gguf(files.model, tmp_path / "model.gguf", precision)
    network, _ = read_gguf(tmp_path / "model.gguf")
    ours = load_pretrained(files.model).state_dict()
    theirs = network.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name, weight in ours.items() if not torch.equal(weight, theirs[name])] == []


def test_the_file_spells_tokens_as_ours(files: Files, tmp_path: Path) -> None:
    write_gguf(files.model, tmp_path / "model.gguf", "F32")
    _, values = read_gguf(tmp_path / "model.gguf")
    write_tokenizer(values, tmp_path)
    ours, theirs = Tokenizer.load(files.model), Tokenizer.load(tmp_path)
    assert ours.end_id == theirs.end_id == values["tokenizer.ggml.eos_token_id"]
    ids = range(ours.vocab_size)
    assert [ours.token_bytes(token_id) for token_id in ids] == [theirs.token_bytes(token_id) for token_id in ids]
