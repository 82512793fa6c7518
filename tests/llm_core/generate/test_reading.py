"""The seam gives what full readings give: with a cache and without, sampled and in beams, in every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_core.generate import Beams, Sampling, beam_search, generate_batch
from tests.llm_core.generate.conftest import CONTEXT, END, Pair

PROMPTS = [[3, 14, 15, 9, 2], [6], [5, 35, 8, 9, 7, 9, 3, 2]]
FAMILIES = ["llama", "gpt2", "t5", "lstm", "transformer"]


class Uncached(nn.Module):
    """A model that reads everything again for every token; its cache is the ids themselves."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config, self.task = model, model.config, model.task

    def new_cache(self, batch_size: int, max_tokens: int) -> ReadIds:
        return ReadIds()

    def forward(self, *ids: Any, segments: Tensor | None = None, cache: ReadIds) -> Any:
        cache.append(ids, segments)
        return self.model(*cache.ids, segments=cache.segments)


class ReadIds:
    """What was read so far."""

    ids: list[Tensor]
    segments: Tensor | None = None

    def append(self, ids: tuple[Any, ...], segments: Tensor | None) -> None:
        if not hasattr(self, "ids"):
            self.ids, self.segments = list(ids), segments
            return
        self.ids[-1] = torch.cat((self.ids[-1], ids[-1]), dim=1)
        if self.segments is not None and len(ids) == 1:
            self.segments = torch.cat((self.segments, torch.ones_like(ids[-1])), dim=1)

    def select(self, rows: Tensor) -> None:
        self.ids = [ids[rows] for ids in self.ids]
        self.segments = None if self.segments is None else self.segments[rows]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, pair_of: Callable[[str], Pair]) -> nn.Module:
    return pair_of(request.param)[0]


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(0.9, top_k=20, seed=4)])
def test_cached_sequences_are_those_of_full_readings(model: nn.Module, sampling: Sampling) -> None:
    cached, uncached = (
        generate_batch(reader, PROMPTS, max_tokens=14, sampling=sampling, stop_ids=[END])
        for reader in (model, Uncached(model))
    )
    assert [answer.ids for (answer,) in cached] == [answer.ids for (answer,) in uncached]


def test_cached_beams_are_those_of_full_readings(model: nn.Module) -> None:
    beams = Beams(4, num_return_sequences=4)
    cached, uncached = (
        beam_search(reader, PROMPTS, max_tokens=12, beams=beams, stop_ids=[END]) for reader in (model, Uncached(model))
    )
    assert [answer.ids for answers in cached for answer in answers] == [
        answer.ids for answers in uncached for answer in answers
    ]


def test_each_prompt_can_have_a_limit_of_its_own(pair_of: Callable[[str], Pair]) -> None:
    model = pair_of("llama")[0]
    answers = generate_batch(model, PROMPTS, max_tokens=[3, CONTEXT, 7])
    assert [len(answer.ids) for (answer,) in answers] == [3, CONTEXT - 1, 7]
    beams = beam_search(model, PROMPTS, max_tokens=[3, 5, 7], beams=Beams(2))
    assert [len(answers[0].ids) for answers in beams] == [3, 5, 7]
