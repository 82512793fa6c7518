"""The working copy: micro-batches count by tokens, low precision hands gradients over, compiling falls back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_core import working_copy
from llm_core.config import Model, Train
from llm_core.data import IGNORED, Batch
from llm_core.models import build
from llm_core.models.interface import Network
from llm_core.working_copy import Running, WorkingCopy, compiles, micro_rows, pays_to_compile

SHAPE = Model(num_layers=2, width=16, num_heads=2, num_kv_heads=1, mlp_width=24, context=16)


def tiny() -> Network:
    return build(SHAPE, vocab_size=50, end_id=0, seed=1)


def uneven_batch() -> Batch:
    """Eight rows of 16, of which 16, 13, 10, ... targets count: rows weigh differently in the mean."""
    ids = torch.randint(50, (8, 17), generator=torch.Generator().manual_seed(2))
    targets = ids[:, 1:].clone()
    for row in range(8):
        targets[row, : 2 * row] = IGNORED
    return Batch({"input_ids": ids[:, :-1]}, targets)


def gradients(rows: int) -> tuple[float, torch.Tensor]:
    network = tiny()
    loss, _ = WorkingCopy(network, Train(), Running()).gradients(uneven_batch().split(rows))
    return loss, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_one_batch_of_8_is_2_of_4_and_8_of_1() -> None:
    loss, grads = gradients(8)
    for rows in (4, 1, 3):
        other_loss, other_grads = gradients(rows)
        assert other_loss == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(other_grads, grads, atol=1e-6, rtol=0)


def test_many_micro_batches_lose_nothing_in_bfloat16() -> None:
    """Gradients that are added up in bfloat16 stop growing once each is a 256th of their sum."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    for count in (300, 1):
        network = build(SHAPE.model_copy(update={"num_layers": 1}), vocab_size=50, end_id=0, seed=1)
        part = Batch({"input_ids": torch.tensor([[3, 1, 4]])}, torch.tensor([[1, 4, 1]]))
        WorkingCopy(network, Train(), Running(torch.bfloat16)).gradients([part] * count)
        found.append([p.grad for p in network.parameters() if p.grad is not None])
    torch.set_num_threads(threads)
    for ours, whole in zip(*found, strict=True):
        torch.testing.assert_close(ours, whole, rtol=0.02, atol=0.02 * float(whole.abs().max()))


def test_a_mean_of_means_would_be_seen() -> None:
    parts = uneven_batch().split(1)
    means = [WorkingCopy(tiny(), Train(), Running()).gradients([part])[0] for part in parts]
    assert abs(sum(means) / len(means) - gradients(8)[0]) > 1e-3


def test_the_bfloat16_copy_hands_gradients_over_and_takes_weights_back() -> None:
    network = tiny()
    working = WorkingCopy(network, Train(), Running(torch.bfloat16))
    _, norm = working.gradients([uneven_batch()])
    grads = [parameter.grad for parameter in network.parameters()]
    assert all(grad is not None and grad.dtype == torch.float32 for grad in grads)
    torch.testing.assert_close(norm, torch.cat([grad.flatten() for grad in grads if grad is not None]).norm())
    assert all(parameter.grad is None for parameter in working.module.parameters())
    with torch.no_grad():
        network.get_parameter("lm_head.weight").add_(1)
    working.take_weights()
    assert torch.equal(
        working.module.get_parameter("lm_head.weight"), network.get_parameter("lm_head.weight").bfloat16()
    )


def test_in_float32_the_copy_is_the_network() -> None:
    network = tiny()
    assert WorkingCopy(network, Train(), Running()).module is network


def test_recomputing_changes_no_gradient() -> None:
    network, again = tiny(), tiny()
    WorkingCopy(network, Train(), Running()).gradients([uneven_batch()])
    WorkingCopy(again, Train(recompute=True), Running()).gradients([uneven_batch()])
    assert again.get_submodule("model").recompute
    for one, other in zip(network.parameters(), again.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_a_micro_batch_has_as_many_rows_as_its_tokens_allow() -> None:
    batch = uneven_batch()
    assert micro_rows(Train(), batch) == 0
    assert micro_rows(Train(batch_tokens=128, micro_batch_tokens=64), batch) == 4
    assert micro_rows(Train(batch_tokens=128, micro_batch_tokens=8), batch) == 1


def test_compiling_is_left_where_it_does_not_pay() -> None:
    network = tiny()
    assert not pays_to_compile("auto", network, Train(steps=500, batch_tokens=2048))
    assert pays_to_compile("auto", network, Train(steps=10_000_000, batch_tokens=2048))
    assert not pays_to_compile("auto", network, Train(steps=10_000_000, batch_tokens=2048, batch_warmup_steps=9))
    assert pays_to_compile("on", network, Train(steps=1, warmup_steps=0))
    assert not pays_to_compile("off", network, Train(steps=10_000_000))


def test_what_does_not_compile_is_trained_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(working_copy.torch, "compile", broken)
    network = tiny()
    before = torch.get_rng_state()
    assert not compiles(network, Train(), Running(compile=True), uneven_batch())
    assert "does not compile here, so it is trained as it is (slower): no C++ compiler found" in caplog.text
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("factor", [float("nan"), 3.0])
def test_what_compiles_to_wrong_numbers_is_trained_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, factor: float
) -> None:
    def wrong(call: Any, **options: object) -> Any:
        return lambda *args, **inputs: factor * call(*args, **inputs)

    monkeypatch.setattr(working_copy.torch, "compile", wrong)
    assert not compiles(tiny(), Train(), Running(compile=True), uneven_batch())
    assert "instead of 4.3" in caplog.text and "trained as it is" in caplog.text


def test_what_compiles_to_the_same_numbers_is_trained_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_copy.torch, "compile", lambda call, **options: call)
    assert compiles(tiny(), Train(), Running(compile=True), uneven_batch())
