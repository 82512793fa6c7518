"""Decide whether a registered version replaces the champion of its line, and move the champion if so.

Challenger and opponent are scored on the same held-out documents; the paired bootstrap resamples documents. The
opponent of a line's first version is the unigram baseline of its own report.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm_core.artifact import Artifact
from llm_core.config import Evaluate, Gate
from tasks import challenges
from tasks.ledger import Entry, Ledger

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["promote", "keep", "needs_person"]
BASELINE = "unigram"

ScoreOpponent = Callable[[Entry], "pd.Series[float]"]
"""Bits that the champion (by the entry that made it so) spends on each held-out document, indexed by sha256."""


@dataclass(frozen=True)
class Evidence:
    """A paired comparison on held-out documents; gains are in bits per byte, above 0 where the challenger is better."""

    opponent: str
    documents: int
    heldout: str
    """sha256 over the held-out documents' hashes."""
    challenger_bits_per_byte: float
    opponent_bits_per_byte: float
    gain: float
    low: float
    high: float
    """Ends of the interval whose lower end a promotion's one-sided test looks at (confidence 1 - 2 alpha)."""
    p_value: float
    """Chance of a gain this large where there is no more than min_gain, one-sided."""
    resamples: int


def gate(
    cfg: Gate,
    seed: int,
    version: Entry,
    report: Artifact,
    score_opponent: ScoreOpponent,
    ledger: Ledger,
    is_tried: bool = False,
) -> Entry:
    """The `decided` entry of this version against the present champion; promotes in the same step where it says so.

    A version that is tried in service first (`is_tried`) is not moved here; a line's first champion always is.
    A version that is champion already gets the entry that made it so; an equal question gets the earlier answer.
    """
    champion = ledger.champion(version.line)
    known = answer(cfg, version, report, ledger)
    if known is not None:
        return known
    question = _question(cfg, version, report, champion)
    decided = ledger.find("decided", question)
    if decided is None:
        evidence = compare(cfg, seed, report, champion, score_opponent)
        outcome, reason = decide(cfg, evidence, _veto(ledger, version))
        body = {**_subject(version), "outcome": outcome, "reason": reason, "evidence": asdict(evidence)}
        decided = ledger.append("decided", version.line, question, body)
    if decided.body["outcome"] != "promote" or (is_tried and champion is not None):
        return decided
    body = {**_subject(version), "decision": decided.hash, "reason": decided.body["reason"]}
    return ledger.move("promoted", version.line, decided.hash, body, expected=champion.hash if champion else None)


def answer(cfg: Gate, version: Entry, report: Artifact, ledger: Ledger) -> Entry | None:
    """What the ledger knows already: this version is champion, or lost against this one, at the gate or in service."""
    champion = ledger.champion(version.line)
    if champion is not None and champion.body["version"] == version.body["version"]:
        return champion
    decided = ledger.find("decided", _question(cfg, version, report, champion))
    if decided is None or (decided.body["outcome"] == "promote" and challenges.lost(ledger, decided) is None):
        return None
    return decided


def compare(cfg: Gate, seed: int, report: Artifact, champion: Entry | None, score_opponent: ScoreOpponent) -> Evidence:
    """Score both sides on the report's documents and resample them in pairs."""
    import numpy as np
    import pandas as pd

    from llm_core.evals.perplexity import bits_per_byte
    from llm_core.evals.stats import paired_bootstrap

    scores = pd.read_parquet(report.path / "documents.parquet").set_index("sha256")
    theirs = scores["unigram_bits"] if champion is None else score_opponent(champion).reindex(scores.index)
    if theirs.isna().any():
        raise ValueError(f"{report.path}: the opponent was not scored on every held-out document")
    result = paired_bootstrap(
        np.asarray(scores["bits"], dtype=np.float64),
        np.asarray(theirs, dtype=np.float64),
        scores["num_bytes"].to_numpy(),
        resamples=cfg.resamples,
        seed=seed,
        margin=cfg.min_gain,
        confidence=1 - 2 * cfg.alpha,
    )
    return Evidence(
        opponent=BASELINE if champion is None else f"{champion.line}@{champion.body['version']}",
        documents=result.documents,
        heldout=report.stats["heldout_digest"],
        challenger_bits_per_byte=bits_per_byte(scores["bits"], scores["num_bytes"]),
        opponent_bits_per_byte=bits_per_byte(theirs, scores["num_bytes"]),
        gain=-result.difference,
        low=-result.high,
        high=-result.low,
        p_value=result.p_value,
        resamples=cfg.resamples,
    )


def decide(cfg: Gate, evidence: Evidence, veto: Entry | None = None) -> tuple[Outcome, str]:
    """What the evidence means under the recipe's rule, and the sentence that says why.

    A version that a person rolled back comes into service again by a person only: `veto` is that rollback.
    """
    facts = (
        f"{evidence.challenger_bits_per_byte:.4f} against {evidence.opponent}'s {evidence.opponent_bits_per_byte:.4f} "
        f"bits per byte on {evidence.documents} documents (gain {evidence.gain:+.4f}, p {evidence.p_value:.4f})"
    )
    if veto is not None:
        return "needs_person", f"{veto.body['person']} rolled it back ({veto.body['reason']}): {facts}"
    if evidence.documents < cfg.min_documents:
        return "needs_person", f"only {evidence.documents} held-out documents, {cfg.min_documents} are needed: {facts}"
    if evidence.p_value < cfg.alpha:
        return "promote", f"better: {facts}"
    return "keep", f"not shown to be better: {facts}"


def score_heldout(cfg: Evaluate, folder: Path, documents: Artifact, memo: Path) -> pd.Series[float]:
    """Bits that a registered model, with its own tokenizer, spends on each held-out document, indexed by sha256.

    Remembered in `memo`: the champion meets the same documents every night.
    """
    import pandas as pd

    from llm_core.devices import computing, pick_device, pick_precision
    from llm_core.evals.hiding import Hiding
    from llm_core.evals.perplexity import Scoring, score_texts
    from llm_core.models import load_pretrained
    from llm_core.text.document import CleanDocument
    from llm_core.text.shards import read_documents
    from llm_core.tokenizer import Tokenizer

    model = Artifact.open(folder, "model")
    heldout = [entry for entry in read_documents(documents.path, CleanDocument) if entry.split == "test"]
    hashes = [entry.sha256 for entry in heldout]
    place = _memo_place(cfg, model.digest, hashes, memo)
    if place.exists():
        return pd.read_parquet(place)["bits"]
    device = pick_device()
    with computing(threads=0):
        network, tokenizer = load_pretrained(model.path).to(device), Tokenizer.load(model.path)
        precision = pick_precision("auto", device)
        scoring = Scoring(cfg.stride, cfg.batch_windows, precision, Hiding.of(network, tokenizer))
        scored = score_texts(network, tokenizer, (entry.text for entry in heldout), scoring)
    scored.index = pd.Index(hashes, name="sha256")
    _remember(scored, place)
    return scored["bits"]


def remember_scores(cfg: Evaluate, model: str, report: Artifact, memo: Path) -> None:
    """Keep what the evaluate stage found for the model of this digest: tomorrow it may be the champion."""
    import pandas as pd

    scored = pd.read_parquet(report.path / "documents.parquet").set_index("sha256")[["num_tokens", "num_bytes", "bits"]]
    place = _memo_place(cfg, model, list(scored.index), memo)
    if not place.exists():
        _remember(scored, place)


def _memo_place(cfg: Evaluate, model: str, hashes: list[str], memo: Path) -> Path:
    return memo / f"{_digest([model, sorted(hashes), cfg.stride])}.parquet"


def _remember(scored: pd.DataFrame, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(".draft")
    scored.to_parquet(draft)
    os.replace(draft, place)


def _veto(ledger: Ledger, version: Entry) -> Entry | None:
    """The last rollback that took this version out of service."""
    undone = [entry for entry in ledger.entries(version.line) if entry.kind == "rolled_back"]
    mine = [entry for entry in undone if entry.body["replaced"] == version.body["version"]]
    return mine[-1] if mine else None


def _subject(version: Entry) -> Mapping[str, object]:
    return {name: version.body[name] for name in ("version", "artifact", "run")}


def _question(cfg: Gate, version: Entry, report: Artifact, champion: Entry | None) -> str:
    return _digest([cfg.model_dump(), version.hash, report.digest, champion.hash if champion else None])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
