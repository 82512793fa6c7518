from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from llm_core.labels.label_studio import Draft, Proposed, labelling_config, tasks_json
from llm_core.labels.task import KINDS, WITH_LABELS, Kind, LabelError
from tests.llm_core.labels.tasks import ANSWERS, make_task

LABELS = {"classification": ("good", "bad"), "sequence": ("praise", "place")}


def page(kind: Kind, instruction: str = "") -> ET.Element:
    return ET.fromstring(labelling_config(kind, LABELS.get(kind, ()), instruction))


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_shows_all_that_a_task_holds_and_takes_its_answer(kind: Kind) -> None:
    """Label Studio wants each value="$key" in the data, and each prediction's names and type on the page."""
    task, view = make_task(kind), page(kind)
    proposed = Proposed(task, Draft(ANSWERS[kind], 0.5), "demo@3")
    (exported,) = json.loads(tasks_json([proposed]))
    shown = {value[1:] for element in view.iter() if (value := element.get("value", "")).startswith("$")}
    assert shown == set(task.content) <= set(exported["data"])
    objects = {element.get("name") for element in view if element.get("value", "").startswith("$")}
    for result in exported["predictions"][0]["result"]:
        (control,) = [element for element in view if element.get("name") == result["from_name"]]
        assert control.tag.lower() == result["type"]
        assert result["to_name"] in objects
        assert set(control.get("toName", "").split(",")) <= objects
    assert exported["predictions"][0]["model_version"] == "demo@3"


@pytest.mark.parametrize("kind", WITH_LABELS)
def test_the_page_offers_the_labels_in_their_order(kind: Kind) -> None:
    control = next(element for element in page(kind) if len(element))
    assert [element.get("value") for element in control] == list(LABELS[kind])


def test_markup_in_labels_and_instructions_stays_text() -> None:
    text = labelling_config("classification", ('<b>"', "&"), "What's <this>?")
    view = ET.fromstring(text)
    assert view[0].get("value") == "What's <this>?"
    assert [element.get("value") for element in view.iter("Choice")] == ['<b>"', "&"]


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("classification", (), "classification needs different words"),
        ("classification", ("good",), "needs different words"),
        ("classification", ("good", "good"), "needs different words"),
        ("sequence", (), "sequence needs different words"),
        ("classification", ("good", " bad"), "label ' bad': white space"),
        ("classification", ("good", "b\x00d"), "control characters"),
        ("classification", ("good", ""), "a label is empty"),
        ("classification", ("under $5", "US$"), "'under \\$5': Label Studio takes"),
        ("pairs", ("good", "bad"), "pairs has none; leave --labels out"),
    ],
)
def test_an_unusable_label_set_is_refused(kind: Kind, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        labelling_config(kind, labels)


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("$text", "takes \\$ and a word for a key"),
        ("Over $100?", "takes \\$ and a word for a key"),
        ("two\nlines", "shows one line"),
    ],
)
def test_an_instruction_that_label_studio_would_not_show_is_refused(instruction: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        labelling_config("pairs", (), instruction)


def test_one_label_is_enough_to_mark_spans() -> None:
    assert '<Label value="place" />' in labelling_config("sequence", ("place",))


def test_a_task_without_draft_has_no_prediction_and_equal_tasks_equal_bytes() -> None:
    task = make_task()
    (exported,) = json.loads(tasks_json([Proposed(task)]))
    assert exported["predictions"] == []
    assert exported["data"] == {"task_id": task.id, "sha256": "ab" * 32, "source": "reviews.jsonl", "text": task.text}
    first, again = (tasks_json([Proposed(make_task(), Draft("good", 0.5), "demo@3")]) for _ in range(2))
    assert first == again


def test_a_score_that_is_not_known_is_not_made_up() -> None:
    (exported,) = json.loads(tasks_json([Proposed(make_task("chat"), Draft("A model.", None), "demo@3")]))
    assert "score" not in exported["predictions"][0]
