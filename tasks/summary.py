"""What a run came to: a row per stage, the version, its scores, the decision and the served answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llm_core.artifact import Artifact
from llm_core.config import Recipe
from llm_core.text.split import SPLITS
from tasks.ledger import MOVES, Entry, Ledger
from tasks.register import key as version_key
from tasks.update import Update
from tasks.workspace import Workspace

Count = tuple[str, tuple[str, ...]]
"""A unit, and the stats whose sum it counts."""
DOCUMENTS: Count = ("documents", tuple(f"{split}_documents" for split in SPLITS))
TOKENS: Count = ("tokens", tuple(f"{split}_tokens" for split in SPLITS))
CAME_IN_AND_WENT_OUT: Mapping[str, tuple[Count, Count]] = {
    "collect": (("files", ("records_in",)), ("documents", ("kept",))),
    "clean": (("documents", ("records_in",)), ("documents", ("kept",))),
    "tokenizer": (("bytes", ("trained_bytes",)), ("entries", ("vocab_size",))),
    "tokenize": (DOCUMENTS, TOKENS),
    "train": (("tokens", ("tokens_seen",)), ("parameters", ("parameters",))),
    "evaluate": (("documents", ("test_documents",)), ("tokens scored", ("test_tokens",))),
}


@dataclass(frozen=True)
class StageRow:
    """One line of the table of stages."""

    stage: str
    state: str
    because: str
    seconds: float
    came_in: str
    went_out: str
    digest: str


@dataclass(frozen=True)
class Summary:
    """Everything that the end of a run prints, as plain values."""

    recipe: str
    line: str
    stages: list[StageRow]
    version: str | None
    """LINE@NUMBER of this run's model."""
    champion: str | None
    """LINE@NUMBER in service."""
    metrics: Mapping[str, float]
    samples: list[Mapping[str, str]]
    decision: Mapping[str, Any]
    """Body of the ledger's decision about the version; empty where there is none yet."""
    trial: Mapping[str, Any]
    """Body of the ledger's entry about how it did in service before; empty where it was not tried."""
    promoted: bool
    """Whether the version is or was champion."""
    served: Mapping[str, Any]
    """Body of the ledger's entry about the champion's served answer; empty where it was not served yet."""

    @classmethod
    def of(cls, ws: Workspace, recipe: Recipe, ledger: Ledger, rows: list[StageRow]) -> Summary:
        """Read it from the workspace's artifacts and the ledger."""
        model, report = Artifact.peek(ws.out / "train", "model"), Artifact.peek(ws.out / "evaluate", "report")
        line = recipe.register_.line
        version = ledger.find("registered", version_key(recipe.register_, model))
        champion = ledger.champion(line)
        served = ledger.find("served", champion.hash) if champion else None
        decisions = _about(ledger, version, ("decided",))
        trials = _about(ledger, version, ("challenge_ended",))
        return cls(
            recipe=recipe.name,
            line=line,
            stages=rows,
            version=f"{line}@{version.body['version']}" if version else None,
            champion=f"{line}@{champion.body['version']}" if champion else None,
            metrics=json.loads((report.path / "metrics.json").read_text(encoding="utf-8")),
            samples=json.loads((report.path / "samples.json").read_text(encoding="utf-8")),
            decision=decisions[-1].body if decisions else {},
            trial=trials[-1].body if trials else {},
            promoted=bool(_about(ledger, version, MOVES)),
            served=served.body if served else {},
        )

    def plain(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def pure_row(result: Update) -> StageRow:
    """The row of a pure stage."""
    artifact = result.artifact
    came_in, went_out = CAME_IN_AND_WENT_OUT[artifact.stage]
    return StageRow(
        stage=artifact.stage,
        state=result.state,
        because=result.because,
        seconds=round(result.seconds, 2),
        came_in=_counted(artifact, came_in),
        went_out=_counted(artifact, went_out),
        digest=artifact.digest,
    )


def effect_row(stage: str, entry: Entry, fresh: bool, seconds: float) -> StageRow:
    """The row of an effect; its digest is the ledger entry's hash."""
    if stage == "deploy" and entry.kind == "decided":
        return StageRow(stage, "left", "the version was not promoted", round(seconds, 2), entry.line, "", entry.hash)
    if stage == "deploy" and entry.kind == "challenge_ended":
        state, because = entry.body["outcome"], str(entry.body["reason"])
        return StageRow(stage, state, because, round(seconds, 2), entry.line, "", entry.hash)
    if stage == "deploy" and entry.kind != "served":
        return StageRow(stage, "left", "the model writes no text", round(seconds, 2), entry.line, "", entry.hash)
    reason = str(
        entry.body.get("reason") or entry.body.get("outcome") or f"{entry.kind} version {entry.body['version']}"
    )
    return StageRow(
        stage=stage,
        state=entry.kind if fresh else "up to date",
        because=reason if fresh else f"the ledger has it as entry {entry.sequence}",
        seconds=round(seconds, 2),
        came_in=entry.line,
        went_out=f"{entry.line}@{entry.body['version']}",
        digest=entry.hash,
    )


def _counted(artifact: Artifact, count: Count) -> str:
    unit, stats = count
    return f"{sum(artifact.stats[name] for name in stats):,} {unit}"


def _about(ledger: Ledger, version: Entry | None, kinds: tuple[str, ...]) -> list[Entry]:
    if version is None:
        return []
    number = version.body["version"]
    return [entry for entry in ledger.entries(version.line) if entry.kind in kinds and entry.body["version"] == number]
