"""The interval is scipy's, and holds the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from llm_core.evals.stats.intervals import bca_interval


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_interval_is_scipys(seed: int) -> None:
    values = np.random.default_rng(seed).exponential(1.0, 40)
    mean, low, high = bca_interval(values, resamples=100_000, seed=1)
    reference = bootstrap((values,), np.mean, n_resamples=100_000, method="BCa", rng=1).confidence_interval
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.01)


def test_skewed_differences_move_the_interval_where_percentiles_do_not() -> None:
    values = np.random.default_rng(1).exponential(1.0, 30)
    mean, low, high = bca_interval(values, resamples=20_000, seed=1)
    assert high - mean > 1.1 * (mean - low)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    ends = [bca_interval(rng.exponential(1.0, 60), resamples=500, seed=n)[1:] for n in range(400)]
    assert np.mean([low <= 1.0 <= high for low, high in ends]) >= 0.90


def test_equal_differences_leave_no_doubt_and_equal_arguments_give_equal_results() -> None:
    assert bca_interval(np.full(5, 0.25), resamples=100, seed=1) == (0.25, 0.25, 0.25)
    values = np.random.default_rng(1).normal(0, 1, 30)
    assert bca_interval(values, resamples=100, seed=1) == bca_interval(values, resamples=100, seed=1)


@pytest.mark.parametrize("values", [[1.0], [1.0, np.inf]])
def test_too_little_to_tell_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more finite differences"):
        bca_interval(np.array(values), resamples=100, seed=1)
