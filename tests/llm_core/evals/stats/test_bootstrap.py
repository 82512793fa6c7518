"""The paired test has known answers, covers the truth and keeps its promise about false positives."""

from __future__ import annotations

import numpy as np
import pytest

from llm_core.evals.stats.bootstrap import PairedComparison, paired_bootstrap

RNG = np.random.default_rng(11)


def _documents(count: int, gain: float, spread: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Challenger bits, champion bits and bytes of documents of very different lengths."""
    num_bytes = np.exp(rng.normal(9, 1, count)).astype(np.int64)
    champion = num_bytes * rng.normal(1.5, 0.2, count)
    return champion - num_bytes * (gain + rng.normal(0, spread, count)), champion, num_bytes


def _compare(*arrays: np.ndarray, resamples: int = 2000, **options: float) -> PairedComparison:
    return paired_bootstrap(*arrays, resamples=resamples, seed=1, **options)


def test_the_difference_is_the_ratio_of_sums() -> None:
    result = _compare(np.array([10.0, 40.0]), np.array([20.0, 20.0]), np.array([10, 30]))
    assert result.difference == pytest.approx(10 / 40)
    assert result.documents == 2


def test_a_clear_gain_is_certain_and_its_interval_holds_it() -> None:
    result = _compare(*_documents(40, 0.1, 0.05, RNG))
    assert result.p_value < 0.001
    assert result.low < -0.1 < result.high < 0


def test_a_clear_loss_is_never_a_gain() -> None:
    result = _compare(*_documents(40, -0.1, 0.05, RNG))
    assert result.p_value > 0.99
    assert result.low > 0


def test_equal_models_are_not_better() -> None:
    _, champion, num_bytes = _documents(40, 0, 0.1, RNG)
    assert _compare(champion, champion, num_bytes) == PairedComparison(0.0, 0.0, 0.0, 1.0, 40)


def test_the_same_gain_on_every_document_leaves_no_doubt() -> None:
    _, champion, num_bytes = _documents(40, 0, 0.1, RNG)
    better = _compare(champion - 0.01 * num_bytes, champion, num_bytes)
    assert better.p_value == pytest.approx(1 / 2001)
    assert (better.low, better.high) == pytest.approx((-0.01, -0.01))
    assert _compare(champion + 0.01 * num_bytes, champion, num_bytes).p_value == 1.0


def test_a_gain_below_the_margin_is_not_enough() -> None:
    documents = _documents(60, 0.05, 0.02, RNG)
    assert _compare(*documents).p_value < 0.001
    assert _compare(*documents, margin=0.1).p_value > 0.99
    assert _compare(*documents, margin=0.03).p_value < 0.05


def test_one_document_that_gains_much_does_not_decide() -> None:
    num_bytes = np.full(40, 1000)
    champion = np.full(40, 1500.0)
    challenger = champion.copy()
    challenger[0] -= 900
    assert _compare(challenger, champion, num_bytes).p_value > 0.05


def test_equal_arguments_give_equal_results_and_the_seed_matters() -> None:
    documents = _documents(40, 0.01, 0.05, RNG)
    one, two, other = (paired_bootstrap(*documents, resamples=500, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one != other
    assert one.p_value == pytest.approx(other.p_value, abs=0.1)


def test_blocks_of_resamples_change_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = _documents(40, 0.01, 0.05, RNG)
    whole = _compare(*documents, resamples=5000)
    monkeypatch.setattr("llm_core.evals.stats.bootstrap.INDICES_AT_ONCE", 1000)
    assert _compare(*documents, resamples=5000).p_value == pytest.approx(whole.p_value, abs=0.02)


def test_false_positives_stay_at_alpha_and_intervals_cover() -> None:
    rng = np.random.default_rng(2)
    trials, alpha = 600, 0.05
    results = [paired_bootstrap(*_documents(40, 0, 0.05, rng), resamples=300, seed=n) for n in range(trials)]
    error = (alpha * (1 - alpha) / trials) ** 0.5
    assert sum(result.p_value < alpha for result in results) / trials <= alpha + 3 * error
    assert sum(result.low <= 0 <= result.high for result in results) / trials >= 0.9


def test_a_real_gain_is_seen() -> None:
    rng = np.random.default_rng(3)
    results = [paired_bootstrap(*_documents(40, 0.05, 0.05, rng), resamples=300, seed=n) for n in range(100)]
    assert sum(result.p_value < 0.05 for result in results) > 90


@pytest.mark.parametrize(
    ("challenger", "champion", "num_bytes", "message"),
    [
        ([1.0], [1.0], [1], "two or more documents"),
        ([1.0, 2.0], [1.0], [1, 1], r"not of \(2, 1, 2\)"),
        ([1.0, np.nan], [1.0, 1.0], [1, 1], "bits must be finite"),
        ([1.0, 1.0], [1.0, 1.0], [1, 0], "num_bytes positive"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused(
    challenger: list[float], champion: list[float], num_bytes: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _compare(np.array(challenger), np.array(champion), np.array(num_bytes))
