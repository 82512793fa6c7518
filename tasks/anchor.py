"""The anchor of a line: held-out documents that its champions did well on, frozen, so that none is forgotten.

A challenger that was tuned on other sources brings other held-out documents; on these it meets what the champions
before it could do. The texts lie in the home under their digest, and the ledger says which digest holds.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_core.artifact import Artifact
from tasks.ledger import Entry, Ledger, LedgerError

if TYPE_CHECKING:
    import pandas as pd

Score = Callable[[Mapping[str, str]], "pd.Series[float]"]
"""Bits that a model spends on each of some texts, by their sha256."""
ANCHOR = "anchor"
"""The suite of these documents, whose scores are bits."""
ANCHORED = "anchored"
"""The kind of the ledger's entries that freeze them."""


@dataclass(frozen=True)
class Anchor:
    """Documents by the sha256 of their content."""

    documents: Mapping[str, Anchored]

    @property
    def content(self) -> str:
        """JSON lines in the order of the documents' sha256."""
        rows = (json.dumps(asdict(self.documents[name]), ensure_ascii=False) for name in sorted(self.documents))
        return "".join(f"{row}\n" for row in rows)

    @property
    def digest(self) -> str:
        """sha256 of the content."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def without(self, hashes: Iterable[str]) -> Anchor:
        """But for these, such as those that were trained on since."""
        gone = frozenset(hashes)
        return Anchor({name: document for name, document in self.documents.items() if name not in gone})


@dataclass(frozen=True)
class Anchored:
    """A frozen document."""

    sha256: str
    source: str
    text: str


def anchor(ledger: Ledger, line: str, home: Path) -> Anchor:
    """The line's anchor; empty before its first champion.

    Raises LedgerError where the texts are gone or are not those that were frozen.
    """
    entry = _newest(ledger, line)
    if entry is None:
        return Anchor({})
    place = _place(home, entry.body["anchor"])
    try:
        rows = [json.loads(row) for row in place.read_text(encoding="utf-8").splitlines()]
        found = Anchor({row["sha256"]: Anchored(**row) for row in rows})
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise LedgerError(f"{place}: cannot be read ({problem}); restore it from a backup of the home") from None
    if found.digest != entry.body["anchor"]:
        raise LedgerError(f"{place}: was changed since it was frozen; restore it from a backup of the home")
    return found


def freeze(
    ledger: Ledger, decided: Entry, report: Artifact, documents: Artifact, most: int, home: Path
) -> Entry | None:
    """Add what the version that this decision promotes did well: better than the unigram baseline of its own report.

    Up to `most` documents in all; what is in stays in. Each decision adds once; None where nothing is added.
    """
    done = ledger.find(ANCHORED, decided.hash)
    if done is not None:
        return done
    present = anchor(ledger, decided.line, home)
    added = _did_well(report, documents, present, most - len(present.documents))
    if not added:
        return None
    grown = Anchor({**present.documents, **added})
    place = _place(home, grown.digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(f".{os.getpid()}")
    draft.write_text(grown.content, encoding="utf-8")
    os.replace(draft, place)
    body = {"version": decided.body["version"], "anchor": grown.digest, "added": sorted(added)}
    return ledger.append(ANCHORED, decided.line, decided.hash, {**body, "documents": len(grown.documents)})


def rows(found: Anchor, known: pd.Series[float], score: Score) -> pd.DataFrame:
    """The suite's rows of a model; `score` is asked for the bits of those documents only that are not known."""
    import pandas as pd

    unknown = {name: document.text for name, document in found.documents.items() if name not in known.index}
    bits = pd.concat([known, score(unknown)]) if unknown else known
    kept = [found.documents[name] for name in sorted(found.documents)]
    return pd.DataFrame(
        {
            "example": [document.sha256 for document in kept],
            "slice": [document.source.rpartition("/")[0] or document.source for document in kept],
            "num_bytes": [len(document.text.encode()) for document in kept],
            "bits": [float(bits[document.sha256]) for document in kept],
        }
    )


def _did_well(report: Artifact, documents: Artifact, present: Anchor, most: int) -> dict[str, Anchored]:
    """Those that it gains most on over the unigram baseline.

    By an old, weak opponent: one near the model itself would choose documents on which it was lucky.
    """
    import pandas as pd

    from llm_core.text.document import CleanDocument
    from llm_core.text.shards import read_documents

    if most <= 0:
        return {}
    scores = (
        pd.read_parquet(report.path / "documents.parquet")
        .set_index("sha256")
        .drop(list(present.documents), errors="ignore")
    )
    gains = (scores["unigram_bits"] - scores["bits"]) / scores["num_bytes"]
    chosen = set(gains[gains > 0].sort_index().nlargest(most).index)
    heldout = (entry for entry in read_documents(documents.path, CleanDocument) if entry.sha256 in chosen)
    return {entry.sha256: Anchored(entry.sha256, entry.source, entry.text) for entry in heldout}


def _newest(ledger: Ledger, line: str) -> Entry | None:
    frozen = [entry for entry in ledger.entries(line) if entry.kind == ANCHORED]
    return frozen[-1] if frozen else None


def _place(home: Path, digest: str) -> Path:
    return home / "anchors" / f"{digest}.jsonl"
