"""`tidemill generate` writes what the pipeline writes, as it comes or all answers as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from llm_core.config import Model
from llm_core.models import build, save_pretrained
from llm_core.pipeline import pipeline
from llm_core.tokenizer import Tokenizer

PROMPT = "the cat 今天"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.train(["the cat sat on a mat, 今天天气真好! "] * 9, vocab_size=280)
    tokenizer.save(place)
    shape = Model(num_layers=1, width=16, num_heads=2, num_kv_heads=2, mlp_width=24, context=48)
    save_pretrained(build(shape, tokenizer.vocab_size, end_id=tokenizer.end_id, seed=3), place)
    return place


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["generate", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_answer_streams_what_the_pipeline_writes(folder: Path) -> None:
    shown = run(str(folder), PROMPT, "--max-tokens", "12", "--seed", "4", "--temperature", "1.2", "--top-p", "0.9")
    options = {"max_new_tokens": 12, "seed": 4, "temperature": 1.2, "top_p": 0.9, "return_full_text": False}
    (expected,) = pipeline("text-generation", folder)(PROMPT, **options)
    assert shown == expected["generated_text"] + "\n"


def test_several_answers_as_json_can_be_repeated_from_the_seed_that_it_tells(folder: Path) -> None:
    first = json.loads(run(str(folder), PROMPT, "--num", "3", "--max-tokens", "9", "--json"))
    assert len(first["texts"]) == 3 and first["prompt"] == PROMPT
    again = run(str(folder), PROMPT, "--num", "3", "--max-tokens", "9", "--json", "--seed", str(first["seed"]))
    assert json.loads(again) == first


def test_beams_and_stop_texts_reach_the_search(folder: Path) -> None:
    found = json.loads(run(str(folder), PROMPT, "--beams", "3", "--num", "2", "--max-tokens", "6", "--json"))
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "return_full_text": False}
    expected = pipeline("text-generation", folder)(PROMPT, **options)
    assert found["texts"] == [result["generated_text"] for result in expected]
    greedy = run(str(folder), PROMPT, "--temperature", "0", "--max-tokens", "12").rstrip("\n")
    stop = greedy[3:5]
    stopped = run(str(folder), PROMPT, "--temperature", "0", "--max-tokens", "12", "--stop", stop)
    assert stopped == greedy[: greedy.index(stop)] + "\n"


def test_a_model_that_is_no_folder_and_no_version_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["generate", "nowhere", PROMPT])
    assert result.exit_code == 2 and "NAME@VERSION" in result.output


def test_a_model_that_only_reads_is_refused(tmp_path: Path, folder: Path) -> None:
    shape = Model(family="bert", num_layers=1, width=16, num_heads=2, num_kv_heads=2, mlp_width=24, context=48)
    Tokenizer.load(folder).save(tmp_path)
    save_pretrained(build(shape, 280, end_id=0, seed=3), tmp_path)
    with pytest.raises(ValueError, match="this model reads text and writes none"):
        CliRunner().invoke(app, ["generate", str(tmp_path), PROMPT], catch_exceptions=False)
