"""Rows that are scored together get what each would get alone, and rows that cannot be read are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_core.config import Model
from llm_core.generate import generate
from llm_core.models import Task, build, load_pretrained, save_pretrained
from llm_core.pipeline import pipeline
from llm_core.pipeline.batch import Refused, Scorer, score_rows, scorer
from llm_core.tokenizer import Tokenizer

FolderOf = Callable[[str], Path]
TEXTS = ["the cat", "paris is in france where people eat good bread every day", "a mat", "the cat sat on a mat"]
MASKED = ["the [MASK] sat on a mat", "a [MASK]", "the [MASK] sat on a [MASK] in paris"]


def scored(made: Scorer, texts: list[Any], batch_size: int = 8) -> list[dict[str, Any]]:
    rows = [made.read(*(text if isinstance(text, tuple) else (text,))) for text in texts]
    return score_rows(made, rows, range(len(rows)), batch_size)


def same(found: Any, expected: Any) -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            same(ours, theirs)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("kind", ["ours", "gpt2", "t5"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_each_prompt_alone_with_the_rows_own_seed(
    folder_of: FolderOf, kind: str, temperature: float
) -> None:
    folder = folder_of(kind)
    found = scored(scorer(folder, max_tokens=7, temperature=temperature, seed=5), TEXTS, batch_size=3)
    write = pipeline(None, folder)
    for number, (text, result) in enumerate(zip(TEXTS, found, strict=True)):
        options = {"max_new_tokens": 7, "temperature": temperature, "do_sample": temperature > 0, "top_k": 0}
        (alone,) = write._write([text], {**options, "seed": 5 + number})
        assert result["answer"] == alone[0]
        assert result["num_tokens"] == 7 or result["finish_reason"] == "stop"


def test_an_answer_ends_before_a_stop_text(folder_of: FolderOf) -> None:
    folder = folder_of("ours")
    (whole,) = scored(scorer(folder, max_tokens=12), TEXTS[:1])
    stop = whole["answer"][2:4]
    (short,) = scored(scorer(folder, max_tokens=12, stop=(stop,)), TEXTS[:1])
    assert short["answer"] == whole["answer"][: whole["answer"].index(stop)] and short["finish_reason"] == "stop"


def test_the_answer_is_what_generate_writes(folder_of: FolderOf) -> None:
    folder = folder_of("ours")
    tokenizer = Tokenizer.load(folder)
    ids = [tokenizer.end_id, *tokenizer.encode(TEXTS[1])]
    written = generate(
        load_pretrained(folder), ids, max_tokens=9, temperature=0.8, seed=3, stop_ids=(tokenizer.end_id,)
    )
    ((found,), ids_written) = scored(scorer(folder, max_tokens=9, temperature=0.8, seed=3), TEXTS[1:2]), list(written)
    assert found["answer"] == tokenizer.decode(ids_written) and found["num_tokens"] == len(ids_written)


@pytest.mark.parametrize(
    ("head", "rows", "alone"),
    [
        ("SequenceClassification", TEXTS, lambda pipe, text: pipe(text)[0]),
        ("TokenClassification", TEXTS, lambda pipe, text: {"entities": pipe(text, aggregation_strategy="simple")}),
        ("MaskedLM", MASKED[:2], lambda pipe, text: _answer(pipe(text, top_k=1)[0])),
        ("QuestionAnswering", [("where is paris ?", text) for text in (*TEXTS, " . ".join(TEXTS * 4))], None),
    ],
)
def test_what_is_read_together_gives_what_each_gives_alone(
    folder_of: FolderOf, head: str, rows: list[Any], alone: Any
) -> None:
    folder = folder_of(head)
    pipe = pipeline(None, folder)
    found = scored(scorer(folder), rows)
    for row, result in zip(rows, found, strict=True):
        same(result, _best(pipe(*row)) if alone is None else alone(pipe, row))


def _answer(filled: dict[str, Any]) -> dict[str, Any]:
    return {"answer": filled["sequence"], "score": filled["score"]}


def _best(answer: dict[str, Any]) -> dict[str, Any]:
    return {"answer": answer["answer"], "score": answer["score"]}


def test_every_mask_is_filled(folder_of: FolderOf) -> None:
    folder = folder_of("MaskedLM")
    (found,) = scored(scorer(folder), MASKED[2:])
    first, second = pipeline(None, folder)(MASKED[2], top_k=1)
    filled = ["the", first[0]["token_str"], "sat", "on", "a", second[0]["token_str"], "in", "paris"]
    assert found["answer"] == " ".join(word for word in filled if not word.startswith("["))  # as the pipeline does
    assert found["score"] == pytest.approx(first[0]["score"] * second[0]["score"])


@pytest.mark.parametrize("kind", ["MaskedLM", "gpt2", "t5", "SequenceClassification"])
def test_vectors_are_the_means_of_the_states(folder_of: FolderOf, kind: str) -> None:
    folder = folder_of(kind)
    found = [row["vector"] for row in scored(scorer(folder, "feature-extraction"), TEXTS)]
    same(found, pipeline("feature-extraction", folder)(TEXTS, pooling="mean"))


def test_a_pair_of_texts_is_classified_as_a_pair(folder_of: FolderOf) -> None:
    folder = folder_of("SequenceClassification")
    pairs = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0])]
    expected = [pipeline(None, folder)({"text": one, "text_pair": two}, top_k=1)[0] for one, two in pairs]
    same(scored(scorer(folder), pairs), expected)


HEADS: list[tuple[str, Task]] = [
    ("bert", "sequence_classification"),
    ("llama", "sequence_classification"),
    ("gpt2", "token_classification"),
    ("lstm", "sequence_classification"),
    ("t5", "sequence_classification"),
    ("t5", "question_answering"),
    ("llama", "embedding"),
]


@pytest.mark.parametrize(("family", "task"), HEADS)
def test_padding_changes_nothing_in_any_family(tmp_path: Path, family: Any, task: Task) -> None:
    tokenizer = Tokenizer.train(TEXTS * 8, vocab_size=300)
    tokenizer.save(tmp_path)
    shape = Model(family=family, num_layers=1, width=32, num_heads=2, num_kv_heads=2, mlp_width=24, context=64)
    save_pretrained(build(shape, tokenizer.vocab_size, tokenizer.end_id, seed=2, task=task), tmp_path)
    made = scorer(tmp_path)
    rows = [("where is paris", text) if len(made.reads) == 2 else text for text in TEXTS]
    same(scored(made, rows), [scored(made, [row])[0] for row in rows])


@pytest.mark.parametrize(
    ("kind", "texts", "reason", "message"),
    [
        ("ours", ("  \n",), "empty", "prompt is empty"),
        ("ours", (None,), "empty", "prompt is empty"),
        ("ours", (float("nan"),), "empty", "prompt is empty"),
        ("ours", (12,), "not_text", "prompt is int, not text"),
        ("ours", ("\ud800",), "not_text", "lone surrogate"),
        ("ours", ("the cat " * 90,), "too_long", "context is 64 tokens and the prompt has"),
        ("SequenceClassification", ("the " * 40,), "too_long", "reads 32 tokens and the text has 42"),
        ("SequenceClassification", ("the", ""), "empty", "text_pair is empty"),
        ("QuestionAnswering", ("the " * 40, "a mat"), "too_long", "leaves no room for the context"),
        ("QuestionAnswering", ("where ?", ""), "empty", "context is empty"),
        ("MaskedLM", ("the cat",), "unreadable", r"write \[MASK\]"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_a_reason(
    folder_of: FolderOf, kind: str, texts: tuple[Any, ...], reason: str, message: str
) -> None:
    with pytest.raises(Refused, match=message) as refused:
        scorer(folder_of(kind)).read(*texts)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ours", {"max_tokens": 0}, "max_tokens 0 must be a whole number of at least 1"),
        ("ours", {"temperature": -1.0}, "temperature -1.0 must be"),
        ("ours", {"stop": ("",)}, "must be texts of at least one character"),
        ("ours", {"beams": 3}, "beams is no option of what writes; there are max_tokens"),
        ("MaskedLM", {"max_tokens": 4}, "max_tokens is no option of fill-mask, which writes no text"),
        ("ours", {"task": "translate"}, "task 'translate' is not known"),
    ],
)
def test_a_wrong_option_is_named(folder_of: FolderOf, kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scorer(folder_of(kind), **options)
