"""Routes of other tasks say what the pipelines say, name the version, and refuse what a model is not for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from llm_core.evals.attention import attention
from llm_core.evals.nearest import Source, make_index
from llm_core.pipeline import pipeline
from llm_core.serving import explaining
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.reply_schema import RewriteReply
from llm_core.serving.settings import DEFAULT_SETTINGS
from llm_core.serving.task_schema import AnswerReply, ClassifyReply, ExplainReply
from tests.llm_core.serving.families import FolderOf, Loaded, fits, refusal

Serve = Callable[..., TestClient]
TEXTS = ["the cats sat on a mat", "Paris is in france , where people eat good bread every day"]
CLASSIFIER, TAGGER, ANSWERER = "SequenceClassification", "TokenClassification", "QuestionAnswering"


def ask(client: TestClient, path: str, model: str, **values: Any) -> Any:
    return client.post(f"/v1/{path}", json={"model": model, **values})


def near(values: Any) -> Any:
    """The same with scores that may differ in their last digits."""
    if isinstance(values, dict):
        return {key: near(value) for key, value in values.items()}
    if isinstance(values, list):
        return [near(value) for value in values]
    return pytest.approx(values, abs=1e-6) if isinstance(values, float) else values


def test_labels_are_the_pipelines(serving: Serve, folder_of: FolderOf) -> None:
    client, classify = serving(CLASSIFIER), pipeline("text-classification", folder_of(CLASSIFIER))
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    inputs = [*TEXTS, pair]
    response = ask(client, "classify", CLASSIFIER, input=inputs, top_k=2)
    body = fits(response, ClassifyReply)
    assert [entry["labels"] for entry in body["data"]] == near([classify(given, top_k=2) for given in inputs])
    assert [entry["index"] for entry in body["data"]] == [0, 1, 2]
    name = f"{CLASSIFIER}@1"
    assert response.headers["x-tidemill-version"] == body["model"] == body["system_fingerprint"] == name
    alone = ask(client, "classify", CLASSIFIER, input=TEXTS[0]).json()
    assert alone["data"][0]["labels"] == near(classify(TEXTS[0]))
    assert 2 * alone["usage"]["prompt_tokens"] < body["usage"]["total_tokens"]


@pytest.mark.parametrize(("strategy", "key"), [("none", "entity"), ("simple", "entity_group")])
def test_entities_are_the_pipelines(serving: Serve, folder_of: FolderOf, strategy: str, key: str) -> None:
    found = ask(serving(TAGGER), "classify", TAGGER, input=TEXTS, aggregation_strategy=strategy)
    tag = pipeline("ner", folder_of(TAGGER))
    names = ("score", "word", "start", "end")
    expected = [
        [{"entity": entity[key], **{name: entity[name] for name in names}} for entity in entities]
        for entities in tag(TEXTS, aggregation_strategy=strategy)
    ]
    assert [entry["entities"] for entry in fits(found, ClassifyReply)["data"]] == near(expected)
    assert any(expected)


@pytest.mark.parametrize("repeats", [1, 12])
def test_answers_are_the_pipelines_in_contexts_of_any_length(
    serving: Serve,
    folder_of: FolderOf,
    repeats: int,
) -> None:
    question, context = "where is Paris ?", " . ".join([*[TEXTS[0]] * repeats, TEXTS[1]])
    find = pipeline("question-answering", folder_of(ANSWERER))
    client = serving(ANSWERER)
    best = fits(ask(client, "answer", ANSWERER, question=question, context=context), AnswerReply)["data"]
    assert best == near([find(question, context)])
    several = ask(client, "answer", ANSWERER, question=question, context=context, top_k=5, max_answer_len=3)
    assert fits(several, AnswerReply)["data"] == near(find(question, context, top_k=5, max_answer_len=3))


@pytest.mark.parametrize(("path", "name"), [("translate", "translation"), ("summarize", "summary")])
def test_new_texts_are_the_pipelines(serving: Serve, folder_of: FolderOf, path: str, name: str) -> None:
    client, write = serving("t5"), pipeline("text2text-generation", folder_of("t5"))
    for options in ({}, {"num_beams": 3, "length_penalty": 0.5}, {"repetition_penalty": 1.5}):
        response = ask(client, path, "t5", input=TEXTS, prefix="people ", max_tokens=9, **options)
        body = fits(response, RewriteReply)
        expected = write(TEXTS, prefix="people ", max_new_tokens=9, **options)
        assert [choice["text"] for choice in body["choices"]] == [text["generated_text"] for text in expected]
        assert body["object"] == name and body["system_fingerprint"] == "t5@1"
        assert response.headers["x-tidemill-version"] == "t5@1"
        assert body["usage"]["completion_tokens"] <= 2 * 9


def test_equal_seeds_give_equal_texts_and_a_stream_says_them_in_pieces(serving: Serve) -> None:
    client = serving("t5")
    options = {"input": TEXTS, "temperature": 2.0, "repetition_penalty": 5.0, "seed": 4, "max_tokens": 12}
    first, again = (ask(client, "translate", "t5", **options).json()["choices"] for _ in range(2))
    assert first == again and first[0]["text"] != first[1]["text"]
    other = ask(client, "translate", "t5", **{**options, "seed": 5}).json()["choices"]
    assert other != first
    response = ask(client, "translate", "t5", **options, stream=True, stream_options={"include_usage": True})
    *events, usage, done = response.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]" and "completion_tokens" in usage
    texts = ["", ""]
    for event in events:
        chunk = json.loads(event.removeprefix("data: "))
        assert chunk["object"] == "translation.chunk"
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == [choice["text"] for choice in first]


def test_a_label_is_explained_token_by_token(serving: Serve, loaded: Loaded) -> None:
    client, codec = serving(CLASSIFIER), loaded(CLASSIFIER).codec
    for target in ("B-PER", None):
        body = fits(ask(client, "explain", CLASSIFIER, input=TEXTS[0], target=target), ExplainReply)
        encoding = codec.encode(TEXTS[0])
        assert [token["token"] for token in body["tokens"]] == encoding.tokens
        shares = [token["attribution"] for token in body["tokens"]]
        assert shares[0] == shares[-1] == 0 and body["tokens"][0]["start"] is None  # [CLS] and [SEP]
        for token in body["tokens"][1:-1]:
            assert TEXTS[0][token["start"] : token["end"]] == token["text"] != ""
        difference = body["score"] - body["baseline_score"]
        assert body["gap"] == pytest.approx(sum(shares) - difference, abs=1e-4)
        assert abs(body["gap"]) < max(0.05 * abs(difference), 0.01)
    best = ask(client, "classify", CLASSIFIER, input=TEXTS[0]).json()["data"][0]["labels"][0]
    assert body["target"] == best["label"]


def test_where_tokens_look_is_told_on_request(serving: Serve, loaded: Loaded) -> None:
    for name in ("ours", CLASSIFIER):
        client, text = serving(name), "the cat sat"
        assert ask(client, "explain", name, input=text, steps=2).json()["attention"] is None
        body = fits(ask(client, "explain", name, input=text, steps=2, attention=True), ExplainReply)
        model = loaded(name)
        ids = model.codec.encode(text).ids if name == CLASSIFIER else model.encode_prompt(text)
        expected = attention(model.network, ids).own  # type: ignore[arg-type]
        found = body["attention"]
        assert torch.tensor(found["layers"]) == pytest.approx(expected.mean(dim=1), abs=1e-4)
        assert torch.tensor(found["rollout"]).sum(-1) == pytest.approx(torch.ones(len(body["tokens"])), abs=1e-2)
        assert len(found["heads"]) == min(4, expected.shape[0] * expected.shape[1])


def test_attention_of_many_tokens_is_refused(serving: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "MOST_ATTENDED", 3)
    refused = ask(serving("ours"), "explain", "ours", input="the cat sat on a mat", steps=2, attention=True)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "attention"


def test_training_passages_are_told_where_the_server_was_told_to(
    serving: Serve, loaded: Loaded, tmp_path: Path
) -> None:
    make_index([Source("a" * 64, "texts/a.txt", "once the cat sat on a mat, and so on")], tmp_path / "digest")
    ours = loaded("ours")
    trained = replace(ours, card=replace(ours.card, parents={"tokenize": "digest"}))
    asked = {"input": "he said the cat sat", "target": " on a mat", "steps": 2, "nearest": True}
    (passage,) = fits(ask(serving(trained, indexes=tmp_path), "explain", "ours", **asked), ExplainReply)["passages"]
    assert (passage["num_words"], passage["source"], passage["document"]) == (6, "texts/a.txt", "a" * 64)
    assert "he said the cat sat on a mat"[passage["start"] : passage["end"]] == "the cat sat on a mat"
    untold, unknown = serving(trained), serving(ours, indexes=tmp_path)
    for client, says in ((untold, "was not started with --nearest"), (unknown, "has no index of what")):
        refused = ask(client, "explain", "ours", **asked)
        assert refused.status_code == 400 and says in refused.json()["error"]["message"]
        assert ask(client, "explain", "ours", **{**asked, "nearest": False}).json()["passages"] is None


def test_a_pair_is_explained_text_by_text(serving: Serve) -> None:
    body = ask(serving(CLASSIFIER), "explain", CLASSIFIER, input="the cat", text_pair="a mat", steps=4).json()
    assert [token["text"] for token in body["tokens"]] == ["", "the", "cat", "", "a", "mat", ""]


def test_the_next_token_and_a_given_continuation_are_explained(serving: Serve) -> None:
    client = serving("ours")
    likeliest = ask(client, "completions", "ours", prompt="the cat", max_tokens=1, temperature=0, logprobs=0).json()
    body = fits(ask(client, "explain", "ours", input="the cat"), ExplainReply)
    assert body["target"] == likeliest["choices"][0]["text"]
    assert body["score"] == pytest.approx(likeliest["choices"][0]["logprobs"]["token_logprobs"][0], abs=1e-3)
    assert "".join(token["text"] for token in body["tokens"]) == "the cat"
    assert body["tokens"][0]["token"] == "<|endoftext|>" and body["tokens"][0]["attribution"] == 0

    given = fits(ask(client, "explain", "ours", input="the cat", target=" sat on", baseline="mean"), ExplainReply)
    echoed = {"prompt": "the cat sat on", "max_tokens": 0, "echo": True, "logprobs": 0}
    told = ask(client, "completions", "ours", **echoed).json()["choices"][0]["logprobs"]
    after = [
        logprob
        for logprob, place in zip(told["token_logprobs"], told["text_offset"], strict=True)
        if place >= len("the cat")
    ]
    assert given["score"] == pytest.approx(sum(after), abs=1e-3)


KINDS = {
    "ours": ("causal_lm", ["completions", "chat/completions", "explain"]),
    "t5": ("seq2seq_lm", ["translate", "summarize"]),
    CLASSIFIER: ("sequence_classification", ["classify", "explain"]),
    TAGGER: ("token_classification", ["classify"]),
    ANSWERER: ("question_answering", ["answer"]),
    "MaskedLM": ("masked_lm", []),
    "Model": ("embedding", []),
}
BODIES: dict[str, dict[str, Any]] = {
    "completions": {"prompt": "a", "max_tokens": 1},
    "chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "explain": {"input": "a mat", "steps": 2},
    "translate": {"input": "a mat", "max_tokens": 1},
    "summarize": {"input": "a mat", "max_tokens": 1},
    "classify": {"input": "a mat"},
    "answer": {"question": "where ?", "context": "a mat"},
    "embeddings": {"input": "a mat"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_model_answers_its_routes_and_refuses_the_others(serving: Serve, kind: str) -> None:
    client, (task, own) = serving(kind), KINDS[kind]
    for path, body in BODIES.items():
        response = ask(client, path, kind, **body)
        if path in own or path == "embeddings":
            assert response.status_code == 200, (path, response.text)
        else:
            status, code, param, message = refusal(response)
            assert (status, code, param) == (404, "unsupported_task", "model")
            assert f"is a {task} model and cannot do {path}; it can do {', '.join([*own, 'embeddings'])}" in message
        assert client.post(f"/{path}", json={"model": kind, **body}).status_code == response.status_code
    facts = client.get(f"/v1/models/{kind}").json()["tidemill"]
    assert facts["task"] == task and facts["routes"][: len(own)] == own


@pytest.mark.parametrize(
    ("model", "path", "values", "code", "message"),
    [
        (CLASSIFIER, "classify", {"input": ["a", "cat " * 40]}, "context_length_exceeded", "reads 32 tokens"),
        (CLASSIFIER, "classify", {"input": "a", "top_k": 0}, "invalid_value", "greater than or equal to 1"),
        (TAGGER, "classify", {"input": {"text": "a", "text_pair": "b"}}, "invalid_value", "reads no pairs"),
        (ANSWERER, "answer", {"question": " ", "context": "a"}, "invalid_value", "pattern"),
        (ANSWERER, "answer", {"question": "a " * 40, "context": "a"}, "invalid_value", "leaves no room"),
        ("t5", "translate", {"input": "cat " * 600}, "context_length_exceeded", "the text has"),
        ("t5", "translate", {"input": "a", "num_beams": 2, "stream": True}, "invalid_value", "stream is not"),
        (CLASSIFIER, "explain", {"input": "a", "target": "good"}, "invalid_value", "there are O, B-PER"),
        (CLASSIFIER, "explain", {"input": "a", "steps": 1000}, "invalid_value", "less than or equal to 256"),
        ("ours", "explain", {"input": "a", "text_pair": "b"}, "invalid_value", "reads one text"),
        ("ours", "explain", {"input": "zq " * 60}, "context_length_exceeded", "reads 64 tokens"),
        ("ours", "explain", {"input": "a", "target": "zq " * 60}, "context_length_exceeded", "reads 64 tokens"),
    ],
)
def test_impossible_requests_are_refused(
    serving: Serve, model: str, path: str, values: dict[str, Any], code: str, message: str
) -> None:
    status, found, _, told = refusal(ask(serving(model), path, model, **values))
    assert (status, found) == (400, code) and message in told


def test_a_draining_server_takes_no_new_work(serving: Serve) -> None:
    client = serving(CLASSIFIER, "t5")
    client.app.state.service.engine.drain()  # type: ignore[attr-defined]
    for path, model in (("classify", CLASSIFIER), ("explain", CLASSIFIER), ("translate", "t5"), ("embeddings", "t5")):
        response = ask(client, path, model, input="a mat")
        assert refusal(response)[:2] == (503, "shutting_down") and response.headers["retry-after"] == "2"


def test_too_many_at_once_are_told_to_come_back(serving: Serve) -> None:
    client = serving(CLASSIFIER)
    client.app.state.service.workers._max_open = 0  # type: ignore[attr-defined]
    assert refusal(ask(client, "classify", CLASSIFIER, input="a mat"))[:2] == (503, "overloaded")


def test_a_model_that_finds_no_numbers_is_not_taken_into_service(loaded: Loaded) -> None:
    model: LoadedModel = loaded(CLASSIFIER)
    network: Any = copy.deepcopy(model.network)
    torch.nn.init.constant_(network.bert.encoder.layer[0].output.dense.weight, float("nan"))
    with pytest.raises(ValueError, match="finds numbers that are none; its weights are damaged"):
        replace(model, network=network)._warm_up(DEFAULT_SETTINGS)
