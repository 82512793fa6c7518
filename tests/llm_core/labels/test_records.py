from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llm_core.labels.adjudicate import adjudicate
from llm_core.labels.answers import Annotation, Answer, Labelled
from llm_core.labels.records import RECORDS, TABLE, labelled_record, write_records
from llm_core.labels.task import KINDS, Kind
from tests.llm_core.labels.tasks import ANSWERS, CONTENT, make_task

EXPECTED = {
    "classification": {"text": CONTENT["classification"]["text"], "label": "good"},
    "sequence": {
        "text": CONTENT["sequence"]["text"],
        "spans": [{"start": 2, "end": 6, "label": "praise"}, {"start": 19, "end": 24, "label": "place"}],
    },
    "pairs": {"source": "Guten Tag", "target": "Good day"},
    "chat": {"messages": [*CONTENT["chat"]["messages"], {"role": "assistant", "content": "A model."}]},
    "preference": {"prompt": "Why?", "chosen": "Why not?", "rejected": "Because."},
}


def make(kind: Kind, answer: Answer) -> Labelled:
    return Labelled(make_task(kind), [Annotation("ann", answer), Annotation("bob", answer)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_what_tuning_reads_and_says_where_it_came_from(tmp_path: Path, kind: Kind) -> None:
    labelled = make(kind, ANSWERS[kind])
    record = labelled_record(labelled, adjudicate(labelled, "majority", ["ann", "bob"]))
    assert {key: value for key, value in record.items() if key != "provenance"} == EXPECTED[kind]
    assert record["provenance"] == {
        "task": labelled.task.id,
        "sha256": "ab" * 32,
        "source": "reviews.jsonl",
        "annotators": ["ann", "bob"],
        "agreed": ["ann", "bob"],
        "adjudication": "unanimous",
    }
    write_records(kind, [record], tmp_path)
    assert [json.loads(line) for line in (tmp_path / RECORDS).read_text().splitlines()] == [record]
    assert pq.read_table(tmp_path / TABLE).to_pylist() == [record]


def test_the_left_answer_can_be_the_chosen_one() -> None:
    labelled = make("preference", "left")
    record = labelled_record(labelled, adjudicate(labelled, "best", ["ann", "bob"]))
    assert (record["chosen"], record["rejected"]) == ("Because.", "Why not?")
