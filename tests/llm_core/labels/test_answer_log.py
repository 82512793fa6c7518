from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_core.labels.answer_log import AnswerLog
from llm_core.labels.answers import Annotation
from llm_core.labels.results import read_results
from llm_core.labels.task import KINDS, Kind, LabelError
from tests.llm_core.labels.tasks import ANSWERS, make_task, record, write

FIRST, SECOND = make_task("classification", "A fine film."), make_task("classification", "A film to forget.")


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_read_back_as_if_label_studio_had_exported_it(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "labels" / "results.json"
    AnswerLog(path).add("ann", [(make_task(kind), ANSWERS[kind])], "form")
    (labelled,) = read_results(path, kind).labelled
    assert (labelled.task, labelled.annotations) == (make_task(kind), [Annotation("ann", ANSWERS[kind])])


def test_people_add_to_each_other_and_a_new_answer_replaces_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    AnswerLog(path).add("ann", [(FIRST, "good"), (SECOND, None)], "one")
    AnswerLog(path).add("bob", [(FIRST, "bad")], "two")
    AnswerLog(path).add("ann", [(FIRST, "bad")], "three")
    found = read_results(path, "classification")
    assert [each.annotations for each in found.labelled] == [[Annotation("ann", "bad"), Annotation("bob", "bad")]]
    assert (found.records_in, found.rejected) == (2, {"skipped": 1})


def test_a_skipped_task_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    AnswerLog(path).add("ann", [(FIRST, "good"), (SECOND, None)], "one")
    assert AnswerLog(path).answered_by("ann") == {FIRST.id, SECOND.id}
    assert AnswerLog(path).answered_by("bob") == set()


def test_adding_a_form_twice_is_adding_it_once(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    AnswerLog(path).add("ann", [(FIRST, "good")], "one")
    before = read_results(path, "classification")
    AnswerLog(path).add("ann", [(FIRST, "good")], "one")
    assert read_results(path, "classification") == before
    assert [len(each["annotations"]) for each in json.loads(path.read_text())] == [1]
    assert [each.name for each in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("content", ["{", "{}", '[{"data": {}}]', '[{"data": {}, "annotations": []}]'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(LabelError, match="move it away"):
        AnswerLog(path)
    assert path.read_text() == content


def test_answers_from_label_studio_can_be_gone_on_with(tmp_path: Path) -> None:
    path = write(tmp_path, [record(FIRST, {7: "good"})])
    assert AnswerLog(path).answered_by("7") == {FIRST.id}
    AnswerLog(path).add("ann", [(FIRST, "bad")], "form")
    (labelled,) = read_results(path, "classification").labelled
    assert labelled.annotations == [Annotation("7", "good"), Annotation("ann", "bad")]
