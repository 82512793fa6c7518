"""Texts that are written are the reference's where both choose the likeliest, and as many and as long as asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_core.closure import ROOT
from llm_core.generate import ContextExceeded
from llm_core.models import ModelError
from llm_core.pipeline import ALIASES, TASKS, pipeline
from llm_core.pipeline.writing import OPTIONS

FolderOf = Callable[[str], Path]


def test_the_one_liner_gives_three_continuations_of_at_most_so_many_tokens(folder_of: FolderOf) -> None:
    write = pipeline("text-generation", folder_of("ours"))
    found = write("今天天气真好", max_length=50, num_return_sequences=3)
    assert [list(result) for result in found] == [["generated_text"]] * 3
    assert len({result["generated_text"] for result in found}) == 3
    assert all(result["generated_text"].startswith("今天天气真好") for result in found)


def test_equal_seeds_give_equal_texts_and_the_stream_says_the_same(folder_of: FolderOf) -> None:
    write = pipeline("text-generation", folder_of("ours"))
    options = {"max_new_tokens": 20, "seed": 5, "temperature": 1.0}
    (first,) = write("the cat", **options)
    assert [first] == write("the cat", **options)
    assert "the cat" + "".join(write.stream("the cat", **options)) == first["generated_text"]
    (short,) = write("the cat", return_full_text=False, **options)
    assert "the cat" + short["generated_text"] == first["generated_text"]


def test_a_stop_string_is_where_the_text_ends(folder_of: FolderOf) -> None:
    write = pipeline("text-generation", folder_of("ours"))
    options = {"max_new_tokens": 30, "seed": 6, "return_full_text": False}
    text = write("the cat", **options)[0]["generated_text"]
    stop = text[8:11]
    (stopped,) = write("the cat", stop=stop, **options)
    assert stopped["generated_text"] == text[: text.index(stop)]
    assert "".join(write.stream("the cat", stop=[stop], **options)) == text[: text.index(stop)]


def test_several_prompts_give_a_list_for_each_with_limits_of_their_own(folder_of: FolderOf) -> None:
    write = pipeline("text-generation", folder_of("ours"))
    prompts = ["the cat", "paris is in france where people eat"]
    together = write(prompts, max_length=30, do_sample=False)
    assert together == [write(prompt, max_length=30, do_sample=False) for prompt in prompts]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"repetition_penalty": 1.5}])
def test_continuations_are_those_of_the_references_pipeline(folder_of: FolderOf, options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of("gpt2")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "chat_template" not in config  # so nothing stands in front of a text
    expected = transformers.pipeline("text-generation", str(folder))(
        "the cat", do_sample=False, max_new_tokens=12, **options
    )
    assert pipeline("text-generation", folder)("the cat", do_sample=False, max_new_tokens=12, **options) == expected


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("text2text-generation", "generated_text"),
        ("summarization", "summary_text"),
        ("translation", "translation_text"),
    ],
)
def test_an_encoder_decoder_writes_what_the_reference_generates(folder_of: FolderOf, task: str, key: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of("t5")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    texts, expected = ["the cat sat", "paris is in france where people eat"], []
    for text in texts:
        ids = tokenizer("people " + text, return_tensors="pt").input_ids
        expected.append({key: tokenizer.decode(model.generate(ids, max_new_tokens=8)[0], skip_special_tokens=True)})
    assert pipeline(task, folder)(texts, max_new_tokens=8, prefix="people ") == expected
    beams = pipeline(task, folder)(texts[0], max_new_tokens=8, num_beams=3, num_return_sequences=3)
    assert [list(found) for found in beams] == [[key]] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 5}, "max_tokens is no option of text-generation; there are do_sample, .*max_new_tokens"),
        ({"max_length": 3}, "max_length 3 leaves no token behind a prompt of"),
        ({"max_new_tokens": 0}, "max_new_tokens 0 must be a whole number of at least 1"),
        ({"num_beams": 2, "stop": "x"}, "stop is not supported with num_beams above 1"),
        ({"num_beams": 2, "do_sample": True}, "do_sample is not supported with num_beams above 1"),
        ({"num_return_sequences": 2, "do_sample": False}, "num_return_sequences above 1 needs do_sample or num_beams"),
        ({"temperature": -1.0}, "temperature -1.0 must be"),
    ],
)
def test_impossible_options_are_refused(folder_of: FolderOf, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline("text-generation", folder_of("ours"))("paris is in france", **options)


def test_a_prompt_longer_than_the_context_is_refused(folder_of: FolderOf) -> None:
    with pytest.raises(ContextExceeded, match="context is 64 tokens and the prompt has"):
        pipeline("text-generation", folder_of("ours"))("zq " * 100)


def test_an_unknown_task_names_the_known_ones_and_a_wrong_one_what_the_model_can_do(folder_of: FolderOf) -> None:
    with pytest.raises(
        ValueError, match="task 'text-to-speech' is not known; there are .*fill-mask.*translation"
    ) as told:
        pipeline("text-to-speech", folder_of("ours"))
    assert all(task in str(told.value) for task in TASKS)
    with pytest.raises(ModelError, match="causal_lm model cannot do fill-mask; it can do text-generation"):
        pipeline("fill-mask", folder_of("ours"))


def test_text_that_spells_a_special_token_is_plain_text(folder_of: FolderOf) -> None:
    codec = pipeline("text-generation", folder_of("ours"))._codec
    end = codec.special_id("eos_token")
    assert codec.prompt("a <|endoftext|> b").count(end) == 1  # the one in front of every text


def test_the_page_names_every_task_and_option() -> None:
    page = (ROOT / "docs" / "how-to" / "generate.md").read_text(encoding="utf-8")
    assert [name for name in (*TASKS, *ALIASES, *OPTIONS) if f"`{name}`" not in page] == []
