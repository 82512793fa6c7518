"""What champions did well is frozen once, cannot be changed unnoticed, and keeps out who forgot it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_core.artifact import Artifact, Draft
from llm_core.config import Gate
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks import anchor
from tasks.evidence import Rows
from tasks.gate import gate
from tasks.ledger import Entry, Ledger, LedgerError
from tests.tasks.test_gate import never, registered, report, scores_of

MANY = 64
Texts = dict[str, CleanDocument]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger(home)


@pytest.fixture(scope="session")
def heldout(cleaned: Artifact) -> Texts:
    return {entry.sha256: entry for entry in read_documents(cleaned.path, CleanDocument) if entry.split == "test"}


def _report(folder: Path, heldout: Texts, is_good: list[bool]) -> Artifact:
    num_bytes = np.array([entry.num_bytes for entry in heldout.values()])
    columns = {"sha256": list(heldout), "num_bytes": num_bytes, "unigram_bits": 2.0 * num_bytes}
    table = pd.DataFrame(columns).assign(bits=np.where(is_good, 1.5, 2.5) * num_bytes)
    with Draft(folder, "report", "evaluate") as out:
        table.to_parquet(out.path / "documents.parquet")
        return out.publish({"heldout_digest": "h"})


def _decided(ledger: Ledger, number: int) -> Entry:
    body = {"version": number, "artifact": f"digest{number}", "run": "r", "outcome": "promote"}
    return ledger.append("decided", "demo", f"question{number}", body)


def test_documents_that_the_champion_was_good_at_are_frozen(
    ledger: Ledger, home: Path, tmp_path: Path, cleaned: Artifact, heldout: Texts
) -> None:
    is_good = [number % 2 == 0 for number in range(len(heldout))]
    entry = anchor.freeze(ledger, _decided(ledger, 1), _report(tmp_path / "r", heldout, is_good), cleaned, MANY, home)
    good = {name for name, wanted in zip(heldout, is_good, strict=True) if wanted}
    assert entry is not None and set(entry.body["added"]) == good
    found = anchor.anchor(ledger, "demo", home).documents
    assert {name: document.text for name, document in found.items()} == {name: heldout[name].text for name in good}
    assert anchor.anchor(ledger, "another", home).documents == {}


def test_later_champions_add_and_nothing_goes_out(
    ledger: Ledger, home: Path, tmp_path: Path, cleaned: Artifact, heldout: Texts
) -> None:
    first = [number < 2 for number in range(len(heldout))]
    anchor.freeze(ledger, _decided(ledger, 1), _report(tmp_path / "a", heldout, first), cleaned, MANY, home)
    before = set(anchor.anchor(ledger, "demo", home).documents)
    others = [not each for each in first]
    second = _decided(ledger, 2)
    entry = anchor.freeze(ledger, second, _report(tmp_path / "b", heldout, others), cleaned, 4, home)
    assert entry is not None
    after = set(anchor.anchor(ledger, "demo", home).documents)
    assert before < after and len(after) == 4 == entry.body["documents"]
    everything = _report(tmp_path / "c", heldout, [True] * len(heldout))
    assert anchor.freeze(ledger, second, everything, cleaned, MANY, home) == entry  # once a decision
    assert anchor.freeze(ledger, _decided(ledger, 3), everything, cleaned, 4, home) is None  # full


@pytest.mark.parametrize("damage", ["changed", "gone", "broken"])
def test_a_changed_anchor_is_refused(
    damage: str, ledger: Ledger, home: Path, tmp_path: Path, cleaned: Artifact, heldout: Texts
) -> None:
    good = _report(tmp_path / "r", heldout, [True] * len(heldout))
    anchor.freeze(ledger, _decided(ledger, 1), good, cleaned, MANY, home)
    (place,) = (home / "anchors").iterdir()
    content = place.read_text()
    if damage == "gone":
        place.unlink()
    else:
        place.write_text(content.replace("people", "persons", 1) if damage == "changed" else content[:-9])
    with pytest.raises(LedgerError, match=r"anchors/.*restore it from a backup"):
        anchor.anchor(ledger, "demo", home)


def test_only_what_is_not_known_is_scored(
    ledger: Ledger, home: Path, tmp_path: Path, cleaned: Artifact, heldout: Texts
) -> None:
    good = _report(tmp_path / "r", heldout, [True] * len(heldout))
    anchor.freeze(ledger, _decided(ledger, 1), good, cleaned, MANY, home)
    found = anchor.anchor(ledger, "demo", home)
    known = pd.Series(1.0, index=list(heldout)[1:])
    asked: list[str] = []

    def score(texts: object) -> pd.Series:
        asked.extend(texts)  # type: ignore[call-overload]
        return pd.Series(2.0, index=asked)

    rows = anchor.rows(found, known, score).set_index("example")
    assert asked == list(heldout)[:1]
    assert rows["bits"].to_dict() == {name: 2.0 if name in asked else 1.0 for name in heldout}
    assert rows["num_bytes"].to_dict() == {name: entry.num_bytes for name, entry in heldout.items()}
    assert not set(asked) & set(found.without(asked).documents)


@pytest.mark.parametrize(
    ("lost", "documents", "outcome"), [(0.0, 40, "promoted"), (0.5, 40, "keep"), (0.5, 10, "keep")]
)
def test_who_forgot_the_anchor_is_kept_out(
    lost: float, documents: int, outcome: str, ledger: Ledger, tmp_path: Path
) -> None:
    """Also where its own held-out documents are few, as those of a single decade are."""
    rng = np.random.default_rng(1)
    theirs = pd.DataFrame({"example": [f"a{n}" for n in range(40)], "num_bytes": 1000})
    theirs["bits"] = 1500 + rng.normal(0, 10, 40)

    def anchor_rows(champion: Entry) -> Rows:
        return theirs.assign(bits=theirs["bits"] + lost * theirs["num_bytes"] + rng.normal(0, 10, 40)), theirs

    cfg = Gate(resamples=2000)
    old = report(tmp_path / "old", 1.5)
    gate(cfg, 1, registered(ledger, 1), old, never, ledger)
    new = report(tmp_path / "new", 1.2, documents=documents)
    entry = gate(cfg, 1, registered(ledger, 2), new, scores_of(old), ledger, anchor_rows=anchor_rows)
    assert outcome in (entry.kind, entry.body.get("outcome"))
    assert ("anchor/bits is worse" in entry.body["reason"]) == bool(lost)
