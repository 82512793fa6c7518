"""Decide whether a registered version replaces the champion of its line, and move the champion if so.

Challenger and opponent are scored on the same held-out documents and compared in pairs. The opponent of a line's first
version is the unigram baseline of its own report. The nights of a horizon share one alpha; what a night may spend
follows from the ledger alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from llm_core.artifact import Artifact
from llm_core.config import Gate
from tasks import challenges
from tasks.evidence import AnchorRows, Evidence, Limit, Opponent, OpponentRows, Rows, ScoreOpponent, compare, limits
from tasks.ledger import Entry, Ledger, Overtaken

if TYPE_CHECKING:
    import pandas as pd

    from llm_core.evals.stats.spending import Budget

Outcome = Literal["promote", "keep", "needs_person"]


def no_rows(champion: Entry, suite: str) -> pd.DataFrame | None:
    """Of a champion that was scored on documents only."""
    return None


def no_anchor(champion: Entry) -> Rows:
    """Of a line that has none yet."""
    return None, None


def gate(
    cfg: Gate,
    seed: int,
    version: Entry,
    report: Artifact,
    score_opponent: ScoreOpponent,
    ledger: Ledger,
    is_tried: bool = False,
    opponent_rows: OpponentRows = no_rows,
    anchor_rows: AnchorRows = no_anchor,
) -> Entry:
    """The `decided` entry of this version against the present champion; promotes in the same step where it says so.

    A version that is tried in service first (`is_tried`) is not moved here; a line's first champion always is.
    A version that is champion already gets the entry that made it so; an equal question gets the earlier answer.
    Where another decision of the line came first, this one is made anew: two may not spend the same look.
    """
    while True:
        try:
            return _gate_once(cfg, seed, version, report, score_opponent, ledger, is_tried, opponent_rows, anchor_rows)
        except Overtaken:  # somebody else has decided, so this ends
            continue


def _gate_once(
    cfg: Gate,
    seed: int,
    version: Entry,
    report: Artifact,
    score_opponent: ScoreOpponent,
    ledger: Ledger,
    is_tried: bool,
    opponent_rows: OpponentRows,
    anchor_rows: AnchorRows,
) -> Entry:
    champion = ledger.champion(version.line)
    known = answer(cfg, version, report, ledger)
    if known is not None:
        return known
    question = _question(cfg, version, report, champion)
    decided = ledger.find("decided", question)
    if decided is None:
        decisions = ledger.count("decided", version.line)  # before they are read: a later one is noticed
        veto = _veto(ledger, version)
        is_look = veto is None and not any(map(_is_over, limits(cfg, version, report)))
        anchored = anchor_rows(champion) if champion else (None, None)
        opponent = Opponent(champion, score_opponent, opponent_rows, anchored)
        budget = tonight(cfg, ledger, version.line)
        evidence = compare(cfg, _own_seed(seed, version, report), version, report, opponent, budget, is_look)
        outcome, reason = decide(cfg, evidence, veto)
        body = {**_subject(version), "outcome": outcome, "reason": reason, "evidence": asdict(evidence)}
        decided = ledger.append("decided", version.line, question, body, expected=decisions)
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


def tonight(cfg: Gate, ledger: Ledger, line: str) -> Budget:
    """What the next look of a line may spend, from its decisions so far; those before there were budgets count too."""
    from llm_core.evals.stats.spending import budget

    decisions = [entry.body["evidence"] for entry in ledger.entries(line) if entry.kind == "decided"]
    looks = sum(evidence.get("is_look", True) for evidence in decisions)
    return budget(cfg.alpha, cfg.horizon_nights, looks)


def decide(cfg: Gate, evidence: Evidence, veto: Entry | None = None) -> tuple[Outcome, str]:
    """What the evidence means under the recipe's rule, and the sentence that says why.

    A version that a person rolled back comes into service again by a person only: `veto` is that rollback.
    """
    facts = (
        f"{evidence.challenger_bits_per_byte:.4f} against {evidence.opponent}'s {evidence.opponent_bits_per_byte:.4f} "
        f"bits per byte on {evidence.documents} documents (gain {evidence.gain:+.4f}, p {evidence.p_value:.4g}, "
        f"look {evidence.look} of {cfg.horizon_nights} may spend {evidence.level:.2g})"
    )
    over = [f"{each.name} {each.value:g} is above {each.limit:g}" for each in evidence.limits if _is_over(each)]
    broken = [str(each) for each in evidence.guards if each.is_broken]
    worse = [str(each) for each in evidence.guards if each.state == "worse"]
    unsure = [f"{each.name} is limited and not known" for each in evidence.limits if each.value is None]
    unsure += [str(each) for each in evidence.guards if each.needs_person]
    if veto is not None:
        return "needs_person", f"{veto.body['person']} rolled it back ({veto.body['reason']}): {facts}"
    if over:
        return "keep", f"{'; '.join(over)}: {facts}"
    if evidence.documents < cfg.min_documents and worse:
        return "keep", f"{'; '.join(worse)}: {facts}"
    if evidence.documents < cfg.min_documents:
        return "needs_person", f"only {evidence.documents} held-out documents, {cfg.min_documents} are needed: {facts}"
    is_better = evidence.p_value < evidence.level and evidence.bootstrap_p < cfg.alpha
    if not is_better or evidence.gain < cfg.min_gain:
        return "keep", f"not shown to be better: {facts}"
    if broken or unsure:
        return "keep" if broken else "needs_person", f"{'; '.join(broken or unsure)}; better: {facts}"
    return "promote", f"better: {facts}"


def _own_seed(seed: int, version: Entry, report: Artifact) -> int:
    """Nights draw patterns of their own: with equal ones, an error of sampling would repeat every night of the year."""
    return int(_digest([seed, version.body["artifact"], report.digest])[:8], 16)


def _is_over(limit: Limit) -> bool:
    return limit.value is not None and limit.value > limit.limit


def _veto(ledger: Ledger, version: Entry) -> Entry | None:
    """The last rollback that took this version out of service."""
    undone = [entry for entry in ledger.entries(version.line) if entry.kind == "rolled_back"]
    mine = [entry for entry in undone if entry.body["replaced"] == version.body["version"]]
    return mine[-1] if mine else None


def _subject(version: Entry) -> Mapping[str, object]:
    return {name: version.body[name] for name in ("version", "artifact", "run")}


def _question(cfg: Gate, version: Entry, report: Artifact, champion: Entry | None) -> str:
    return _digest([cfg.rule(), version.hash, report.digest, champion.hash if champion else None])


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
