"""A decision's page says what the ledger says, shows both sides, asks for nothing from outside, and takes any text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Gate, Model, Recipe
from tasks.decision import Cost, Decision, base_model, champion_of, costs, decision_of, paired, told
from tasks.gate import gate
from tasks.ledger import Entry, Ledger
from tasks.lineage import Records
from tasks.published import documents_table, metrics, suites_table
from tasks.references import Reference
from tasks.report_page import report_page
from tasks.scores import TOLD, remember_told, remembered_told
from tests.tasks.test_data_report import HOSTILE, Page

CFG = Gate(resamples=1000, min_documents=10)
DOCUMENTS = 40
CURVE = "step,tokens,train_loss,validation_loss,lr\n1,512,6.2,,1e-3\n2,1024,6,6.1,1e-3\n"
STATES = {"held": "held", "too_few": "too few examples"}
SHAPE = Model(num_layers=1, width=32, num_heads=2, num_kv_heads=1, mlp_width=64, context=128)


def make_report(folder: Path, bits: float, extracted: float) -> Artifact:
    num_bytes = np.full(DOCUMENTS, 1000)
    noise = np.random.default_rng(int(100 * bits)).normal(0, 0.02, DOCUMENTS)
    metric = "extraction/extracted"
    suite = {
        "name": "extraction",
        "kind": "extraction",
        "metrics": {metric: extracted, "extraction/undefined": None},
        "intervals": {metric: [0.0, 0.5]},
        "higher_is_better": {metric: False, "extraction/undefined": True},
    }
    files: dict[str, Any] = {
        "metrics": {"bits_per_byte": bits, "unigram_bits_per_byte": 2.2, "xz_bits_per_byte": 1.9},
        "samples": [{"prompt": "The state", "text": f"{HOSTILE} {bits}"}],
        "suites": [suite],
        "reliability": [{"low": 0.0, "high": 0.5, "count": 9, "confidence": 0.3, "accuracy": 0.25}],
    }
    with Draft(folder, "report", "evaluate") as out:
        pd.DataFrame(
            {
                "sha256": [f"{number:064x}" for number in range(DOCUMENTS)],
                "source": [f"{'old' if number % 2 else 'new'}/<{number}>.txt" for number in range(DOCUMENTS)],
                "num_bytes": num_bytes,
                "bits": num_bytes * (bits + noise),
                "unigram_bits": num_bytes * 2.2,
            }
        ).to_parquet(out.path / "documents.parquet")
        for name, content in files.items():
            (out.path / f"{name}.json").write_text(json.dumps(content))
        return out.publish({"heldout_digest": "h"})


def make_model(folder: Path, **stats: Any) -> Artifact:
    with Draft(folder, "model", "train") as out:
        (out.path / "loss.csv").write_text(CURVE)
        return out.publish({"parameters": 29_792, "tokens_seen": 25_600, "steps": 50, **stats})


def bits_of(report: Artifact) -> pd.Series[float]:
    return pd.read_parquet(report.path / "documents.parquet").set_index("sha256")["bits"]


def decide(tmp_path: Path, ledger: Ledger, number: int, report: Artifact, before: Artifact | None) -> Decision:
    body: dict[str, Any] = {"version": number, "artifact": f"digest{number}", "run": f"run{number}"}
    version = ledger.append("registered", "demo", f"demo:{number}", body)
    entry = gate(CFG, 1, version, report, lambda champion: bits_of(before), ledger)  # type: ignore[arg-type]
    decided = decision_of(ledger, entry, report)
    assert decided is not None
    champion = champion_of(ledger, decided)
    remember_told(body["artifact"], report, tmp_path / "scores")
    return Decision(
        version=version,
        decided=decided,
        report=report,
        model=make_model(tmp_path / f"model{number}"),
        champion=champion,
        scores=paired(report, bits_of(before) if before else None),
        told=told(report, TOLD),
        theirs=remembered_told(champion.body["artifact"], tmp_path / "scores") if champion else {},
        costs=[Cost("train", 20.0, 36.0), Cost("evaluate", 5.0, None)],
        recipe=Recipe(model=SHAPE),
        facts={"git.commit": "c0ffee", "data.license": "free"},
        others=[Reference("lstm@4", 1.55, "5,000 parameters"), Reference("big", None, "has no champion yet")],
        base_model=None,
        languages=["en"],
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


@pytest.fixture
def first(tmp_path: Path, ledger: Ledger) -> Decision:
    return decide(tmp_path, ledger, 1, make_report(tmp_path / "r1", 1.6, 0.25), None)


@pytest.fixture
def second(tmp_path: Path, ledger: Ledger, first: Decision) -> Decision:
    return decide(tmp_path, ledger, 2, make_report(tmp_path / "r2", 1.5, 0.125), first.report)


def test_the_page_says_what_the_ledger_says(second: Decision) -> None:
    page, evidence = Page(report_page(second)), second.evidence
    assert "Promoted" in page.text and second.decided.body["reason"] in page.text
    assert page.row("gain")[1] == f"{evidence['gain']:+.4f} bits per byte"
    assert page.row("p value, by signs")[1] == f"{evidence['p_value']:.4g}"
    assert {row[0]: row[-1] for row in page.rows if row and row[0] in ("old", "new")} == {"old": "won", "new": "won"}
    assert page.row("champion")[1] == evidence["inputs"]["champion"]


def test_references_stand_beside_the_model_best_first(second: Decision) -> None:
    rows = Page(report_page(second)).rows
    names = [row[0] for row in rows if row][1:6]
    assert names == [
        "demo@2this model",
        "lstm@45,000 parameters",
        "demo@1champion at that time",
        "xz alone",
        "token unigram",
    ]
    assert Page(report_page(second)).row("bighas no champion yet")[1] == "not measured"


def test_what_the_training_began_with_is_said_where_it_stands(tmp_path: Path, second: Decision) -> None:
    page = Page(report_page(replace(second, model=make_model(tmp_path / "tuned", started_from="demo@1"))))
    assert page.row("weights began as")[1] == "demo@1"
    assert page.row("demo@1champion at that time, where the training began")
    assert "training began" not in Page(report_page(second)).text


def test_only_an_import_from_the_hub_is_a_base_model(tmp_path: Path) -> None:
    for name, stage, revision in (("hub", "import", "a" * 40), ("folder", "import", None), ("own", "train", None)):
        with Draft(tmp_path / name, "model", stage, recipe={"source": "owner/tiny", "revision": revision}) as out:
            out.publish({})
    found = [base_model(tmp_path / name) for name in ("hub", "folder", "own", "gone", "")]
    assert found == ["owner/tiny", None, None, None, None]


def test_a_first_version_has_no_champion_beside_it(first: Decision) -> None:
    page = Page(report_page(first))
    assert "the baseline of a line's first version" in page.text and page.row("champion")[1] == "none"
    assert len(page.row("extraction/extracted↓less is better")) == 2


def test_suites_and_samples_of_both_sides_are_shown(second: Decision) -> None:
    page = Page(report_page(second))
    assert page.row("extraction/extracted↓less is better")[1:] == ["0.1250 to 0.5", "0.250 to 0.5", "better"]
    assert page.row("extraction/undefined↑more is better")[1:] == ["not measured", "not measured", ""]
    texts = [text for text in page.samples if "</pre>" in text]
    assert [text.rsplit(" ", 1)[1] for text in texts] == ["1.5", "1.6"]


def test_a_champion_that_was_never_asked_is_said_to_be_so(second: Decision) -> None:
    page = Page(report_page(replace(second, theirs={})))
    assert "was not asked this" in page.text
    assert page.row("extraction/extracted↓less is better")[2] == "not measured"


def test_each_guard_has_its_state(second: Decision) -> None:
    rows = [row for row in Page(report_page(second)).rows if row and row[0].startswith("documents/bits")]
    assert [row[-1] for row in rows] == [STATES[each["state"]] for each in second.evidence["guards"]]
    assert rows


def test_the_page_asks_for_nothing_and_runs_nothing(second: Decision) -> None:
    content = report_page(second)
    page = Page(content)
    assert page.count("script") == 0 and page.count("img") == 0 and page.count("svg") == 3
    assert "default-src 'none'" in content and len(content) < 2_000_000
    assert all(
        "://" not in value or value.startswith("data:") for _, found in page.tags for value in found.values() if value
    )


def test_energy_is_an_estimate_and_only_of_what_was_measured(second: Decision) -> None:
    page = Page(report_page(second))
    assert page.row("train") == ["train", "20.0", "36.0", "0.1"]
    assert page.row("evaluate") == ["evaluate", "5.0", "not measured", ""]
    assert page.row("together") == ["together", "25.0", "", ""]
    assert "an estimate, not a measurement: 10 W" in page.text


def test_costs_are_of_the_last_time_that_something_was_made(tmp_path: Path, second: Decision) -> None:
    records = Records(tmp_path / "home")
    body = {"stage": "train", "run": "r"}
    records.add(second.model.digest, {**body, "state": "made", "seconds": 7.0, "cpu_seconds": 12.5})
    records.add(second.model.digest, {**body, "state": "up to date", "seconds": 0.1, "cpu_seconds": 0.1})
    assert costs(records, second.model, second.report) == [Cost("train", 7.0, 12.5)]


def test_equal_decisions_give_equal_pages(second: Decision) -> None:
    assert report_page(second) == report_page(second)


def test_thousands_of_documents_make_no_large_page(second: Decision) -> None:
    many = pd.concat([second.scores] * 500).sort_values("gain")
    many.index = pd.Index([f"{number:064x}" for number in range(len(many))])
    assert len(report_page(replace(second, scores=many))) < 2_000_000


def test_tables_hold_both_sides(second: Decision) -> None:
    documents, suites = documents_table(second), suites_table(second).set_index("metric")
    assert len(documents) == DOCUMENTS and documents["gain"].is_monotonic_increasing
    assert np.allclose(documents["opponent"] - documents["challenger"], documents["gain"])
    assert tuple(suites.loc["extracted", ["challenger", "champion", "their_high"]]) == (0.125, 0.25, 0.5)
    assert metrics(second)["decision/gain"] == second.evidence["gain"]


def test_a_decision_is_not_mixed_with_another_report(tmp_path: Path, ledger: Ledger, first: Decision) -> None:
    promoted = ledger.champion("demo")
    assert isinstance(promoted, Entry) and decision_of(ledger, promoted, first.report) == first.decided
    assert decision_of(ledger, promoted, make_report(tmp_path / "other", 1.7, 0.5)) is None
