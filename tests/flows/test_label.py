from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from flows.label import SKIP, Labelling, answers_of, batch_of, form_of, log_of, next_batch, page_of
from llm_core.artifact import Artifact
from llm_core.closure import ROOT
from llm_core.labels.answer_log import AnswerLog
from llm_core.labels.task import Kind, LabelError, Task
from tasks.processes import free_port, temporary
from tasks.services import environment, prefect_server
from tasks.workspace import Workspace
from tests.conftest import project_environment

REVIEWS = ["A fine film.", "A film to forget.", "Neither good nor bad."]
LABELS = ["good", "bad"]


def task(text: str, kind: Kind = "classification") -> Task:
    content = {"text": text} if kind != "preference" else {"prompt": text, "left": "One.", "right": "Two."}
    return Task(kind, content, "0" * 64, "reviews.jsonl")


def filled(tasks: Sequence[Task], values: Sequence[str], labels: tuple[str, ...] = ("good", "bad")) -> Any:
    form = form_of(tasks, labels)
    return form(**{f"task_{each.id}": value for each, value in zip(tasks, values, strict=True)})


def test_the_form_takes_one_of_the_labels_or_a_skip_for_each_document() -> None:
    tasks = [task(text) for text in REVIEWS]
    answers = answers_of(tasks, filled(tasks, ["good", SKIP, "bad"]))
    assert answers == [(tasks[0], "good"), (tasks[1], None), (tasks[2], "bad")]
    with pytest.raises(ValidationError, match="'good', 'bad' or '\\(skip\\)'"):
        filled(tasks, ["good", "bad", "great"])


def test_an_unanswered_document_is_refused_so_that_nothing_is_skipped_by_accident() -> None:
    with pytest.raises(ValidationError, match="Field required"):
        form_of([task("A fine film.")], ("good", "bad"))()


def test_a_preference_is_a_choice_of_sides_with_both_answers_on_the_page() -> None:
    tasks = [task("Why?", "preference")]
    assert answers_of(tasks, filled(tasks, ["right"], labels=())) == [(tasks[0], "right")]
    assert all(f"**{name}**\n\n    {text}" in page_of(tasks) for name, text in [("left", "One."), ("right", "Two.")])


def test_a_text_is_typed_in_and_an_empty_one_skips() -> None:
    tasks = [task("Guten Tag", "pairs"), task("Gute Nacht", "pairs")]
    answers = answers_of(tasks, filled(tasks, [" Good day\n", "  "], labels=()))
    assert answers == [(tasks[0], "Good day"), (tasks[1], None)]


def test_a_document_cannot_put_markup_on_the_page() -> None:
    page = page_of([task("# Title\n```\n<script>alert(1)</script>")])
    assert all(line.startswith("    ") for line in page.splitlines()[2:] if line.strip())


def test_a_document_cannot_put_markup_into_the_form_nor_fill_it() -> None:
    long = task("**bold** <b> " + "word " * 1000)
    described = form_of([long], ("good", "bad")).model_fields[f"task_{long.id}"].description
    assert described is not None and described.startswith(r"\*\*bold\*\* \<b\> word")
    assert 600 < len(described) < 650 and described.endswith("...")


def test_a_form_for_spans_is_refused() -> None:
    with pytest.raises(ValidationError, match="'classification', 'pairs', 'chat' or 'preference'"):
        Labelling.model_validate({"documents": ["a.txt"], "annotator": "ann", "task": "sequence"})


def waiting_batch(ws: Workspace, annotator: str, **more: Any) -> list[str]:
    cfg = Labelling.model_validate({"documents": ["reviews.jsonl"], "annotator": annotator, "batch": 2, **more})
    log, waiting = AnswerLog(ws.home / "results.json"), ws.home / f"batch-{annotator}.json"
    tasks = next_batch(cfg, ws, log, waiting)
    assert batch_of(waiting, cfg) == tasks
    waiting.unlink(missing_ok=True)
    log.add(annotator, [(each, "good") for each in tasks], annotator)
    return [each.text for each in tasks]


def test_a_person_is_shown_each_document_once_and_a_second_one_the_same(tmp_path: Path) -> None:
    write_reviews(tmp_path)
    ws = Workspace(tmp_path, tmp_path / ".tidemill")
    first, second, third = (waiting_batch(ws, "ann") for _ in range(3))
    assert (sorted(first + second), len(first), third) == (sorted(REVIEWS), 2, [])
    assert waiting_batch(ws, "bob") == first


def test_a_preference_without_two_answers_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    write_reviews(tmp_path)
    with pytest.raises(LabelError, match="left is missing"):
        waiting_batch(Workspace(tmp_path, tmp_path / ".tidemill"), "ann", task="preference")


def test_answers_to_another_kind_of_task_are_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    cfg = Labelling(documents=("reviews.jsonl",), annotator="ann")
    log_of(results, cfg).add("ann", [(task("A fine film."), "good")], "form")
    assert log_of(results, cfg).answered_by("ann") == {task("A fine film.").id}
    with pytest.raises(LabelError, match=r"--task pairs is not what was exported\nGive these labels another name"):
        log_of(results, cfg.model_copy(update={"task": "pairs"}))


def write_reviews(folder: Path) -> None:
    lines = (json.dumps({"text": text}) + "\n" for text in REVIEWS)
    (folder / "reviews.jsonl").write_text("".join(lines))


class Server:
    """A Prefect server and a project beside it."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self.environment = project_environment(ws, {**environment(ws.home), "PYTHONPATH": str(ROOT)})
        self._client = httpx.Client(base_url=self.environment["PREFECT_API_URL"], timeout=60, trust_env=False)

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.ws.root,
            env=self.environment | variables,
            **pipes,  # type: ignore[call-overload]
        )

    def runs(self, state: str) -> list[Any]:
        return list(self.ask("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": [state]}}}}))

    def artifact(self, key: str) -> str:
        newest_first = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
        return str(self.ask("artifacts/filter", newest_first)[0]["data"])

    def schema(self, run: Any) -> Any:
        keyset = run["state"]["state_details"]["run_input_keyset"]
        found = self._client.get(f"flow_runs/{run['id']}/input/{keyset['schema']}")
        return found.json() if found.is_success else None

    def resume(self, run: Any, answers: dict[str, str]) -> Any:
        return self.ask(f"flow_runs/{run['id']}/resume", {"run_input": answers})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("labelling")
    (root / "dvc.yaml").write_text("stages: {}\n")
    write_reviews(root)
    ws = Workspace(root, root / ".tidemill")
    ws.home.mkdir()
    with temporary(prefect_server(ws.home, free_port())):
        yield Server(ws)


def wait_for(fact: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "it did not happen in time"
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.2)
    return found


RUN = """
import json, sys
from flows.label import Labelling, label
state = label(Labelling.model_validate_json(sys.argv[1]), return_state=True)
print(json.dumps({"state": state.name, "facts": state.result() if state.name == "Completed" else None}))
"""


def cfg(annotator: str, **more: Any) -> dict[str, Any]:
    return {"documents": ["reviews.jsonl"], "annotator": annotator, "labels": LABELS, **more}


@pytest.mark.e2e
def test_a_person_answers_the_form_and_the_labels_are_an_artifact(server: Server) -> None:
    process = server.start("-c", RUN, json.dumps(cfg("ann", batch=2)))
    (run,) = wait_for(lambda: server.runs("PAUSED"), process)
    schema = wait_for(lambda: server.schema(run), process)
    first, second = schema["properties"]
    assert schema["properties"][first]["enum"] == [*LABELS, SKIP]
    shown = server.artifact("label-batch")
    assert sum(f"    {text}" in shown for text in REVIEWS) == 2

    refused = server.resume(run, {first: "great", second: "bad"})
    assert (refused["status"], "'great' is not one of" in refused["details"]["reason"]) == ("REJECT", True)
    assert server.resume(run, {first: "good", second: SKIP})["status"] == "ACCEPT"
    out, problems = process.communicate(timeout=120)
    assert process.returncode == 0, problems
    facts = json.loads(out.splitlines()[-1])["facts"]
    assert (facts["records_in"], facts["kept"], facts["rejected"]) == (2, 1, {"skipped": 1})

    artifact = Artifact.open(server.ws.home / "labels" / "labels" / "artifact", kind="labels")
    (record,) = map(json.loads, (artifact.path / "records.jsonl").read_text().splitlines())
    assert (record["label"], f"task_{record['provenance']['task']}", record["text"] in REVIEWS) == ("good", first, True)
    assert (record["provenance"]["annotators"], facts["digest"]) == (["ann"], artifact.digest)
    assert artifact.digest in server.artifact("labels")


def execute(server: Server, run: str) -> None:
    """What a worker does: a new process for the run."""
    done = server.start("-m", "prefect.engine", PREFECT__FLOW_RUN_ID=run)
    _, problems = done.communicate(timeout=120)
    assert done.returncode == 0, problems


@pytest.mark.e2e
def test_a_deployed_run_frees_its_worker_while_it_waits_and_goes_on_with_its_batch(server: Server) -> None:
    flow = server.ask("flows/", {"name": "label"})["id"]
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(server.ws.root)}}]
    body = {"name": "reviews", "flow_id": flow, "entrypoint": "flows.label.label", "pull_steps": steps}
    deployment = server.ask("deployments/", body)["id"]
    given = {"parameters": {"cfg": cfg("bob", name="deployed")}, "state": {"type": "SCHEDULED"}}
    run = server.ask(f"deployments/{deployment}/create_flow_run", given)["id"]
    execute(server, run)  # it ends: the slot is free
    (waiting,) = [each for each in server.runs("PAUSED") if each["id"] == run]
    assert waiting["state_name"] == "Suspended"
    fields = server.schema(waiting)["properties"]
    assert len(fields) == 3

    # New documents while the form waits do not change what it asks.
    with open(server.ws.root / "reviews.jsonl", "a") as file:
        file.writelines(json.dumps({"text": f"Film number {number}."}) + "\n" for number in range(20))
    assert server.resume(waiting, dict.fromkeys(fields, "bad"))["status"] == "ACCEPT"
    execute(server, run)
    assert [each["id"] for each in server.runs("COMPLETED")].count(run) == 1
    records = (server.ws.home / "labels" / "deployed" / "artifact" / "records.jsonl").read_text().splitlines()
    assert {json.loads(record)["text"] for record in records} == set(REVIEWS)
    assert not list((server.ws.home / "labels" / "deployed").glob("batch-*"))
