"""Which version answers a request: the champion, or a challenger on trial where the asker is of its share."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from llm_core.serving.answering import respond
from llm_core.serving.canary import Trial
from llm_core.serving.errors import ApiError
from llm_core.serving.evidence import Side
from llm_core.serving.jobs import Answer, Job
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.replies import Reply
from llm_core.serving.schema import ChatRequest, CompletionRequest
from llm_core.serving.service import Service

Asked = TypeVar("Asked", CompletionRequest, ChatRequest)
Build = Callable[[LoadedModel, Asked], tuple[list[Job], Reply]]
"""Makes a request's jobs and reply for a version."""


async def answer(
    service: Service, champion: LoadedModel, build: Build[Asked], body: Asked, request: Request
) -> Response:
    """The response to a request; raises ApiError for one that the champion cannot take either."""
    trial = service.trial(body.model)
    write = partial(_write, service, build, body, request)
    if trial is None or _is_bound(body):
        return await write(champion)
    asker = asker_of(body, request)
    if trial.canary.shadow:
        response = await write(champion)
        if trial.side(asker) == "challenger":
            service.judge.copy(trial, champion, asker, lambda model: build(model, body)[0])
    else:
        response = await _tried(trial, asker, champion, write)
    service.judge.read(trial, champion, asker, text_of(body))
    return response


def asker_of(body: CompletionRequest | ChatRequest, request: Request) -> str:
    """Who asks: the request's user or conversation, else its API key, else somebody new."""
    key_id = getattr(getattr(request.state, "caller", None), "key_id", None)
    return body.user or body.safety_identifier or body.prompt_cache_key or key_id or secrets.token_hex(16)


def text_of(body: CompletionRequest | ChatRequest) -> str:
    """What a user wrote."""
    if isinstance(body, CompletionRequest):
        return next((prompt for prompt in body.prompts if isinstance(prompt, str)), "")
    return "\n".join(message.plain()["content"] for message in body.messages)


def _is_bound(body: CompletionRequest | ChatRequest) -> bool:
    """Whether a request goes by the champion's own vocabulary: another version's token ids may mean something else."""
    has_ids = isinstance(body, CompletionRequest) and not all(isinstance(prompt, str) for prompt in body.prompts)
    return has_ids or bool(body.logit_bias)


class Watch(NamedTuple):
    """Whose answers are compared, and for whom they are."""

    trial: Trial
    side: Side
    asker: str

    def ended(self, answer: Answer, reason: str) -> None:
        """Note an answer's end."""
        self.trial.record(self.side, self.asker, answer, reason)


Write = Callable[..., Awaitable[Response]]
"""Has a request answered by a model, watched where a second argument is given; raises ApiError."""


async def _tried(trial: Trial, asker: str, champion: LoadedModel, write: Write) -> Response:
    """By the challenger if the asker is of its share; what it cannot answer, the champion does."""
    side, challenger = trial.side(asker), trial.model
    watch = Watch(trial, side, asker) if side is not None else None
    if challenger is None or not trial.takes(asker):
        return await write(champion, watch if side == "champion" else None)
    try:
        return await write(challenger, watch)
    except ApiError as problem:
        if problem.status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
            raise  # the server ends, or the client has waited long enough
        response = await write(champion)
        if problem.status < HTTPStatus.INTERNAL_SERVER_ERROR:  # those that began have ended, and were noted then
            trial.fail("challenger", asker)
        return response


async def _write(
    service: Service,
    build: Build[Asked],
    body: Asked,
    request: Request,
    model: LoadedModel,
    watch: Watch | None = None,
) -> Response:
    jobs, reply = await run_in_threadpool(build, model, body)
    if watch is None:
        return await respond(service, jobs, reply, body, request)
    watch.trial.wrote(reply.id, watch.side, watch.asker)
    return await respond(service, jobs, reply, body, request, watch.ended)
