"""The replies of OpenAI's routes and those for tokens, as the API's document describes them.

Nothing is checked against these classes while the server answers, since that would slow it down; tests do it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a reply."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class CachedTokens(Part):
    """Of the prompt's tokens, those that the server remembered."""

    cached_tokens: int


class Usage(Part):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class ReadUsage(Part):
    """Tokens of a request that nothing is written for."""

    prompt_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, num_tokens: int) -> ReadUsage:
        return cls(prompt_tokens=num_tokens, total_tokens=num_tokens)


class Written(Part):
    """What replies with new text have in common."""

    id: str
    created: int
    """When, in seconds since 1970."""
    model: str
    """The version that wrote."""
    system_fingerprint: str
    """The same, where OpenAI's clients look for it."""
    usage: Usage


class CompletionLogprobs(Part):
    """Log-probabilities of an answer's tokens."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


FinishReason = Literal["stop", "length"]


class CompletionChoice(Part):
    """One answer."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason


class CompletionReply(Written):
    """POST /v1/completions."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class SpelledToken(Part):
    """A token with its exact bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(SpelledToken):
    """A token of an answer, with what could have stood in its place."""

    top_logprobs: list[SpelledToken]


class ChatLogprobs(Part):
    """Log-probabilities of an answer's tokens."""

    content: list[ChatToken]
    refusal: None


class AssistantMessage(Part):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Part):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatReply(Written):
    """POST /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class RewriteChoice(Part):
    """What was made of one text."""

    index: int
    text: str
    finish_reason: FinishReason


class RewriteReply(Written):
    """POST /v1/translate and /v1/summarize."""

    object: Literal["translation", "summary"]
    choices: list[RewriteChoice]


class EmbeddingData(Part):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    embedding: list[float] | str
    """Numbers, or little-endian float32 in base64."""
    index: int


class EmbeddingReply(Part):
    """POST /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[EmbeddingData]
    model: str
    """The version that read."""
    usage: ReadUsage


class TokenizeReply(Part):
    """POST /tokenize."""

    count: int
    max_model_len: int
    """Tokens of the model's context."""
    tokens: list[int]
    token_strs: list[str] | None
    """The tokens as the vocabulary spells them, where they are asked for."""
    model: str
    """The version whose tokens these are."""


class DetokenizeReply(Part):
    """POST /detokenize."""

    prompt: str
    model: str


class TokenizerInfo(Part):
    """GET /tokenizer_info."""

    model: str
    vocab_size: int
    max_model_len: int
    special_tokens: dict[str, int]
    """Ids of all special tokens."""
    roles: dict[str, int]
    """Ids of the tokens that have a role, such as eos_token."""
    chat_template: str | None


EVENTS = "text/event-stream"


def or_events(model: type[Part]) -> dict[int | str, dict[str, Any]]:
    """A reply that comes whole, or as server-sent events where a stream is asked for."""
    told = {"type": "string", "description": "A chunk of the reply in JSON; [DONE] at the end."}
    events = {"type": "object", "description": "Each event.", "properties": {"data": told}, "required": ["data"]}
    return {200: {"model": model, "content": {EVENTS: {"schema": events}}, "description": "What was written"}}


def whole(model: type[Any], description: str = "The reply") -> dict[int | str, dict[str, Any]]:
    """A reply of one kind."""
    return {200: {"model": model, "description": description}}
