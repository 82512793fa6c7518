"""The formulas of the decoders against their plainest form, and every stretching of rotary positions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_core.models import load_pretrained, save_pretrained
from llm_core.models.attention import attend
from llm_core.models.gpt2 import ACTIVATIONS, Linear
from llm_core.models.llama import MLP, LlamaConfig, RMSNorm
from llm_core.models.rotary import frequencies, read_scaling, rotary_table, rotate

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
ORIGINAL, CONTEXT, D = 16, 64, 16


def some(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_rms_norm_divides_by_the_root_of_the_mean_square() -> None:
    norm = RMSNorm(6, eps=0.1)
    norm.weight.data = some(6, seed=2)
    row = some(6)
    size = math.sqrt(sum(float(value) ** 2 for value in row) / 6 + 0.1)
    naive = torch.stack([row[i] / size * norm.weight[i] for i in range(6)])
    torch.testing.assert_close(norm(row), naive, **CLOSE)


def test_layer_norm_and_linear_of_gpt2_are_the_written_out_sums() -> None:
    x, gain, shift = some(3, 6), some(6, seed=2), some(6, seed=3)
    mean = x.mean(1, keepdim=True)
    naive = (x - mean) / ((x - mean).square().mean(1, keepdim=True) + 1e-5).sqrt() * gain + shift
    torch.testing.assert_close(torch.nn.functional.layer_norm(x, (6,), gain, shift, 1e-5), naive, **CLOSE)
    layer = Linear(6, 4)
    layer.weight.data, layer.bias.data = some(6, 4, seed=4), some(4, seed=5)
    torch.testing.assert_close(layer(x), x @ layer.weight + layer.bias, **CLOSE)


def test_gelu_is_x_times_the_normal_distribution_or_its_tanh_form() -> None:
    x = torch.linspace(-4, 4, 33)
    exact = torch.tensor([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()])
    near = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(ACTIVATIONS["gelu"](x), exact, **CLOSE)
    torch.testing.assert_close(ACTIVATIONS["gelu_new"](x), near, **CLOSE)
    assert not torch.allclose(exact, near, **CLOSE)


def test_swiglu_gates_one_product_by_the_other() -> None:
    layer, x = MLP(LlamaConfig(8, 1, 6, 1, 1, 10, 8)), some(2, 6)
    gate, up = x @ layer.gate_proj.weight.T, x @ layer.up_proj.weight.T
    torch.testing.assert_close(layer(x), (gate / (1 + torch.exp(-gate)) * up) @ layer.down_proj.weight.T, **CLOSE)


def test_rotary_positions_turn_each_pair_by_its_own_angle() -> None:
    cos, sin = rotary_table(500.0, head_size=6, num_positions=9, scaling={})
    x = some(1, 9, 1, 6)
    turned = rotate(x, cos[:, None], sin[:, None])
    for position in range(9):
        for pair in range(3):
            angle = position * 500.0 ** (-2 * pair / 6)
            a, b = x[0, position, 0, pair].item(), x[0, position, 0, pair + 3].item()
            expected = [a * math.cos(angle) - b * math.sin(angle), a * math.sin(angle) + b * math.cos(angle)]
            assert turned[0, position, 0, pair::3].tolist() == pytest.approx(expected, abs=1e-5)


def test_grouped_causal_attention_is_the_written_out_softmax() -> None:
    q, k, v = some(1, 4, 5, 8), some(1, 2, 5, 8, seed=2), some(1, 2, 5, 8, seed=3)
    found = attend(q, k, v, causal=True)
    for head in range(4):
        for place in range(5):
            keys, values = k[0, head // 2, : place + 1], v[0, head // 2, : place + 1]
            weights = torch.exp(keys @ q[0, head, place] / math.sqrt(8))
            torch.testing.assert_close(found[0, head, place], weights @ values / weights.sum(), **CLOSE)


SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
    "yarn, all its keys": {
        "factor": 4.0,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
        "mscale": 1.2,
        "mscale_all_dim": 0.8,
        "truncate": False,
    },
    "yarn, a given size": {"factor": 4.0, "attention_factor": 0.7},
    "longrope": {
        "short_factor": [1.0 + i / 10 for i in range(D // 2)],
        "long_factor": [2.0 + i for i in range(D // 2)],
        "factor": 4.0,
    },
}


@pytest.mark.parametrize("kind", SCALINGS)
@torch.no_grad()
def test_stretched_rotary_positions_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = kind.split(",")[0]
    own_original = {} if name in ("linear", "dynamic") else {"original_max_position_embeddings": ORIGINAL}
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=2 * D,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=ORIGINAL if name == "dynamic" else CONTEXT,
        rope_parameters={"rope_type": name, "rope_theta": 100.0, **SCALINGS[kind], **own_original},
    )
    torch.manual_seed(1)
    reference = transformers.LlamaForCausalLM(config).eval()
    for parameter in reference.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    for length in (ORIGINAL - 4, CONTEXT):
        ids = torch.randint(50, (2, length), generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(model(ids).logits, reference(ids).logits, **CLOSE)
        plain = rotary_table(100.0, D, length, {})
        changed = not torch.allclose(rotary_table(100.0, D, length, model.config.rope_scaling)[0], plain[0])
        assert changed or (name == "dynamic" and length < ORIGINAL)
    again = tmp_path / "again"
    again.mkdir()
    save_pretrained(model, again)
    assert load_pretrained(again).config == model.config
    back = transformers.LlamaForCausalLM.from_pretrained(again)
    torch.testing.assert_close(back(ids).logits, reference(ids).logits)


def test_the_old_spelling_of_a_scaling_is_read_too() -> None:
    old = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "max_position_embeddings": 8}
    assert read_scaling(old) == (500.0, {"rope_type": "linear", "factor": 2.0})
    phi = {
        "original_max_position_embeddings": 4,
        "max_position_embeddings": 16,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
    }
    _, scaling = read_scaling(phi)
    assert (scaling["original_max_position_embeddings"], scaling["factor"]) == (4, 4.0)
    assert frequencies(10_000.0, 2, 16, scaling)[0].item() == 0.5
