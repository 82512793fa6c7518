"""From a checked request to its response: jobs for the engine, and the engine's events as JSON or as a stream."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from llm_core.generate import ContextExceeded, Sampling, Token
from llm_core.serving.answers import Answers, Ended
from llm_core.serving.callers import Caller
from llm_core.serving.chat import ChatError
from llm_core.serving.constraint import Constraint, ConstraintError
from llm_core.serving.errors import ApiError
from llm_core.serving.jobs import Answer, Failure, Finish, Job, Piece, Read
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.middleware import VERSION_HEADER
from llm_core.serving.replies import ChatReply, Choice, CompletionReply, Echo, Frame, Reply
from llm_core.serving.samples import Samples, consents
from llm_core.serving.schema import ChatRequest, CompletionRequest, Generation, Message
from llm_core.serving.service import Service
from llm_core.serving.task_schema import RewriteRequest
from llm_core.serving.traces import Trace
from llm_core.tokenizer import TokenizerError

T = TypeVar("T")

CLIENT_GONE = 499
"""Nobody reads this status; it is for the access log (nginx's number for it)."""


def completion(model: LoadedModel, body: CompletionRequest) -> tuple[list[Job], Reply]:
    """Jobs and reply of a completion request; raises ApiError for a prompt this model cannot read."""
    _check_biases(model, body)
    prompts = [prompt_ids(model, prompt) for prompt in body.prompts]
    job = partial(
        Job,
        model,
        max_tokens=body.max_tokens,
        stop=body.stops,
        stop_ids=_stop_ids(body, {model.tokenizer.end_id}),
        num_top=body.logprobs or 0,
        tells_logprobs=body.logprobs is not None or body.num_candidates > body.n,  # the best are chosen by them
        tells_prompt=body.echo and body.logprobs is not None,
        keeps_stop=body.include_stop_str_in_output,
        constraint=_constraint(model, body),
    )
    jobs = [job(ids, sampling=drawn) for ids in prompts for drawn in body.samplings()]
    echoes = [_echo(model, prompt, ids) for prompt, ids in zip(body.prompts, prompts, strict=True)] if body.echo else []
    frame = Frame(model, sum(map(len, prompts)), body.logprobs is not None, body.stream_options.include_usage)
    return jobs, CompletionReply(frame, body.n, body.num_candidates, echoes)


def chat(model: LoadedModel, body: ChatRequest) -> tuple[list[Job], Reply]:
    """Jobs and reply of a chat request; raises ApiError for a conversation the model's template does not take."""
    _check_biases(model, body)
    ids = conversation_ids(model, body.messages, body.chat_template_kwargs)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    job = partial(
        Job,
        model,
        max_tokens=limit,
        stop=body.stops,
        stop_ids=_stop_ids(body, set(model.tokenizer.special_ids.values())),  # any of them ends a turn
        num_top=body.top_logprobs,
        tells_logprobs=body.logprobs,
        keeps_stop=body.include_stop_str_in_output,
        constraint=_constraint(model, body),
    )
    jobs = [job(ids, sampling=drawn) for drawn in body.samplings()]
    return jobs, ChatReply(Frame(model, len(ids), body.logprobs, body.stream_options.include_usage))


def conversation_ids(
    model: LoadedModel, messages: Sequence[Message], values: Mapping[str, Any] = MappingProxyType({})
) -> tuple[int, ...]:
    """Ids of a conversation up to the assistant's turn; raises ApiError where the model's template refuses it."""
    try:
        return model.encode_chat([message.plain() for message in messages], values)
    except ContextExceeded as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "context_length_exceeded", "messages") from problem
    except (ChatError, TokenizerError) as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "invalid_conversation", "messages") from problem


def _constraint(model: LoadedModel, body: Generation) -> Constraint | None:
    """The form of the answers; raises ApiError for one that this model cannot be held to."""
    if body.json_form is None:
        return None
    if not model.runner.can_constrain:
        message = f"{model.name} cannot be held to a form, as the kernel does not run it; leave response_format out"
        raise ApiError(HTTPStatus.BAD_REQUEST, message, "unsupported_parameter", "response_format")
    network: Any = model.network
    try:
        return Constraint(body.json_form, model.tokenizer, network.config.vocab_size)
    except ConstraintError as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "invalid_value", "response_format") from problem


def _check_biases(model: LoadedModel, body: Generation) -> None:
    for token_id in body.logit_bias:
        _check_id(model, int(token_id), "logit_bias")


def _check_id(model: LoadedModel, token_id: int, param: str) -> None:
    if token_id >= model.tokenizer.vocab_size:
        message = f"{token_id} is no token id; {model.name} has {model.tokenizer.vocab_size}"
        raise ApiError(HTTPStatus.BAD_REQUEST, message, "invalid_value", param)


def _stop_ids(body: Generation, usual: set[int]) -> frozenset[int]:
    return frozenset() if body.ignore_eos else frozenset(usual)


def _echo(model: LoadedModel, prompt: str | Sequence[int], ids: Sequence[int]) -> Echo:
    """What comes before the answer: a text as it was given; the end-of-text id in front of it stays hidden."""
    if isinstance(prompt, str):
        return Echo(prompt)
    return Echo(model.tokenizer.decode(prompt), Token(ids[0], math.nan))


async def respond(
    service: Service,
    jobs: Sequence[Job],
    reply: Reply,
    body: Generation | RewriteRequest,
    request: Request,
    watch: Ended | None = None,
) -> Response:
    """Have the jobs written and answer in one piece or as a stream; stop writing as soon as the client is gone.

    `watch` hears of each answer's end too.
    """
    answers = _submit(service, jobs, reply, request, watch)
    headers = {VERSION_HEADER: jobs[0].model.name}
    written = partial(_keep, request, body, reply)
    if body.stream:
        return _EventStream(answers, _events(answers, reply, len(jobs), written), headers)
    try:
        work = _write(answers, reply, len(jobs))
        if isinstance(body, CompletionRequest) and body.suffix and body.num_candidates > body.n:
            work = _ranked(work, service, reply.frame.model, jobs, body.suffix)
        choices = await unless_gone(request, work)
        if choices is None:
            return Response(status_code=CLIENT_GONE)
        written(choices)
        return JSONResponse(reply.whole(choices), headers=headers)
    finally:
        answers.cancel()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The work's result; None, with the work cancelled, once the client is gone."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


class _EventStream(StreamingResponse):
    """Server-sent events; however the connection ends, the engine stops writing."""

    def __init__(self, answers: Answers, events: AsyncIterator[str], headers: dict[str, str]) -> None:
        self._answers = answers
        # Proxies would collect the chunks otherwise.
        headers = {**headers, "cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answers.cancel()


async def _events(
    answers: Answers, reply: Reply, num_jobs: int, written: Callable[[Sequence[Choice]], None]
) -> AsyncIterator[str]:
    choices = [Choice() for _ in range(num_jobs)]
    for number in range(num_jobs):
        if opening := reply.opening(number):
            yield _event(opening)
            choices[number].text += reply.opening_text(number)
    async with aclosing(answers.events()) as events:
        async for number, event in events:
            if isinstance(event, Failure):
                yield _event(_failure(event).body)
                return
            start = len(choices[number].text)
            yield _event(reply.chunk(number, _added(choices[number], event, reply, number), start))
    written(choices)
    if usage := reply.usage_chunk(choices):
        yield _event(usage)
    yield "data: [DONE]\n\n"


async def _write(answers: Answers, reply: Reply, num_jobs: int) -> list[Choice]:
    choices = [Choice(text=reply.opening_text(number)) for number in range(num_jobs)]
    async with aclosing(answers.events()) as events:
        async for number, event in events:
            if isinstance(event, Failure):
                raise _failure(event)
            _added(choices[number], event, reply, number)
    return choices


async def _ranked(
    work: Coroutine[Any, Any, list[Choice]], service: Service, model: LoadedModel, jobs: Sequence[Job], suffix: str
) -> list[Choice]:
    """The written choices, with how likely each makes the text that is to follow."""
    choices = await work
    ids = tuple(model.tokenizer.encode(suffix))
    written = [tuple(token.id for token in choice.tokens) for choice in choices]
    texts = [(*job.ids, *answer, *ids) for job, answer in zip(jobs, written, strict=True)]
    # One that leaves no room for what follows is followed by nothing.
    fitting = [place for place, text in enumerate(texts) if len(text) <= model.context]
    read = partial(Job, model, max_tokens=0, sampling=Sampling(temperature=0.0), tells_prompt=True)
    for choice in choices:
        choice.rank = -math.inf
    async with aclosing(Answers(service.engine, [read(texts[place]) for place in fitting]).events()) as events:
        async for number, event in events:
            if isinstance(event, Failure):
                raise _failure(event)
            if isinstance(event, Read):
                choices[fitting[number]].rank = sum(token.logprob for token in event.tokens[-len(ids) :])
    return choices


def _keep(request: Request, body: Generation | RewriteRequest, reply: Reply, choices: Sequence[Choice]) -> None:
    """Offer the first answer to the samples, which take it only with consent."""
    samples: Samples | None = request.app.state.samples
    if samples is None or not isinstance(body, CompletionRequest | ChatRequest):
        return
    messages = [message.plain() for message in body.messages] if isinstance(body, ChatRequest) else []
    first = body.prompts[0] if isinstance(body, CompletionRequest) else messages[-1]["content"]
    model = reply.frame.model
    prompt = first if isinstance(first, str) else model.tokenizer.decode(first)
    answer = choices[0].text.removeprefix(reply.opening_text(0))
    consent = consents(request.headers, body.metadata)
    samples.take(prompt, answer, model.name, reply.id, consent, messages)


def _added(choice: Choice, event: Read | Piece | Finish, reply: Reply, number: int) -> Choice:
    """Add an event to its choice; give what it added."""
    if isinstance(event, Finish):
        choice.finish_reason, choice.num_tokens, choice.num_cached = event.reason, event.num_tokens, event.num_cached
        return Choice(finish_reason=event.reason)
    if isinstance(event, Read):
        tokens = [*reply.first_tokens(number), *event.tokens]
        choice.prompt_tokens = tokens
        return Choice(prompt_tokens=tokens)
    choice.text += event.text
    choice.tokens += event.tokens
    return Choice(text=event.text, tokens=list(event.tokens))


def _submit(
    service: Service, jobs: Sequence[Job], reply: Reply, request: Request, watch: Ended | None = None
) -> Answers:
    model = jobs[0].model
    caller: Caller = request.state.caller
    trace: Trace | None = getattr(request.state, "trace", None)
    if trouble := model.runner.trouble:
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, f"{model.name}: {trouble}", "model_not_ready")

    def ended(answer: Answer, reason: str) -> None:
        service.metrics.answered(answer, reason)
        caller.charge(0, answer.num_tokens)
        if trace is not None:
            trace.answered(answer, reason, request.url.path)
        if watch is not None:
            watch(answer, reason)

    try:
        answers = Answers(service.engine, jobs, ended, service.most_seconds)
        caller.charge(reply.frame.num_prompt_tokens)
        return answers
    except ContextExceeded as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "context_length_exceeded", "prompt") from problem


def prompt_ids(model: LoadedModel, prompt: str | Sequence[int], param: str = "prompt") -> tuple[int, ...]:
    """Ids of a prompt given as text or as ids; raises ApiError for what this model cannot read."""
    if not isinstance(prompt, str):
        _check_id(model, max(prompt), param)
        return tuple(prompt)
    try:
        return model.encode_prompt(prompt)
    except ContextExceeded as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, str(problem), "context_length_exceeded", param) from problem
    except TokenizerError as problem:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"{param}: {problem}", "invalid_value", param) from problem


def _failure(failure: Failure) -> ApiError:
    if failure.kind == "shutdown":
        return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, failure.message, "shutting_down")
    if failure.kind == "timeout":
        return ApiError(HTTPStatus.GATEWAY_TIMEOUT, failure.message, "timeout")
    if failure.kind == "restart":
        return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, failure.message, "model_not_ready")
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, failure.message, "generation_failed")


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"
