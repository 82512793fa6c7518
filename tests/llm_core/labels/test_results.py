from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_core.labels.answers import Annotation
from llm_core.labels.results import find_kind, read_results
from llm_core.labels.task import KINDS, Kind, LabelError
from tests.llm_core.labels.tasks import ANSWERS, annotation, make_task, record, write

FIRST, SECOND = make_task("classification", "A fine film."), make_task("classification", "A film to forget.")


def read(folder: Path, *records: Any, kind: Kind = "classification") -> Any:
    return read_results(write(folder, list(records)), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_gives_back_tasks_and_answers_and_shows_its_kind(tmp_path: Path, kind: Kind) -> None:
    task = make_task(kind)
    found = read(tmp_path, record(task, {7: ANSWERS[kind], "zoe": ANSWERS[kind]}), kind=kind)
    (labelled,) = found.labelled
    assert labelled.task == task
    assert labelled.annotations == [Annotation("7", ANSWERS[kind]), Annotation("zoe", ANSWERS[kind])]
    assert (found.records_in, found.rejected) == (1, {})
    assert find_kind(tmp_path / "results.json") == kind


def test_the_accounts_are_exact_and_the_order_follows_from_the_tasks(tmp_path: Path) -> None:
    skipped = record(make_task("classification", "c"), {1: "good"})
    skipped["annotations"][0]["was_cancelled"] = True
    records = [
        record(SECOND, {1: "bad"}, 1),
        record(FIRST, {1: "good"}, 2),
        record(FIRST, {2: "bad"}, 3),
        record(make_task("classification", "d"), {}, 4),
        skipped,
    ]
    found = read(tmp_path, *records)
    assert (found.records_in, found.rejected) == (5, {"not_labelled": 1, "same_task": 1, "skipped": 1})
    assert found.records_in == len(found.labelled) + sum(found.rejected.values())
    assert read(tmp_path, *reversed(records)).labelled == found.labelled
    (both,) = [each for each in found.labelled if each.task == FIRST]
    assert both.annotations == [Annotation("1", "good"), Annotation("2", "bad")]


def test_a_persons_last_change_counts_and_skipped_ones_do_not(tmp_path: Path) -> None:
    task = record(FIRST, {})
    task["annotations"] = [
        annotation(FIRST, 1, "bad", 3, updated_at="2026-11-22T09:00:00Z"),
        annotation(FIRST, 1, "good", 2, updated_at="2026-11-22T08:00:00Z"),
        annotation(FIRST, 1, "good", 4, updated_at="2026-11-22T10:00:00Z", was_cancelled=True),
    ]
    assert read(tmp_path, task).labelled[0].annotations == [Annotation("1", "bad")]


def test_times_are_compared_over_time_zones(tmp_path: Path) -> None:
    task = record(FIRST, {})
    task["annotations"] = [
        annotation(FIRST, 1, "good", 2, updated_at="2026-11-22T09:00:00.5Z"),
        annotation(FIRST, 1, "bad", 3, updated_at="2026-11-22T10:00:00+02:00"),
        annotation(FIRST, 1, "bad", 4, updated_at="2026-11-22T09:00:00Z"),
    ]
    assert read(tmp_path, task).labelled[0].annotations == [Annotation("1", "good")]


def test_a_later_annotation_does_not_take_ones_ground_truth_away(tmp_path: Path) -> None:
    task = record(FIRST, {})
    task["annotations"] = [
        annotation(FIRST, 1, "good", 2, ground_truth=True),
        annotation(FIRST, 1, "bad", 3, updated_at="2026-11-22T09:00:00Z"),
    ]
    assert read(tmp_path, task).labelled[0].annotations == [Annotation("1", "good", True)]


def test_people_are_known_by_number_never_by_their_address(tmp_path: Path) -> None:
    person = {"id": 12, "email": "ann@example.org", "first_name": "Ann"}
    task = record(FIRST, {})
    task["annotations"] = [annotation(FIRST, person, "good", ground_truth=True), annotation(FIRST, 13, "bad")]
    assert read(tmp_path, task).labelled[0].annotations == [Annotation("12", "good", True), Annotation("13", "bad")]


def test_tasks_of_another_projects_making_are_read_too(tmp_path: Path) -> None:
    foreign = {"id": 5, "data": {"text": "Hello"}, "annotations": [annotation(FIRST, 1, "good")]}
    (labelled,) = read(tmp_path, foreign).labelled
    assert (labelled.task.text, labelled.task.source, len(labelled.task.sha256)) == ("Hello", "unstated", 64)


def test_every_malformed_record_is_named_with_file_task_and_annotation(tmp_path: Path) -> None:
    changed = record(FIRST, {1: "good"}, 2)
    changed["data"]["text"] = "A film."
    empty = record(SECOND, {1: "good"}, 3)
    empty["annotations"][0]["result"] = []
    nobody = record(SECOND, {None: "good"}, 4)
    with pytest.raises(LabelError) as problem:
        read(tmp_path, record(FIRST, {1: "good"}), changed, empty, nobody, "text")
    path = tmp_path / "results.json"
    assert str(problem.value).splitlines() == [
        f"{path}: task 2: its content is not that of task_id '{FIRST.id}'; it was changed after the export, or "
        "--task classification is not what was exported",
        f"{path}: task 3, annotation 30: 0 choices results, one is needed; open the task in Label Studio and answer it",
        f"{path}: task 4, annotation 40: completed_by is None; write the number or name of the person into the file",
        f"{path}: record 4: is no object; export from Label Studio as JSON",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "task 1: has no annotations; export as JSON, not as JSON-MIN"),
        ({"annotations": ["x"]}, "task 1: is no object"),
        ({"data": None}, "task 1: has no data"),
        ({"data": {"txt": "a"}}, "task 1: text is missing"),
        ({"data": {"text": "a", "sha256": "abc"}}, "task 1: its sha256 is no digest"),
        ({"data": {"text": "a", "source": 3}}, "task 1: source is of type int"),
        ({"annotations": [{"id": 9, "completed_by": True, "result": []}]}, "annotation 9: 0 choices"),
        ({"annotations": [{**annotation(FIRST, True, "good"), "id": 9}]}, "annotation 9: completed_by is True"),
        ({"annotations": [annotation(FIRST, {"email": "ann@example.org"}, "good")]}, "completed_by is None"),
        ({"annotations": [annotation(FIRST, " ", "good")]}, "completed_by is ' '"),
        ({"annotations": [annotation(FIRST, 1, "good", updated_at="today")]}, "updated_at is 'today'; write a time"),
    ],
)
def test_a_record_of_the_wrong_shape_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read(tmp_path, {**record(FIRST, {1: "good"}), **change})


def test_another_kind_than_the_exported_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="--task sequence is not what was exported"):
        read(tmp_path, record(FIRST, {1: "good"}), kind="sequence")


@pytest.mark.parametrize("given", ["choices", "hypertextlabels"])
def test_labels_of_another_control_are_not_read_as_texts_without_spans(tmp_path: Path, given: str) -> None:
    results = [{"type": given, "value": {given: ["place"]}}]
    foreign = {"id": 5, "data": {"text": "Hello"}, "annotations": [{"completed_by": 1, "result": results}]}
    with pytest.raises(LabelError, match=f"its results are {given}, none is labels; choose the --task"):
        read(tmp_path, foreign, kind="sequence")


def test_many_problems_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"\.\.\. and 80 problems more") as problem:
        read(tmp_path, *["x"] * 100)
    assert len(str(problem.value).splitlines()) == 21


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "is no list of tasks"),
        (b"[{]", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=message):
        read_results(path, "classification")


def test_a_kind_that_is_not_clear_has_to_be_said(tmp_path: Path) -> None:
    mixed = [record(make_task(kind), {1: ANSWERS[kind]}) for kind in ("classification", "sequence")]
    for records in ([], [record(FIRST, {})], mixed, [{"data": 5}]):
        with pytest.raises(LabelError, match="add --task"):
            find_kind(write(tmp_path, json.loads(json.dumps(records))))
