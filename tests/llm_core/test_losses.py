"""The chunked head and cross-entropy against the plain one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm_core import losses
from llm_core.config import Model, Train
from llm_core.data import IGNORED, Batch
from llm_core.losses import LossTerms, head_cross_entropy
from llm_core.models import build
from llm_core.models.interface import OutputHead
from llm_core.working_copy import Running, WorkingCopy


@pytest.mark.parametrize("chunk", [7, 16, 50, 64])
def test_loss_and_gradients_are_the_plain_ones_for_any_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_TOKENS", chunk)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(50, 8, generator=generator).requires_grad_()
    weight = torch.randn(20, 8, generator=generator).requires_grad_()
    targets = torch.randint(20, (50,), generator=generator)
    ours = head_cross_entropy(hidden, OutputHead(weight), targets)
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    # Times 3: the incoming gradient must be used, not taken for 1.
    for ours_grad, plain_grad in zip(
        torch.autograd.grad(3 * ours, (hidden, weight)), torch.autograd.grad(3 * plain, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours_grad, plain_grad)


@pytest.mark.parametrize("num_counted", [0, 1, 30])
def test_ignored_targets_cost_nothing_and_move_nothing(num_counted: int) -> None:
    generator = torch.Generator().manual_seed(2)
    # A vocabulary above 100, where -100 would be an index.
    hidden = torch.randn(50, 8, generator=generator).requires_grad_()
    weight = torch.randn(120, 8, generator=generator).requires_grad_()
    targets = torch.randint(120, (50,), generator=generator)
    targets[torch.randperm(50, generator=generator)[num_counted:]] = IGNORED
    ours = head_cross_entropy(hidden, OutputHead(weight), targets)
    plain = F.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for ours_grad, plain_grad in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours_grad, plain_grad)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 1e-2), (0.2, 1e-3)])
def test_smoothing_and_z_loss_are_the_plain_ones(smoothing: float, z_loss: float) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(30, 8, generator=generator).requires_grad_()
    weight, bias = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((20, 8), (20,)))
    targets = torch.randint(20, (30,), generator=generator)
    ours = head_cross_entropy(hidden, OutputHead(weight, bias), targets, LossTerms(smoothing, z_loss))
    logits = hidden @ weight.T + bias
    plain = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    plain = plain + z_loss * torch.logsumexp(logits, dim=-1).square().sum()
    torch.testing.assert_close(ours, plain)
    for ours_grad, plain_grad in zip(
        torch.autograd.grad(3 * ours, (hidden, weight, bias)),
        torch.autograd.grad(3 * plain, (hidden, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(ours_grad, plain_grad)


def test_a_target_of_no_probability_costs_much_but_not_infinitely() -> None:
    hidden, head = torch.tensor([[200.0]], requires_grad=True), OutputHead(torch.tensor([[1.0], [-1.0]]))
    loss = head_cross_entropy(hidden, head, torch.tensor([1]))
    assert 80 < float(loss.detach()) < 500
    assert torch.autograd.grad(loss, hidden)[0].isfinite().all()


SHAPE = Model(family="bert", num_layers=1, width=16, num_heads=2, mlp_width=24, context=12)


def answerer(ids: torch.Tensor, segments: torch.Tensor, answers: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The mean loss of a question answerer, and its logits (N, T, 2)."""
    network = build(SHAPE, vocab_size=20, end_id=0, seed=1, task="question_answering")
    inputs = {"input_ids": ids, "segments": segments}
    loss, _ = WorkingCopy(network, Train(), Running()).gradients([Batch(inputs, answers)])
    return loss, network(**inputs).logits.detach()


def test_an_answers_loss_is_the_mean_of_start_and_end_over_the_text_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    ids, answers = torch.randint(20, (3, 10), generator=generator), torch.tensor([[1, 3], [0, 5], [2, 2]])
    segments = (torch.arange(10) < torch.tensor([[6], [8], [10]])).long()
    loss, logits = answerer(ids, segments, answers)
    rows = [logits[row, : int(segments[row].sum())] for row in range(3)]  # as without padding
    plain = [
        F.cross_entropy(row[:, side], answer[side])
        for row, answer in zip(rows, answers, strict=True)
        for side in range(2)
    ]
    assert loss == pytest.approx(float(sum(plain) / 6), rel=1e-5)
