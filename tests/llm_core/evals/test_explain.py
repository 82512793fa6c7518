"""Attributions add up to what they explain, name the token that decides, and leave the network as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llm_core.config import Model
from llm_core.evals.explain import Baseline, continuation_score, explain, label_score
from llm_core.models import LanguageModel, Network, Task, build

VOCAB, LENGTH, CUE, SEED = 40, 12, 7, 5
SHAPE = {"num_layers": 2, "width": 32, "num_heads": 2, "num_kv_heads": 2, "mlp_width": 64, "context": 32}
CLASSIFIERS = ("llama", "gpt2", "bert", "t5", "lstm")
WRITERS = ("llama", "gpt2", "lstm")


def made(family: str, task: Task) -> Any:
    return build(Model(family=family, **SHAPE), VOCAB, end_id=1, seed=SEED, task=task).eval()  # type: ignore[arg-type]


def texts(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random ids (B, T), and whether the cue stands among them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, VOCAB, (count, LENGTH), generator=generator)
    labels = torch.rand(count, generator=generator) < 0.5
    places = torch.randint(1, LENGTH - 1, (count,), generator=generator)
    ids[torch.arange(count)[labels], places[labels]] = CUE
    return ids, labels.long()


@pytest.fixture(scope="module", params=["bert", "gpt2", "llama"])
def trained(request: pytest.FixtureRequest) -> Network:
    """A classifier that has learned to look for the cue."""
    network = made(request.param, "sequence_classification")
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(150):
        ids, labels = texts(64, seed=step)
        loss = F.cross_entropy(network(ids).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ids, labels = texts(200, seed=10_000)
    with torch.no_grad():
        assert (network(ids).logits.argmax(1) == labels).float().mean() > 0.97
    optimizer.zero_grad()
    return network


def test_the_planted_cue_gets_by_far_the_largest_share(trained: Network) -> None:
    ids, labels = texts(8, seed=20_000)
    for row in ids[labels == 1]:
        # The pad id stands in no training text, so it says nothing of either label; nor does the mean of all tokens.
        found = explain(trained, row.tolist(), label_score(1), baseline="mean", steps=64)
        shares = torch.tensor(found.attributions)
        cue = int((row == CUE).nonzero())
        assert shares.argmax() == cue
        others = torch.cat((shares[:cue], shares[cue + 1 :]))
        assert others.abs().max() < 0.4 * shares[cue]
        assert abs(found.gap) < 0.05 * abs(found.score - found.baseline_score)


@pytest.mark.parametrize("baseline", ["pad", "mean"])
@pytest.mark.parametrize("family", CLASSIFIERS)
def test_shares_add_up_for_classifiers_of_every_family(family: str, baseline: Baseline) -> None:
    network = made(family, "sequence_classification")
    head = [parameter for name, parameter in network.named_parameters() if name.startswith(network.untrained_heads)]
    with torch.no_grad():
        for parameter in head:  # drawn so narrow that there would be nothing to explain
            parameter.mul_(1 if family == "t5" else 20)
    ids = [*texts(1, seed=3)[0][0].tolist(), 1]
    found = explain(network, ids, label_score(0), baseline=baseline, pad_id=2, steps=64)
    with torch.no_grad():
        logprob = float(network(torch.tensor([ids])).logits.log_softmax(-1)[0, 0])
    assert found.score == pytest.approx(logprob, abs=1e-5)
    assert abs(found.score - found.baseline_score) > 1e-3
    assert abs(found.gap) < max(0.03 * abs(found.score - found.baseline_score), 1e-4)


@pytest.mark.parametrize("family", WRITERS)
def test_shares_add_up_for_continuations_and_those_are_kept(family: str) -> None:
    network: LanguageModel = made(family, "causal_lm")
    ids = texts(1, seed=4)[0][0].tolist()
    num_prompt = LENGTH - 3
    kept = [True] + [False] * (num_prompt - 1) + [True] * 3
    found = explain(network, ids, continuation_score(num_prompt), kept=kept, pad_id=2, steps=64)
    with torch.no_grad():
        logprobs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
    told = sum(float(logprobs[place - 1, ids[place]]) for place in range(num_prompt, LENGTH))
    assert found.score == pytest.approx(told, abs=1e-4)
    assert [bool(share) for share in found.attributions] == [not keeps for keeps in kept]
    assert abs(found.gap) < 0.03 * abs(found.score - found.baseline_score) + 1e-4


def test_shares_of_a_linear_score_are_exact() -> None:
    network = made("bert", "embedding")
    ids, weights = [3, 4, 5], torch.randn(32)

    def score(network: Any, ids: Tensor) -> Tensor:
        return network.embeddings.word_embeddings(ids).sum(1) @ weights

    found = explain(network, ids, score, baseline="zero", steps=2)
    expected = network.embeddings.word_embeddings.weight.detach()[ids] @ weights
    torch.testing.assert_close(torch.tensor(found.attributions), expected, rtol=1e-4, atol=1e-4)
    assert found.baseline_score == pytest.approx(0, abs=1e-5)


def test_more_steps_leave_a_smaller_gap(trained: Network) -> None:
    ids = texts(1, seed=8)[0][0].tolist()
    gaps = [abs(explain(trained, ids, label_score(1), baseline="mean", steps=steps).gap) for steps in (2, 64)]
    assert gaps[1] < gaps[0]


def test_the_network_itself_is_untouched(trained: Network) -> None:
    explain(trained, [9, 8, 7], label_score(0), baseline="zero", steps=4)
    assert all(parameter.grad is None for parameter in trained.parameters())
    assert not any(module._forward_hooks for module in trained.modules())


def test_a_pad_baseline_needs_a_pad_token() -> None:
    with pytest.raises(ValueError, match="baseline 'pad': this model has no padding; take 'zero' or 'mean'"):
        explain(made("bert", "sequence_classification"), [3, 4], label_score(0))
