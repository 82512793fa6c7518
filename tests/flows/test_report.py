"""What people read at the end of a run, and what programs get instead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows import report
from flows.supervisor import ServiceStatus

EVIDENCE = {"documents": 39, "resamples": 10_000, "gain": 0.7955, "low": 0.7805, "high": 0.8145}


@pytest.fixture
def summary() -> dict[str, Any]:
    return {
        "recipe": "demo",
        "line": "demo",
        "stages": [
            {
                "stage": "collect",
                "state": "made",
                "because": "it was not here",
                "seconds": 0.51,
                "came_in": "249 files",
                "went_out": "248 documents",
                "digest": "4a9551aa20b6ffff",
            }
        ],
        "version": "demo@2",
        "champion": "demo@2",
        "metrics": {
            "bits_per_byte": 1.4313,
            "xz_primed_bits_per_byte": 1.7459,
            "xz_bits_per_byte": 2.0659,
            "ngram_bits_per_byte": 1.7012,
            "unigram_bits_per_byte": 2.2269,
            "uniform_bits_per_byte": 3.1002,
            "perplexity": 72.7,
            "test_documents": 39,
            "test_bytes": 1_747_287,
        },
        "samples": [{"prompt": "The state", "text": " of our [union]"}],
        "decision": {"outcome": "promote", "reason": "better: by much", "evidence": EVIDENCE},
        "promoted": True,
        "served": {"version": 2, "prompt": "Fellow citizens", "answer": " of the Senate", "seconds": 0.2},
    }


def test_the_end_of_a_run_shows_all_that_a_person_asks(
    summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report.print_summary(summary, as_json=False)
    shown = capsys.readouterr().out
    stage = ["collect", "made", "0.5", "249 files", "248 documents", "4a9551aa20b6", "it was not here"]
    scores = ["1.4313", "1.7459", "2.0659", "1.7012", "2.2269", "3.1002", "39 held-out documents, 1,747,287 bytes"]
    test = ["promote: better: by much", "39 documents, 10,000 resamples", "+0.7955", "+0.7805 .. +0.8145"]
    texts = ["The state of our [union]", "answered over HTTP by demo@2 in 0.2 s", "Fellow citizens of the Senate"]
    further = ["champion demo@2", "tidemill up", ":4200", ":5000", ":8000", "tidemill lineage demo@2"]
    assert [part for part in (*stage, *scores, *test, *texts, *further) if part not in shown] == []


def test_what_the_test_could_have_seen_is_shown(summary: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    evidence = {**EVIDENCE, "detectable_gain": 0.00712}
    report.print_summary({**summary, "decision": {**summary["decision"], "evidence": evidence}}, as_json=False)
    assert "a true gain of 0.0071 would have been found" in capsys.readouterr().out


def test_a_version_that_was_promoted_by_hand_or_not_served_yet_is_shown_too(
    summary: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report.print_summary({**summary, "decision": {}, "served": {}}, as_json=False)
    shown = capsys.readouterr().out
    assert "made champion by hand" in shown
    assert "answered over HTTP" not in shown


def test_programs_get_the_same_as_one_document(summary: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    report.print_summary(summary, as_json=True)
    assert json.loads(capsys.readouterr().out) == summary


def test_services_show_address_time_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    up = ServiceStatus("model", "running", 7, 8000, "http://127.0.0.1:8000", 3_725.0, 300 * 2**20, 1)
    report.print_services([up, ServiceStatus("mlflow", "stopped")], as_json=False)
    shown = capsys.readouterr().out
    parts = ("http://127.0.0.1:8000", "1:02:05", "300 MiB", "stopped")
    assert [part for part in parts if part not in shown] == []


def test_nothing_to_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_rows("Models", [], as_json=False)
    assert capsys.readouterr().out == "Models: none\n"


def test_a_long_list_of_facts_is_cut_for_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"version": "demo@1", "data": [{"path": f"file{number}"} for number in range(25)]}
    report.print_facts(facts, as_json=False)
    shown = capsys.readouterr().out
    assert "version: demo@1" in shown and "path file19" in shown and "path file20" not in shown
    assert "and 5 more (--json shows all)" in shown
    report.print_facts(facts, as_json=True)
    assert json.loads(capsys.readouterr().out) == facts
