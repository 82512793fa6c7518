"""The signed decision can be read and checked outside of the ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.decision import Decision
from tasks.decision_text import decision_json, decision_markdown
from tasks.ledger import Entry, Ledger, LedgerError
from tests.tasks.test_report_page import decide, make_report


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


@pytest.fixture
def decision(tmp_path: Path, ledger: Ledger) -> Decision:
    first = decide(tmp_path, ledger, 1, make_report(tmp_path / "r1", 1.6, 0.25), None)
    return decide(tmp_path, ledger, 2, make_report(tmp_path / "r2", 1.5, 0.125), first.report)


def test_the_json_is_the_entry_and_its_signature_still_holds(ledger: Ledger, decision: Decision) -> None:
    entry = Entry(**json.loads(decision_json(decision.decided)))
    assert entry == decision.decided
    ledger.check(entry)
    with pytest.raises(LedgerError, match="was changed"):
        ledger.check(Entry(**{**json.loads(decision_json(entry)), "body": {**entry.body, "outcome": "keep"}}))


def test_the_markdown_says_all_of_the_evidence(decision: Decision) -> None:
    text, evidence = decision_markdown(decision.decided), decision.evidence
    assert text.startswith("# demo@2: promote\n") and decision.decided.body["reason"] in text
    assert f"| p value | {evidence['p_value']:.6g} |" in text
    assert text.count("| won |") == 2 and text.count("| documents/bits |") == len(evidence["slices"])
    for each in evidence["changed_most"]:
        assert each["sha256"] in text
    assert all(digest in text for digest in evidence["inputs"].values() if digest)
    assert decision.decided.signature in text and "<" not in text
