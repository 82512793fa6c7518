"""A run's decision, gathered and shown: page, card and tables, and what a person reads first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llm_core.artifact import Artifact
from llm_core.config import Recipe
from tasks.decision import Decision, base_model, champion_of, costs, decision_of, languages, paired, told
from tasks.ledger import Entry, Ledger
from tasks.published import publish
from tasks.references import Reference, reference, references
from tasks.scores import TOLD, remembered_told, score_heldout
from tasks.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from tasks.lineage import Records
    from tasks.tracking import Tracker


class Deciding(Protocol):
    """What is asked of a run."""

    ws: Workspace
    recipe: Recipe
    ledger: Ledger
    records: Records
    tracker: Tracker


def show_decision(
    run: Deciding,
    version: Entry,
    entry: Entry,
    report: Artifact,
    documents: Artifact,
    score_opponent: Callable[[Entry], Any],
) -> str | None:
    """Publish what the gate decided by this report, before the aliases move; the Markdown that says where it is.

    None for an entry that a person made, or that followed from another report.
    """
    decided = decision_of(run.ledger, entry, report)
    if decided is None:
        return None
    champion, model = champion_of(run.ledger, decided), Artifact.peek(folder_of(run, version), "model")
    memo = run.ws.home / "scores"
    scores = paired(report, score_opponent(champion) if champion else None)
    decision = Decision(
        version=version,
        decided=decided,
        report=report,
        model=model,
        champion=champion,
        scores=scores,
        told=told(report, TOLD),
        theirs=remembered_told(champion.body["artifact"], memo) if champion else {},
        costs=costs(run.records, model, report),
        recipe=run.recipe,
        facts=run.tracker.version(version.line, version.body["version"]).tags,
        others=list(_references(run, documents, scores["num_bytes"])),
        base_model=base_model(run.ws.starts / run.recipe.train.start_sha256),
        languages=languages(documents),
    )
    page = publish(decision, run.tracker, run.ws)
    places = f"Page: `{page}`, also in MLflow's run {version.body['run']} under `reports`"
    return f"## {decision.name}\n\n{decided.body['reason']}\n\n{places}\n"


def folder_of(run: Deciding, version: Entry) -> Path:
    """The registered files of a version."""
    return run.tracker.model_folder(run.tracker.version(version.line, version.body["version"]))


def _references(run: Deciding, documents: Artifact, sizes: pd.Series[int]) -> Iterator[Reference]:
    score = partial(score_heldout, run.recipe.evaluate, documents=documents, memo=run.ws.home / "scores")
    train = run.recipe.train
    untuned = (train.start_name,) if train.start in ("champion", "version") else ()
    names = dict.fromkeys((*run.recipe.gate.references, *untuned))
    yield from references(list(names), run.ledger, partial(folder_of, run), score, sizes)
    if train.start == "folder":
        yield reference(train.start_name, run.ws.starts / train.start_sha256, score, sizes)
