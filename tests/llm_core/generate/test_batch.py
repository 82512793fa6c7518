"""A sequence is the same in any company: drawn, penalised, stopped, in every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from llm_core.generate import ContextExceeded, Sampling, decode, generate, generate_batch
from tests.llm_core.generate.conftest import CONTEXT, END, Pair

PROMPTS = [[3, 14, 15, 9, 2], [6], [5, 35, 8, 9, 7, 9, 3, 2], [38, 4, 6], [26, 4]]
FAMILIES = ["llama", "gpt2", "t5", "lstm", "transformer"]
SETTINGS: list[dict[str, Any]] = [
    {"seed": 3},
    {"temperature": 0.0},
    {"temperature": 0.8, "top_k": 10, "top_p": 0.9, "min_p": 0.01, "seed": 7},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.5, "min_tokens": 5, "seed": 9},
]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest, pair_of: Callable[[str], Pair]) -> nn.Module:
    ours, _ = pair_of(request.param)
    return ours


@pytest.mark.parametrize("settings", SETTINGS)
def test_five_prompts_at_once_give_the_ids_of_each_alone(model: nn.Module, settings: dict[str, Any]) -> None:
    together = generate_batch(model, PROMPTS, max_tokens=20, sampling=Sampling(**settings), stop_ids=[END])
    for place, (prompt, (answer,)) in enumerate(zip(PROMPTS, together, strict=True)):
        seed = settings.get("seed", 0) + place
        alone = list(generate(model, prompt, max_tokens=20, stop_ids=[END], **{**settings, "seed": seed}))
        assert list(answer.ids) == alone
        assert answer.reason == ("length" if len(alone) == 20 else "stop")


@torch.no_grad()
def test_greedy_with_the_cache_is_the_argmax_of_full_readings(model: nn.Module) -> None:
    made = [list(answer.ids) for (answer,) in generate_batch(model, PROMPTS, max_tokens=10, sampling=Sampling(0.0))]
    for prompt, ids in zip(PROMPTS, made, strict=True):
        naive: list[int] = []
        for _ in range(10):
            inputs = (
                ([prompt], [[model.config.start_id, *naive]]) if model.task == "seq2seq_lm" else ([prompt + naive],)
            )
            naive.append(int(model(*map(torch.tensor, inputs)).logits[0, -1].argmax()))
        assert ids == naive


def test_several_answers_to_a_prompt_read_it_once(model: nn.Module) -> None:
    read = count_tokens(model)
    many = generate_batch(model, PROMPTS[:2], max_tokens=6, num_return_sequences=3, sampling=Sampling(3.0))
    assert next(read) == ((2, 1) if model.task == "seq2seq_lm" else (2, 5))
    assert set(read) == {(6, 1)}
    prompts = [prompt for prompt in PROMPTS[:2] for _ in range(3)]
    again = generate_batch(model, prompts, max_tokens=6, sampling=Sampling(3.0))
    assert [answer.ids for answers in many for answer in answers] == [answer.ids for (answer,) in again]
    assert len({answer.ids for answer in many[0]}) == 3


def test_finished_sequences_leave_the_batch(model: nn.Module) -> None:
    (ends,) = generate_batch(model, PROMPTS[:1], max_tokens=8, sampling=Sampling(0.0))[0]
    read = count_tokens(model)
    stop = ends.ids[2]
    answers = generate_batch(model, PROMPTS, max_tokens=8, sampling=Sampling(0.0), stop_ids=[stop])
    sizes = [size for size, _ in read]
    assert sizes[0] == 5 and sizes == sorted(sizes, reverse=True)
    lengths = [len(answer.ids) + (answer.reason == "stop") for (answer,) in answers]
    assert sum(sizes) == sum(lengths)
    assert stop not in answers[0][0].ids


def test_the_seeds_that_are_given_are_those_that_are_used(model: nn.Module) -> None:
    prompts, seeds = [PROMPTS[0]] * 3, [5, 6, 5]
    made = generate_batch(model, prompts, max_tokens=9, seeds=seeds, sampling=Sampling(3.0))
    first, other, again = (answers[0].ids for answers in made)
    assert first == again != other
    with pytest.raises(ValueError, match="2 seeds for 3 sequences"):
        generate_batch(model, prompts, max_tokens=9, seeds=[1, 2])


def test_scores_are_the_models_own_log_probabilities(model: nn.Module) -> None:
    ((answer,),) = generate_batch(model, PROMPTS[:1], max_tokens=7, sampling=Sampling(0.5, top_k=5, seed=2))
    tokens = list(decode(model, PROMPTS[0], max_tokens=7, sampling=Sampling(0.5, top_k=5, seed=2)))
    assert [token.id for token in tokens] == list(answer.ids)
    assert answer.score == pytest.approx(sum(token.logprob for token in tokens), abs=1e-4)


def test_min_tokens_holds_stop_ids_back(model: nn.Module) -> None:
    (ends,) = generate_batch(model, PROMPTS[:1], max_tokens=8, sampling=Sampling(0.0))[0]
    stop = ends.ids[1]
    held = generate_batch(model, PROMPTS[:1], max_tokens=8, sampling=Sampling(0.0, min_tokens=8), stop_ids=[stop])[0][0]
    assert len(held.ids) == 8 and stop not in held.ids
    assert list(generate(model, PROMPTS[0], max_tokens=8, temperature=0.0, min_tokens=8, stop_ids=[stop])) == [
        *held.ids
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "lstm"])
def test_prompts_of_several_lengths_each_fill_the_context(pair_of: Callable[[str], Pair], family: str) -> None:
    model, _ = pair_of(family)
    prompts = [[3] * 40, [7, 8], [9] * (CONTEXT - 1), [11] * 20]
    together = generate_batch(model, prompts, max_tokens=1000)
    assert [len(answer.ids) for (answer,) in together] == [8, CONTEXT - 2, 1, CONTEXT - 20]
    alone = [generate(model, prompt, max_tokens=1000, seed=seed) for seed, prompt in enumerate(prompts)]
    assert [list(answer.ids) for (answer,) in together] == [list(ids) for ids in alone]


class Letters:
    """A stream that spells id 0 as a, 1 as b and so on."""

    def push(self, token_id: int) -> str:
        return chr(ord("a") + token_id % 26)

    def finish(self) -> str:
        return ""


def letters(prompt: Sequence[int]) -> Letters:
    return Letters()


def test_a_stop_string_across_tokens_ends_a_text_and_is_not_part_of_it(model: nn.Module) -> None:
    plain = generate_batch(model, PROMPTS, max_tokens=12, new_text=letters)
    text = plain[2][0].text
    assert text is not None and len(text) == 12
    stop = text[4:7]
    answers = generate_batch(model, PROMPTS, max_tokens=12, stop=[stop, "never here"], new_text=letters)
    stopped = answers[2][0]
    assert stopped.text == text[: text.index(stop)] and stopped.reason == "stop"
    assert stopped.ids == plain[2][0].ids[: text.index(stop) + 3]
    untouched = [place for place, ((answer,)) in enumerate(plain) if stop not in str(answer.text)]
    assert untouched and all(answers[place] == plain[place] for place in untouched)
    with pytest.raises(ValueError, match="stop strings need new_text"):
        generate_batch(model, PROMPTS, max_tokens=12, stop=["x"])


def test_prompts_that_leave_no_room_are_refused(pair_of: Callable[[str], Pair]) -> None:
    llama, t5 = pair_of("llama")[0], pair_of("t5")[0]
    with pytest.raises(ContextExceeded, match=f"context is {CONTEXT} tokens and the prompt has {CONTEXT}"):
        generate_batch(llama, [[1], [2] * CONTEXT], max_tokens=1)
    with pytest.raises(ContextExceeded, match=f"reads {CONTEXT} tokens and the source has {CONTEXT + 1}"):
        generate_batch(t5, [[2] * (CONTEXT + 1)], max_tokens=1)
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        generate_batch(llama, [[1], []], max_tokens=1)
    with pytest.raises(ValueError, match="num_return_sequences 0 must be at least 1"):
        generate_batch(llama, [[1]], max_tokens=1, num_return_sequences=0)


def test_one_prompt_that_gets_no_tokens_takes_none_from_the_others(pair_of: Callable[[str], Pair]) -> None:
    model, _ = pair_of("llama")
    prompts, sampling = [[3, 4], [5, 6, 7], [8]], Sampling(temperature=1.0)
    seeds = list(range(6))
    found = generate_batch(model, prompts, max_tokens=[0, 5, 3], sampling=sampling, num_return_sequences=2, seeds=seeds)
    assert [[len(answer.ids) for answer in answers] for answers in found] == [[0, 0], [5, 5], [3, 3]]
    alone = generate_batch(
        model, prompts[1:], max_tokens=[5, 3], sampling=sampling, num_return_sequences=2, seeds=seeds[2:]
    )
    assert [[answer.ids for answer in answers] for answers in found[1:]] == [
        [answer.ids for answer in answers] for answers in alone
    ]


def test_nothing_asked_for_is_nothing_done(pair_of: Callable[[str], Pair]) -> None:
    llama = pair_of("llama")[0]
    assert generate_batch(llama, [], max_tokens=5) == []
    assert generate_batch(llama, [[1]], max_tokens=0)[0][0].ids == ()


def count_tokens(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Shapes of the ids that the model's decoder reads from now on until they are asked for, as they came."""
    seen: list[tuple[int, int]] = []
    handle = model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[-1].shape)))

    def shapes() -> Iterator[tuple[int, int]]:
        handle.remove()
        yield from seen

    return shapes()
