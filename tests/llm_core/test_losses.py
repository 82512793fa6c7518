"""The chunked head and cross-entropy against the plain one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm_core import losses
from llm_core.data import IGNORED
from llm_core.losses import head_cross_entropy
from llm_core.models.interface import OutputHead


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
