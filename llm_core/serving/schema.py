"""The requests of the HTTP API: OpenAI's names and meanings, typed, with everything unknown or unsupported refused."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from llm_core.generate import Sampling
from llm_core.serving.body import Body
from llm_core.serving.constraint import ANY_OBJECT

MAX_IDS = 131_072
MAX_ANSWERS = 32
"""Answers of one request: prompts times n."""
MAX_INPUTS = 2048
"""Texts of one embedding request, as at OpenAI."""
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for completions."""

# OpenAI's parameters that are not implemented, with the values that ask for nothing and are therefore fine.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "moderation": (),
    "function_call": ("none",),
    "functions": ([],),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "web_search_options": (),
}


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool = False
    """Send one more chunk with the token counts before the end."""
    include_obfuscation: bool = False
    """Padding against observers of lengths; taken and not needed, since TLS ends before this server."""


class JsonSchema(Body):
    """A schema that an answer follows."""

    name: str = ""
    description: str = ""
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema, as far as llguidance reads it."""
    strict: bool = True
    """Always so here: what does not follow the schema is never written."""


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
StopText = Annotated[str, Field(min_length=1, max_length=256)]


class Generation(Body):
    """What completions and chats have in common."""

    model: str
    """NAME or NAME@VERSION of the model, as /v1/models lists it."""
    temperature: float = Field(default=1.0, ge=0, le=2)
    """Randomness of the choice; 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Choose among the likeliest tokens that together have this probability."""
    top_k: int = Field(default=0, ge=0)
    """Choose among this many of the likeliest tokens; 0 for all (not in OpenAI's API)."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Choose among tokens at least this share as likely as the likeliest (not in OpenAI's API)."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Makes tokens that the answer holds already less likely, once."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Makes tokens less likely as often as the answer holds them already."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    """Makes tokens of the prompt and the answer less likely; 1 changes nothing (not in OpenAI's API)."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={}, max_length=1024, json_schema_extra={"propertyNames": {"pattern": "^[0-9]+$"}}
    )
    """Added to the scores of these token ids; 100 all but forces a token, -100 bans it."""
    min_tokens: int = Field(default=0, ge=0)
    """The answer does not end before this many tokens (not in OpenAI's API)."""
    ignore_eos: bool = False
    """Write on behind the end of the text, until the answer's length (not in OpenAI's API)."""
    include_stop_str_in_output: bool = False
    """Keep the stop text that ended the answer (not in OpenAI's API)."""
    response_format: ResponseFormat = TextFormat(type="text")
    """The form of the answer: text, a JSON object, or JSON of a schema. Only tokens that fit are drawn; an answer that
    reaches its length before its end is no whole JSON."""
    seed: int | None = None
    """Equal seeds and requests to one model version give equal answers."""
    n: int = Field(default=1, ge=1, le=MAX_ANSWERS)
    """Answers to each prompt."""
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] = Field(default=[])
    """Texts before which an answer ends."""
    stream: bool = False
    """Send the answer as server-sent events while it is written."""
    stream_options: StreamOptions = StreamOptions()
    """What a stream tells besides text; only with stream."""
    user: str | None = None
    """Who asks, for the caller's own books; with it a canary's share is drawn once for each asker."""
    metadata: dict[str, str] = Field(default={}, max_length=16)
    """The caller's own notes; changes nothing."""
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_unsupported(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key, neutral in UNSUPPORTED.items():
            if key in values and key not in cls.model_fields and values[key] is not None and values[key] not in neutral:
                raise PydanticCustomError(
                    "unsupported_parameter", "this server does not support {param}; leave it out", {"param": key}
                )
        return {key: value for key, value in values.items() if key in cls.model_fields or key not in UNSUPPORTED}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema with the parameters of OpenAI's that only may ask for nothing."""
        schema = super().__get_pydantic_json_schema__(core, handler)
        described = handler.resolve_ref_schema(schema)
        for key, neutral in UNSUPPORTED.items():
            told = {"enum": [*neutral, None], "description": "Not supported; taken where it asks for nothing."}
            described["properties"].setdefault(key, told)
        return schema

    @field_validator("logit_bias")
    @classmethod
    def _only_ids(cls, biases: dict[str, float]) -> dict[str, float]:
        for token_id, bias in biases.items():
            if bias and not token_id.isdecimal():
                raise PydanticCustomError(
                    "invalid_value", "{param}: {token} is no token id", {"param": "logit_bias", "token": repr(token_id)}
                )
        return {token_id: bias for token_id, bias in biases.items() if bias}

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @model_validator(mode="after")
    def _a_form_has_an_end(self) -> Self:
        if self.ignore_eos and self.json_form is not None:
            raise PydanticCustomError(
                "invalid_value", "{param} has an end; leave out ignore_eos", {"param": "response_format"}
            )
        return self

    @property
    def json_form(self) -> Mapping[str, Any] | None:
        """The schema of the answer; None for text."""
        match self.response_format:
            case JsonObjectFormat():
                return ANY_OBJECT
            case JsonSchemaFormat(json_schema=given):
                return given.schema_
        return None

    @property
    def num_candidates(self) -> int:
        """Answers that are written for each prompt, of which n are given."""
        return self.n

    def samplings(self) -> list[Sampling]:
        """How each of a prompt's answers is drawn: from seeds that follow each other."""
        first = secrets.randbits(62) if self.seed is None else self.seed
        common = Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            min_tokens=self.min_tokens,
            logit_bias={int(token_id): bias for token_id, bias in self.logit_bias.items()},
        )
        # torch takes 64 bits; OpenAI's own range is signed.
        return [replace(common, seed=(first + number) % 2**64) for number in range(self.num_candidates)]


NotEmpty = Annotated[str, Field(min_length=1)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_IDS, fail_fast=True)]
"""Without fail_fast each wrong id becomes an error of its own: a megabyte of them took minutes."""


def _listed(given: Any) -> list[str | list[int]]:
    """One text or its ids, or several of either, as a list."""
    is_one = isinstance(given, str) or isinstance(given[0], int)
    return [given] if is_one else list(given)


class CompletionRequest(Generation):
    """POST /v1/completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"max_tokens": {"const": 0}}, "required": ["max_tokens"]},
            "then": {"properties": {"echo": {"const": True}}, "required": ["echo"]},
        }
    )

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_ANSWERS, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_ANSWERS, fail_fast=True)]
    )
    """A text or its token ids, or several of either; each gets its own answers."""
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=0)
    """Longest answer in tokens; the end of the model's context ends it too. 0 with echo only reads the prompt."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Tell each token's log-probability, with this many alternatives (at OpenAI at most 5)."""
    echo: bool = False
    """Give the prompt back in front of the answer, with its log-probabilities where they are asked for."""
    best_of: int = Field(default=0, ge=0, le=MAX_ANSWERS)
    """Write so many answers and give the n likeliest per token; 0 for n."""
    suffix: str | None = None
    """Text that comes behind the answer: of best_of answers, those that it follows best are given."""

    @property
    def num_candidates(self) -> int:
        return max(self.n, self.best_of)

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or several."""
        return _listed(self.prompt)

    @model_validator(mode="after")
    def _not_too_many_answers(self) -> Self:
        if len(self.prompts) * self.num_candidates > MAX_ANSWERS:
            raise PydanticCustomError(
                "invalid_value",
                "{param}: one request gets at most {limit} answers (prompts times n or best_of)",
                {"param": "prompt", "limit": MAX_ANSWERS},
            )
        return self

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if 0 < self.best_of < self.n:
            raise PydanticCustomError(
                "invalid_value", "{param} must be at least n, {n}", {"param": "best_of", "n": self.n}
            )
        if self.stream and self.best_of > self.n:
            raise PydanticCustomError(
                "invalid_value",
                "{param} above n cannot be streamed, the best is known at the end",
                {"param": "best_of"},
            )
        if not self.max_tokens and not self.echo:
            raise PydanticCustomError("invalid_value", "{param} 0 needs echo", {"param": "max_tokens"})
        return self


class TextPart(Body):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    name: str | None = None
    """Who of several speakers of a role; templates may use it."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; developer is OpenAI's newer word for system."""
    content: str | list[TextPart]
    """What is said."""

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        named = {"name": self.name} if self.name is not None else {}
        return {"role": "system" if self.role == "developer" else self.role, "content": text, **named}


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "if": {"properties": {"top_logprobs": {"minimum": 1, "type": "integer"}}, "required": ["top_logprobs"]},
            "then": {"properties": {"logprobs": {"const": True}}, "required": ["logprobs"]},
        }
    )

    messages: list[Message] = Field(min_length=1)
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens; without it the end of the model's context ends the answer."""
    max_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's older name of max_completion_tokens."""
    logprobs: bool = False
    """Tell each token's log-probability."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default={}, max_length=16)
    """Further values for the model's chat template (not in OpenAI's API)."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    """With this many alternatives; only with logprobs."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        limits = (self.max_tokens, self.max_completion_tokens)
        if None not in limits and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError(
                "invalid_value", "{param} and max_completion_tokens are one setting; give one", {"param": "max_tokens"}
            )
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("invalid_value", "{param} needs logprobs to be true", {"param": "top_logprobs"})
        return self


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    model: str
    """NAME or NAME@VERSION of the model, as /v1/models lists it."""
    input: (
        NotEmpty
        | TokenIds
        | Annotated[list[NotEmpty], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
    )
    """A text or its token ids, or several of either; each gets a vector."""
    encoding_format: Literal["float", "base64"] = "float"
    """How vectors are written; base64 holds little-endian float32."""
    dimensions: int | None = Field(default=None, ge=1)
    """Keep so many of the first numbers, at unit length again."""
    user: str | None = None
    """Who asks, for the caller's own books."""

    @property
    def inputs(self) -> list[str | list[int]]:
        """The texts, one or several."""
        return _listed(self.input)


class TokenizeRequest(Body):
    """POST /tokenize: a text, or a conversation in the model's template."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"properties": {name: {"type": kind}}, "required": [name]}
                for name, kind in (("prompt", "string"), ("messages", "array"))
            ]
        }
    )

    model: str
    prompt: str | None = None
    messages: list[Message] | None = Field(default=None, min_length=1)
    add_special_tokens: bool = True
    """Begin with the token that starts a document, as completions do."""
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("invalid_value", "give either {param} or messages", {"param": "prompt"})
        return self


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str
    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_IDS)]
