"""Which tokens made a model say what it says: integrated gradients over their embeddings.

Each token's share of a score is its embedding's way from a baseline, which stands for "no token", times the score's
mean gradient along the straight line between the two (Sundararajan et al., 2017). The shares add up to the score's
difference between text and baseline, up to the error of the sum that stands for the integral.
Dimensions: T tokens, B points of the line in one pass, C width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_core.models.interface import LanguageModel, Network

Baseline = Literal["pad", "zero", "mean"]
Score = Callable[[Any, Tensor], Tensor]
"""What is explained: of a network and ids (B, T) a number (B) that has a gradient, such as a log-probability."""
STEPS = 64
CUTTING_ROUNDS, EVEN_SHARE = 3, 0.25
"""How often the line is cut anew, and how much of the cutting goes by length instead of by change."""
MAX_PASS_TOKENS = 2048


@dataclass(frozen=True)
class Explanation:
    """How much each token spoke for a score."""

    attributions: tuple[float, ...]
    """One for each id, 0 for those that were kept; negative where a token spoke against it."""
    score: float
    baseline_score: float

    @property
    def gap(self) -> float:
        """How far the attributions' sum is from the difference that it stands for."""
        return sum(self.attributions) - (self.score - self.baseline_score)


def explain(network: Network, ids: Sequence[int], score: Score, **settings: Any) -> Explanation:
    """What each of the ids (T) adds to the score; the settings are those of `explaining`."""
    work = explaining(network, ids, score, **settings)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Explanation = end.value
            return found


def explaining(
    network: Network,
    ids: Sequence[int],
    score: Score,
    *,
    kept: Sequence[bool] = (),
    baseline: Baseline = "pad",
    pad_id: int | None = None,
    steps: int = STEPS,
) -> Generator[None, None, Explanation]:
    """The same, bit by bit: yields after each pass through the network, so that others get their turn.

    Tokens that are `kept` (all that are no part of the text) stand in the baseline too. Raises ValueError for a pad
    baseline without a `pad_id`.
    """
    line = _Line(network, torch.tensor(ids), kept, _nothing(network, baseline, pad_id))
    edges = yield from _cuts(line, score, steps)
    places, widths = (edges[1:] + edges[:-1]) / 2, edges.diff()
    total = torch.zeros(len(ids))
    for some in line.passes(steps):
        total += line.shares(score, places[some], widths[some])
        yield
    first, last = line.scores(score, torch.tensor([0.0, 1.0])).tolist()
    return Explanation(tuple(total.tolist()), score=last, baseline_score=first)


def _cuts(line: _Line, score: Score, steps: int) -> Generator[None, None, Tensor]:
    """Places on the line with `steps` parts between them over which the score changes about alike.

    A sure classifier changes its mind in a small part of the way, which even steps would miss.
    """
    edges = torch.linspace(0, 1, steps + 1)
    for _ in range(CUTTING_ROUNDS):
        scores = torch.empty(steps + 1)
        for some in line.passes(steps + 1):
            scores[some] = line.scores(score, edges[some])
            yield
        changes = scores.diff().abs().double()
        weights = changes / changes.sum().clamp_min(1e-12) + EVEN_SHARE * edges.diff()
        reached = np.concatenate(([0.0], weights.cumsum(0).numpy()))
        edges = torch.from_numpy(np.interp(np.linspace(0, reached[-1], steps + 1), reached, edges.numpy())).float()
    return edges


def label_score(label: int, **inputs: Tensor) -> Score:
    """A classifier's log-probability of one of its labels; `inputs` are those of its call, such as token_types."""

    def score(network: Any, ids: Tensor) -> Tensor:
        logits = network(ids, **inputs).logits
        # A single label is a yes or no, several exclude each other.
        logprobs = F.logsigmoid(logits) if logits.shape[1] == 1 else logits.log_softmax(-1)
        return logprobs[:, label]

    return score


def continuation_score(num_prompt: int) -> Score:
    """A language model's log-probability of the ids behind the first `num_prompt`, all of them together."""

    def score(network: LanguageModel, ids: Tensor) -> Tensor:
        features, head = network.features(ids)[:, num_prompt - 1 : -1], network.output_head()
        logprobs = F.linear(features, head.weight, head.bias).log_softmax(-1)
        return logprobs.gather(2, ids[:, num_prompt:, None]).sum(dim=(1, 2))

    return score


def _nothing(network: Network, baseline: Baseline, pad_id: int | None) -> Tensor:
    """The vector (C) that stands for no token."""
    vectors = _embedding(network).weight.detach()
    if baseline == "pad":
        if pad_id is None:
            raise ValueError("baseline 'pad': this model has no padding; take 'zero' or 'mean'")
        return vectors[pad_id]
    return vectors.mean(dim=0) if baseline == "mean" else torch.zeros_like(vectors[0])


def _embedding(network: nn.Module) -> nn.Embedding:
    """That of the tokens: in every family the first of all embeddings."""
    return next(module for module in network.modules() if isinstance(module, nn.Embedding))


class _Line:
    """A network whose token embeddings lie anywhere between a baseline and the text, by a hook behind the embedding.

    It is a copy with the same weights: others may be using the network, and must not meet the hook.
    """

    def __init__(self, network: Network, ids: Tensor, kept: Sequence[bool], baseline: Tensor) -> None:
        shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
        self._network = copy.deepcopy(network, shared)
        self._ids, self._baseline = ids.to(baseline.device), baseline
        self._is_text = ~torch.tensor(list(kept) or [False] * len(ids), device=baseline.device)
        self._places = torch.ones(1)
        self._met: list[tuple[Tensor, Tensor]] = []
        """Of each use of the embedding what it gave here, and its way from the baseline, both (B, T, C)."""
        _embedding(self._network).register_forward_hook(self._put)

    def passes(self, num_places: int) -> Iterator[slice]:
        """Which of some places go through the network together."""
        size = max(1, MAX_PASS_TOKENS // len(self._ids))
        return (slice(first, first + size) for first in range(0, num_places, size))

    @torch.no_grad()
    def scores(self, score: Score, places: Tensor) -> Tensor:
        """The scores at some places, from 0 at the baseline to 1 at the text."""
        return self._run(score, places).float().cpu()

    def shares(self, score: Score, places: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum over some places (B) of what each token (T) adds there."""
        with torch.enable_grad():
            scores = self._run(score, places)
            gradients = torch.autograd.grad(scores.sum(), [given for given, _ in self._met])
        total = torch.zeros(len(self._ids))
        for number, ((_, way), gradient) in enumerate(zip(self._met, gradients, strict=True)):
            shares = weights @ (way * gradient).sum(-1).float().cpu()  # (T)
            total += torch.cat((shares[number:], shares.new_zeros(number)))  # see `_put`
        return total

    def _run(self, score: Score, places: Tensor) -> Tensor:
        self._places, self._met = places.to(self._baseline.device), []
        return score(self._network, self._ids.expand(len(places), -1))

    def _put(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Put what lies at the places of the line into the text's place.

        An encoder-decoder that classifies reads the text twice, the second time each token one place later.
        """
        number, text = len(self._met), output.detach()
        is_text = torch.cat((self._is_text.new_zeros(number), self._is_text[: len(self._is_text) - number]))
        way = (text - self._baseline) * is_text[:, None]
        given = (text - (1 - self._places[:, None, None]) * way).requires_grad_(torch.is_grad_enabled())
        self._met.append((given, way))
        return given
