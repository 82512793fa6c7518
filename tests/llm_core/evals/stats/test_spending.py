"""A horizon of looks keeps to one alpha."""

from __future__ import annotations

import numpy as np
import pytest

from llm_core.evals.stats.spending import budget, shares

HORIZON = 365
LEVELS = [budget(0.05, HORIZON, looks).level for looks in range(HORIZON)]


def test_the_looks_of_a_horizon_share_one_alpha() -> None:
    assert sum(shares(HORIZON)) == pytest.approx(1)
    assert sum(LEVELS) == pytest.approx(0.05)
    assert sorted(LEVELS, reverse=True) == LEVELS and LEVELS[-1] > 0.05 / HORIZON / 2


def test_what_is_spent_and_what_is_left_add_up() -> None:
    third = budget(0.05, HORIZON, 2)
    assert (third.look, third.level) == (3, LEVELS[2])
    assert third.spent == pytest.approx(LEVELS[0] + LEVELS[1])
    assert third.left == pytest.approx(sum(LEVELS[2:]))
    assert budget(0.05, HORIZON, HORIZON - 1).left == pytest.approx(LEVELS[-1])


def test_a_horizon_of_one_night_gives_each_all_of_alpha() -> None:
    assert [budget(0.05, 1, looks).level for looks in range(3)] == [0.05, 0.05, 0.05]


def test_a_new_horizon_begins_afresh() -> None:
    assert budget(0.05, 10, 10) == budget(0.05, 10, 0)
    assert budget(0.05, 10, 13).look == 4


def test_nights_that_promote_by_chance_are_as_rare_as_alpha_says() -> None:
    nights = np.random.default_rng(7).random((4000, HORIZON)) < np.array(LEVELS)
    assert nights.any(axis=1).mean() <= 0.05 + 3 * (0.05 * 0.95 / 4000) ** 0.5
