from __future__ import annotations

import pytest
import torch

from llm_core.config import Model
from llm_core.generate import ContextExceeded, NotFinite, Sampling, decode, generate
from llm_core.models import build
from llm_core.models.llama import LlamaForCausalLM

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    shape = Model(num_layers=2, width=32, num_heads=4, num_kv_heads=2, mlp_width=48, context=32)
    model = build(shape, vocab_size=50, end_id=0, seed=7)
    assert isinstance(model, LlamaForCausalLM)
    return model.eval()


def without_cache(model: LlamaForCausalLM, ids: list[int], num: int) -> list[int]:
    made: list[int] = []
    for _ in range(num):
        logits = model(torch.tensor([ids + made])).logits[0, -1]
        made.append(int(logits.argmax()))
    return made


def test_greedy_with_the_cache_is_the_argmax_of_full_forward_passes(model: LlamaForCausalLM) -> None:
    made = list(generate(model, PROMPT, max_tokens=12, temperature=0.0))
    assert made == without_cache(model, PROMPT, 12)


def test_equal_seeds_give_equal_ids_and_other_seeds_give_others(model: LlamaForCausalLM) -> None:
    first, again, other = (list(generate(model, PROMPT, max_tokens=20, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_requests_that_take_turns_do_not_touch_each_others_randomness(model: LlamaForCausalLM) -> None:
    alone = [list(generate(model, PROMPT, max_tokens=10, seed=seed)) for seed in (1, 2)]
    together = list(zip(*(generate(model, PROMPT, max_tokens=10, seed=seed) for seed in (1, 2)), strict=True))
    assert [list(ids) for ids in zip(*together, strict=True)] == alone


def test_a_stop_id_ends_the_text_and_is_not_given_out(model: LlamaForCausalLM) -> None:
    made = without_cache(model, PROMPT, 8)
    stop = made[3]
    assert list(generate(model, PROMPT, max_tokens=8, temperature=0.0, stop_ids=[stop])) == made[: made.index(stop)]


def test_the_end_of_the_context_ends_the_text(model: LlamaForCausalLM) -> None:
    assert len(list(generate(model, PROMPT, max_tokens=1000))) == 32 - len(PROMPT)


def test_a_prompt_that_fills_the_context_is_refused_before_the_first_token(model: LlamaForCausalLM) -> None:
    with pytest.raises(ContextExceeded, match="context is 32 tokens and the prompt has 32"):
        generate(model, [1] * 32, max_tokens=1)


def test_an_empty_prompt_is_refused(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        generate(model, [], max_tokens=1)


def test_top_k_1_and_a_tiny_top_p_are_greedy(model: LlamaForCausalLM) -> None:
    greedy = without_cache(model, PROMPT, 10)
    assert list(generate(model, PROMPT, max_tokens=10, top_k=1, seed=5)) == greedy
    assert list(generate(model, PROMPT, max_tokens=10, top_p=1e-6, seed=5)) == greedy


@pytest.mark.parametrize(("top_k", "top_p", "allowed"), [(2, 1.0, {0, 1}), (0, 0.6, {0, 1}), (0, 1.0, {0, 1, 2, 3})])
def test_cuts_leave_exactly_the_likeliest_tokens(top_k: int, top_p: float, allowed: set[int]) -> None:
    model = FixedLogits(torch.tensor([0.5, 0.3, 0.15, 0.05]).log())
    drawn = {next(generate(model, [0], max_tokens=1, top_k=top_k, top_p=top_p, seed=seed)) for seed in range(200)}
    assert drawn == allowed


def test_drawn_shares_follow_the_temperature() -> None:
    model = FixedLogits(torch.tensor([0.8, 0.2]).log())
    drawn = [next(generate(model, [0], max_tokens=1, temperature=2.0, seed=seed)) for seed in range(2000)]
    # sqrt(0.8) : sqrt(0.2) = 2 : 1; the bound is 4 standard deviations of 2,000 draws.
    assert sum(drawn) / len(drawn) == pytest.approx(1 / 3, abs=0.042)


def test_the_smallest_temperature_does_not_overflow() -> None:
    model = FixedLogits(torch.tensor([1e4, 0.0, -1e4]))
    assert list(generate(model, [0], max_tokens=1, temperature=1e-38)) == [0]


def test_log_probabilities_are_the_models_own_whatever_the_sampling() -> None:
    model = FixedLogits(torch.tensor([0.5, 0.3, 0.2]).log())
    token = next(decode(model, [0], max_tokens=1, sampling=Sampling(temperature=0.3, top_k=1), num_top=2))
    assert token.id == 0
    assert token.logprob == pytest.approx(torch.tensor(0.5).log().item())
    assert [other for other, _ in token.top] == [0, 1]


def test_damaged_weights_raise_instead_of_giving_any_token() -> None:
    with pytest.raises(NotFinite, match="NaN or infinity"):
        next(generate(FixedLogits(torch.tensor([0.0, float("nan")])), [0], max_tokens=1, temperature=0.0))


def test_generating_leaves_gradients_switched_on_between_tokens(model: LlamaForCausalLM) -> None:
    tokens = generate(model, PROMPT, max_tokens=2)
    next(tokens)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 must be"),
        ({"temperature": float("nan")}, "temperature nan must be"),
        ({"top_p": 0.0}, "top_p 0.0 must be above 0"),
        ({"top_k": -1}, "top_k -1 must be at least 0"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**values)  # type: ignore[arg-type]


class FixedLogits(torch.nn.Module):
    """Gives the same logits (V) at every position."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)
        self.config = type("Config", (), {"context": 8})

    def new_cache(self, batch_size: int, max_tokens: int) -> None:
        return None

    def forward(self, input_ids: torch.Tensor, cache: None) -> object:
        return type("Output", (), {"logits": self.logits.expand(1, input_ids.shape[1], -1)})
