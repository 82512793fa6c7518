"""Labelling in Prefect's own form: a batch is shown, the run waits for a person, the labels become an artifact.

A run of a deployment is suspended while it waits: its process ends and its worker is free for the night. It begins
again from the top when the form comes back, with the batch that the form was made for. A run without a deployment
waits in its process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from prefect.states import Completed
from pydantic import Field, create_model

from llm_core.config.section import NAME_PATTERN, Section
from llm_core.labels.adjudicate import Method
from llm_core.labels.answer_log import AnswerLog
from llm_core.labels.answers import SIDES, Answer
from llm_core.labels.files import write_whole
from llm_core.labels.label_studio import INSTRUCTIONS
from llm_core.labels.report import plain_markdown
from llm_core.labels.results import read_results
from llm_core.labels.sources import read_tasks, sample_tasks
from llm_core.labels.task import LabelError, Task, checked_content, checked_labels
from tasks.label import label_results
from tasks.workspace import Workspace

FormKind = Literal["classification", "pairs", "chat", "preference"]
"""What a form can ask; the spans of a sequence need Label Studio."""
SKIP = "(skip)"
FIELD = "task_"
SHOWN_CHARACTERS = 600
POLL_SECONDS = 2


class Labelling(Section):
    """What is labelled, and by whom."""

    documents: tuple[str, ...] = Field(min_length=1)
    """Text files, .jsonl files or documents artifacts, from the root of the project."""
    annotator: str = Field(min_length=1, pattern=r"^\S(.*\S)?$")
    """Who answers this form; nobody is asked the same twice."""
    task: FormKind = "classification"
    """What to decide."""
    labels: tuple[str, ...] = ()
    """The words to choose from in a classification."""
    name: str = Field(default="labels", pattern=NAME_PATTERN)
    """Answers under one name become one data set, in .tidemill/labels/NAME."""
    batch: int = Field(default=5, ge=1, le=50)
    """Documents in the form."""
    adjudicate: Method = "majority"
    """Who decides where annotators differ."""
    wait_hours: float = Field(default=24.0, gt=0)
    """How long the form waits."""


@flow(name="label", validate_parameters=True, persist_result=False)
def label(cfg: Labelling) -> dict[str, Any] | State[Any]:
    """Ask a person for the labels of the next documents, and add them to what is labelled."""
    labels = checked_labels(cfg.task, cfg.labels)
    ws = Workspace.here()
    home = ws.home / "labels" / cfg.name
    results, waiting = home / "results.json", home / f"batch-{flow_run.id}.json"
    tasks = batch_of(waiting, cfg) or next_batch(cfg, ws, log_of(results, cfg), waiting)
    if not tasks:
        return Completed(name="Skipped", message=f"{cfg.annotator} has seen every task of {', '.join(cfg.documents)}")
    create_markdown_artifact(page_of(tasks), key="label-batch", description=INSTRUCTIONS[cfg.task])
    answers = answers_of(tasks, _wait(form_of(tasks, labels), cfg.wait_hours * 3600))
    with FileLock(home / "results.lock"):
        log_of(results, cfg).add(cfg.annotator, answers, str(flow_run.id))
        waiting.unlink()
        if all(answer is None for _, answer in answers):
            return Completed(name="Skipped", message=f"{cfg.annotator} skipped every task of the form")
        artifact, _, _ = label_results(cfg.task, cfg.adjudicate, results, home / "artifact")
    facts = {"artifact": str(artifact.path), "digest": artifact.digest, **artifact.stats}
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    create_markdown_artifact(f"## Labels {cfg.name}\n\n| | |\n|---|---|\n{rows}\n", key="labels")
    return facts


def form_of(tasks: Sequence[Task], labels: tuple[str, ...]) -> type[RunInput]:
    """The form: a field for each task, with a choice of labels or sides or room for a text; each may be skipped."""
    fields = {f"{FIELD}{task.id}": _field(number, task, labels) for number, task in enumerate(tasks, start=1)}
    form = create_model("Labels", __base__=RunInput, **fields)  # type: ignore[call-overload]
    described: type[RunInput] = form.with_initial_data(description=page_of(tasks))
    return described


def answers_of(tasks: Sequence[Task], given: RunInput) -> list[tuple[Task, Answer | None]]:
    """What the form says to each task; None where it was skipped."""
    values = ((task, str(getattr(given, f"{FIELD}{task.id}")).strip()) for task in tasks)
    return [(task, None if value in ("", SKIP) else value) for task, value in values]


def page_of(tasks: Sequence[Task]) -> str:
    """The batch in Markdown, each text indented as code, so that nothing in it becomes markup."""
    parts = []
    for number, task in enumerate(tasks, start=1):
        pieces = (
            {key: str(task.content[key]) for key in ("prompt", *SIDES)} if "left" in task.content else {"": task.text}
        )
        parts.append(f"### {number}. `{task.id}`")
        for name, text in pieces.items():
            parts += ([f"**{name}**"] if name else []) + ["\n".join(f"    {line}" for line in text.splitlines())]
    return "\n\n".join(parts) + "\n"


def _field(number: int, task: Task, labels: tuple[str, ...]) -> tuple[Any, Any]:
    text = " ".join(task.text.split())
    shown = plain_markdown(text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ...")
    title = f"{number}. {task.id}"
    if task.kind in ("pairs", "chat"):
        return str, Field(default="", title=title, description=f"{shown} (empty skips it)")
    choices = labels or SIDES
    return Literal[*choices, SKIP], Field(title=title, description=shown)


def log_of(results: Path, cfg: Labelling) -> AnswerLog:
    """The answers under this name; raises LabelError where they are no answers to this kind of task.

    Answers of two kinds in one file would make it unreadable for both.
    """
    log = AnswerLog(results)
    try:
        if results.exists():
            read_results(results, cfg.task)
    except LabelError as problem:
        raise LabelError(f"{problem}\nGive these labels another name than {cfg.name}, or mend the file.") from None
    return log


def batch_of(waiting: Path, cfg: Labelling) -> list[Task]:
    """The tasks that this run's form was made for, when the run began before."""
    if not waiting.exists():
        return []
    known = json.loads(waiting.read_text(encoding="utf-8"))
    return [Task(cfg.task, each["content"], each["sha256"], each["source"]) for each in known]


def next_batch(cfg: Labelling, ws: Workspace, log: AnswerLog, waiting: Path) -> list[Task]:
    """The first tasks, by their ids, that this annotator has not seen; written to `waiting` for when the run resumes.

    Raises LabelError for documents that cannot be read or shown.
    """
    seen = log.answered_by(cfg.annotator)
    unseen = (task for task in read_tasks(_places(cfg, ws), cfg.task) if task.id not in seen)
    tasks = sample_tasks(unseen, cfg.batch)
    for task in tasks:
        checked_content(cfg.task, task.content)  # a preference needs both of its answers here
    if tasks:
        known = [{"content": task.content, "sha256": task.sha256, "source": task.source} for task in tasks]
        write_whole(waiting, json.dumps(known, ensure_ascii=False))
    return tasks


def _places(cfg: Labelling, ws: Workspace) -> list[Path]:
    """Documents are a person's files or, where there is no such file, artifacts in the worker's own worktree."""
    return [ws.project / name if (ws.project / name).exists() else ws.root / name for name in cfg.documents]


def _wait(form: type[RunInput], seconds: float) -> RunInput:
    """Let the run rest until the form comes back; raises prefect's FlowPauseTimeout where it does not."""
    if deployment.id:
        return suspend_flow_run(wait_for_input=form, timeout=int(seconds), key="labels")
    return pause_flow_run(wait_for_input=form, timeout=int(seconds), poll_interval=POLL_SECONDS, key="labels")
