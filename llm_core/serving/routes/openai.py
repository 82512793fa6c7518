"""OpenAI's routes: completions, chats and models. They answer under /v1 and without it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from llm_core.serving import answering
from llm_core.serving.callers import Calling
from llm_core.serving.schema import ChatRequest, CompletionRequest
from llm_core.serving.service import Serving, listed

router = APIRouter()


@router.post("/completions")
async def create_completion(body: CompletionRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Continue a text."""
    model = service.named(body.model)
    caller.require_line(model.version.line)
    body = caller.within_limits(body)
    jobs, reply = await run_in_threadpool(answering.completion, model, body)
    return await answering.respond(service, jobs, reply, body, request)


@router.post("/chat/completions")
async def create_chat_completion(body: ChatRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Answer in a conversation."""
    model = service.named(body.model)
    caller.require_line(model.version.line)
    body = caller.within_limits(body)
    jobs, reply = await run_in_threadpool(answering.chat, model, body)
    return await answering.respond(service, jobs, reply, body, request)


@router.get("/models")
async def list_models(service: Serving, caller: Calling) -> dict[str, Any]:
    """The lines with a champion under their names, and every version in memory under its own."""
    names = {**{name: name for name in service.host.lines}, **service.host.aliases}
    lines = [(name, service.host.lines[line]) for name, line in names.items()]
    champions = [(name, line.champion) for name, line in lines if line.champion]
    versions = [(model.name, model) for model in service.host.models()]
    allowed = [(name, model) for name, model in (*champions, *versions) if caller.may_ask(model.version.line)]
    return {"object": "list", "data": [listed(name, model) for name, model in allowed]}


@router.get("/models/{name}")
async def retrieve_model(name: str, service: Serving, caller: Calling) -> dict[str, Any]:
    """The served model by its name."""
    model = service.named(name)
    caller.require_line(model.version.line)
    return listed(name, model)
