"""GGUF files of the Llama family: every number format, the order of heads' rows, the tokenizer, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from llm_core.config import Model
from llm_core.models import ModelError, Network, build
from llm_core.models.gguf import CUTS, INNER, OUTER, QUANTIZATIONS, read_gguf, write_tokenizer
from llm_core.tokenizer import Tokenizer, read_existing

gguf = pytest.importorskip("gguf")

TEXTS = ("The state of our union", "in 2026: don't\n\n  guess 12345", "naïve 北京 😀")
# How far weights that went through each format may be from what they were, as a share of the largest.
LOSSES = {"F32": 0.0, "F16": 1e-3, "BF16": 8e-3, "Q8_0": 8e-3, "Q4_0": 0.14, "Q4_1": 0.14, "Q5_0": 0.07, "Q5_1": 0.07}


def network(**more: Any) -> Network:
    shape = {"num_layers": 1, "width": 64, "num_heads": 2, "num_kv_heads": 1, "mlp_width": 96, "context": 32}
    return build(Model(**shape, **more), vocab_size=300, end_id=0, seed=1).eval()


def write_gguf(
    model: Any, path: Path, kind: str = "F32", more: dict[str, Any] | None = None, **tensors: Tensor
) -> Path:
    """The file as llama.cpp's converter would write it: its names, and heads' rows as neighbours for Llama."""
    config = model.config
    writer = gguf.GGUFWriter(path, config.variant)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    for name, value in (more or {}).items():
        writer.add_key_value(name, value, gguf.GGUFValueType.get_type(value))
    for name, tensor in model.state_dict().items():
        if config.tie_embeddings and name.startswith("lm_head"):
            continue
        writer_name = _their_name(name)
        if config.variant == "llama" and writer_name.split(".")[-2] in ("attn_q", "attn_k"):
            heads = config.num_heads if "attn_q" in writer_name else config.num_kv_heads
            tensor = tensor.view(heads, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
        _add(writer, writer_name, tensor, kind if tensor.dim() > 1 else "F32")
    for name, tensor in tensors.items():
        _add(writer, name.replace("__", "."), tensor, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, name: str, tensor: Tensor, kind: str) -> None:
    quantized = gguf.GGMLQuantizationType[kind]
    data = tensor.numpy().astype(np.float32)
    writer.add_tensor(name, gguf.quants.quantize(data, quantized) if kind != "F32" else data, raw_dtype=quantized)


def _their_name(name: str) -> str:
    parts = name.removeprefix("model.").split(".")
    if parts[0] != "layers":
        return next(theirs for theirs, ours in OUTER.items() if name.startswith(ours)) + ".weight"
    theirs = next(theirs for theirs, ours in INNER.items() if ours == ".".join(parts[2:-1]))
    return f"blk.{parts[1]}.{theirs}.{parts[-1]}"


@pytest.mark.parametrize("more", [{}, {"tie_embeddings": True}, {"attention_bias": True}, {"qk_norm": True}], ids=str)
def test_a_float_file_is_the_same_network(more: dict[str, Any], tmp_path: Path) -> None:
    model = network(**more)
    back, _ = read_gguf(write_gguf(model, tmp_path / "model.gguf"))
    assert type(back.config) is type(model.config) and back.architecture == model.architecture
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [kind for kind in QUANTIZATIONS if kind in LOSSES])
def test_weights_of_each_number_format_come_back(kind: str, tmp_path: Path) -> None:
    model = network()
    back, _ = read_gguf(write_gguf(model, tmp_path / "model.gguf", kind))
    for name, tensor in model.state_dict().items():
        found = back.state_dict()[name]
        assert found.dtype == torch.float32
        assert (found - tensor).abs().max() <= LOSSES[kind] * tensor.abs().max()


@pytest.mark.parametrize("kind", sorted(set(QUANTIZATIONS) - LOSSES.keys()))
def test_k_quants_are_read_as_their_blocks_say(kind: str, tmp_path: Path) -> None:
    """The package does not write these, so a file holds random blocks, whose meaning is written out here."""
    quantized = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[quantized][1]
    random = np.random.default_rng(1)
    data = random.integers(0, 256, (300, block), dtype=np.uint8)
    scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    data[:, slice(-2, None) if kind == "Q6_K" else slice(0, 2)] = scale
    if kind != "Q6_K":
        data[:, 2:4] = scale
    model = build(Model(num_layers=1, width=256, num_heads=2, num_kv_heads=1, mlp_width=96, context=32), 300, 0, 1)
    path = tmp_path / "model.gguf"
    original = _add

    def add(writer: Any, name: str, tensor: Tensor, number_format: str) -> None:
        if name == "token_embd.weight":
            writer.add_tensor(name, data, raw_dtype=quantized)
        else:
            original(writer, name, tensor, number_format)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}._add", add)
        write_gguf(model, path)
    found = read_gguf(path)[0].model.embed_tokens.weight[0].detach().numpy()
    np.testing.assert_allclose(found, NAIVE[kind](data[0]), rtol=1e-3, atol=1e-6)


def _q6_k(block: np.ndarray) -> list[float]:
    low, high, scales = block[:128], block[128:192], block[192:208].view(np.int8)
    scale, values = float(block[208:].view(np.float16)[0]), []
    for place in range(256):
        half, inside = divmod(place, 128)
        quarter, column = divmod(inside, 32)
        bits = int(low[64 * half + (column if quarter % 2 == 0 else 32 + column)])
        four = bits & 15 if quarter < 2 else bits >> 4
        two = int(high[32 * half + column]) >> (2 * quarter) & 3
        values.append(scale * int(scales[place // 16]) * ((four | two << 4) - 32))
    return values


def _scale_and_floor(scales: np.ndarray, part: int) -> tuple[int, int]:
    """Six bits each, packed for eight parts into twelve bytes."""
    if part < 4:
        return int(scales[part]) & 63, int(scales[part + 4]) & 63
    both = int(scales[part + 4])
    return both & 15 | int(scales[part - 4]) >> 6 << 4, both >> 4 | int(scales[part]) >> 6 << 4


def _q45_k(block: np.ndarray, high_bits: np.ndarray | None, low: np.ndarray) -> list[float]:
    scale, floor = (float(value) for value in block[:4].view(np.float16))
    values = []
    for place in range(256):
        part, column = divmod(place, 32)
        bits = int(low[32 * (part // 2) + column])
        number = bits & 15 if part % 2 == 0 else bits >> 4
        if high_bits is not None:
            number |= (int(high_bits[column]) >> part & 1) << 4
        factor, below = _scale_and_floor(block[4:16], part)
        values.append(scale * factor * number - floor * below)
    return values


NAIVE = {
    "Q4_K": lambda block: _q45_k(block, None, block[16:]),
    "Q5_K": lambda block: _q45_k(block, block[16:48], block[48:]),
    "Q6_K": _q6_k,
}


def test_the_divisors_of_llama_3_stretch_the_rotary_positions(tmp_path: Path) -> None:
    model, factors = network(), torch.linspace(1, 8, 16)
    back, _ = read_gguf(write_gguf(model, tmp_path / "model.gguf", rope_freqs__weight=factors))
    turns = 10_000.0 ** -(torch.arange(0, 32, 2) / 32) / factors
    cos, _ = back.model._table(9)
    torch.testing.assert_close(cos[8, :16], torch.cos(8 * turns))


def metadata(tokenizer: Tokenizer, cut: str) -> dict[str, Any]:
    content = json.loads(tokenizer._saved.to_str())
    vocabulary = tokenizer._saved.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": cut,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in content["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.end_id,
        "tokenizer.chat_template": "{{ messages }}",
    }


@pytest.mark.parametrize("cut", CUTS)
def test_the_tokenizer_in_the_file_becomes_one_of_ours(cut: str, tmp_path: Path) -> None:
    trained = Tokenizer.train(TEXTS * 3, vocab_size=320)
    write_tokenizer(metadata(trained, cut), tmp_path)
    tokenizer = read_existing(tmp_path)
    assert [tokenizer.decode(tokenizer.encode(text)) for text in TEXTS] == list(TEXTS)
    assert (tokenizer.vocab_size, tokenizer.special_ids) == (trained.vocab_size, trained.special_ids)
    digits = tokenizer.encode("12345")
    assert len(digits) == 5 or cut not in ("qwen2", "smollm")
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (written["eos_token"], written["chat_template"]) == ("<|endoftext|>", "{{ messages }}")


def test_a_tokenizer_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    values = metadata(Tokenizer.train(TEXTS, vocab_size=300), "gpt-2")
    with pytest.raises(ModelError, match="tokenizer.ggml.model 'llama' is not read, only gpt2"):
        write_tokenizer({**values, "tokenizer.ggml.model": "llama"}, tmp_path)
    with pytest.raises(ModelError, match="tokenizer.ggml.pre 'tekken' is not known, only gpt-2"):
        write_tokenizer({**values, "tokenizer.ggml.pre": "tekken"}, tmp_path)


def test_other_files_and_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with pytest.raises(ModelError, match="no such file"):
        read_gguf(path)
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_gguf(path)
    whole = write_gguf(network(), path).read_bytes()
    for size in (10, 200, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="not a whole GGUF file"):
            read_gguf(path)
    path.unlink()
    write_gguf(network(), path, more={"llama.attention.sliding_window": 8})
    with pytest.raises(ModelError, match="llama.attention.sliding_window 8 is not supported"):
        read_gguf(path)
    path.unlink()
    write_gguf(network(), path, "MXFP4")
    with pytest.raises(ModelError, match=r"is in MXFP4, which is not read; take a file in F32, F16"):
        read_gguf(path)
