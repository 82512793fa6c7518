"""A model card is what the hub reads, and says only what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from llm_core.config import Collect, Model
from tasks.decision import Cost, Decision
from tasks.ledger import Ledger
from tasks.model_card import front_matter, model_card
from tests.tasks.test_report_page import decide, make_model, make_report


@pytest.fixture
def decision(tmp_path: Path) -> Decision:
    ledger = Ledger(tmp_path / "home")
    first = decide(tmp_path, ledger, 1, make_report(tmp_path / "r1", 1.6, 0.25), None)
    return decide(tmp_path, ledger, 2, make_report(tmp_path / "r2", 1.5, 0.125), first.report)


def of(decision: Decision, **collect: Any) -> Decision:
    return replace(decision, recipe=decision.recipe.model_copy(update={"collect": Collect(**collect)}))


def test_the_hubs_own_classes_read_it(decision: Decision) -> None:
    data: Any = ModelCard(model_card(decision), ignore_metadata_errors=False).data
    assert (data.language, data.pipeline_tag) == (["en"], "text-generation")
    results = {(each.dataset_name, each.metric_type): each.metric_value for each in data.eval_results}
    assert results == {
        ("held-out documents", "bits_per_byte"): decision.evidence["challenger_bits_per_byte"],
        ("extraction", "extracted"): 0.125,
    }


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("MIT", {"license": "mit"}),
        ("unstated", {"license": "unknown"}),
        ("Public domain (speeches)", {"license": "other", "license_name": "public-domain-speeches"}),
    ],
)
def test_the_licence_is_the_one_of_the_sources(decision: Decision, stated: str, found: dict[str, str]) -> None:
    front = front_matter(of(decision, sources=("texts",), license=stated))
    assert {name: value for name, value in front.items() if name.startswith("license")} == found


def test_only_datasets_of_the_hub_are_named_as_such(decision: Decision) -> None:
    assert "datasets" not in front_matter(of(decision, sources=("texts",)))
    assert front_matter(of(decision, sources=("texts", "hf://some/data")))["datasets"] == ["some/data"]


def test_what_the_training_began_with_is_told_and_a_model_of_the_hub_is_its_base(
    tmp_path: Path, decision: Decision
) -> None:
    started = make_model(tmp_path / "tuned", started_from="demo@1")
    card = model_card(replace(decision, model=started, base_model="owner/tiny"))
    assert "| weights began as | demo@1 |" in card
    assert "through the weights that it began with, the data of demo@1" in card
    assert ModelCard(card).data.to_dict()["base_model"] == "owner/tiny"
    plain = model_card(decision)
    assert "| weights began as | random numbers |" in plain and "base_model" not in plain


def test_transformers_is_named_only_where_it_has_the_class(decision: Decision) -> None:
    lstm = replace(decision, recipe=decision.recipe.model_copy(update={"model": Model(family="lstm")}))
    assert front_matter(decision)["library_name"] == "transformers" and "transformers reads" in model_card(decision)
    assert "library_name" not in front_matter(lstm) and "transformers reads" not in model_card(lstm)


def test_what_was_not_measured_is_said_to_be_so(decision: Decision) -> None:
    card = model_card(replace(decision, languages=[], costs=[Cost("train", 5.0, None)]))
    assert "| stereotypes | not measured |" in card
    assert "| training text that it repeats | extraction/extracted 0.125 |" in card
    assert "| extraction/undefined | not measured |" in card
    assert "## Energy\n\nNot measured." in card and "Languages: not measured." in card
    assert "language" not in yaml.safe_load(card.split("---")[1])


def test_energy_and_carbon_are_estimates_with_their_assumptions(decision: Decision) -> None:
    card = model_card(decision)
    assert "Estimated, not measured: 0.1 Wh and 0.048 g of CO2 for train," in card
    assert "10 W for a busy core" in card


def test_references_and_champion_stand_beside_it(decision: Decision) -> None:
    rows = [line for line in model_card(decision).splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| *") for row in rows]
    place = names.index("model")
    assert [name.split(" (")[0] for name in names[place + 1 : place + 7]] == [
        "demo@2",
        "lstm@4",
        "demo@1",
        "xz alone",
        "token unigram",
        "big",
    ]


def test_hostile_names_stay_in_their_cell(decision: Decision) -> None:
    card = model_card(of(decision, sources=("a|b<script>\n# c",), license="x\n---\n"))
    assert "<script>" not in card and "\n# c" not in card
    assert ModelCard(card).data.to_dict()["license"] == "other"
