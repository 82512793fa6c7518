from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.label_cli import label_app
from llm_core.artifact import Artifact
from llm_core.labels.task import KINDS, Kind, LabelError, Task
from tests.llm_core.labels.tasks import ANSWERS, CONTENT, annotation, make_task, record, write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tidemill(*arguments: str) -> Result:
    done = CliRunner().invoke(label_app, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def write_lines(*records: Any) -> None:
    Path("documents.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_labelled_and_imported_is_a_labels_artifact(kind: Kind) -> None:
    write_lines(CONTENT[kind])
    labels = ["--labels", "good,bad"] if kind in ("classification", "sequence") else []
    done = tidemill("export", "--task", kind, "--documents", "documents.jsonl", "--out", "tasks.json", *labels)
    assert "tasks.json: 1 tasks, 0 with a proposal" in done.output
    assert Path("tasks.xml").read_text().startswith("<View>")
    (exported,) = json.loads(Path("tasks.json").read_text())
    task = Task(kind, CONTENT[kind], exported["data"]["sha256"], "documents.jsonl")
    # As Label Studio would hand it back: with a number of its own, and the data as they came.
    back = [{**exported, "id": 4711, "annotations": [annotation(task, 1, ANSWERS[kind])]}]
    write(Path(), back)
    done = tidemill("import", "results.json", "--task", kind, "--out", "labels", "--json")
    facts = json.loads(done.stdout)
    artifact = Artifact.open(Path("labels"), kind="labels")
    assert (facts["kept"], facts["digest"]) == (1, artifact.digest)


def test_exporting_twice_writes_the_same_bytes(folder: Path) -> None:
    write_lines(*({"text": f"text {number}"} for number in range(30)))
    command = (
        "export",
        "--task",
        "classification",
        "--documents",
        "documents.jsonl",
        "--labels",
        "a,b",
        "--sample",
        "9",
    )
    for name in ("one.json", "two.json"):
        tidemill(*command, "--out", name)
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()
    assert Path("one.xml").read_bytes() == Path("two.xml").read_bytes()
    assert len(json.loads(Path("one.json").read_text())) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "classification"), "needs different words"),
        (("--task", "pairs", "--labels", "a,b"), "leave --labels out"),
        (("--task", "preference"), "left and right are missing"),
        (("--task", "pairs", "--out", "tasks.xml"), "is the place of the labelling configuration"),
        (("--task", "pairs", "--out", "."), "is a folder; name a file in it"),
        (("--task", "pairs", "--preannotate", "--server", "http://127.0.0.1:9"), "no model server answers"),
    ],
)
def test_an_export_that_cannot_be_writes_nothing(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    write_lines({"text": "A fine film."})
    with pytest.raises(LabelError, match=message):
        tidemill("export", "--documents", "documents.jsonl", "--out", "tasks.json", *arguments)
    assert [path.name for path in folder.iterdir()] == ["documents.jsonl"]


def test_documents_without_a_record_are_an_error() -> None:
    write_lines()
    with pytest.raises(LabelError, match=r"documents\.jsonl: no task is left"):
        tidemill("export", "--task", "pairs", "--documents", "documents.jsonl", "--out", "tasks.json")


def test_agreement_is_a_table_for_people_and_json_for_programs() -> None:
    first, second = make_task("classification", "one"), make_task("classification", "two")
    write(Path(), [record(first, {7: "x", 8: "x"}), record(second, {7: "x", 8: "y"})])
    table = tidemill("agreement", "results.json").output
    assert "Annotators, the best first" in table and "mean agreement" in table
    assert "Krippendorff's alpha (nominal, by task): 0.000" in table
    facts = json.loads(tidemill("agreement", "results.json", "--json").stdout)
    assert (facts["kind"], facts["pairs"][0]["observed"], facts["pairs"][0]["kappa"]) == ("classification", 0.5, 0.0)


def test_the_report_is_a_page_in_a_folder_that_is_made(folder: Path) -> None:
    write(folder, [record(make_task(), {1: "good", 2: "bad"})])
    tidemill("import", "results.json", "--task", "classification", "--out", "labels", "--report", "pages/agreement.md")
    assert Path("pages/agreement.md").read_text().startswith("# Agreement: classification\n")
    assert sorted(path.name for path in folder.iterdir()) == ["labels", "pages", "results.json"]


def test_a_wrong_kind_is_a_usage_error() -> None:
    assert tidemill("agreement", "results.json", "--task", "poetry").exit_code == 2


def test_a_shells_pattern_of_files_is_taken_as_documents(folder: Path) -> None:
    for name in "abc":
        Path(f"{name}.txt").write_text(f"text {name}")
    files = [f"{name}.txt" for name in "abc"]
    tidemill("export", "--task", "pairs", "--documents", *files, "--out", "tasks.json")
    assert [each["data"]["source"] for each in json.loads(Path("tasks.json").read_text())] == files
