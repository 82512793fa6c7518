"""The routes of models that do something else than continue a text: label it, find answers in it, rewrite it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from llm_core.serving import explaining, reading
from llm_core.serving.answering import CLIENT_GONE, respond, unless_gone
from llm_core.serving.callers import Caller, Calling
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.middleware import VERSION_HEADER
from llm_core.serving.reply_schema import RewriteReply, or_events, whole
from llm_core.serving.rewriting import rewriting, searched
from llm_core.serving.service import Service, Serving
from llm_core.serving.task_schema import (
    AnswerReply,
    AnswerRequest,
    ClassifyReply,
    ClassifyRequest,
    ExplainReply,
    ExplainRequest,
    RewriteRequest,
)
from llm_core.serving.workers import Work

router = APIRouter()


@router.post("/classify", responses=whole(ClassifyReply))
async def classify(body: ClassifyRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Label texts, or find entities in them."""
    model = service.able(body.model, "classify", caller)
    return await reply_of(service, model, reading.classify(model, body), request)


@router.post("/answer", responses=whole(AnswerReply))
async def answer(body: AnswerRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Find the part of a text that answers a question."""
    model = service.able(body.model, "answer", caller)
    return await reply_of(service, model, reading.answer(model, body), request)


@router.post("/translate", responses=or_events(RewriteReply))
async def translate(body: RewriteRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Write texts in another language."""
    return await _rewrite(service, service.able(body.model, "translate", caller), body, "translation", request)


@router.post("/summarize", responses=or_events(RewriteReply))
async def summarize(body: RewriteRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Write shorter texts."""
    return await _rewrite(service, service.able(body.model, "summarize", caller), body, "summary", request)


@router.post("/explain", responses=whole(ExplainReply))
async def explain(body: ExplainRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Tell which tokens spoke for what the model says."""
    model = service.able(body.model, "explain", caller)
    return await reply_of(service, model, explaining.explain(model, body, service.indexes), request)


async def reply_of(service: Service, model: LoadedModel, work: Work[BaseModel], request: Request) -> Response:
    """The reply that the work gives, unless the client is gone before."""
    content = await unless_gone(request, service.work(_as_json(work, request.state.caller)))
    if content is None:
        return Response(status_code=CLIENT_GONE)
    return Response(content, media_type="application/json", headers={VERSION_HEADER: model.name})


def _as_json(work: Work[BaseModel], caller: Caller) -> Work[str]:
    """In the worker's thread too: many vectors take a while to write."""
    reply: Any = yield from work
    if usage := getattr(reply, "usage", None):
        caller.charge(usage.prompt_tokens)
    return str(reply.model_dump_json())


async def _rewrite(service: Service, model: LoadedModel, body: RewriteRequest, name: str, request: Request) -> Response:
    jobs, reply = await run_in_threadpool(rewriting, model, body, name)
    if body.beams is None:
        return await respond(service, jobs, reply, body, request)
    content: dict[str, Any] | None = await unless_gone(request, service.work(searched(jobs, body, reply)))
    if content is None:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(content, headers={VERSION_HEADER: model.name})
