"""Vectors are the reference's, whatever else is in the request, in OpenAI's form."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import openai
import pytest
import torch
from fastapi.testclient import TestClient

from llm_core.artifact import Draft
from llm_core.config import Model
from llm_core.models import Task, build, save_pretrained
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.reply_schema import EmbeddingReply
from llm_core.tokenizer import Tokenizer
from tests.llm_core.serving.families import FolderOf, fits, load_artifact, refusal

URL = "/v1/embeddings"
TEXTS = ["the cat sat on a mat", "Paris", "people eat good bread every day in france , and the cat sat"]
Serve = Callable[..., TestClient]
WIDTH = 32


def ask(client: TestClient, model: str, texts: Any, **values: Any) -> Any:
    return client.post(URL, json={"model": model, "input": texts, **values})


def vectors(client: TestClient, model: str, texts: Any, **values: Any) -> np.ndarray[Any, Any]:
    body = fits(ask(client, model, texts, **values), EmbeddingReply)
    assert [entry["index"] for entry in body["data"]] == list(range(len(body["data"])))
    return np.array([entry["embedding"] for entry in body["data"]])


def test_an_embedders_vectors_are_the_references_means_without_padding(
    serving: Serve,
    folder_of: FolderOf,
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of("Model")
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.BertModel.from_pretrained(folder),
    )
    given = tokenizer(TEXTS, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**given).last_hidden_state
    mask = given.attention_mask[..., None]
    expected = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    np.testing.assert_allclose(vectors(serving("Model"), "Model", TEXTS), expected.numpy(), atol=1e-5)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Task | None], LoadedModel]:
    """A model of a family of ours, with a tokenizer of ours."""
    tokenizer = Tokenizer.train(TEXTS * 8, vocab_size=300)

    def make(family: str, task: Task | None) -> LoadedModel:
        shape = Model.model_validate(
            {"family": family, "num_layers": 1, "width": WIDTH, "num_heads": 2, "mlp_width": 48, "context": 64}
        )
        with Draft(tmp_path_factory.mktemp("built") / family, kind="model", stage="train") as out:
            network = build(shape, tokenizer.vocab_size, tokenizer.end_id, 3, task)
            save_pretrained(network, out.path)
            tokenizer.save(out.path)
            return load_artifact(out.publish({}), "built")

    return make


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("llama", None),
        ("llama", "embedding"),
        ("gpt2", "sequence_classification"),
        ("gpt2", "embedding"),
        ("bert", "masked_lm"),
        ("bert", "token_classification"),
        ("t5", None),
        ("t5", "sequence_classification"),
        ("t5", "embedding"),
        ("transformer", None),
        ("lstm", None),
    ],
)
def test_texts_of_a_batch_do_not_change_each_other(
    serving: Serve, built: Callable[[str, Task | None], LoadedModel], family: str, task: Task | None
) -> None:
    client = serving(built(family, task))
    together = vectors(client, "built", TEXTS)
    alone = np.concatenate([vectors(client, "built", text) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_base64_holds_the_same_numbers_and_the_official_client_reads_them(serving: Serve) -> None:
    client = serving("Model")
    found = ask(client, "Model", TEXTS, encoding_format="base64").json()
    written = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in found["data"]]
    plain = vectors(client, "Model", TEXTS)
    np.testing.assert_array_equal(np.stack(written), plain.astype("<f4"))
    official = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)
    answer = official.embeddings.create(model="Model", input=TEXTS)
    np.testing.assert_allclose([entry.embedding for entry in answer.data], plain, atol=1e-7)
    assert answer.model == "Model@1" and answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)


def test_fewer_dimensions_are_the_first_ones_at_unit_length(serving: Serve) -> None:
    client = serving("Model")
    whole, short = vectors(client, "Model", TEXTS), vectors(client, "Model", TEXTS, dimensions=5)
    np.testing.assert_allclose(short, whole[:, :5] / np.linalg.norm(whole[:, :5], axis=1, keepdims=True), atol=1e-6)
    status, code, param, message = refusal(ask(client, "Model", "a", dimensions=33))
    assert (status, code, param) == (400, "invalid_value", "dimensions") and "more than the 32" in message


def test_ids_are_read_as_they_are(serving: Serve, loaded: Callable[[str], LoadedModel]) -> None:
    client, codec = serving("Model"), loaded("Model").codec
    ids = [codec.encode(text).ids for text in TEXTS]
    np.testing.assert_array_equal(vectors(client, "Model", ids), vectors(client, "Model", TEXTS))
    np.testing.assert_array_equal(vectors(client, "Model", ids[0]), vectors(client, "Model", TEXTS[0]))


def test_many_texts_need_several_passes_and_keep_their_order(serving: Serve) -> None:
    texts = [" ".join(["cat"] * (1 + number % 17)) + " mat" * (number % 3) for number in range(600)]
    client = serving("Model")
    found = vectors(client, "Model", texts)
    for number in (0, 16, 17, 599):
        np.testing.assert_allclose(found[number], vectors(client, "Model", texts[number])[0], atol=1e-5)


def test_the_version_stands_in_body_and_header(serving: Serve) -> None:
    response = ask(serving("Model"), "Model", "cat")
    assert response.headers["x-tidemill-version"] == response.json()["model"] == "Model@1"


@pytest.mark.parametrize(
    ("model", "values", "code", "message"),
    [
        ("Model", {"input": "cat " * 40}, "context_length_exceeded", "reads 32 tokens and the text has 42"),
        ("Model", {"input": ["cat", "\ud800"]}, "invalid_value", "valid string"),
        ("Model", {"input": [3, 10**30]}, "invalid_value", "is no token id"),
        ("Model", {"input": []}, "invalid_value", "at least 1"),
        ("Model", {"input": "cat", "encoding_format": "int8"}, "invalid_value", "'float' or 'base64'"),
        ("ours", {"input": ["cat", ""]}, "invalid_value", "at least 1 character"),
        ("other", {"input": "cat"}, "model_not_found", "'other' is not served here"),
    ],
)
def test_what_cannot_be_read_is_refused(
    serving: Serve, model: str, values: dict[str, Any], code: str, message: str
) -> None:
    body = json.dumps({"model": model, **values})
    response = serving("Model", "ours").post(URL, content=body, headers={"content-type": "application/json"})
    assert refusal(response)[1] == code and message in refusal(response)[3]


def test_the_name_without_v1_answers_too(serving: Serve) -> None:
    assert serving("Model").post("/embeddings", json={"model": "Model", "input": "cat"}).status_code == 200
