"""Stages as Prefect tasks: the one place where a stage meets Prefect, DVC, MLflow and the ledger.

Prefect orders, retries, times out and shows; it never decides what is up to date. Tasks are called directly, not
submitted, so that a cancelled run reaches the stage in its main thread.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.tasks import Task

from llm_core.artifact import Artifact, ArtifactError, Observer
from llm_core.config import Recipe
from llm_core.inventory import Inventory
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks import anchor, canary, challenges, champions
from tasks.accounts import REPORTED, report_place, reported
from tasks.data_report import data_report, summary_markdown
from tasks.data_report import metrics as data_metrics
from tasks.deploy import deploy as deploy_stage
from tasks.gate import gate as gate_stage
from tasks.ledger import MOVES, Entry, Ledger
from tasks.lineage import Code, Records, environment, intent, lock_md5, run_facts
from tasks.observers import Facts, Terminal, Together
from tasks.processes import temporary
from tasks.register import register as register_stage
from tasks.scores import (
    read_bits,
    remember_rows,
    remember_scores,
    remember_told,
    remembered_rows,
    score_by_hash,
    score_heldout,
)
from tasks.services import running_server_of_line, server_of_line
from tasks.showing import folder_of, show_decision
from tasks.stages import STAGES, Stage, use_recipe
from tasks.summary import StageRow, Summary, effect_row, pure_row
from tasks.tracking import MetricSpool, Tracker
from tasks.update import Update, update
from tasks.versioning import Versioning, only_run
from tasks.workspace import Workspace

HOUR = 3600
TIMEOUT_SECONDS = {
    "collect": 6 * HOUR,
    "clean": 12 * HOUR,
    "tokenizer": 6 * HOUR,
    "tokenize": 12 * HOUR,
    "train": 168 * HOUR,
    "deploy": 26 * HOUR,  # a version may be tried for a day before
}
DEFAULT_TIMEOUT_SECONDS = 2 * HOUR
RETRIES, RETRY_SECONDS = 2, 5
PROGRESS_SECONDS = 3.0


class Run:
    """One execution of a recipe in a workspace, with the records it writes to."""

    def __init__(self, ws: Workspace, recipe: Recipe, inventory: Inventory) -> None:
        self.ws, self.recipe, self.inventory = ws, recipe, inventory
        self.versioning, self.ledger, self.records = Versioning(ws), Ledger(ws.home), Records(ws.home)
        self.tracker = Tracker(ws)
        self.flow_run = str(flow_run.id or "none")
        self.facts = run_facts(ws, recipe, self.flow_run)
        self.run_id = self.tracker.open_run(recipe, intent(recipe, inventory), self.facts)
        self.rows: list[StageRow] = []

    def report(self, row: StageRow) -> None:
        """Note that a stage ended, for the summary, the flow run's log and whoever watches the terminal."""
        self.rows.append(row)
        get_run_logger().info("%s: %s, because: %s", row.stage, row.state, row.because)
        print(f"{row.stage:>10}  {row.state}, {row.seconds:.1f} s, {row.went_out}", file=sys.stderr, flush=True)

    def summary(self) -> Summary:
        """What the run came to, for people and for ``--json``."""
        return Summary.of(self.ws, self.recipe, self.ledger, self.rows)


@contextmanager
def open_run(recipe: Recipe) -> Iterator[Run]:
    """Fix recipe and inventory in the workspace, open the MLflow run, and close it as finished or failed."""
    ws = Workspace.here()
    with only_run(ws):
        run = Run(ws, *use_recipe(ws, recipe))
        _log_origin(run)
        try:
            yield run
        except BaseException:
            run.tracker.close_run(run.run_id, succeeded=False)
            raise
        run.tracker.close_run(run.run_id, succeeded=True)


def pure(name: str) -> Task[..., Artifact]:
    """The Prefect task of a pure stage: ``task(run, *input artifacts) -> artifact``."""
    stage = STAGES[name]

    def body(run: Run, *inputs: Artifact) -> Artifact:
        _require_present(run, stage, inputs)
        before = _cpu_seconds()
        with _watched(run, stage) as observer:
            result = update(stage, run.recipe, run.ws, run.versioning, observer)
        _record(run, stage, result, _cpu_seconds() - before)
        return result.artifact

    return _task(name, body)


def effect(function: Callable[..., Entry]) -> Task[..., Entry]:
    """The Prefect task of an effect: ``task(run, ...) -> ledger entry``; its key makes a rerun find what was done."""

    def body(run: Run, *inputs: Any) -> Entry:
        before = len(run.ledger.entries())
        began = time.monotonic()
        entry = function(run, *inputs)
        fresh = entry.sequence > before
        row = effect_row(function.__name__, entry, fresh, time.monotonic() - began)
        run.report(row)
        create_markdown_artifact(_markdown(row.stage, {"state": row.state, **entry.body}), key=row.stage)
        return entry

    return _task(function.__name__, body)


def register(run: Run, model: Artifact) -> Entry:
    """One version per model key."""
    outs = {f"dvc.out.{name}": run.versioning.md5(name) for name in STAGES}
    facts = {**run.facts, "dvc.lock.md5": lock_md5(run.ws), **outs}
    cfg = run.recipe.register_
    return register_stage(cfg, model, run.tracker, run.ledger, run.ws, _run_of(run, model), facts)


def gate(run: Run, version: Entry, report: Artifact, documents: Artifact) -> Entry:
    """The paired test against the champion; where it promotes, the registry's aliases follow."""

    def score_opponent(champion: Entry) -> Any:
        return score_heldout(run.recipe.evaluate, folder_of(run, champion), documents, memo)

    def anchor_rows(champion: Entry) -> Any:
        found = anchor.anchor(run.ledger, version.line, run.ws.home).without(_trained_on(documents))
        if not found.documents:
            return None, None
        known = read_bits(report), score_opponent(champion)
        folders = folder_of(run, version), folder_of(run, champion)
        scorers = [partial(score_by_hash, run.recipe.evaluate, folder, memo=memo) for folder in folders]
        return tuple(anchor.rows(found, bits, score) for bits, score in zip(known, scorers, strict=True))

    def opponent_rows(champion: Entry, suite: str) -> Any:
        return remembered_rows(champion.body["artifact"], suite, memo)

    memo = run.ws.home / "scores"
    remember_scores(run.recipe.evaluate, version.body["artifact"], report, memo)
    remember_rows(version.body["artifact"], report, memo)
    remember_told(version.body["artifact"], report, memo)
    is_tried = run.recipe.deploy.canary_percent > 0 and run.recipe.model.writes_text
    entry = gate_stage(
        run.recipe.gate,
        run.recipe.seed,
        version,
        report,
        score_opponent,
        run.ledger,
        is_tried,
        opponent_rows,
        anchor_rows,
    )
    if entry.body.get("outcome") == "promote" or entry.kind in MOVES:
        anchor.freeze(run.ledger, entry, report, documents, run.recipe.gate.anchor_documents, run.ws.home)
    shown = show_decision(run, version, entry, report, documents, score_opponent)
    if shown is not None:
        create_markdown_artifact(shown, key="decision")
    champions.project(run.ledger, run.tracker, version.line)
    return entry


def _trained_on(documents: Artifact) -> Iterator[str]:
    return (entry.sha256 for entry in read_documents(documents.path, CleanDocument) if entry.split == "train")


def deploy(run: Run, decision: Entry) -> Entry:
    """A served answer of the champion; a decision that moved nothing leaves the served champion alone.

    Where the recipe wants a version tried first, that comes before its promotion. A champion that writes no text is
    registered, for who loads it by its alias; no server follows it.
    """
    decision = _tried(run, decision)
    champion = run.ledger.champion(decision.line)
    if decision.kind not in MOVES or champion is None or not run.recipe.model.writes_text:
        return decision
    done = run.ledger.find("served", champion.hash)
    if done is not None:
        return done
    cfg = run.recipe.deploy
    with temporary(server_of_line(run.ws.home, run.ws.root, decision.line, cfg.port)) as server:
        assert server.url is not None
        return deploy_stage(cfg, champion, server.url, run.ledger)


def _tried(run: Run, decision: Entry) -> Entry:
    """The promotion of a version that the traffic says nothing against, or the end of its challenge."""
    ledger, line = run.ledger, decision.line
    if (lost := challenges.lost(ledger, decision)) is not None:
        return lost
    if not canary.is_tried(run.recipe.deploy, decision):
        return decision
    challenge = canary.begin(run.recipe.deploy, decision, ledger)
    champions.project(ledger, run.tracker, line)
    server = running_server_of_line(run.ws.home, line)
    ended = canary.conclude(run.recipe.deploy, challenge, server.url if server else None, ledger)
    if ended.body["outcome"] == "passed":
        body = {name: ended.body[name] for name in ("version", "artifact", "run", "reason")}
        body |= {"decision": decision.hash, "challenge": ended.hash}
        ended = ledger.move("promoted", line, decision.hash, body, expected=challenge.body["champion"])
    champions.project(ledger, run.tracker, line)
    return ended


class PrefectProgress:
    """Progress on the flow run's page, sent from a thread of its own: a stage never waits for the API."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._state: tuple[float, str] | None = None
        self._facts = Facts()
        self._stop = threading.Event()
        context = contextvars.copy_context()  # the thread's artifacts belong to this task run
        self._thread = threading.Thread(target=lambda: context.run(self._show_until_stopped), daemon=True)

    def __enter__(self) -> PrefectProgress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def progress(self, done: int, total: int, unit: str) -> None:
        words = (f"{done}/{total} {unit}", self._facts.text(), self._facts.remaining(done, total))
        self._state = (100.0 * done / max(total, 1), "  ".join(filter(None, words)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._facts.note(values)

    def _show_until_stopped(self) -> None:
        artifact = None
        last = False
        while not last:
            last = self._stop.wait(PROGRESS_SECONDS)
            if self._state is None:
                continue
            percent, text = self._state
            try:
                if artifact is None:
                    key = f"{self._stage}-progress"
                    artifact = create_progress_artifact(progress=percent, key=key, description=text)
                else:
                    update_progress_artifact(
                        artifact_id=artifact,  # type: ignore[arg-type]
                        progress=percent,
                        description=text,
                    )
            except Exception as problem:
                get_run_logger().debug("progress is not shown: %s", problem)


def _task(name: str, body: Callable[..., Any]) -> Task[..., Any]:
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=RETRIES,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_is_transient,
        timeout_seconds=TIMEOUT_SECONDS.get(name, DEFAULT_TIMEOUT_SECONDS),
    )(body)


def _is_transient(_task: Any, _task_run: Any, state: Any) -> bool:
    """Only what may pass by itself is tried again: I/O and connection errors, never a bad input or a failed check."""
    problem = state.result(raise_on_failure=False)
    return isinstance(problem, OSError | ConnectionError) and not isinstance(
        problem, FileNotFoundError | PermissionError
    )


@contextmanager
def _watched(run: Run, stage: Stage) -> Iterator[Observer]:
    spool = run.ws.home / "spool" / run.run_id / f"{stage.name}.jsonl"
    with (
        Terminal(stage.name) as terminal,
        PrefectProgress(stage.name) as progress,
        MetricSpool(run.tracker.client, run.run_id, spool) as metrics,
    ):
        yield Together(terminal, progress, metrics)


def _require_present(run: Run, stage: Stage, inputs: tuple[Artifact, ...]) -> None:
    """The artifacts that the flow hands over must be the ones that lie in the workspace."""
    for given in inputs:
        found = Artifact.peek(run.ws.out / given.stage)
        if found.digest != given.digest:
            raise ArtifactError(f"{found.path}: changed while the flow ran; {stage.name} needs {given.digest[:12]}")


def _cpu_seconds() -> float:
    """Of this process, all its threads, and the children that it waited for."""
    return sum(os.times()[:4])


def _record(run: Run, stage: Stage, result: Update, cpu_seconds: float) -> None:
    artifact = result.artifact
    run.report(pure_row(result))
    run.tracker.log_stage(run.run_id, artifact, run.versioning.md5(stage.name))
    body = {"stage": stage.name, "state": result.state, "seconds": result.seconds, "run": run.run_id}
    body["cpu_seconds"] = round(cpu_seconds, 2)
    run.records.add(artifact.digest, {**body, "flow_run": run.flow_run, "commit": run.facts["git.commit"]})
    facts = {"state": result.state, "because": result.because, "digest": artifact.digest, **artifact.stats}
    create_markdown_artifact(_markdown(stage.name, facts), key=stage.name)
    if stage.name in REPORTED:
        _show_data(run, artifact)


def _show_data(run: Run, artifact: Artifact) -> None:
    """The data report goes with the run, without what was dropped: that is private and stays in the home."""
    documents, tokens = reported(run.ws, artifact)
    with TemporaryDirectory(prefix="report-") as folder:
        report = data_report(documents, None, Path(folder) / "data.html", tokens)
        run.tracker.log_report(run.run_id, report, data_metrics(documents, tokens))
    private = f"With samples of dropped records, for this machine only: `{report_place(run.ws, documents)}`"
    create_markdown_artifact(f"{summary_markdown(documents, tokens)}\n{private}\n", key="data-report")


def _log_origin(run: Run) -> None:
    """Recipe, inventory, packages and uncommitted changes go with the run: a version leads back to its data files."""
    code = Code.of(run.ws.root)
    texts = {"environment.txt": environment()} | ({"uncommitted.diff": code.diff} if code.diff else {})
    run.tracker.log_files(run.run_id, texts, (run.ws.run_recipe, run.ws.inventory))


def _run_of(run: Run, model: Artifact) -> str:
    """The MLflow run that trained this model: this one, unless the model was made before."""
    made = [record["run"] for record in run.records.of(model.digest) if record["state"] in ("made", "adopted")]
    return made[0] if made else run.run_id


def _markdown(title: str, facts: Mapping[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"## {title}\n\n| | |\n|---|---|\n{rows}\n"
