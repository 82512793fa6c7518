"""What a test is said to find is what it finds, and a loss within the margin is told from one beyond."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from llm_core.evals.stats.power import detectable_gain, non_inferior, power, standard_error


@pytest.mark.parametrize("level", [0.05, 0.001])
def test_power_is_how_often_a_paired_test_finds_the_gain(level: float) -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(0.5, 1.0, (4000, 40))
    found = np.mean(ttest_1samp(samples, 0, axis=1, alternative="greater").pvalue < level)
    assert power(0.5, 1 / 40**0.5, 40, level) == pytest.approx(found, abs=0.03)


def test_no_gain_is_found_as_often_as_the_level_says_and_a_great_one_always() -> None:
    assert power(0.0, 0.1, 40, 0.01) == pytest.approx(0.01)
    assert power(10.0, 0.1, 40, 0.01) == 1.0
    assert power(-10.0, 0.1, 40, 0.01) == 0.0
    assert (power(0.1, 0.0, 40, 0.01), power(0.0, 0.0, 40, 0.01)) == (1.0, 0.01)


def test_the_detectable_gain_is_found_with_the_power_that_was_wanted() -> None:
    gain = detectable_gain(0.02, 39, 1e-4, wanted=0.8)
    assert power(gain, 0.02, 39, 1e-4) == pytest.approx(0.8, abs=1e-6)
    assert detectable_gain(0.02, 39, 0.05) < gain
    assert detectable_gain(0.02, 400, 1e-4) < gain
    assert detectable_gain(0.0, 39, 1e-4) == 0.0


def test_the_standard_error_is_that_of_the_mean_where_documents_are_equally_long() -> None:
    rng = np.random.default_rng(2)
    champion, gains = rng.normal(8000, 100, 50), rng.normal(0, 30, 50)
    expected = gains.std(ddof=1) / 50**0.5 / 1000
    assert standard_error(champion + gains, champion, np.full(50, 1000)) == pytest.approx(expected)


def test_a_loss_within_the_margin_is_shown_to_be_within() -> None:
    rng = np.random.default_rng(3)
    sizes = np.full(100, 1000)
    champion = rng.normal(1500, 50, 100)

    def p_value(loss: float) -> float:
        challenger = champion + 1000 * loss + rng.normal(0, 20, 100)
        return non_inferior(challenger, champion, sizes, margin=0.02, resamples=2000, seed=1).p_value

    assert p_value(0.0) < 0.001
    assert p_value(0.01) < 0.01
    assert p_value(0.03) > 0.95


def test_equal_scores_are_not_worse_by_any_margin() -> None:
    scores = np.random.default_rng(3).normal(1500, 50, 40)
    assert non_inferior(scores, scores, np.full(40, 1000), margin=1e-6, resamples=500, seed=1).p_value < 0.01


def test_a_loss_of_the_whole_margin_passes_no_more_often_than_alpha() -> None:
    rng = np.random.default_rng(4)
    champion = np.full(40, 1500.0)
    passed = 0
    for _ in range(400):
        challenger = champion + 20 + rng.normal(0, 30, 40)
        passed += (
            non_inferior(challenger, champion, np.full(40, 1000), margin=0.02, resamples=300, seed=1).p_value < 0.05
        )
    assert passed / 400 <= 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_a_margin_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="margin 0.0 must be above 0"):
        non_inferior(np.ones(3), np.ones(3), np.ones(3, dtype=np.int64), margin=0.0, resamples=100, seed=1)
