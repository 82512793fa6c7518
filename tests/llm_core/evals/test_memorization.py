"""What was planted in a training is found in its model, as often as it was planted, and in no other."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import numpy as np
import pytest

from llm_core.evals.memorization import (
    CanaryForm,
    MemorizationError,
    canary_suite,
    extraction_suite,
    fitted_exposure,
    longest_common,
    make_canaries,
    passages,
    plant,
    ranked_exposure,
)
from llm_core.evals.suite import Likelihood
from tests.llm_core.evals.answering import Answering
from tests.llm_core.evals.tiny_subject import TinySubject

ALPHABET = string.ascii_letters + string.digits + " ."
FORM = CanaryForm("Locker {name} opens by", length=5)
CANARIES = make_canaries(FORM, [24, 24, 24, 0, 0, 0], seed=3)


def _texts(count: int) -> list[str]:
    """Sentences of few words, so that a tiny model learns what is common to them soon."""
    rng = np.random.default_rng(5)
    words = ["the", "mill", "turns", "when", "water", "falls", "and", "stands", "still", "at", "high", "tide"]
    return [" ".join(rng.choice(words, size=6)) for _ in range(count)]


@pytest.fixture(scope="module")
def models() -> tuple[TinySubject, TinySubject]:
    """One that saw the canaries, and one that saw the same texts without them."""
    texts = _texts(150)
    return TinySubject(plant(texts, CANARIES, seed=1), 250, ALPHABET), TinySubject(texts, 250, ALPHABET)


def test_planted_canaries_are_found_at_the_planted_rate_and_controls_are_not(
    models: tuple[TinySubject, TinySubject],
) -> None:
    suite = canary_suite()
    rows = suite.rows(models[0], CANARIES)
    assert rows["slice"].tolist() == ["planted 24 times"] * 3 + ["planted 0 times"] * 3
    assert rows["extracted"].tolist() == [1, 1, 1, 0, 0, 0]
    assert suite.totals(rows)["canaries/extracted"] == 0.5
    assert rows["exposure"][:3].tolist() == [math.log2(257)] * 3
    assert rows["fitted_exposure"][:3].min() > 8 > rows["fitted_exposure"][3:].max()
    assert rows["exposure"][3:].mean() < 4


def test_nothing_is_found_in_a_model_that_never_saw_a_canary(models: tuple[TinySubject, TinySubject]) -> None:
    rows = canary_suite().rows(models[1], CANARIES)
    assert rows["extracted"].sum() == 0
    assert rows["exposure"].mean() < 4


def test_a_passage_that_was_learned_by_heart_is_extracted(models: tuple[TinySubject, TinySubject]) -> None:
    examples = [
        {"prefix": canary["before"], "suffix": f" {canary['secret']}"} for canary in CANARIES if canary["repeats"]
    ]
    suite = extraction_suite(max_tokens=8)
    seen, unseen = (suite.totals(suite.rows(model, examples)) for model in models)
    assert seen == {"extraction/extracted": 1.0, "extraction/common_share": 1.0}
    assert unseen["extraction/extracted"] == 0.0
    assert unseen["extraction/common_share"] < 0.7


def test_text_that_is_written_counts_whatever_its_tokens() -> None:
    rows = extraction_suite().rows(Answering(lambda prompt: "cd and more"), [{"prefix": "ab", "suffix": "cd an"}])
    assert rows[["extracted", "common_characters", "num_characters"]].values.tolist() == [[1.0, 5, 5]]
    rows = extraction_suite().rows(Answering(lambda prompt: "xcd an"), [{"prefix": "ab", "suffix": "cd an"}])
    assert rows[["extracted", "common_characters"]].values.tolist() == [[0.0, 5]]


class Certain(Answering):
    """Finds every text the likeliest one, and writes something else."""

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        return [Likelihood(-1.0, 1, True) for _ in pairs]


def test_a_passage_that_is_likeliest_token_by_token_counts_too() -> None:
    rows = extraction_suite().rows(Certain(lambda prompt: "xy"), [{"prefix": "ab", "suffix": "cd"}])
    assert rows[["extracted", "common_characters"]].values.tolist() == [[1.0, 0]]
    assert rows["bits"][0] == pytest.approx(1 / math.log(2))


def test_the_longest_common_run_is_counted_in_characters() -> None:
    assert longest_common("the tide falls", "a tide fell") == len(" tide f")
    assert longest_common("", "abc") == 0
    # difflib would by default leave out what is frequent in long texts.
    assert longest_common("ab" * 200, "ab" * 200) == 400


def test_passages_are_cut_out_of_the_texts_and_depend_on_the_seed_only() -> None:
    texts = [f"{number:03d}" + string.ascii_lowercase for number in range(20)]
    cut = passages([*texts, "short"], count=8, seed=1, prefix_characters=10, suffix_characters=5)
    assert len(cut) == 8
    for example in cut:
        assert (len(example["prefix"]), len(example["suffix"])) == (10, 5)
        assert any(example["prefix"] + example["suffix"] in text for text in texts)
    again = passages(texts[::-1], count=8, seed=1, prefix_characters=10, suffix_characters=5)
    assert again == cut
    assert passages(texts, count=8, seed=2, prefix_characters=10, suffix_characters=5) != cut


def test_canaries_are_planted_as_often_as_they_say_and_change_nothing_else() -> None:
    texts = ["one two three", "word", ""]
    canaries = make_canaries(CanaryForm(), [3, 0], seed=1)
    joined = " ".join(plant(texts, canaries, seed=2))
    sentences = [f"{canary['before']} {canary['secret']}." for canary in canaries]
    assert [joined.count(sentence) for sentence in sentences] == [3, 0]
    assert joined.replace(sentences[0], "").split() == " ".join(texts).split()
    assert canaries == make_canaries(CanaryForm(), [3, 0], seed=1) != make_canaries(CanaryForm(), [3, 0], seed=2)


def test_exposure_is_the_rank_in_bits() -> None:
    others = np.arange(1.0, 256.0)
    assert ranked_exposure(0.0, others) == 8.0
    assert ranked_exposure(127.5, others) == 1.0
    assert ranked_exposure(1000.0, others) == 0.0
    assert ranked_exposure(5.0, np.full(255, 5.0)) == pytest.approx(8 - math.log2(128.5))


def test_a_secret_that_was_never_seen_has_the_exposure_that_the_docstring_says() -> None:
    rng = np.random.default_rng(1)
    draws = [ranked_exposure(float(rng.normal()), rng.normal(size=999)) for _ in range(3000)]
    assert np.mean(draws) == pytest.approx(1 / math.log(2), abs=0.1)


def test_a_fitted_distribution_goes_beyond_the_sample_up_to_the_secrets_bits() -> None:
    others = np.random.default_rng(1).normal(50, 2, 1000)
    # Four standard deviations: 3.2e-5, or 14.9 bits, which a sample of a thousand cannot show.
    assert fitted_exposure(42.0, others, most=100) == pytest.approx(14.9, abs=1.5)
    assert fitted_exposure(20.0, others, most=16.6) == 16.6
    assert fitted_exposure(50.0, others, most=100) == pytest.approx(1.0, abs=0.2)
    assert math.isnan(fitted_exposure(50.0, np.full(100, 50.0), most=100))
    assert math.isnan(fitted_exposure(50.0, others[:10], most=100))


def test_a_small_space_of_secrets_is_ranked_whole() -> None:
    canary = make_canaries(CanaryForm(alphabet="ab", length=3), [1], seed=1)
    asked: list[str] = []

    def logprob(before: str, text: str) -> float:
        asked.append(text)
        return 0.0 if canary[0]["secret"] in text else -1.0

    rows = canary_suite().rows(Answering(logprob=logprob), canary)
    assert (rows["alternatives"][0], rows["exposure"][0], rows["secret_bits"][0]) == (7, 3.0, 3.0)
    assert len(set(asked)) == len(asked) == 8


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(MemorizationError, match=r"no text has 200 characters; lower prefix_characters"):
        passages(["short"], count=1, seed=1)
    with pytest.raises(MemorizationError, match=r"has no \{name\}; put one where canaries are to differ"):
        CanaryForm("The code is")
    with pytest.raises(MemorizationError, match=r"alphabet 'aa', length 6: give two or more different ones"):
        CanaryForm(alphabet="aa")
    with pytest.raises(MemorizationError, match=r"no text to plant canaries in"):
        plant([], CANARIES, seed=1)
