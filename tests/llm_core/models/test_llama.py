"""The Llama model: equal to the reference, equal with and without cache, saved and loaded bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.config import Model
from llm_core.models import ModelError, build, fused, load_pretrained, save_pretrained
from llm_core.models.attention import attend
from llm_core.models.rotary import rotary_table, rotate

VOCAB = 300


def tiny(num_kv_heads: int = 2, tie_embeddings: bool = False, seed: int = 1) -> nn.Module:
    shape = Model(
        num_layers=2,
        width=32,
        num_heads=4,
        num_kv_heads=num_kv_heads,
        mlp_width=48,
        context=24,
        tie_embeddings=tie_embeddings,
        rope_theta=500.0,  # not what others take where config.json lacks it
    )
    return build(shape, VOCAB, end_id=0, seed=seed).eval()


def some_ids(batch_size: int = 2, length: int = 24) -> Tensor:
    return torch.randint(VOCAB, (batch_size, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("tie_embeddings", [False, True])
@torch.no_grad()
def test_the_saved_folder_loads_in_transformers_with_the_same_logits(
    tmp_path: Path, num_kv_heads: int, tie_embeddings: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny(num_kv_heads, tie_embeddings)
    save_pretrained(model, tmp_path)
    reference, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    torch.testing.assert_close(model(some_ids()).logits, reference(some_ids()).logits, atol=1e-5, rtol=0)
    assert reference.generation_config.eos_token_id == 0


@torch.no_grad()
def test_a_reference_checkpoint_loads_with_the_same_logits(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=24,
        rope_theta=500.0,
        rms_norm_eps=1e-5,
    )
    reference = transformers.LlamaForCausalLM(config).eval()
    reference.save_pretrained(tmp_path)
    torch.testing.assert_close(
        load_pretrained(tmp_path)(some_ids()).logits, reference(some_ids()).logits, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("parts", [(24,), (10, 1, 13), (1,) * 24, (7, 17)])
@torch.no_grad()
def test_a_cached_reading_in_parts_gives_the_logits_of_one_reading(parts: tuple[int, ...]) -> None:
    model, ids = tiny(), some_ids()
    cache = model.new_cache(batch_size=2, max_tokens=24)
    logits = [model(part, cache=cache).logits for part in ids.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(ids).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_position_sees_what_comes_after_it() -> None:
    model, ids = tiny(), some_ids()
    changed = ids.clone()
    changed[:, 12] = (changed[:, 12] + 1) % VOCAB
    before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12], after[:, 12])


@torch.no_grad()
def test_more_tokens_than_fit_are_refused_by_count() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="25 tokens do not fit: the model reads 24"):
        model(some_ids(length=25))
    cache = model.new_cache(batch_size=2, max_tokens=8)
    model(some_ids(length=6), cache=cache)
    with pytest.raises(ValueError, match="9 tokens do not fit: the model reads 8"):
        model(some_ids(length=3), cache=cache)


def test_initial_weights_follow_from_the_seed_alone() -> None:
    first, again, other = tiny(seed=1).state_dict(), tiny(seed=1).state_dict(), tiny(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_saving_a_loaded_model_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    save_pretrained(tiny(), first)
    save_pretrained(load_pretrained(first), second)
    names = sorted(path.name for path in first.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors"]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT9LMHeadModel"]}, "'GPT9LMHeadModel' is not supported, only BertFor"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ({"attention_bias": "some"}, "attention_bias 'some' is not supported by this Llama, only False, True"),
        ({"rope_parameters": {"rope_type": "su", "rope_theta": 1e4}}, "rope_type 'su' is not supported"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_type 'linear' needs factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2, "beta_fast": 3}}, "beta_fast 3 is not supported"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"vocab_size": 400}, r"embed_tokens.weight has shape \(300, 32\), config.json says \(400, 32\)"),
        ({"num_hidden_layers": 3}, r"model.layers.2.\S+ is missing"),
        ({"num_hidden_layers": 1}, r"model.layers.1.\S+ belongs to no layer"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    save_pretrained(tiny(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(ModelError, match=message):
        load_pretrained(tmp_path)


def test_a_missing_key_missing_weights_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json: no model here"):
        load_pretrained(tmp_path)
    save_pretrained(tiny(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="model.safetensors: not a safetensors file"):
        load_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="model.safetensors: no weights here"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ModelError, match="the key 'num_attention_heads' is missing"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not readable as JSON"):
        load_pretrained(tmp_path)


def assert_same_gradients(ours: Tensor, reference: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)
    slope = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    for ours_grad, reference_grad in zip(
        torch.autograd.grad(ours, inputs, slope), torch.autograd.grad(reference, inputs, slope), strict=True
    ):
        torch.testing.assert_close(ours_grad, reference_grad, atol=1e-5, rtol=1e-5)


def leaf(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_the_fused_norm_and_gate_have_autograds_values_and_gradients() -> None:
    x, gain, up = leaf(2, 5, 8, seed=1), leaf(8, seed=2), leaf(2, 5, 8, seed=3)
    assert_same_gradients(fused.rms_norm(x, gain, 1e-6), F.rms_norm(x, (8,), gain, 1e-6), (x, gain))
    assert_same_gradients(fused.swiglu(x, up), F.silu(x) * up, (x, up))


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_the_fused_attention_has_autograds_values_and_gradients(num_kv_heads: int) -> None:
    cos, sin = rotary_table(10_000.0, head_size=8, num_positions=6, scaling={})
    q, k, v = leaf(3, 6, 4, 8, seed=1), leaf(3, 6, num_kv_heads, 8, seed=2), leaf(3, 6, num_kv_heads, 8, seed=3)
    turned = (rotate(x, cos[:, None], sin[:, None]).transpose(1, 2) for x in (q, k))
    reference = attend(*turned, v.transpose(1, 2), causal=True).transpose(1, 2).flatten(2)
    assert_same_gradients(fused.rotary_attention(q, k, v, cos, sin), reference, (q, k, v))


def test_a_bfloat16_training_pass_is_near_the_float32_one() -> None:
    model, ids = tiny(), some_ids()
    exact = model(ids).logits
    low = model.to(torch.bfloat16)(ids).logits.float()
    assert (low - exact).abs().max() < 0.1 * exact.std()
