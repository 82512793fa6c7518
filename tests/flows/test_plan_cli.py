"""`tidemill plan`, as a person and as a program call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from llm_core.config import load_recipe
from llm_core.plan.scaling import LAWS, Law

CONFIGS = Path(__file__).parents[2] / "configs"


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["plan", *arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def document(*arguments: str) -> Any:
    return json.loads(printed(*arguments, "--json"))


def test_a_plan_is_a_page_for_people() -> None:
    page = printed("small")
    for words in (
        "1,475,200",
        "FLOPs per token, backward",
        "81,920 in 40 steps",
        "activations",
        "peak",
        "this machine",
    ):
        assert words in page
    assert "a100" in page and "h100" in page and "40% of 989 TFLOP/s" in page


def test_a_plan_is_one_document_for_programs_and_changed_values_count() -> None:
    plan = document("small", "--set", "train.steps=7", "--set", "train.warmup_steps=1", "--device", "a100")
    assert plan["parameters"]["total"] == 1_475_200
    assert plan["training"]["tokens"] == 7 * 2048
    assert [machine["name"] for machine in plan["machines"]] == ["a100"]
    assert plan["flops_per_token"]["backward"] == 2 * plan["flops_per_token"]["forward"]


def test_the_share_of_the_rate_is_the_callers() -> None:
    half, all_of_it = (document("small", "--device", "h100", "--mfu", mfu)["machines"][0] for mfu in ("0.5", "1"))
    assert half["seconds"] == pytest.approx(2 * all_of_it["seconds"])


def test_layers_are_folded_unless_all_are_asked_for() -> None:
    folded, every = document("small", "--layers"), document("small", "--layers", "--all")
    assert {"name": "model.layers.0..1.mlp.up_proj.weight", "shape": [384, 128], "parameters": 98304} in folded
    assert "model.layers.1.mlp.up_proj.weight" in [layer["name"] for layer in every]
    assert sum(layer["parameters"] for layer in folded) == sum(layer["parameters"] for layer in every) == 1_475_200
    assert "384 x 128" in printed("small", "--layers")


def test_a_budget_becomes_a_recipe_that_loads(tmp_path: Path) -> None:
    output = tmp_path / "bought.yaml"
    made = document("--flops", "1e17", "--device", "h100", "--output", str(output))
    recipe = load_recipe(str(output), CONFIGS)
    assert (recipe.name, recipe.register_.line, recipe.model.family) == ("bought", "bought", "llama")
    assert made["plan"]["training"]["flops"] == pytest.approx(1e17, rel=0.05)
    assert made["plan"]["parameters"]["total"] == pytest.approx(LAWS["besiroglu"].parameters_for(1e17), rel=0.1)
    again = document(str(output), "--device", "h100")
    assert again == made["plan"]
    with pytest.raises(ValueError, match="exists already"):
        CliRunner().invoke(app, ["plan", "--flops", "1e17", "--output", str(output)], catch_exceptions=False)


def test_hours_are_turned_into_operations_at_the_devices_rate() -> None:
    made = document("--hours", "0.5", "--device", "a100", "--mfu", "0.1")
    assert made["flops"] == pytest.approx(0.5 * 3600 * 312e12 * 0.1)
    assert made["plan"]["machines"][0]["seconds"] == pytest.approx(1800, rel=0.05)


def test_own_runs_can_be_the_law(tmp_path: Path) -> None:
    true = Law("true", 1.5, 100.0, 0.3, 300.0, 0.3, "")
    rows = [f"{n},{d},{true.loss(n, d)}" for n in (1e6, 4e6, 2e7) for d in (2e7, 2e8, 2e9)]
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n" + "\n".join(rows) + "\n")
    page = printed("--flops", "1e16", "--device", "h100", "--runs", str(tmp_path / "runs.csv"))
    assert "runs.csv" in page and "fitted to 9 runs" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--flops", "1e18"), "do not go together"),
        (("--flops", "1e18", "--hours", "1"), "do not go together"),
        (("demo", "--output", "x.yaml"), "do not go together"),
        (("demo", "--device", "abacus"), "known are here, a100, h100"),
        (("demo", "--device", "a100", "--mfu", "1.5"), "above 0 and at most 1"),
        (("--flops", "1e18", "--device", "a100", "--law", "moore"), "known are besiroglu"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["plan", *arguments])
    assert done.exit_code == 2 and message in " ".join(done.output.replace("│", " ").split())
