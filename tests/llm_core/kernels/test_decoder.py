"""The kernel beside torch, and beside itself: alone, in a batch, in chunks, on blocks in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llm_core.kernels import BLOCK_TOKENS, NativeDecoder, NoCompiler, Precision, Rows, StepResult, is_supported
from llm_core.kernels import build as kernel_build
from llm_core.kernels.build import FLAGS
from llm_core.models.gpt2 import GPT2Config, GPT2LMHeadModel
from llm_core.models.llama import LlamaConfig, LlamaForCausalLM

VOCAB, CONTEXT, NUM_TEXTS = 83, 64, 3
LLAMA = LlamaConfig(VOCAB, 2, 24, 4, 2, 36, CONTEXT)  # a head of 6: less than a vector, and not whole pairs of them
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
GPT2 = GPT2Config(VOCAB, 2, 32, 4, 40, CONTEXT)
CONFIGS: dict[str, Any] = {
    "llama": LLAMA,
    "wide heads": replace(LLAMA, head_dim=80, num_heads=2),
    "tied, biases": replace(LLAMA, tie_embeddings=True, attention_bias=True),
    "llama 3's positions": replace(LLAMA, rope_scaling={"rope_type": "llama3", **LLAMA3}),
    "mistral": replace(LLAMA, variant="mistral", sliding_window=5, sliding_layers=(0, 1)),
    "qwen2": replace(LLAMA, variant="qwen2"),
    "qwen3": replace(LLAMA, variant="qwen3", head_dim=8),
    "gpt2": GPT2,
    "gpt2, relu": replace(GPT2, activation="relu"),
    "gpt2, exact gelu": replace(GPT2, activation="gelu"),
}


def network(name: str) -> Any:
    config = CONFIGS[name]
    made = (LlamaForCausalLM if isinstance(config, LlamaConfig) else GPT2LMHeadModel)(config)
    made.initialize(1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # biases and norms start as if they were not there
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.eval()


def texts(length: int = 50) -> np.ndarray:
    return np.random.default_rng(3).integers(VOCAB, size=(NUM_TEXTS, length), dtype=np.int32)


def tables(order: Sequence[int] = range(12)) -> np.ndarray:
    return np.array(order, np.int32).reshape(NUM_TEXTS, 4)


def read(
    decoder: NativeDecoder, pieces: Sequence[tuple[int, int, int]], ids: np.ndarray, blocks: np.ndarray
) -> StepResult:
    """One step over pieces (text, first, end), all rows wanted."""
    rows = Rows(
        np.concatenate([ids[text, first:end] for text, first, end in pieces]),
        np.concatenate([np.arange(first, end, dtype=np.int32) for _, first, end in pieces]),
        np.concatenate([np.full(end - first, text, np.int32) for text, first, end in pieces]),
        blocks,
    )
    return decoder.step(rows, np.arange(len(rows.ids), dtype=np.int32))


def whole(decoder: NativeDecoder, ids: np.ndarray) -> np.ndarray:
    pieces = [(text, 0, ids.shape[1]) for text in range(NUM_TEXTS)]
    return read(decoder, pieces, ids, tables()).logits.reshape(NUM_TEXTS, -1, VOCAB)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_torchs(name: str) -> None:
    model, ids = network(name), texts()
    assert is_supported(model)
    with torch.inference_mode():
        expected = model(torch.from_numpy(ids).long()).logits
    result = read(NativeDecoder(model, 12), [(text, 0, 50) for text in range(NUM_TEXTS)], ids, tables())
    torch.testing.assert_close(torch.from_numpy(result.logits).view_as(expected), expected, atol=2e-5, rtol=1e-4)
    flat = torch.from_numpy(result.logits)
    assert result.likeliest.tolist() == flat.argmax(-1).tolist()
    torch.testing.assert_close(torch.from_numpy(result.logsumexp), flat.logsumexp(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_a_row_is_the_same_alone_in_a_batch_in_chunks_and_on_other_blocks(name: str, precision: Precision) -> None:
    ids = texts()
    decoder = NativeDecoder(network(name), 12, precision)
    expected = whole(decoder, ids)
    shuffled = tables(np.random.default_rng(4).permutation(12).tolist())
    for place in range(50):  # a token of each text in turn
        found = read(decoder, [(text, place, place + 1) for text in range(NUM_TEXTS)], ids, shuffled).logits
        assert (found == expected[:, place]).all()
    for first, end in ((0, 7), (7, 33), (33, 50)):  # one text in chunks
        assert (read(decoder, [(1, first, end)], ids, shuffled).logits == expected[1, first:end]).all()


def test_fewer_bits_stay_near_and_differ() -> None:
    model, ids = network("llama"), texts()
    exact = whole(NativeDecoder(model, 12), ids)
    halves, bytes_ = (whole(NativeDecoder(model, 12, precision), ids) for precision in ("bfloat16", "int8"))
    errors = [float(np.abs(found - exact).max() / exact.std()) for found in (halves, bytes_)]
    assert 0 < errors[0] < 0.05 < 0.4 and errors[0] < errors[1] < 0.4


def test_bfloat16_is_float32_on_rounded_weights() -> None:
    model, ids = network("llama"), texts(BLOCK_TOKENS)
    halves = read(NativeDecoder(model, 12, "bfloat16"), [(0, 0, 1)], ids, tables()).logits
    rounded = network("llama")
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                parameter.copy_(parameter.bfloat16())
    exact = read(NativeDecoder(rounded, 12), [(0, 0, 1)], ids, tables()).logits
    # The first token sees its own value alone, which is kept in bfloat16 too.
    np.testing.assert_allclose(halves, exact, atol=0.02)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_machine_code_without_avx512_says_the_same(precision: Precision) -> None:
    older = tuple("-march=haswell" if flag == "-march=native" else flag for flag in FLAGS)
    model, ids = network("llama"), texts()
    ours, theirs = (whole(NativeDecoder(model, 12, precision, flags), ids) for flags in (FLAGS, older))
    np.testing.assert_allclose(theirs, ours, atol=1e-4 if precision == "float32" else 0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_weights_that_are_no_numbers_are_noticed(precision: Precision) -> None:
    model, ids = network("llama"), texts(4)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    result = read(NativeDecoder(model, 12, precision), [(0, 0, 4)], ids, tables())
    assert not np.isfinite(result.logsumexp).any()


def test_two_threads_say_the_same_to_the_bit() -> None:
    ids, decoder = texts(), NativeDecoder(network("llama"), 12)
    expected = whole(decoder, ids)
    rows = Rows(ids[0], np.arange(50, dtype=np.int32), np.zeros(50, np.int32), tables())
    assert (decoder.step(rows, np.arange(50, dtype=np.int32), threads=2).logits == expected[0]).all()


def test_what_the_kernel_does_not_know_is_left_to_torch() -> None:
    assert not is_supported(torch.nn.Linear(2, 2))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16}
    assert not is_supported(LlamaForCausalLM(replace(LLAMA, rope_scaling=dynamic)))


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    kernel_build.library.cache_clear()
    with pytest.raises(NoCompiler, match="install one .* or set CXX"):
        kernel_build.library("decoder")


def test_a_failed_compilation_shows_the_compilers_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TIDEMILL_CACHE", str(tmp_path))
    with pytest.raises(NoCompiler, match="no-such-flag"):
        kernel_build.library("decoder", (*FLAGS, "--no-such-flag"))
    assert [path.suffix for path in (tmp_path / "tidemill" / "kernels").iterdir()] == [".lock"]
