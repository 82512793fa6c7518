from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Gate
from tasks import champions
from tasks.gate import BASELINE, ScoreOpponent, answer, gate
from tasks.ledger import Entry, Ledger

DOCUMENTS = 40
CFG = Gate(resamples=2000)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "home")


def report(folder: Path, bits_per_byte: float, documents: int = DOCUMENTS, seed: int = 0) -> Artifact:
    """A report whose documents score around `bits_per_byte`, beside a unigram of 2.2."""
    num_bytes = np.random.default_rng(0).integers(1_000, 50_000, documents)
    noise = np.random.default_rng(seed).normal(0, 0.02, documents)
    table = pd.DataFrame(
        {
            "sha256": [f"{number:064x}" for number in range(documents)],
            "num_bytes": num_bytes,
            "bits": num_bytes * (bits_per_byte + noise),
            "unigram_bits": num_bytes * 2.2,
        }
    )
    with Draft(folder, "report", "evaluate") as out:
        table.to_parquet(out.path / "documents.parquet")
        return out.publish({"heldout_digest": "h"})


def registered(ledger: Ledger, number: int) -> Entry:
    body = {"version": number, "artifact": f"digest{number}", "run": f"run{number}"}
    return ledger.append("registered", "demo", f"demo:{number}", body)


def scores_of(other: Artifact) -> ScoreOpponent:
    return lambda champion: pd.read_parquet(other.path / "documents.parquet").set_index("sha256")["bits"]


def never(champion: Entry) -> pd.Series:
    raise AssertionError("nothing has to be scored here")


def test_a_first_version_has_to_beat_the_unigram_baseline(ledger: Ledger, tmp_path: Path) -> None:
    entry = gate(CFG, 1, registered(ledger, 1), report(tmp_path / "r", 1.5), never, ledger)
    assert (entry.kind, entry.body["version"]) == ("promoted", 1)
    decision = ledger.entries()[1]
    assert (decision.kind, decision.body["evidence"]["opponent"]) == ("decided", BASELINE)
    assert entry.body["decision"] == decision.hash


def test_a_first_version_that_is_worse_than_unigram_is_not_promoted(ledger: Ledger, tmp_path: Path) -> None:
    entry = gate(CFG, 1, registered(ledger, 1), report(tmp_path / "r", 2.5), never, ledger)
    assert entry.body["outcome"] == "keep"
    assert ledger.champion("demo") is None


@pytest.mark.parametrize(("challenger", "outcome"), [(1.45, "promoted"), (1.55, "keep"), (1.5, "keep")])
def test_a_challenger_must_be_better_than_the_champion_on_the_same_documents(
    ledger: Ledger, tmp_path: Path, challenger: float, outcome: str
) -> None:
    old = report(tmp_path / "old", 1.5)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    entry = gate(CFG, 1, registered(ledger, 2), report(tmp_path / "new", challenger, seed=0), scores_of(old), ledger)
    assert outcome in (entry.kind, entry.body.get("outcome"))
    champion = ledger.champion("demo")
    assert champion is not None
    assert champion.body["version"] == (2 if outcome == "promoted" else 1)


def test_evidence_is_in_the_ledger_with_every_figure(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4, seed=1)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    gate(CFG, 1, registered(ledger, 2), new, scores_of(old), ledger)
    evidence = [entry for entry in ledger.entries() if entry.kind == "decided"][-1].body["evidence"]
    assert (evidence["opponent"], evidence["documents"], evidence["heldout"]) == ("demo@1", DOCUMENTS, "h")
    assert evidence["low"] < evidence["gain"] < evidence["high"]
    assert evidence["gain"] == pytest.approx(evidence["opponent_bits_per_byte"] - evidence["challenger_bits_per_byte"])
    assert evidence["gain"] == pytest.approx(0.1, abs=0.02)


def test_too_few_documents_need_a_person(ledger: Ledger, tmp_path: Path) -> None:
    entry = gate(CFG, 1, registered(ledger, 1), report(tmp_path / "r", 1.0, documents=29), never, ledger)
    assert (entry.body["outcome"], "only 29 held-out documents" in entry.body["reason"]) == ("needs_person", True)
    assert ledger.champion("demo") is None


def test_a_gain_below_the_recipes_minimum_is_kept_out(ledger: Ledger, tmp_path: Path) -> None:
    cfg = Gate(resamples=2000, min_gain=0.2)
    old = report(tmp_path / "old", 1.5)
    gate(cfg, 1, registered(ledger, 1), old, never, ledger)
    entry = gate(cfg, 1, registered(ledger, 2), report(tmp_path / "new", 1.4), scores_of(old), ledger)
    assert entry.body["outcome"] == "keep"


def test_an_equal_question_gets_the_earlier_answer_without_scoring(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.55)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    second = registered(ledger, 2)
    kept = gate(CFG, 1, second, new, scores_of(old), ledger)
    assert gate(CFG, 1, second, new, never, ledger) == kept
    assert answer(CFG, second, new, ledger) == kept


def test_the_champion_is_not_compared_with_itself(ledger: Ledger, tmp_path: Path) -> None:
    only = report(tmp_path / "r", 1.5)
    promoted = gate(CFG, 1, registered(ledger, 1), only, never, ledger)
    assert gate(CFG, 1, registered(ledger, 1), only, never, ledger) == promoted


def test_an_opponent_that_lacks_a_document_is_an_error(ledger: Ledger, tmp_path: Path) -> None:
    gate(CFG, 1, registered(ledger, 1), report(tmp_path / "old", 1.5), never, ledger)
    short = scores_of(report(tmp_path / "short", 1.5, documents=39))
    with pytest.raises(ValueError, match="was not scored on every held-out document"):
        gate(CFG, 1, registered(ledger, 2), report(tmp_path / "new", 1.4), short, ledger)


def test_what_a_person_rolled_back_is_not_promoted_again_by_itself(ledger: Ledger, tmp_path: Path) -> None:
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4, seed=1)
    gate(CFG, 1, registered(ledger, 1), old, never, ledger)
    second = registered(ledger, 2)
    gate(CFG, 1, second, new, scores_of(old), ledger)
    champions.rollback(ledger, "demo", "it insults people")
    entry = gate(CFG, 1, second, new, scores_of(old), ledger)
    assert (entry.body["outcome"], "it insults people" in entry.body["reason"]) == ("needs_person", True)
    assert champions.promote(ledger, "demo", 2, "mended by a filter").body["version"] == 2
