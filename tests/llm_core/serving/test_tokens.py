"""What tokens a text has, and back, for every kind of vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llm_core.serving.loaded import LoadedModel
from llm_core.serving.reply_schema import DetokenizeReply, TokenizeReply, TokenizerInfo
from llm_core.tokenizer import CHAT_TEMPLATE
from tests.llm_core.serving.families import fits, refusal

Serve = Callable[..., TestClient]
TEXT = "the cat sat on a mat"
HELLO = [{"role": "user", "content": "Hello <|im_end|>"}]


def tokens(client: TestClient, model: str, **values: Any) -> Any:
    return client.post("/tokenize", json={"model": model, **values})


@pytest.mark.parametrize("model", ["ours", "Model", "t5"])
def test_a_text_is_what_its_tokens_say(serving: Serve, model: str) -> None:
    client = serving(model)
    body = fits(tokens(client, model, prompt=TEXT, add_special_tokens=False), TokenizeReply)
    assert body["count"] == len(body["tokens"]) and body["token_strs"] is None
    told = client.post("/detokenize", json={"model": model, "tokens": body["tokens"]})
    assert fits(told, DetokenizeReply)["prompt"] == TEXT
    assert told.headers["x-tidemill-version"] == f"{model}@1"


@pytest.mark.parametrize(("model", "first", "last"), [("ours", "<|endoftext|>", None), ("Model", "[CLS]", "[SEP]")])
def test_special_tokens_stand_around_as_the_model_wants_them(
    serving: Serve, model: str, first: str, last: str | None
) -> None:
    client = serving(model)
    whole = fits(tokens(client, model, prompt=TEXT, return_token_strs=True), TokenizeReply)
    plain = fits(tokens(client, model, prompt=TEXT, add_special_tokens=False), TokenizeReply)
    assert whole["token_strs"][0] == first and (last is None or whole["token_strs"][-1] == last)
    assert whole["count"] == plain["count"] + 1 + (last is not None)
    said = client.post("/detokenize", json={"model": model, "tokens": whole["tokens"]}).json()["prompt"]
    assert said.startswith(first)


def test_the_count_is_what_a_completion_is_charged_with(serving: Serve) -> None:
    client = serving("ours")
    ask = {"model": "ours", "max_tokens": 1}
    body = tokens(client, "ours", prompt=TEXT).json()
    usage = client.post("/v1/completions", json={**ask, "prompt": TEXT}).json()["usage"]
    assert usage["prompt_tokens"] == body["count"] and body["max_model_len"] == 64
    chat = client.post("/v1/chat/completions", json={**ask, "messages": HELLO}).json()["usage"]
    assert chat["prompt_tokens"] == tokens(client, "ours", messages=HELLO).json()["count"]


def test_the_vocabulary_is_described(serving: Serve, loaded: Callable[[str], LoadedModel]) -> None:
    client = serving("ours", "Model")
    first = fits(client.get("/tokenizer_info"), TokenizerInfo)
    assert first["model"] == "ours@1" and first["chat_template"] == CHAT_TEMPLATE
    assert set(first["special_tokens"]) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    other = fits(client.get("/tokenizer_info", params={"model": "Model"}), TokenizerInfo)
    assert other["vocab_size"] == loaded("Model").codec.vocab_size and other["chat_template"] is None
    assert (other["roles"]["cls_token"], other["roles"]["mask_token"]) == (2, 4)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("/tokenize", {}, "either prompt or messages"),
        ("/tokenize", {"prompt": TEXT, "messages": HELLO}, "either prompt or messages"),
        ("/tokenize", {"messages": HELLO}, "no chat template"),
        ("/detokenize", {"tokens": [10**25]}, "is no token id; Model@1 has"),
        ("/detokenize", {"tokens": [-1]}, "greater than or equal to 0"),
        ("/detokenize", {"tokens": ["1"]}, "valid integer"),
    ],
)
def test_what_has_no_tokens_is_refused(serving: Serve, path: str, values: dict[str, Any], message: str) -> None:
    response = serving("Model").post(path, json={"model": "Model", **values})
    assert refusal(response)[0] == 400 and message in refusal(response)[3]


def test_the_info_of_no_model_is_not_found(serving: Serve) -> None:
    response = serving("Model").get("/tokenizer_info", params={"model": "no\x00such"})
    assert refusal(response)[:2] == (404, "model_not_found")
