"""Beam search equals the reference's, and with beams enough it is exhaustive."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_core.generate import Beams, Sampling, beam_search
from tests.llm_core.generate.conftest import END, Pair

PROMPTS = [[3, 14, 15, 9], [26, 5], [35, 8, 9, 7, 9, 3]]
FAMILIES = ["llama", "gpt2", "t5"]


def reference_ids(model: Any, prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    """The reference's answers to prompts of one length or padded in front, cut at the stop id."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    made = model.generate(ids, attention_mask=mask, do_sample=False, eos_token_id=END, pad_token_id=0, **settings)
    start = 1 if model.config.is_encoder_decoder else longest
    return [list(itertools.takewhile(lambda token_id: token_id != END, row)) for row in made[:, start:].tolist()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "early_stopping", "num_return"),
    [(4, 1.0, False, 4), (3, 0.0, "never", 2), (4, 2.0, "never", 3), (5, -1.0, True, 5), (2, 1.0, True, 1)],
)
def test_beams_are_the_references(
    pair_of: Callable[[str], Pair],
    family: str,
    num_beams: int,
    length_penalty: float,
    early_stopping: Any,
    num_return: int,
) -> None:
    ours, reference = pair_of(family)
    expected = reference_ids(
        reference,
        PROMPTS,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        num_return_sequences=num_return,
        max_new_tokens=12,
    )
    beams = Beams(num_beams, length_penalty, early_stopping, num_return)
    found = beam_search(ours, PROMPTS, max_tokens=12, beams=beams, stop_ids=[END])
    assert [list(answer.ids) for answers in found for answer in answers] == expected


def test_penalties_apply_to_beams_as_in_the_reference(pair_of: Callable[[str], Pair]) -> None:
    for family in ("llama", "t5"):
        ours, reference = pair_of(family)
        settings = {"repetition_penalty": 1.4, "min_new_tokens": 6}
        expected = reference_ids(reference, PROMPTS[:1], num_beams=3, max_new_tokens=12, **settings)
        sampling = Sampling(repetition_penalty=1.4, min_tokens=6)
        found = beam_search(ours, PROMPTS[:1], max_tokens=12, beams=Beams(3), penalties=sampling, stop_ids=[END])
        assert [list(answers[0].ids) for answers in found] == expected


class Chain(nn.Module):
    """Scores of the next token by the last one alone: a vocabulary of 4, of which 0 ends a text."""

    task = "causal_lm"

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 4, generator=torch.Generator().manual_seed(3)) * 2)
        self.config = type("Config", (), {"context": 16})

    def new_cache(self, batch_size: int, max_tokens: int) -> Any:
        return type("NoCache", (), {"select": lambda self, rows: None})()

    def forward(self, input_ids: Tensor, cache: Any) -> Any:
        return type("Output", (), {"logits": self.table[input_ids]})


def all_texts(table: Tensor, first: int, length: int) -> list[tuple[float, list[int]]]:
    """Every complete text of at most `length` tokens with its log-probability, by plain enumeration."""
    logprobs, found = table.log_softmax(-1).tolist(), []
    for size in range(1, length + 1):
        for ids in itertools.product(range(4), repeat=size):
            if 0 in ids[:-1] or (ids[-1] != 0 and size < length):
                continue
            score = sum(logprobs[before][after] for before, after in itertools.pairwise((first, *ids)))
            found.append((score, [token_id for token_id in ids if token_id]))
    return sorted(found, reverse=True)


def test_with_as_many_beams_as_texts_the_search_is_exhaustive() -> None:
    model = Chain()
    expected = all_texts(model.table.detach(), first=2, length=4)[:20]
    beams = Beams(200, length_penalty=0.0, early_stopping="never", num_return_sequences=20)
    (found,) = beam_search(model, [[2]], max_tokens=4, beams=beams, stop_ids=[0])
    # Texts that take the same steps in another order have the same score: any of them may stand first.
    scores = {tuple(ids): score for score, ids in all_texts(model.table.detach(), first=2, length=4)}
    assert [answer.score for answer in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    assert [answer.score for answer in found] == pytest.approx([scores[answer.ids] for answer in found], abs=1e-5)
    assert len({answer.ids for answer in found}) == 20
    assert all(answer.reason == ("length" if len(answer.ids) == 4 else "stop") for answer in found)


def test_fewer_texts_than_asked_for_come_where_there_are_no_more() -> None:
    (found,) = beam_search(Chain(), [[2]], max_tokens=1, beams=Beams(9, num_return_sequences=9), stop_ids=[0])
    assert sorted(answer.ids for answer in found) == [(), (1,), (2,), (3,)]


def test_prompts_of_several_lengths_fill_the_context_one_after_the_other(pair_of: Callable[[str], Pair]) -> None:
    ours, _ = pair_of("llama")
    prompts = [[3] * 40, [7, 8], [9] * 44]
    together = beam_search(ours, prompts, max_tokens=1000, beams=Beams(3))
    alone = [beam_search(ours, [prompt], max_tokens=1000, beams=Beams(3))[0] for prompt in prompts]
    assert [[answer.ids for answer in answers] for answers in together] == [
        [answer.ids for answer in answers] for answers in alone
    ]
    assert [len(answers[0].ids) for answers in together] == [8, 46, 4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 1}, "num_beams 1 must be at least 2"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "num_return_sequences 3 must be .* at most num_beams, 2",
        ),
        ({"early_stopping": "soon"}, "early_stopping 'soon' must be true, false or 'never'"),
        ({"length_penalty": float("inf")}, "length_penalty inf must be a finite number"),
    ],
)
def test_impossible_searches_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Beams(**settings)
