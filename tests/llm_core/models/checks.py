"""What the tests of several families ask of a network; none of these is a test by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm_core.config import Train
from llm_core.data import Batch
from llm_core.losses import LossTerms, batch_loss
from llm_core.models import Network, load_pretrained, save_pretrained
from llm_core.optim import Optimizers, rate_factor
from llm_core.working_copy import Running, WorkingCopy

Call = Callable[[Any], Tensor]
"""Logits of a network on inputs of the test's choice."""


def some_ids(*shape: int, vocab_size: int, seed: int = 5) -> Tensor:
    """Ids from 2 on: 0 and 1 are left to padding and ends."""
    return torch.randint(2, vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def shaken(model: Any, seed: int = 3) -> Any:
    """The model with random biases and gains too, so that none of them can be left out unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def imported(reference: Any, folder: Path) -> Network:
    """Our network out of what `reference` saved."""
    reference.save_pretrained(folder)
    return load_pretrained(folder)


def exported(model: Network, folder: Path, reference_class: Any) -> Any:
    """The reference's network out of what we saved; it misses nothing and knows every tensor."""
    save_pretrained(model, folder)
    reference, report = reference_class.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return reference.eval()


def assert_close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def mean_loss(network: Any, targets: Tensor, **inputs: Tensor) -> Tensor:
    """What training minimises, for each counted target, as transformers gives it."""
    batch = Batch(inputs, targets)
    with torch.enable_grad():  # the path that training takes
        return batch_loss(network, batch, LossTerms()).detach() / batch.num_counted


def losses_in_training(network: Network, batches: Iterable[Batch], cfg: Train) -> Iterator[float]:
    """Each batch's loss before it is learnt from, by the trainer's own copy, loss, optimizers and schedule."""
    working, optimizers = WorkingCopy(network, cfg, Running()), Optimizers(network, cfg)
    for step, batch in enumerate(batches):
        loss, norm = working.gradients([batch])
        torch.nn.utils.clip_grads_with_norm_(network.parameters(), cfg.clip_norm, norm)
        optimizers.step(rate_factor(step, cfg))
        working.take_weights()
        yield loss


def assert_recomputing_changes_nothing(model: Network, call: Call) -> None:
    """Same logits and gradients from fewer kept tensors, where the backward pass makes inner states again."""
    model.train()
    results, num_kept = [], []
    for recompute in (False, True):
        for module in model.modules():
            if hasattr(module, "recompute"):
                module.recompute = recompute
        torch.manual_seed(1)
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            logits = call(model)
        num_kept.append(len(kept))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        results.append([logits.detach(), *torch.autograd.grad(logits.square().mean(), parameters)])
    assert num_kept[1] < num_kept[0]
    for before, after in zip(*results, strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)


def assert_dropout_only_in_training(model: Network, call: Call) -> None:
    with torch.no_grad():
        model.train()
        assert not torch.equal(call(model), call(model))
        model.eval()
        assert torch.equal(call(model), call(model))


def assert_initial_weights_follow_from_the_seed(model: Network) -> None:
    drawn = []
    for seed in (1, 1, 2):
        model.initialize(seed)
        drawn.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    first, again, other = drawn
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in first.values())
