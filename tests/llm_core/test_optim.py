"""Optimizers: their groups, their state as tensors, and the schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llm_core.config import Model, Train
from llm_core.models import build
from llm_core.optim import POLAR_STEPS, Muon, Optimizers, orthogonalize, rate_factor


def tiny(tie_embeddings: bool = False) -> nn.Module:
    shape = Model(
        num_layers=2, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, context=8, tie_embeddings=tie_embeddings
    )
    return build(shape, vocab_size=50, end_id=0, seed=1)


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    cfg = Train(steps=100, warmup_steps=10, decay_share=0.4)
    factors = [rate_factor(step, cfg) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:61] == [1.0] * 52
    assert factors[80] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(1 / 40)
    assert factors[100] == 0


def test_a_cosine_is_half_down_in_the_middle_and_ends_at_its_floor() -> None:
    cfg = Train(steps=110, warmup_steps=10, schedule="cosine", final_lr_share=0.1)
    factors = [rate_factor(step, cfg) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1 and factors[60] == pytest.approx(0.55) and factors[110] == pytest.approx(0.1)
    assert factors[35] == pytest.approx(0.1 + 0.9 * (1 + 2**-0.5) / 2)


def test_a_constant_rate_only_warms_up() -> None:
    cfg = Train(steps=30, warmup_steps=3, schedule="constant")
    assert [rate_factor(step, cfg) for step in range(30)] == pytest.approx([1 / 3, 2 / 3, *[1] * 28])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_rate_stays_positive_at_the_ends_of_the_decay_share(share: float) -> None:
    cfg = Train(steps=10, warmup_steps=0, decay_share=share)
    assert all(0 < rate_factor(step, cfg) <= 1 for step in range(10))


@pytest.mark.parametrize("shape", [(3, 32, 16), (2, 16, 16), (1, 16, 48)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalize(matrices).float())
    assert values.min() > 0.7 and values.max() < 1.5


def test_the_polynomials_bring_singular_values_from_a_hundredth_on_near_one() -> None:
    values = torch.logspace(-2, 0, 500, dtype=torch.float64)
    for a, b, c in POLAR_STEPS:
        values = a * values + b * values**3 + c * values**5
    assert (values - 1).abs().max() < 0.27


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_one_large_direction_does_not_hide_the_others(scale: float) -> None:
    left, right = (torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(n)))[0] for n in (3, 4))
    spectrum = torch.cat((torch.tensor([1.0]), torch.full((63,), 0.02)))
    values = torch.linalg.svdvals(orthogonalize(scale * (left * spectrum @ right)[None]).float())
    assert values.min() > 0.6 and values.max() < 1.5


def test_a_matrix_without_a_gradient_stays_zero() -> None:
    assert not orthogonalize(torch.zeros(1, 8, 8)).any()


def test_batched_orthogonalization_is_the_same_as_one_by_one() -> None:
    matrices = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(2))
    together = orthogonalize(matrices)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(together, alone, atol=0.02, rtol=0)


def test_a_muon_step_has_the_size_of_an_adamw_step() -> None:
    matrix = nn.Parameter(torch.zeros(32, 32))
    matrix.grad = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    Muon([matrix], lr=1e-2, weight_decay=0.0).step()
    assert matrix.detach().square().mean().sqrt() == pytest.approx(0.2e-2, rel=0.2)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_every_parameter_moves_and_a_zero_rate_moves_none(optimizer: str, tie_embeddings: bool) -> None:
    model = tiny(tie_embeddings)
    optimizers = Optimizers(model, Train(optimizer=optimizer))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    give_gradients(model, seed=1)
    optimizers.step(0.0)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    optimizers.step(1.0)
    assert not any(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "adam", "sgd"])
def test_a_restored_state_takes_the_same_next_step(optimizer: str) -> None:
    first = tiny()
    optimizers = Optimizers(first, Train(optimizer=optimizer))
    give_gradients(first, seed=1)
    optimizers.step(1.0)
    second = tiny()
    second.load_state_dict(first.state_dict())
    resumed, fresh_model = Optimizers(second, Train(optimizer=optimizer)), tiny()
    resumed.restore({name: tensor.clone() for name, tensor in optimizers.tensors().items()})
    fresh_model.load_state_dict(first.state_dict())
    fresh = Optimizers(fresh_model, Train(optimizer=optimizer))
    for model, stepper in ((first, optimizers), (second, resumed), (fresh_model, fresh)):
        give_gradients(model, seed=2)
        stepper.step(0.5)
    weights = [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (first, second, fresh_model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])  # without the state the step is another


def test_each_group_has_the_rate_of_the_recipe() -> None:
    model = tiny()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    give_gradients(model, seed=1)
    cfg = Train(optimizer="adamw", lr=1e-3, embedding_lr=1e-2, head_lr=1e-4, norm_lr=1e-5, weight_decay=0.0)
    Optimizers(model, cfg).step(1.0)
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in model.named_parameters()}
    expected = {
        "model.embed_tokens.weight": 1e-2,
        "lm_head.weight": 1e-4,
        "model.norm.weight": 1e-5,
        "model.layers.0.mlp.up_proj.weight": 1e-3,
    }
    # Adam's first step is as long as the rate.
    assert {name: moved[name] for name in expected} == pytest.approx(expected, rel=0.05)
