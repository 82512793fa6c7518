"""``tidemill batch``: a table in, the same rows with what a model says to each out; goes on after a kill.

The work is done in chunks of several batches. A finished chunk's results are on disk (`tasks/batch_results.py`); the
output is written from them at the end, so that it is the same to the byte whether the run was interrupted or not.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_core.artifact import Interrupted, Observer
from llm_core.pipeline.batch import BATCH_SIZE, Kind, Refused, Row, Scorer, score_rows, scorer
from llm_core.signals import DeferredSignals
from tasks.batch_results import FinishedChunks
from tasks.fetch import Fetched
from tasks.scored_tables import check_output, write_scored
from tasks.tables import Survey, Table, TableError, open_table, parts

CHUNK_BATCHES = 8
"""Batches of a chunk: rows of like lengths find each other among so many, and a kill costs at most so many."""


@dataclass(frozen=True)
class Batch:
    """What is to be scored, and how."""

    source: Path
    output: Path
    columns: tuple[str, ...] = ()
    """Columns that the model reads; none for those of the task's own names."""
    task: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """How answers are written (`llm_core.pipeline.batch.WritingOptions`), where not by default."""
    batch_size: int = BATCH_SIZE
    column_prefix: str = ""
    """Put in front of the new columns' names."""


def batch(cfg: Batch, model: Fetched, observer: Observer, resume: bool = False) -> dict[str, Any]:
    """Score a table; returns the account: records_in = scored + the refused of every reason.

    Raises TableError before any work for a table, column or output that is wrong, Interrupted when asked to stop.
    """
    began = time.monotonic()
    job = _Job(cfg, model)
    cfg.output.parent.mkdir(parents=True, exist_ok=True)
    with FinishedChunks(cfg.output, job.about(), resume) as finished:
        before = finished.num_rows
        with DeferredSignals() as signals:
            for chunk in parts(job.cells(before), cfg.batch_size * CHUNK_BATCHES):
                finished.append(job.score(chunk, finished.num_rows, signals, observer))
                observer.progress(finished.num_rows, job.survey.num_rows, "rows")
        results = map(job.named, finished.results())
        write_scored(job.table, job.survey.columns, cfg.output, job.added(), results)
        finished.remove()
    facts = {"output": str(cfg.output), "resumed_at": before, "seconds": round(time.monotonic() - began, 2)}
    return {**job.facts(), **_account(finished.num_rows, finished.refused), **facts}


def preview(cfg: Batch, model: Fetched) -> dict[str, Any]:
    """What `batch` would do: every row is read as the model would read it, none is scored, nothing is written."""
    job, refused = _Job(cfg, model), Counter[str]()
    for cells in job.cells(0):
        row = job.read(cells)
        if isinstance(row, str):
            refused[row.partition(":")[0]] += 1
    return {
        **job.facts(),
        **_account(job.survey.num_rows, refused),
        "output": str(cfg.output),
        "columns": list(job.columns),
        "adds": list(job.added()),
    }


class _Job:
    """A table and a model that were found to fit."""

    def __init__(self, cfg: Batch, model: Fetched) -> None:
        check_output(cfg.output, cfg.source)
        if cfg.batch_size < 1:
            raise ValueError(f"batch_size {cfg.batch_size} must be at least 1")
        self._cfg, self._model = cfg, model
        self.table: Table = open_table(cfg.source)
        self.survey: Survey = self.table.survey()
        self._scorer: Scorer = scorer(model.folder, cfg.task, **cfg.options)
        self.columns = _columns(cfg, self._scorer, self.survey)
        for name in self.added():
            if name in self.survey.columns:
                raise TableError(
                    f"{cfg.source}: has a column {name!r}, which scoring would add; give a --column-prefix"
                )
        if cfg.output.suffix.lower() == ".parquet":
            self.table.schema()  # rows without common types are found before the work

    def facts(self) -> dict[str, Any]:
        """Who scores."""
        return {"model": self._model.name, "digest": self._model.digest, "task": self._scorer.task}

    def about(self) -> dict[str, Any]:
        """All that the results follow from."""
        found = {"input": self.survey.sha256, "columns": list(self.columns), "batch_size": self._cfg.batch_size}
        return {**self.facts(), **found, **self._scorer.options}

    def added(self) -> dict[str, Kind]:
        """Names and kinds of the new columns."""
        kinds: dict[str, Kind] = {**self._scorer.gives, "model": "text", "digest": "text", "error": "text"}
        return {self._cfg.column_prefix + name: kind for name, kind in kinds.items()}

    def named(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """A result under the new columns' names, with who gave it."""
        whole = {**dict.fromkeys(self._scorer.gives), **self.facts(), **result}
        prefix = self._cfg.column_prefix
        return {name: whole[name.removeprefix(prefix)] for name in self.added()}

    def cells(self, start: int) -> Iterator[tuple[Any, ...]]:
        """What the model reads of each row, from number `start`."""
        for row in self.table.rows(start, self.columns):
            yield tuple(row[name] for name in self.columns)

    def read(self, cells: tuple[Any, ...]) -> Row | str:
        """The row as the model reads it, or why it cannot: REASON: MESSAGE."""
        try:
            return self._scorer.read(*cells)
        except Refused as refusal:
            return f"{refusal.reason}: {refusal}"

    def score(
        self, chunk: Sequence[tuple[Any, ...]], first: int, signals: DeferredSignals, observer: Observer
    ) -> list[dict[str, Any]]:
        """The results of a chunk whose first row has the number `first`."""
        read = [self.read(cells) for cells in chunk]
        rows = {first + place: row for place, row in enumerate(read) if isinstance(row, Row)}
        done = first + len(chunk) - len(rows)

        def after_batch(num_rows: int) -> None:
            nonlocal done
            done += num_rows
            observer.progress(done, self.survey.num_rows, "rows")
            if signals.received is not None:
                name = signal.Signals(signals.received).name
                raise Interrupted(f"{name} after {first} finished rows; run it with --resume to go on from there")

        found = score_rows(self._scorer, list(rows.values()), list(rows), self._cfg.batch_size, after_batch)
        scored = dict(zip(rows, found, strict=True))
        return [
            {"error": row} if isinstance(row, str) else {**scored[first + place], "error": None}
            for place, row in enumerate(read)
        ]


def _columns(cfg: Batch, scorer: Scorer, survey: Survey) -> tuple[str, ...]:
    """The columns to read: those given, or those with the task's own names; a lone one may be called text."""
    least, most = len(scorer.reads), len(scorer.reads) + len(scorer.may_read)
    is_lone = least == 1 and ("text" in survey.columns or scorer.reads[0] not in survey.columns)
    columns = cfg.columns or (("text",) if is_lone else scorer.reads)
    if not least <= len(columns) <= most:
        names = " and ".join((*scorer.reads, *scorer.may_read))
        wanted = f"{least}" if least == most else f"{least} or {most}"
        raise TableError(f"--column: {scorer.task} reads {names}, so give {wanted}, not {len(columns)}")
    for name in columns:
        if name not in survey.columns:
            there = ", ".join(survey.columns) or "none"
            raise TableError(f"{cfg.source}: no column {name!r}; it has {there}; name one with --column")
    return columns


def _account(num_rows: int, refused: Counter[str]) -> dict[str, Any]:
    return {"records_in": num_rows, "scored": num_rows - refused.total(), "refused": dict(sorted(refused.items()))}
