from __future__ import annotations

from llm_core.labels.agreement import measure
from llm_core.labels.answers import Span
from llm_core.labels.report import agreement_report
from tests.llm_core.labels.tasks import columns, labelled


def test_the_page_names_alpha_people_pairs_and_what_they_differ_on() -> None:
    tasks = columns("classification", {"ann": "xxy", "bob": "xyy"})
    page = agreement_report(measure("classification", tasks), tasks)
    assert "3 labelled tasks, 1 with different answers. Krippendorff's alpha (nominal, by task): **0.444**" in page
    assert "| ann | bob | 3 | 3 | 0.667 | 0.400 |" in page
    assert "| ann | 3 | – | 0.400 |" in page
    assert f"| {tasks[1].task.id} | reviews.jsonl | ann: x; bob: y |" in page
    assert tasks[0].task.id not in page


def test_answers_cannot_put_markup_on_the_page_nor_fill_it() -> None:
    tasks = [labelled("pairs", "x", {"ann": "a | `b`\n<i>*c*", "bob": "word " * 100})]
    page = agreement_report(measure("pairs", tasks), tasks)
    (row,) = [line for line in page.splitlines() if tasks[0].task.id in line]
    assert r"ann: a \| \`b\` \<i\>\*c\*; bob: word" in row
    assert len(row) < 250


def test_spans_are_written_with_their_places() -> None:
    tasks = [labelled("sequence", "0123456789", {"ann": (Span(2, 6, "place"),), "bob": ()})]
    assert "ann: 2–6 place; bob: nothing" in agreement_report(measure("sequence", tasks), tasks)
