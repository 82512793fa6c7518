"""Penalties and cuts equal the reference's, draws follow the distribution, and hostile values do no harm."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_core.generate.sampling import (
    NotFinite,
    Penalties,
    RandomStreams,
    Sampling,
    check_finite,
    choose,
    cut,
)

VOCAB = 700
PROMPTS = [[3, 1, 4, 1, 5], [9, 2]]
WRITTEN = torch.tensor([[7, 7, 3], [2, 8, 8]])


def some_scores(rows: int = 2, vocab: int = VOCAB) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(1)) * 3


def spread_out(kept: Tensor, ids: Tensor | None, vocab: int) -> Tensor:
    """What `cut` left as scores of the whole vocabulary."""
    return kept if ids is None else torch.full((len(kept), vocab), -math.inf).scatter(1, ids, kept)


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.8},
    {"top_p": 0.9999},
    {"min_p": 0.05},
    {"temperature": 1.7, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
    {"temperature": 0.4, "top_p": 0.95, "min_p": 0.01},
    {"top_k": 5000},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_cuts_in_their_order_leave_the_probabilities_that_the_reference_leaves(settings: dict[str, Any]) -> None:
    reference = pytest.importorskip("transformers.generation.logits_process")
    warpers = {
        "temperature": reference.TemperatureLogitsWarper,
        "top_k": reference.TopKLogitsWarper,
        "top_p": reference.TopPLogitsWarper,
        "min_p": reference.MinPLogitsWarper,
    }
    scores = some_scores()
    expected = scores
    for name, warper in warpers.items():
        if name in settings:
            expected = warper(settings[name])(WRITTEN, expected)
    found = spread_out(*cut(scores, Sampling(**settings)), VOCAB)
    assert torch.equal(found > -math.inf, expected > -math.inf)
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), atol=1e-6, rtol=0)


def test_bias_repetition_and_least_length_in_their_order_are_the_references() -> None:
    reference = pytest.importorskip("transformers.generation.logits_process")
    scores, prompt = some_scores(1), torch.tensor([PROMPTS[0]])
    seen = torch.cat((prompt, WRITTEN[:1]), dim=1)
    expected = reference.SequenceBiasLogitsProcessor({(4,): 2.5, (6,): -3.0})(seen, scores)
    expected = reference.RepetitionPenaltyLogitsProcessor(1.3)(seen, expected)
    expected = reference.MinNewTokensLengthLogitsProcessor(prompt.shape[1], 4, [0, 11])(seen, expected)
    sampling = Sampling(logit_bias={4: 2.5, 6: -3.0}, repetition_penalty=1.3, min_tokens=4)
    before = scores.clone()
    torch.testing.assert_close(Penalties(sampling, PROMPTS[:1], [0, 11]).apply(scores, WRITTEN[:1]), expected)
    assert torch.equal(scores, before)
    assert torch.equal(
        Penalties(sampling, PROMPTS[:1], [0, 11]).apply(scores, torch.tensor([[1] * 4]))[:, 0], scores[:, 0]
    )


def test_presence_and_frequency_penalties_are_openais_formula_over_the_answer_alone() -> None:
    scores = some_scores()
    found = Penalties(Sampling(presence_penalty=0.5, frequency_penalty=0.25), PROMPTS, []).apply(scores, WRITTEN)
    expected = scores.clone()
    for row, ids in enumerate(WRITTEN.tolist()):
        for token_id in set(ids):
            expected[row, token_id] -= 0.5 + 0.25 * ids.count(token_id)
    torch.testing.assert_close(found, expected)


def test_filling_up_short_prompts_punishes_no_token_of_others() -> None:
    scores, sampling = some_scores(), Sampling(repetition_penalty=1.5)
    together = Penalties(sampling, PROMPTS, []).apply(scores, WRITTEN)
    alone = [Penalties(sampling, PROMPTS[row : row + 1], []).apply(scores[[row]], WRITTEN[[row]]) for row in (0, 1)]
    assert torch.equal(together, torch.cat(alone))


def test_draws_follow_the_distribution_that_the_cuts_leave() -> None:
    shares = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    num_draws = 20_000
    streams = RandomStreams(range(num_draws))
    for settings, expected in (
        ({}, shares),
        ({"temperature": 2.0}, shares.sqrt() / shares.sqrt().sum()),
        ({"top_k": 3}, torch.tensor([0.5, 0.3125, 0.1875, 0, 0, 0])),
        ({"top_p": 0.75}, torch.tensor([0.5, 0.3125, 0.1875, 0, 0, 0])),
        ({"min_p": 0.3}, torch.tensor([0.5, 0.3125, 0.1875, 0, 0, 0])),
    ):
        drawn = choose(shares.log().expand(num_draws, -1), Sampling(**settings), streams)  # type: ignore[arg-type]
        found = torch.bincount(drawn, minlength=6) / num_draws
        # 5 standard deviations of the widest share
        torch.testing.assert_close(found, expected, atol=5 * (0.25 / num_draws) ** 0.5, rtol=0)
        assert torch.equal(found > 0, expected > 0)


def test_one_streams_draws_follow_the_distribution_too() -> None:
    scores, streams = torch.tensor([[0.7, 0.2, 0.1]]).log(), RandomStreams([5])
    drawn = torch.cat([choose(scores, Sampling(), streams) for _ in range(5000)])
    found = torch.bincount(drawn) / len(drawn)
    torch.testing.assert_close(found, torch.tensor([0.7, 0.2, 0.1]), atol=0.035, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"top_k": 20}, {"top_p": 0.9}, {"top_k": 300, "min_p": 0.01, "top_p": 0.99}])
def test_a_row_draws_the_same_whatever_stands_beside_it(settings: dict[str, Any]) -> None:
    scores, sampling, seeds = some_scores(6), Sampling(**settings), [11, 12, 13, 14, 15, 16]
    scores[0] = 0.0  # as flat as can be: its nucleus is far wider than that of the others
    together = RandomStreams(seeds)
    alone = [RandomStreams([seed]) for seed in seeds]
    for _ in range(30):
        found = choose(scores, sampling, together)
        assert found.tolist() == [int(choose(scores[[row]], sampling, stream)) for row, stream in enumerate(alone)]
    together.select([4, 1])
    again = choose(scores[[4, 1]], sampling, together)
    assert again.tolist() == [int(choose(scores[[row]], sampling, alone[row])) for row in (4, 1)]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 1e-9},
        {"temperature": 5e-324},
        {"top_k": 1},
        {"top_p": 1e-12},
        {"min_p": 1.0},
        {"temperature": 1e-9, "top_k": 3, "top_p": 1e-9, "min_p": 1.0},
    ],
)
def test_the_hardest_cuts_keep_the_best_token(settings: dict[str, Any]) -> None:
    scores = some_scores(8) * 1e4
    assert torch.equal(choose(scores, Sampling(**settings), RandomStreams(range(8))), scores.argmax(-1))


def test_a_vocabulary_of_stop_ids_is_not_banned_altogether() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    changed = Penalties(Sampling(min_tokens=5), [[0]], [0, 1, 2]).apply(scores, torch.empty((1, 0), dtype=torch.int64))
    assert int(choose(changed, Sampling(top_k=1), RandomStreams([0]))) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_raise(bad: float) -> None:
    scores = some_scores()
    check_finite(scores)
    check_finite(scores * 1e37)  # finite, though their sum is not
    scores[1, 5] = bad
    with pytest.raises(NotFinite, match="NaN or infinity"):
        check_finite(scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 must be a finite number of at least 0"),
        ({"temperature": math.nan}, "temperature nan must be"),
        ({"temperature": math.inf}, "temperature inf must be"),
        ({"top_p": 0.0}, "top_p 0.0 must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p 1.1 must be"),
        ({"top_k": -1}, "top_k -1 must be at least 0"),
        ({"top_k": 2.5}, "top_k 2.5 must be .* a whole number"),
        ({"min_p": 1.5}, "min_p 1.5 must be at least 0 .* and at most 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 must be finite and above 0"),
        ({"presence_penalty": 2.1}, "presence_penalty 2.1 must be a number from -2 to 2"),
        ({"frequency_penalty": math.nan}, "frequency_penalty nan must be a number from -2 to 2"),
        ({"min_tokens": -1}, "min_tokens -1 must be a whole number of at least 0"),
        ({"seed": 0.5}, "seed 0.5 must be a whole number"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias -1: 1.0 must be a finite number for a token id"),
        ({"logit_bias": {1: math.inf}}, "logit_bias 1: inf must be"),
    ],
)
def test_impossible_settings_are_refused_with_what_is_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**settings)


def test_a_bias_for_an_id_outside_the_vocabulary_is_refused() -> None:
    penalties = Penalties(Sampling(logit_bias={VOCAB: 1.0}), PROMPTS, [])
    with pytest.raises(ValueError, match=f"logit_bias {VOCAB} must be below the vocabulary's size, {VOCAB}"):
        penalties.apply(some_scores(), WRITTEN)
