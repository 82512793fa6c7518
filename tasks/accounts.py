"""What people need to see of a data stage: the quarantine of its rejected records, and a report on clean data."""

from __future__ import annotations

import time
from pathlib import Path

from llm_core.artifact import Artifact, Observer
from llm_core.config import Recipe
from llm_core.inventory import Inventory
from llm_core.parts import Memo
from llm_core.text.contract import ContractError
from llm_core.text.split import SPLITS
from tasks.data_report import data_report
from tasks.quarantine import fill_quarantine
from tasks.stages import Stage, run_stage
from tasks.workspace import Workspace

REPORTED = ("clean", "tokenize")
"""Stages after which the data report is written."""


def account(ws: Workspace, recipe: Recipe, artifact: Artifact) -> Path | None:
    """Quarantine what a stage rejected, and write the report on clean data, again when they have tokens; its place."""
    if artifact.stage == "collect":
        _quarantine(ws, recipe, artifact)
    if artifact.stage not in REPORTED:
        return None
    documents, tokens = reported(ws, artifact)
    collected = Artifact.peek(ws.out / "collect")
    quarantined = [*_quarantine(ws, recipe, collected), *_quarantine(ws, recipe, documents)]
    return data_report(documents, quarantined, report_place(ws, documents), tokens)


def reported(ws: Workspace, artifact: Artifact) -> tuple[Artifact, int | None]:
    """The clean documents that an artifact of the stages REPORTED tells of, and how many tokens they are if known."""
    if artifact.stage == "clean":
        return artifact, None
    return Artifact.peek(ws.out / "clean"), sum(artifact.stats[f"{split}_tokens"] for split in SPLITS)


def make(stage: Stage, recipe: Recipe, ws: Workspace, observer: Observer) -> Artifact:
    """Run a stage; data that break their contract are set aside with a report, and the last good ones stay."""
    try:
        artifact = run_stage(stage, recipe, ws, observer)
    except ContractError as broken:
        stay = "the last good data stay; " if (ws.out / stage.name).exists() else ""
        raise ContractError(f"{broken}\n{stay}{_report_on_refused(ws, recipe, stage)}") from None
    Memo(ws.memo).prune(time.time())
    return artifact


def _report_on_refused(ws: Workspace, recipe: Recipe, stage: Stage) -> str:
    """Where the report is, or why there is none: that must not hide which expectation was not met."""
    try:
        report = account(ws, recipe, Artifact.open(ws.refused / stage.name, stage.makes))
    except (OSError, ValueError) as problem:
        return f"the refused ones are in {ws.refused / stage.name}; no report on them: {problem}"
    return f"a report on the refused ones: {report}"


def report_place(ws: Workspace, artifact: Artifact) -> Path:
    """Where the report on a clean artifact lies; private."""
    return ws.home / "reports" / f"{artifact.digest[:16]}.html"


def _quarantine(ws: Workspace, recipe: Recipe, artifact: Artifact) -> list[Path]:
    inventory = Inventory.read(ws.inventory, ws.project, ws.sources)
    return fill_quarantine(ws.quarantine, artifact, inventory, recipe.collect.max_expansion)
