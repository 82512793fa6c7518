"""Sign flips and McNemar's test: known answers, scipy's answers, and the level they promise."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from llm_core.evals.stats.permutation import mcnemar, sign_flip


def test_few_differences_are_tested_exactly() -> None:
    differences = np.array([-3.0, -1.0, 2.0, -0.5, 0.0])
    sums = [np.dot(signs, np.abs(differences)) for signs in product((-1, 1), repeat=5)]
    expected = np.mean(np.array(sums) <= differences.sum() + 1e-12)
    assert sign_flip(differences, resamples=100, seed=1) == expected
    assert sign_flip(differences, resamples=100, seed=2) == expected


def test_scipy_finds_the_same_exact_p_value() -> None:
    differences = np.random.default_rng(3).normal(-0.3, 1, 10)
    reference = permutation_test(
        (differences,), np.sum, permutation_type="samples", alternative="less", n_resamples=np.inf
    )
    assert sign_flip(differences, resamples=2**10, seed=1) == pytest.approx(reference.pvalue, abs=1e-12)


def test_many_differences_are_sampled_and_near_the_exact_value() -> None:
    differences = np.random.default_rng(4).normal(-0.25, 1, 16)
    exact = sign_flip(differences, resamples=2**16, seed=1)
    sampled = sign_flip(differences, resamples=2**16 - 1, seed=1)
    assert sampled == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 2**16) ** 0.5)
    assert sampled == sign_flip(differences, resamples=2**16 - 1, seed=1)


def test_blocks_of_signs_change_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(4).normal(-0.1, 1, 40)
    whole = sign_flip(differences, resamples=5000, seed=1)
    monkeypatch.setattr("llm_core.evals.stats.permutation.SIGNS_AT_ONCE", 1000)
    assert sign_flip(differences, resamples=5000, seed=1) == pytest.approx(whole, abs=0.03)


def test_a_clear_gain_is_as_unlikely_as_resamples_can_say_and_equal_models_are_certain() -> None:
    assert sign_flip(np.full(60, -0.1), resamples=999, seed=1) == 1 / 1000
    assert sign_flip(np.zeros(60), resamples=999, seed=1) == 1.0
    assert sign_flip(np.full(60, 0.1), resamples=999, seed=1) == 1.0


def test_false_positives_stay_at_the_level_with_very_unequal_differences() -> None:
    rng = np.random.default_rng(5)
    sizes = np.exp(rng.normal(0, 1.5, 12))
    trials = [sign_flip(sizes * rng.choice((-1, 1), 12), resamples=2**12, seed=1) for _ in range(2000)]
    assert np.mean(np.array(trials) <= 0.05) <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.mark.parametrize("differences", [[], [1.0, np.nan]])
def test_differences_that_are_none_are_refused(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="differences, all of which must be finite"):
        sign_flip(np.array(differences), resamples=10, seed=1)


def test_mcnemar_is_the_binomial_test_of_answers_that_only_one_has_right() -> None:
    challenger = np.array([True] * 9 + [False] * 2 + [True] * 50 + [False] * 20)
    champion = np.array([False] * 9 + [True] * 2 + [True] * 50 + [False] * 20)
    result = mcnemar(challenger, champion)
    assert (result.gained, result.lost) == (9, 2)
    assert result.p_value == pytest.approx(binomtest(9, 11, 0.5, alternative="greater").pvalue)
    assert mcnemar(champion, challenger).p_value > 0.99


def test_answers_of_equal_models_say_nothing() -> None:
    same = np.array([True, False, True])
    assert mcnemar(same, same).p_value == 1.0


def test_answers_of_different_examples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not of \(2,\) and \(3,\)"):
        mcnemar(np.array([True, False]), np.array([True, False, True]))
