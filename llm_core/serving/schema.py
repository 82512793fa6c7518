"""The requests of the HTTP API: OpenAI's names and meanings, typed, with everything unknown or unsupported refused."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from llm_core.generate import Sampling

MAX_ANSWERS = 32
"""Answers of one request: prompts times n."""
DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default for completions."""

# OpenAI's parameters that are not implemented, with the values that ask for nothing and are therefore fine.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "web_search_options": (),
}


class Body(BaseModel):
    """Part of a request; a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_empty(cls, values: Any) -> Any:
        """Null means "not given", as in OpenAI's API."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}


class StreamOptions(Body):
    """What a stream tells besides text."""

    include_usage: bool = False
    """Send one more chunk with the token counts before the end."""


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
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
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
    """Who asks, for the caller's own books; changes nothing."""

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

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise PydanticCustomError(
                "invalid_value", "{param} is for streams; set stream to true", {"param": "stream_options"}
            )
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def samplings(self) -> list[Sampling]:
        """How each of the n answers is drawn: from seeds that follow each other."""
        first = secrets.randbits(62) if self.seed is None else self.seed
        # torch takes 64 bits; the sum may leave OpenAI's signed range.
        seeds = [(first + number) % 2**64 for number in range(self.n)]
        return [Sampling(self.temperature, self.top_p, self.top_k, seed) for seed in seeds]


TokenIds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: str | TokenIds | Annotated[list[str], Field(min_length=1)] | Annotated[list[TokenIds], Field(min_length=1)]
    """A text or its token ids, or several of either; each gets its own answers."""
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, ge=1)
    """Longest answer in tokens; the end of the model's context ends it too."""
    logprobs: int | None = Field(default=None, ge=0, le=5)
    """Tell each token's log-probability, with this many alternatives."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or several."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast("list[str | list[int]]", self.prompt)

    @model_validator(mode="after")
    def _not_too_many_answers(self) -> Self:
        if len(self.prompts) * self.n > MAX_ANSWERS:
            raise PydanticCustomError(
                "invalid_value",
                "{param}: one request gets at most {limit} answers (prompts times n)",
                {"param": "prompt", "limit": MAX_ANSWERS},
            )
        return self


class TextPart(Body):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; developer is OpenAI's newer word for system."""
    content: str | list[TextPart]
    """What is said."""

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """The conversation so far."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens; without it the end of the model's context ends the answer."""
    max_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's older name of max_completion_tokens."""
    logprobs: bool = False
    """Tell each token's log-probability."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    """With this many alternatives; only with logprobs."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise PydanticCustomError(
                "invalid_value", "{param} and max_completion_tokens are one setting; give one", {"param": "max_tokens"}
            )
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("invalid_value", "{param} needs logprobs to be true", {"param": "top_logprobs"})
        return self
