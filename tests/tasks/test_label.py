from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llm_core.artifact import Artifact, ArtifactError, Draft
from llm_core.labels.adjudicate import Method
from llm_core.labels.task import KINDS, Kind, LabelError
from tasks.label import label_results
from tests.llm_core.labels.tasks import ANSWERS, make_task, record, write

ROWS = {"text 0": {1: "x", 2: "x", 3: "y"}, "text 1": {1: "x", 2: "y"}, "text 2": {3: "y"}}


def export(folder: Path, rows: Mapping[str, Mapping[Any, str]], *more: Any) -> Path:
    tasks = [(make_task("classification", text), answers) for text, answers in rows.items()]
    return write(folder, [*(record(task, answers, i) for i, (task, answers) in enumerate(tasks, start=1)), *more])


def label(folder: Path, method: Method = "majority", kind: Kind = "classification") -> Artifact:
    return label_results(kind, method, folder / "results.json", folder / "labels")[0]


def records(artifact: Artifact) -> dict[str, Any]:
    lines = (artifact.path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        record["text"]: (record["label"], record["provenance"]["adjudication"]) for record in map(json.loads, lines)
    }


def test_the_artifact_holds_what_was_decided_and_how_far_people_agreed(tmp_path: Path) -> None:
    unlabelled = record(make_task("classification", "text 3"), {}, 9)
    artifact = label(export(tmp_path, ROWS, unlabelled).parent)
    assert records(artifact) == {"text 0": ("x", "majority"), "text 1": ("x", "tie"), "text 2": ("y", "single")}
    assert set(artifact.files) == {"records.jsonl", "labels.parquet", "agreement.json"}
    stats = artifact.stats
    assert (stats["records_in"], stats["kept"], stats["rejected"]) == (4, 3, {"not_labelled": 1})
    assert stats["adjudication"] == {"majority": 1, "single": 1, "tie": 1}
    agreement = json.loads((artifact.path / "agreement.json").read_text())
    assert agreement["alpha"] == stats["alpha"] is not None
    assert [each["name"] for each in agreement["annotators"]] == ["1", "2", "3"]
    assert Artifact.open(artifact.path, kind="labels").digest == artifact.digest


def test_the_best_annotator_decides_where_that_is_asked_for(tmp_path: Path) -> None:
    export(tmp_path, {**ROWS, "text 4": {2: "y", 3: "y"}, "text 5": {2: "x", 3: "x"}, "text 6": {2: "y", 1: "x"}})
    assert records(label(tmp_path))["text 6"] == ("y", "tie")
    best = records(label(tmp_path, "best"))
    assert best["text 0"] == ("x", "best") and best["text 6"] == ("y", "best")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_each_kind_are_published_with_equal_bytes(tmp_path: Path, kind: Kind) -> None:
    write(tmp_path, [record(make_task(kind), {1: ANSWERS[kind], 2: ANSWERS[kind]})])
    first = label(tmp_path, kind=kind)
    assert (first.kind, first.recipe) == ("labels", {"label": {"task": kind, "adjudicate": "majority"}})
    assert first.parents == {"results": hashlib.sha256((tmp_path / "results.json").read_bytes()).hexdigest()}
    assert label(tmp_path, kind=kind).digest == first.digest


def test_a_malformed_result_leaves_the_labels_that_are_there(tmp_path: Path) -> None:
    before = label(export(tmp_path, ROWS).parent)
    broken = record(make_task("classification", "text 9"), {1: "x"}, 9)
    broken["annotations"][0]["result"][0]["value"] = {}
    export(tmp_path, ROWS, broken)
    with pytest.raises(LabelError, match="task 9, annotation 90: choices is missing"):
        label(tmp_path)
    assert Artifact.open(tmp_path / "labels").digest == before.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "results.json"]


def test_an_export_without_labels_makes_nothing(tmp_path: Path) -> None:
    export(tmp_path, {}, record(make_task(), {}))
    with pytest.raises(LabelError, match=r"nothing is labelled \(1 not_labelled\)"):
        label(tmp_path)
    assert not (tmp_path / "labels").exists()


def test_a_folder_with_something_else_in_it_is_never_replaced(tmp_path: Path) -> None:
    export(tmp_path, ROWS)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(LabelError, match="is no labels artifact; name a new folder"):
        label(tmp_path)
    assert (tmp_path / "labels" / "thesis.txt").exists()
    (tmp_path / "labels" / "thesis.txt").unlink()
    with Draft(tmp_path / "labels", kind="model", stage="train") as out:
        out.publish({})
    with pytest.raises(ArtifactError, match="is a model artifact, labels is needed here"):
        label(tmp_path)
    assert Artifact.open(tmp_path / "labels", kind="model")
