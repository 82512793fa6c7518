"""Scaling laws and the recipes that are made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from llm_core.config import Recipe
from llm_core.plan import ACCELERATORS, on_meta
from llm_core.plan.network import parameters_of
from llm_core.plan.proposal import num_parameters, propose, shape_for
from llm_core.plan.scaling import LAWS, Law, Run, ScalingError, fit_law, read_runs

GRID = [(n, d) for n in (1e6, 3e6, 1e7, 3e7, 1e8) for d in (1e7, 1e8, 1e9, 1e10)]


@pytest.mark.parametrize("name", ["besiroglu", "hoffmann"])
@pytest.mark.parametrize("flops", [1e16, 1e20, 5.76e23])
def test_the_optimum_in_closed_form_is_the_one_that_a_search_finds(name: str, flops: float) -> None:
    law = LAWS[name]
    assert isinstance(law, Law)
    found = minimize_scalar(lambda x: law.loss(10**x, flops / 6 / 10**x), bounds=(4, 13), method="bounded")
    assert np.log10(law.parameters_for(flops)) == pytest.approx(found.x, abs=1e-3)


def test_the_refit_gives_chinchillas_twenty_tokens_per_parameter_and_the_first_fit_does_not() -> None:
    flops = 5.76e23  # Chinchilla: 70 G parameters, 1.4 T tokens
    ratio = {name: flops / 6 / law.parameters_for(flops) ** 2 for name, law in LAWS.items()}
    assert ratio["twenty"] == pytest.approx(20)
    assert 15 < ratio["besiroglu"] < 26 < 60 < ratio["hoffmann"]


def test_a_fit_recovers_the_constants_that_made_the_losses() -> None:
    true = LAWS["besiroglu"]
    assert isinstance(true, Law)
    found = fit_law([Run(n, d, true.loss(n, d)) for n, d in GRID])
    for key in ("E", "A", "alpha", "B", "beta"):
        assert getattr(found, key) == pytest.approx(getattr(true, key), rel=0.01), key


def test_one_wild_run_hardly_moves_the_fit() -> None:
    true = LAWS["hoffmann"]
    assert isinstance(true, Law)
    noise = np.random.default_rng(1).normal(0, 1e-4, len(GRID))
    runs = [Run(n, d, true.loss(n, d) * (1 + e)) for (n, d), e in zip(GRID, noise, strict=True)]
    runs[7] = runs[7]._replace(loss=2 * runs[7].loss)
    found = fit_law(runs)
    assert (found.alpha, found.beta, found.E) == pytest.approx((true.alpha, true.beta, true.E), rel=0.1)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([Run(1e6, 1e7, 4.0)] * 5, "5 runs: a law has five constants"),
        ([Run(1e6, d, 4.0) for d in (1e7, 2e7, 3e7, 4e7, 5e7, 6e7)], "1 different numbers of parameters"),
    ],
)
def test_runs_that_cannot_carry_a_law_are_refused(runs: list[Run], message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        fit_law(runs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("params,loss\n1,2\n", "no column tokens"),
        ("params,tokens,loss\n1e6,1e7,4\n1e6,many,4\n", "runs.csv:3: .* have to be numbers"),
        ("params,tokens,loss\n1e6,0,4\n", "runs.csv:2: .* above zero"),
    ],
)
def test_a_file_of_runs_is_checked_line_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(text)
    with pytest.raises(ScalingError, match=message):
        read_runs(tmp_path / "runs.csv")


@pytest.mark.parametrize("parameters", [1e6, 5e6, 3e7, 1e8, 4e8, 2e9, 3e10])
def test_a_shape_has_about_the_parameters_that_were_asked_for(parameters: float) -> None:
    shape, vocab_size = shape_for(parameters)
    assert num_parameters(shape, vocab_size) == pytest.approx(parameters, rel=0.1)
    assert 16 <= shape.width / shape.num_layers <= 256


@pytest.mark.parametrize("parameters", [1e6, 3e7, 2e8])
def test_the_formula_for_a_llamas_parameters_is_exact(parameters: float) -> None:
    shape, vocab_size = shape_for(parameters)
    recipe = Recipe.model_validate(
        {
            "model": shape.model_dump(),
            "tokenizer": {"vocab_size": vocab_size},
            "train": {"batch_tokens": shape.context},
        }
    )
    assert num_parameters(shape, vocab_size) == parameters_of(on_meta(recipe), shape).total


def test_a_proposal_fits_the_machine_by_smaller_micro_batches() -> None:
    h100 = ACCELERATORS["h100"]
    proposal = propose(3e18, LAWS["twenty"], Recipe(), h100, "bought")
    assert 0 < proposal.changes["train"]["micro_batch_tokens"] < proposal.changes["train"]["batch_tokens"]
    assert proposal.plan.machines[0].fits
    assert proposal.expected_loss is None
    assert "planned, not trained" in proposal.to_yaml("bought.yaml", "demo")


@pytest.mark.parametrize("flops", [1e9, 1e30])
def test_a_budget_that_no_law_covers_is_refused(flops: float) -> None:
    with pytest.raises(ScalingError, match="give one from 1e"):
        propose(flops, LAWS["twenty"], Recipe(), ACCELERATORS["h100"], "x")
