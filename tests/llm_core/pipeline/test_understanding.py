"""What is read out of a text is what the reference's pipelines give."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_core.models import load_pretrained
from llm_core.pipeline import pipeline
from llm_core.pipeline.codec import Codec

FolderOf = Callable[[str], Path]
TEXTS = ["the cats sat on a mat", "Paris is in france , where people eat good bread every day"]


def reference(task: str, folder: Path) -> Any:
    return pytest.importorskip("transformers").pipeline(task, str(folder))


def same(found: Any, expected: Any) -> None:
    """Equal but for the last digits of scores."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            same(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)
    elif isinstance(expected, str | int):
        assert found == expected
    else:
        assert isinstance(found, float) and found == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("head", "task", "texts", "options"),
    [
        ("MaskedLM", "fill-mask", "the [MASK] sat on a mat", {}),
        ("MaskedLM", "fill-mask", ["the [MASK] sat on a [MASK]", "a [MASK]"], {"top_k": 2}),
        ("MaskedLM", "fill-mask", "the [MASK] sat", {"targets": ["cat", "mat"]}),
        ("SequenceClassification", "text-classification", TEXTS[0], {}),
        ("SequenceClassification", "text-classification", TEXTS, {}),
        ("SequenceClassification", "text-classification", TEXTS, {"top_k": 2}),
        ("SequenceClassification", "sentiment-analysis", TEXTS[0], {"top_k": None}),
        ("SequenceClassification", "text-classification", {"text": TEXTS[0], "text_pair": TEXTS[1]}, {"top_k": 3}),
        ("TokenClassification", "token-classification", TEXTS, {}),
        ("TokenClassification", "ner", TEXTS[1], {"aggregation_strategy": "simple"}),
        ("MaskedLM", "feature-extraction", TEXTS, {}),
        ("SequenceClassification", "feature-extraction", TEXTS[0], {}),
        ("gpt2", "feature-extraction", TEXTS[0], {}),
    ],
)
def test_results_are_the_references(
    folder_of: FolderOf, head: str, task: str, texts: Any, options: dict[str, Any]
) -> None:
    folder = folder_of(head)
    same(pipeline(task, folder)(texts, **options), reference(task, folder)(texts, **options))


def test_features_are_the_states_and_their_mean_is_the_vector(folder_of: FolderOf) -> None:
    extract = pipeline("feature-extraction", folder_of("SequenceClassification"))
    ((states,), vector) = extract(TEXTS[0]), extract(TEXTS[0], pooling="mean")
    torch.testing.assert_close(torch.tensor(states).mean(0), torch.tensor(vector))


def naive_answer(folder: Path, question: str, context: str, longest: int) -> tuple[float, int, int]:
    """The best span by trying all of them."""
    encoding = Codec(folder).encode(question, context)
    network = load_pretrained(folder)
    with torch.no_grad():
        logits = network(torch.tensor([encoding.ids]), token_types=torch.tensor([encoding.type_ids])).logits[0]
    inside = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
    begins, ends = logits[inside].softmax(0).unbind(-1)
    spans = [(a, b) for a, b in itertools.product(range(len(inside)), repeat=2) if 0 <= b - a < longest]
    first, last = max(spans, key=lambda span: float(begins[span[0]] * ends[span[1]]))
    score = float(begins[first] * ends[last])
    return score, encoding.offsets[inside[first]][0], encoding.offsets[inside[last]][1]


@pytest.mark.parametrize("longest", [1, 3, 15])
def test_an_answer_is_the_best_of_all_spans_of_the_context(folder_of: FolderOf, longest: int) -> None:
    folder, question = folder_of("QuestionAnswering"), "where is Paris ?"
    score, start, end = naive_answer(folder, question, TEXTS[1], longest)
    answer = pipeline("question-answering", folder)(question=question, context=TEXTS[1], max_answer_len=longest)
    same(answer, {"score": score, "start": start, "end": end, "answer": TEXTS[1][start:end]})


def test_a_long_context_is_read_in_windows(folder_of: FolderOf) -> None:
    ask = pipeline("question-answering", folder_of("QuestionAnswering"))
    context = " . ".join([*[TEXTS[0]] * 12, TEXTS[1]])
    answers = ask("where is Paris ?", context, top_k=40, doc_stride=4)
    assert len({(answer["start"], answer["end"]) for answer in answers}) == 40
    assert all(context[answer["start"] : answer["end"]] == answer["answer"] for answer in answers)
    assert max(answer["end"] for answer in answers) > len(context) - 60
    assert min(answer["start"] for answer in answers) < 60
    with pytest.raises(ValueError, match="question leaves no room for the context"):
        ask("the " * 40, "a mat")


@pytest.mark.parametrize(
    ("head", "task", "text", "options", "message"),
    [
        ("MaskedLM", "fill-mask", "no mask here", {}, r"write \[MASK\] where a word is missing"),
        ("MaskedLM", "fill-mask", "a [MASK]", {"targets": "zebra"}, "targets 'zebra' is no token"),
        ("TokenClassification", "ner", "a", {"aggregation_strategy": "best"}, "aggregation_strategy 'best' must be"),
        ("SequenceClassification", "text-classification", "the " * 40, {}, "reads 32 tokens and the text has 42"),
        ("MaskedLM", "feature-extraction", "a", {"pooling": "max"}, "pooling 'max' must be 'mean' or left out"),
    ],
)
def test_what_cannot_be_read_is_refused(
    folder_of: FolderOf, head: str, task: str, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline(task, folder_of(head))(text, **options)
