"""An answer is the same alone, in a batch, with a cold or warm prefix cache and after preemption: to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from llm_core.generate import Sampling, generate
from llm_core.kernels import BLOCK_TOKENS, NativeDecoder, Precision
from llm_core.models.llama import LlamaConfig, LlamaForCausalLM
from llm_core.serving import paged
from llm_core.serving.blocks import BlockPool, digests_of
from llm_core.serving.jobs import Answer, Event, Failure, Finish, Job, Piece, Read
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.paged import PagedRunner

CONTEXT, NUM_ANSWERS = 96, 12
NEAR = 1e-4

Told = list[tuple[int, float]]


@pytest.fixture(scope="module")
def trained(model: LoadedModel) -> LlamaForCausalLM:
    """A model that has learned its texts, in whose vocabulary tokens have twins that are all but equally likely."""
    torch.manual_seed(0)
    tokenizer = model.tokenizer
    network = LlamaForCausalLM(LlamaConfig(tokenizer.vocab_size, 2, 32, 4, 2, 64, CONTEXT))
    network.initialize(1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    text = torch.tensor([model.encode_prompt("The state of our union is strong. One, two and three, fellow citizens.")])
    for _ in range(60):
        logits = network(text[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), text[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    with torch.no_grad():
        head = network.lm_head.weight
        head[1::2] = head[::2] * (1 + 1e-6 * torch.randn(head[::2].shape))
    return network.eval()


class Bench:
    """Answers of one runner, written to their end."""

    def __init__(
        self, model: LoadedModel, network: Any, num_blocks: int = 400, precision: Precision = "float32"
    ) -> None:
        self.decoder = NativeDecoder(network, num_blocks, precision)
        self.runner = PagedRunner(self.decoder, max_running=32)
        self.model = replace(model, network=network, runner=self.runner)

    def job(self, prompt: Sequence[int], **values: Any) -> Job:
        defaults: dict[str, Any] = {"max_tokens": 40, "sampling": Sampling(temperature=0.0)}
        return Job(self.model, tuple(prompt), **{**defaults, **values})

    def run(self, *jobs: Job) -> list[list[Event]]:
        told: list[list[Event]] = [[] for _ in jobs]
        for job, events in zip(jobs, told, strict=True):
            self.runner.add(Answer(job, events.append))
        while self.runner.num_running + self.runner.num_waiting:
            self.runner.step()
        assert self.runner.cache_usage == 0
        return told


def tokens(events: list[Event]) -> Told:
    return [(token.id, token.logprob) for event in events if isinstance(event, Piece) for token in event.tokens]


def prompts(vocab_size: int) -> list[list[int]]:
    rng = np.random.default_rng(5)
    start = rng.integers(vocab_size, size=35).tolist()  # two full blocks that all prompts share
    return [start[: int(rng.integers(20, 36))] + rng.integers(vocab_size, size=5).tolist() for _ in range(NUM_ANSWERS)]


@pytest.fixture(scope="module")
def alone(model: LoadedModel, trained: LlamaForCausalLM) -> list[Told]:
    """Each answer written by a runner that does nothing else and remembers nothing."""
    made = []
    for prompt in prompts(trained.config.vocab_size):
        bench = Bench(model, trained)
        made.append(tokens(*bench.run(bench.job(prompt))))
    return made


def together(bench: Bench) -> list[Told]:
    jobs = [bench.job(prompt) for prompt in prompts(bench.decoder.vocab_size)]
    return [tokens(events) for events in bench.run(*jobs)]


def test_answers_are_those_of_the_generation_core_and_pass_near_ties(
    model: LoadedModel, trained: LlamaForCausalLM, alone: list[Told]
) -> None:
    num_near = 0
    for prompt, told in zip(prompts(trained.config.vocab_size), alone, strict=True):
        text = torch.tensor([[*prompt, *(token_id for token_id, _ in told)]])
        with torch.inference_mode():
            logprobs = trained(text).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for place, (token_id, logprob) in enumerate(told):
            best, second = logprobs[place].topk(2).values.tolist()
            num_near += best - second < NEAR
            assert logprob == pytest.approx(float(logprobs[place, token_id]), abs=1e-4) and best - logprob < 1e-4
    assert num_near > 100  # else the tests below would show nothing


def test_in_a_batch(model: LoadedModel, trained: LlamaForCausalLM, alone: list[Told]) -> None:
    assert together(Bench(model, trained)) == alone


def test_with_a_warm_prefix_cache(model: LoadedModel, trained: LlamaForCausalLM, alone: list[Told]) -> None:
    bench = Bench(model, trained)
    together(bench)
    before = bench.runner.counts.cached_tokens
    assert together(bench) == alone
    assert bench.runner.counts.cached_tokens - before > NUM_ANSWERS * BLOCK_TOKENS


def test_after_preemption(model: LoadedModel, trained: LlamaForCausalLM, alone: list[Told]) -> None:
    bench = Bench(model, trained, num_blocks=14)  # a text needs five
    assert together(bench) == alone
    assert bench.runner.counts.preemptions > 3


def test_with_prompts_in_small_chunks(
    model: LoadedModel, trained: LlamaForCausalLM, alone: list[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paged, "STEP_TOKENS", 14)
    assert together(Bench(model, trained)) == alone


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_in_fewer_bits_too(model: LoadedModel, trained: LlamaForCausalLM, precision: Precision) -> None:
    roomy, narrow = (Bench(model, trained, num_blocks, precision) for num_blocks in (400, 14))
    first = [tokens(*roomy.run(roomy.job(prompt))) for prompt in prompts(roomy.decoder.vocab_size)]
    assert together(narrow) == first and narrow.runner.counts.preemptions


def forgotten_tokens(ids: Sequence[int], before: Sequence[bytes] = ()) -> list[bytes]:
    """Digests of a block's first tokens alone."""
    return [str(ids[start]).encode() for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS)]


@pytest.mark.parametrize(
    ("place", "name", "broken", "num_blocks"),
    [
        (paged, "digests_of", forgotten_tokens, 400),
        (BlockPool, "_forget", lambda self, block: None, 14),
    ],
)
def test_a_broken_cache_would_be_noticed(
    model: LoadedModel,
    trained: LlamaForCausalLM,
    alone: list[Told],
    monkeypatch: pytest.MonkeyPatch,
    place: Any,
    name: str,
    broken: Callable[..., Any],
    num_blocks: int,
) -> None:
    monkeypatch.setattr(place, name, broken)
    bench = Bench(model, trained, num_blocks)
    try:
        found = [together(bench), together(bench)]
    except AssertionError:
        return
    assert any(told != alone for told in found)


def test_each_answer_has_its_own_settings_and_random_stream(model: LoadedModel, trained: LlamaForCausalLM) -> None:
    drawn = [
        Sampling(temperature=1.0, seed=1),
        Sampling(temperature=0.0),
        Sampling(temperature=0.7, top_p=0.8, seed=2),
        Sampling(temperature=1.0, top_k=5, min_p=0.01, seed=3),
        Sampling(temperature=1.0, seed=4, presence_penalty=1.5, frequency_penalty=0.5, repetition_penalty=1.2),
        Sampling(temperature=0.0, logit_bias={7: 100.0}),
        Sampling(temperature=1.0, seed=1),
    ]
    prompt = prompts(trained.config.vocab_size)[0]
    bench = Bench(model, trained)
    told = [tokens(events) for events in bench.run(*(bench.job(prompt, sampling=each) for each in drawn))]
    apart = [tokens(*bench.run(bench.job(prompt, sampling=each))) for each in drawn]
    assert told == apart and told[0] == told[6]
    assert {token_id for token_id, _ in told[5]} == {7}
    for sampling, found in zip(drawn, told, strict=True):
        core = generate(trained, prompt, max_tokens=40, **vars(sampling))
        assert [token_id for token_id, _ in found[:3]] == list(core)[:3]


def test_a_prompts_own_logprobs_are_told_whatever_is_remembered(model: LoadedModel, trained: LlamaForCausalLM) -> None:
    bench = Bench(model, trained)
    prompt = prompts(trained.config.vocab_size)[0]
    with torch.inference_mode():
        logprobs = trained(torch.tensor([prompt])).logits[0].log_softmax(-1)
    for _ in range(2):  # cold and warm
        (events,) = bench.run(bench.job(prompt, tells_prompt=True, max_tokens=0, num_top=2))
        read, finish = events
        assert isinstance(read, Read) and finish == Finish("length", 0)
        assert [token.id for token in read.tokens] == prompt[1:]
        for place, token in enumerate(read.tokens):
            assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-4)
            assert token.top[0][1] == pytest.approx(float(logprobs[place].max()), abs=1e-4)


def test_answers_to_one_prompt_read_it_once(model: LoadedModel, trained: LlamaForCausalLM) -> None:
    bench = Bench(model, trained)
    prompt = tuple(prompts(trained.config.vocab_size)[0])
    events = bench.run(*(bench.job(prompt) for _ in range(4)))
    cached = [event.num_cached for (*_, event) in events if isinstance(event, Finish)]
    assert cached == [0] + [(len(prompt) - 1) // BLOCK_TOKENS * BLOCK_TOKENS] * 3


def test_a_cancelled_answer_gives_its_blocks_back_at_once(model: LoadedModel, trained: LlamaForCausalLM) -> None:
    bench = Bench(model, trained)
    answers = [Answer(bench.job(prompt), lambda event: None) for prompt in prompts(trained.config.vocab_size)]
    for answer in answers:
        bench.runner.add(answer)
    bench.runner.step()
    bench.runner.step()
    assert bench.runner.cache_usage > 0
    for answer in answers:
        answer.is_cancelled = True
    bench.runner.step()
    assert bench.runner.cache_usage == bench.runner.num_running == bench.runner.num_waiting == 0


def test_weights_that_are_no_numbers_fail_the_answer(model: LoadedModel, trained: LlamaForCausalLM) -> None:
    network = LlamaForCausalLM(trained.config)
    network.initialize(1)
    with torch.no_grad():
        network.lm_head.weight[3, 3] = float("nan")
    bench = Bench(model, network)
    (events,) = bench.run(bench.job([1, 2, 3]))
    assert [type(event) for event in events] == [Failure]


def test_the_longest_unused_blocks_are_taken_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(4)
    first = pool.take(2)
    assert first is not None and pool.take(3) is None
    digests = digests_of(range(2 * BLOCK_TOKENS))
    for block, digest in zip(first, digests, strict=True):
        pool.name(block, digest)
    pool.release(first)
    assert pool.num_free == 4
    assert pool.find(digests) == first
    pool.release(first)
    empty = pool.take(2)
    assert empty is not None and not set(empty) & set(first)
    assert pool.take(1) == [first[1]]
    assert pool.find(digests) == [first[0]]


def test_a_digest_stands_for_all_tokens_before_it() -> None:
    ids = list(range(3 * BLOCK_TOKENS))
    digests = digests_of(ids)
    assert digests_of(ids, digests[:1]) == digests and len(set(digests)) == 3
    changed = digests_of([99, *ids[1:]])
    assert all(left != right for left, right in zip(digests, changed, strict=True))
    assert all(left != right for left, right in pairwise(digests_of([1] * 2 * BLOCK_TOKENS)))
