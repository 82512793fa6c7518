"""The work of the routes that read: texts into vectors, labels, answers and explanations.

Each is a generator that yields wherever others may take a turn; see ``workers.py``.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from tokenizers import Encoding
from torch import Tensor

from llm_core.pipeline.understanding import QuestionAnswering, TextClassification, TokenClassification
from llm_core.serving.errors import ApiError
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.reply_schema import EmbeddingData, EmbeddingReply, ReadUsage
from llm_core.serving.schema import EmbeddingRequest
from llm_core.serving.task_schema import (
    AnswerReply,
    AnswerRequest,
    Classified,
    ClassifyReply,
    ClassifyRequest,
    Found,
    Pair,
    Tagged,
)
from llm_core.serving.vectors import embed, shortened, width_of
from llm_core.serving.workers import Work
from llm_core.tokenizer import TokenizerError


def encode(model: LoadedModel, text: str, pair: str | None = None, param: str = "input") -> Encoding:
    """A text or a pair as the model reads it, of any length; raises ApiError for what is no text."""
    try:
        return model.codec.encode(text, pair)
    except TokenizerError as problem:
        raise invalid(f"{param}: {problem}", param) from problem


def plain(model: LoadedModel, text: str, param: str = "input") -> Encoding:
    """A text with nothing around it; raises ApiError for what is no text."""
    try:
        return model.codec.plain(text)
    except TokenizerError as problem:
        raise invalid(f"{param}: {problem}", param) from problem


def check_length(model: LoadedModel, ids: Sequence[int], param: str = "input") -> None:
    """Raise ApiError for more tokens than the model reads, and for none."""
    if not ids:
        raise invalid(f"{param}: a text without any token cannot be read; give at least a word", param)
    if len(ids) > model.context:
        message = f"{param}: {model.name} reads {model.context} tokens and the text has {len(ids)}; shorten it"
        raise ApiError(HTTPStatus.BAD_REQUEST, message, "context_length_exceeded", param)


def invalid(message: str, param: str) -> ApiError:
    """A refusal of a value."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, "invalid_value", param)


def embeddings(model: LoadedModel, body: EmbeddingRequest) -> Work[EmbeddingReply]:
    """The vectors of a request's texts."""
    network: Any = model.network
    width = width_of(network)
    if body.dimensions is not None and body.dimensions > width:
        raise invalid(f"dimensions {body.dimensions} is more than the {width} that {model.name} has", "dimensions")
    texts = [_ids(model, text) for text in body.inputs]
    yield
    found: dict[int, EmbeddingData] = {}
    for vectors in embed(network, texts):
        for number, vector in vectors.items():
            written = _written(shortened(vector, body.dimensions), body.encoding_format)
            found[number] = EmbeddingData.model_construct(object="embedding", embedding=written, index=number)
        yield
    data = [found[number] for number in range(len(texts))]
    usage = ReadUsage.of(sum(map(len, texts)))
    return EmbeddingReply.model_construct(object="list", data=data, model=model.name, usage=usage)


def _ids(model: LoadedModel, text: str | list[int]) -> list[int]:
    ids: list[int] = encode(model, text).ids if isinstance(text, str) else text
    check_length(model, ids)
    if max(ids) >= model.codec.vocab_size:
        raise invalid(f"input: {max(ids)} is no token id; {model.name} has {model.codec.vocab_size}", "input")
    return ids


def _written(vector: Tensor, form: str) -> list[float] | str:
    if form == "float":
        return vector.tolist()
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()


def classify(model: LoadedModel, body: ClassifyRequest) -> Work[ClassifyReply]:
    """The labels of texts, or the entities in them."""
    if model.task == "token_classification" and any(isinstance(text, Pair) for text in body.inputs):
        raise invalid(f"input: {model.name} labels tokens, and reads no pairs; give texts", "input")
    num_tokens = sum(_length(model, text) for text in body.inputs)
    yield
    tell: Any = _entities if model.task == "token_classification" else _labels
    data: Any = []
    for number, text in enumerate(body.inputs):
        data.append(tell(model, number, text, body))
        yield
    return ClassifyReply(data=data, usage=ReadUsage.of(num_tokens), **named(model))


def _length(model: LoadedModel, text: str | Pair) -> int:
    ids = (encode(model, text) if isinstance(text, str) else encode(model, text.text, text.text_pair)).ids
    check_length(model, ids)
    return len(ids)


def _labels(model: LoadedModel, number: int, text: str | Pair, body: ClassifyRequest) -> Classified:
    network: Any = model.network
    given: Any = text if isinstance(text, str) else {"text": text.text, "text_pair": text.text_pair}
    labels = TextClassification(network, model.codec, "text-classification")(given, top_k=body.top_k)
    return Classified.model_validate({"index": number, "labels": labels})


def _entities(model: LoadedModel, number: int, text: str | Pair, body: ClassifyRequest) -> Tagged:
    network: Any = model.network
    strategy = body.aggregation_strategy
    find = TokenClassification(network, model.codec, "token-classification")
    found = find(str(text), aggregation_strategy=strategy)
    key = "entity" if strategy == "none" else "entity_group"
    return Tagged.model_validate({"index": number, "entities": [{**each, "entity": each[key]} for each in found]})


def answer(model: LoadedModel, body: AnswerRequest) -> Work[AnswerReply]:
    """The parts of a context that answer a question."""
    num_tokens = len(encode(model, body.question, body.context, "context").ids)
    yield
    network: Any = model.network
    read = QuestionAnswering(network, model.codec, "question-answering").reading
    try:
        found = yield from read(body.question, body.context, body.top_k, body.max_answer_len)
    except ValueError as problem:
        raise invalid(f"question: {problem}", "question") from problem
    data = [Found.model_validate(each) for each in found]
    return AnswerReply(data=data, usage=ReadUsage.of(num_tokens), **named(model))


def named(model: LoadedModel) -> dict[str, Any]:
    """What tells which version answered."""
    return {"model": model.name, "system_fingerprint": model.name}
