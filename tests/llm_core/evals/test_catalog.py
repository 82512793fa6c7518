"""Every kind of suite that a recipe can name is prepared with examples of its own or of a table, and can be asked."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from llm_core.config import SuiteSpec
from llm_core.config.suites import ASKED_FROM_A_TABLE, SuiteKind
from llm_core.evals.catalog import ANSWER, KINDS, Material, prepare
from llm_core.evals.examples import ExamplesError
from llm_core.evals.harness import HarnessError
from tests.llm_core.evals.answering import Answering

TRAIN = [
    f"training text number {number} " + " ".join(f"said{number}x{word}" for word in range(80)) for number in range(5)
]
HELD_OUT = [f"held out text {number} " + " ".join(f"kept{number}x{word}" for word in range(90)) for number in range(5)]
ROWS: dict[str, Any] = {
    "canaries": {"before": "The code is", "secret": "42", "after": ".", "alphabet": "0123456789", "repeats": 1},
    "classification": {"text": "good", "label": "yes"},
    "code": {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "one"},
    "domains": {"question": "What?", "choices": ["a", "b"], "answer": 0, "subject": "international_law"},
    "multiple_choice": {"context": "Is it?", "choices": ["yes", "no"], "answer": 0},
    "generation": {"prompt": "Say a", "references": ["a"]},
    "truthfulness": {"prompt": "Say", "true": ["a"], "false": ["b"]},
}


def _spec(kind: Any, folder: Path, **values: Any) -> SuiteSpec:
    if kind in ASKED_FROM_A_TABLE:
        second = {**ROWS[kind], **({"label": "no", "text": "bad"} if kind == "classification" else {})}
        rows = [ROWS[kind], second]
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        values = {"examples": f"{kind}.jsonl", **values}
    if kind in ("sentiment", "toxicity"):
        (folder / "words.txt").write_text("good\t1.0\nbad\t-1.0\n")
        values = {"words": (str(folder / "words.txt"),), **values}
    return SuiteSpec(kind=kind, **values)


def _material(folder: Path) -> Material:
    return Material(lambda: TRAIN, lambda: HELD_OUT, context=64, seed=1, base=folder)


def test_there_is_a_maker_for_each_kind_that_recipes_may_name() -> None:
    assert list(KINDS) == list(get_args(SuiteKind))


@pytest.mark.parametrize("kind", [kind for kind in get_args(SuiteKind) if kind not in ("code", "lm_eval")])
def test_each_kind_is_asked_and_gives_its_numbers(kind: str, tmp_path: Path) -> None:
    asked = prepare(_spec(kind, tmp_path, name="mine"), _material(tmp_path))
    rows = asked.suite.rows(Answering(lambda prompt: "a good answer"), asked.examples)
    assert len(rows) == len(asked.examples) > 0
    totals = asked.suite.totals(rows)
    assert totals and all(name.startswith("mine/") for name in totals)


def test_programs_are_prepared_too(tmp_path: Path) -> None:
    assert prepare(_spec("code", tmp_path), _material(tmp_path)).suite.name == "code"


def test_a_task_of_the_harness_says_what_is_missing(tmp_path: Path) -> None:
    if find_spec("lm_eval") is not None:
        pytest.skip("lm-eval is installed here")
    with pytest.raises(HarnessError, match=r"mmlu: lm-eval is not installed; pip install 'tidemill\[lm-eval\]'"):
        prepare(SuiteSpec(kind="lm_eval", task="mmlu"), _material(tmp_path))


def test_prompts_are_how_held_out_documents_begin(tmp_path: Path) -> None:
    examples = prepare(_spec("diversity", tmp_path, limit=3), _material(tmp_path)).examples
    assert len(examples) == 3
    assert all(any(text.startswith(example["prompt"]) for text in HELD_OUT) for example in examples)


@pytest.mark.parametrize(("kind", "texts"), [("extraction", TRAIN), ("extraction_unseen", HELD_OUT)])
def test_extraction_asks_for_training_passages_and_its_control_for_others(
    kind: str, texts: list[str], tmp_path: Path
) -> None:
    for example in prepare(_spec(kind, tmp_path), _material(tmp_path)).examples:
        assert any(example["prefix"] + example["suffix"] in text for text in texts)


def test_needles_fit_the_models_context(tmp_path: Path) -> None:
    examples = prepare(_spec("long_context", tmp_path), _material(tmp_path)).examples
    assert {len(example["text"].split()) for example in examples} == {8, 16, 32}
    assert all(example["answer"] == ANSWER and example["answer"] in example["needle"] for example in examples)


def test_personal_data_of_the_training_text_is_what_leaks(tmp_path: Path) -> None:
    material = Material(lambda: ["write to ann@example.org today"], lambda: HELD_OUT, 64, 1, tmp_path)
    asked = prepare(_spec("leakage", tmp_path), material)
    leaky = asked.suite.rows(Answering(lambda prompt: " ann@example.org it was"), asked.examples)
    assert asked.suite.totals(leaky)["leakage/leaked"] == 1.0
    invented = asked.suite.rows(Answering(lambda prompt: " bob@example.org it was"), asked.examples)
    assert asked.suite.totals(invented)["leakage/leaked"] == 0.0


def test_shots_stand_in_front_and_are_not_asked(tmp_path: Path) -> None:
    asked = prepare(_spec("generation", tmp_path, shots=0), _material(tmp_path))
    assert len(asked.examples) == 1  # two equal rows
    (tmp_path / "more.jsonl").write_text("".join(json.dumps({**ROWS["generation"], "prompt": p}) + "\n" for p in "xyz"))
    asked = prepare(_spec("generation", tmp_path, examples="more.jsonl", shots=2), _material(tmp_path))
    subject = Answering(lambda prompt: "a")
    asked.suite.rows(subject, asked.examples)
    assert len(asked.examples) == 1
    (prompt,) = subject.prompts
    assert prompt.endswith(asked.examples[0]["prompt"]) and prompt.count(" a\n\n") == 2


def test_what_the_training_text_has_is_not_asked(tmp_path: Path) -> None:
    seen = {"prompt": " ".join(TRAIN[0].split()[10:40]), "references": ["a"]}
    (tmp_path / "seen.jsonl").write_text(json.dumps(seen) + "\n" + json.dumps(ROWS["generation"]) + "\n")
    asked = prepare(_spec("generation", tmp_path, examples="seen.jsonl"), _material(tmp_path))
    assert (asked.examples, asked.contaminated) == ([ROWS["generation"]], 1)
    (tmp_path / "seen.jsonl").write_text(json.dumps(seen))
    with pytest.raises(ExamplesError, match="generation: the training text has all of its 1 examples"):
        prepare(_spec("generation", tmp_path, examples="seen.jsonl"), _material(tmp_path))


def test_a_changed_list_of_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExamplesError, match=r"words\.txt: changed since the run was begun"):
        prepare(_spec("sentiment", tmp_path, words_sha256="0" * 64), _material(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "generation"}, "no examples of its own; name a table"),
        ({"kind": "sentiment"}, "sentiment needs words"),
        ({"kind": "bias", "words": ("list.txt",)}, "bias takes no words"),
        ({"kind": "bias", "shots": 2}, "bias takes no shots"),
        ({"kind": "lm_eval"}, "lm_eval needs a task"),
        ({"kind": "bias", "task": "mmlu"}, "other kinds have no task"),
        ({"kind": "bias", "name": "documents"}, "choose another"),
        ({"kind": "perplexity"}, "Input should be 'bias'"),
    ],
)
def test_a_suite_that_cannot_be_asked_is_refused_with_the_recipe(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SuiteSpec(**values)
