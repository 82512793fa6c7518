"""Who makes a request, what they may ask, and what it is charged to."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from llm_core.serving.errors import ApiError
from llm_core.serving.keys import ApiKey, Limits
from llm_core.serving.limits import Limiter
from llm_core.serving.schema import ChatRequest, CompletionRequest

Asked = TypeVar("Asked", CompletionRequest, ChatRequest)


class Caller:
    """Who makes a request: a key, or anyone where the server runs without keys."""

    def __init__(self, key: ApiKey | None = None, limiter: Limiter | None = None) -> None:
        self._key, self._limiter = key, limiter
        self.prompt_tokens = self.completion_tokens = 0
        """What was charged so far."""

    @property
    def key_id(self) -> str | None:
        """The public part of the key, for logs and records."""
        return self._key.id if self._key else None

    @property
    def limits(self) -> Limits:
        """What the key may use."""
        return self._key.limits if self._key else Limits()

    @property
    def is_admin(self) -> bool:
        """Whether they may ask what concerns all callers."""
        return self._key is None or self._key.admin

    def charge(self, prompt_tokens: int, completion_tokens: int = 0) -> None:
        """Count tokens against the key's rate and quota. Any thread may call it, also after the response."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if self._key is not None and self._limiter is not None:
            self._limiter.charge(self._key, prompt_tokens + completion_tokens)

    def may_ask(self, line: str) -> bool:
        """Whether the models of this line are there for the key."""
        return self.limits.models is None or line in self.limits.models

    def require_line(self, line: str) -> None:
        """Raise ApiError (403) unless the key may ask the models of this line."""
        if not self.may_ask(line):
            allowed = ", ".join(self.limits.models or ()) or "none"
            message = f"this API key may not ask {line}; it may ask {allowed}"
            raise ApiError(HTTPStatus.FORBIDDEN, message, "model_not_allowed", "model")

    def within_limits(self, body: Asked) -> Asked:
        """The request with the key's longest answer where it names none; raises ApiError (400) where it is over."""
        max_tokens, max_n = self.limits.max_tokens, self.limits.max_n
        if max_n is not None and body.num_candidates > max_n:
            param = "n" if body.n > max_n else "best_of"
            raise _over(param, f"this API key gets at most {max_n} answers to a prompt")
        names = ("max_completion_tokens", "max_tokens") if isinstance(body, ChatRequest) else ("max_tokens",)
        if max_tokens is None:
            return body
        for name in names:
            if name in body.model_fields_set and getattr(body, name) > max_tokens:
                raise _over(name, f"answers to this API key have at most {max_tokens} tokens")
        if body.model_fields_set.isdisjoint(names):
            own = getattr(body, names[0])
            return body.model_copy(update={names[0]: max_tokens if own is None else min(own, max_tokens)})
        return body


def caller_of(request: Request) -> Caller:
    """Who makes this request, as the access check found out."""
    caller: Caller = request.state.caller
    return caller


Calling = Annotated[Caller, Depends(caller_of)]


def require_admin(caller: Calling) -> None:
    """A route's dependency: raises ApiError (403) unless the key is an admin's."""
    if not caller.is_admin:
        message = "this route tells what concerns all callers; it needs an API key made with --admin"
        raise ApiError(HTTPStatus.FORBIDDEN, message, "admin_only")


def _over(param: str, message: str) -> ApiError:
    return ApiError(HTTPStatus.BAD_REQUEST, f"{param}: {message}", "invalid_value", param)
