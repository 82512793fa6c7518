"""From a checked request to its response: jobs for the engine, and the engine's events as JSON or as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llm_core.generate import ContextExceeded
from llm_core.serving.chat import ChatError
from llm_core.serving.engine import Answers, Busy, Draining, Engine, Failure, Finish, Job, Piece
from llm_core.serving.errors import ApiError
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.middleware import VERSION_HEADER
from llm_core.serving.replies import ChatReply, Choice, CompletionReply, Reply
from llm_core.serving.schema import ChatRequest, CompletionRequest, Generation
from llm_core.tokenizer import TokenizerError

CLIENT_GONE = 499
"""Nobody reads this status; it is for the access log (nginx's number for it)."""


def completion(model: LoadedModel, body: CompletionRequest) -> tuple[list[Job], Reply]:
    """Jobs and reply of a completion request; raises ApiError for a prompt this model cannot read."""
    prompts = [_prompt_ids(model, prompt) for prompt in body.prompts]
    jobs = [
        Job(model, ids, body.max_tokens, sampling, body.stops, frozenset({model.tokenizer.end_id}), body.logprobs or 0)
        for ids in prompts
        for sampling in body.samplings()
    ]
    num_prompt_tokens = sum(map(len, prompts))
    with_logprobs = body.logprobs is not None
    return jobs, CompletionReply(model, num_prompt_tokens, with_logprobs, body.stream_options.include_usage)


def chat(model: LoadedModel, body: ChatRequest) -> tuple[list[Job], Reply]:
    """Jobs and reply of a chat request; raises ApiError for a conversation the model's template does not take."""
    try:
        ids = model.encode_chat([message.plain() for message in body.messages])
    except (ChatError, TokenizerError) as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "invalid_conversation", "messages") from problem
    limit = body.max_completion_tokens or body.max_tokens
    stop_ids = frozenset(model.tokenizer.special_ids.values())  # any of them ends a turn
    jobs = [Job(model, ids, limit, sampling, body.stops, stop_ids, body.top_logprobs) for sampling in body.samplings()]
    return jobs, ChatReply(model, len(ids), body.logprobs, body.stream_options.include_usage)


async def respond(engine: Engine, jobs: Sequence[Job], reply: Reply, body: Generation, request: Request) -> Response:
    """Have the jobs written and answer in one piece or as a stream; stop writing as soon as the client is gone."""
    answers = _submit(engine, jobs)
    headers = {VERSION_HEADER: jobs[0].model.name}
    if body.stream:
        return _EventStream(answers, reply, len(jobs), headers)
    writing = asyncio.ensure_future(_write(answers, reply, len(jobs)))
    leaving = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return JSONResponse(writing.result(), headers=headers) if writing.done() else Response(status_code=CLIENT_GONE)
    finally:
        leaving.cancel()
        writing.cancel()
        answers.cancel()


class _EventStream(StreamingResponse):
    """Server-sent events; however the connection ends, the engine stops writing."""

    def __init__(self, answers: Answers, reply: Reply, num_jobs: int, headers: dict[str, str]) -> None:
        self._answers = answers
        # Proxies would collect the chunks otherwise.
        headers = {**headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_events(answers, reply, num_jobs), headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


async def _events(answers: Answers, reply: Reply, num_jobs: int) -> AsyncIterator[str]:
    choices = [Choice() for _ in range(num_jobs)]
    for number in range(num_jobs):
        if opening := reply.opening(number):
            yield _event(opening)
    async with aclosing(answers.events()) as events:
        async for number, event in events:
            if isinstance(event, Failure):
                yield _event(_failure(event).body)
                return
            start = len(choices[number].text)
            yield _event(reply.chunk(number, _added(choices[number], event), start))
    if usage := reply.usage_chunk(choices):
        yield _event(usage)
    yield "data: [DONE]\n\n"


async def _write(answers: Answers, reply: Reply, num_jobs: int) -> dict[str, Any]:
    choices = [Choice() for _ in range(num_jobs)]
    async with aclosing(answers.events()) as events:
        async for number, event in events:
            if isinstance(event, Failure):
                raise _failure(event)
            _added(choices[number], event)
    return reply.whole(choices)


def _added(choice: Choice, event: Piece | Finish) -> Choice:
    """Add an event to its choice; give what it added."""
    if isinstance(event, Finish):
        choice.finish_reason, choice.num_tokens = event.reason, event.num_tokens
        return Choice(finish_reason=event.reason)
    choice.text += event.text
    choice.tokens += event.tokens
    return Choice(text=event.text, tokens=list(event.tokens))


def _submit(engine: Engine, jobs: Sequence[Job]) -> Answers:
    try:
        return Answers(engine, jobs)
    except ContextExceeded as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "context_length_exceeded", "prompt") from problem
    except Busy as problem:
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(problem), "overloaded") from problem
    except Draining as problem:
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(problem), "shutting_down") from problem


def _prompt_ids(model: LoadedModel, prompt: str | Sequence[int]) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        unknown = next((i for i in prompt if i >= model.tokenizer.vocab_size), None)
        if unknown is not None:
            message = f"{unknown} is no token id; {model.name} has {model.tokenizer.vocab_size}"
            raise ApiError(HTTPStatus.BAD_REQUEST, message, "invalid_value", "prompt")
        return tuple(prompt)
    try:
        return model.encode_prompt(prompt)
    except TokenizerError as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"prompt: {problem}", "invalid_value", "prompt") from problem


def _failure(failure: Failure) -> ApiError:
    if failure.is_shutdown:
        return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, failure.message, "shutting_down")
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, failure.message, "generation_failed")


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
