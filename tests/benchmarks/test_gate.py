"""The nights of `benchmarks/gate.py` are the shipped gate's, and its rows say what was counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import _reseeded_row, _years_row, false_promotions, reseeded_pairs
from benchmarks.gate_nights import DRAWN, SIGNS, Night, Pair
from llm_core.config import Gate
from llm_core.evals.stats.spending import budget


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(Pair.read(), tmp_path)


def test_the_pair_differs_by_chance_alone(night: Night) -> None:
    pair = night.pair
    assert pair.losses.sum() == pytest.approx(0, abs=1e-6) and pair.documents >= 30
    rng = np.random.default_rng(1)
    documents, signs = pair.year(rng, 3, SIGNS)
    assert documents.shape == signs.shape == (3, pair.documents) and set(signs.ravel().tolist()) == {-1, 1}
    drawn, ones = pair.year(rng, 3, DRAWN)
    assert set(ones.ravel().tolist()) == {1} and any(len(set(row)) < pair.documents for row in drawn.tolist())


def test_a_planted_gain_is_promoted_and_a_planted_loss_is_not(night: Night) -> None:
    first, pair = budget(0.05, 365, 0), night.pair
    documents = np.arange(pair.documents)
    assert night.outcome(Gate(), first, pair.losses - 0.05 * pair.sizes, documents) == "promote"
    assert night.outcome(Gate(), first, pair.losses + 0.05 * pair.sizes, documents) == "keep"
    both = np.concatenate([pair.losses + shift * pair.sizes for shift in (-0.3, 0.1)])
    sources = ["gains"] * pair.documents + ["forgotten"] * pair.documents
    assert night.outcome(Gate(), first, both, np.tile(documents, 2), sources) == "keep"
    assert night.outcome(Gate(guards=()), first, both, np.tile(documents, 2), sources) == "promote"


def test_years_of_nights_without_improvement_are_counted(night: Night) -> None:
    first, every_night = false_promotions(night, 20, SIGNS)
    assert np.isfinite(first).mean() <= 0.2 and np.isfinite(every_night).all()
    row = _years_row("A/A", np.array([3.0] + [np.inf] * 99), np.ones(100))
    assert (row["ours"], row["peer"]) == (0.01, 1.0)
    assert row["ratio"] == row["low"] == pytest.approx(0.07 / 0.0466, rel=0.01) and row["high"] == 7


def test_retrained_models_are_decided_each_against_each(tmp_path: Path) -> None:
    sizes = np.full(40, 1000.0)
    rng = np.random.default_rng(1)
    bits = {str(seed): (sizes * 1.5 + rng.normal(0, 20, 40)).tolist() for seed in range(3)}
    bits["better"] = (sizes * 1.3).tolist()
    place = tmp_path / "reseeded.json"
    place.write_text(json.dumps({"num_bytes": sizes.tolist(), "bits": bits}))
    p_values, promoted = reseeded_pairs(tmp_path, place)
    assert len(p_values) == 12 and promoted == 3
    row = _reseeded_row(np.array([0.01, 0.2, 0.5, 0.9]), 1)
    assert (row["ours"], row["peer"]) == (0.25, 0.25)
