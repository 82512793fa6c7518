"""OpenAI's routes: completions, chats and models. They answer under /v1 and without it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from llm_core.serving import answering
from llm_core.serving.reply_schema import ChatReply, CompletionReply, or_events, whole
from llm_core.serving.schema import ChatRequest, CompletionRequest
from llm_core.serving.service import Serving, listed
from llm_core.serving.state_schema import ModelEntry, ModelList

router = APIRouter()


@router.post("/completions", responses=or_events(CompletionReply))
async def create_completion(body: CompletionRequest, request: Request, service: Serving) -> Response:
    """Continue a text."""
    jobs, reply = await run_in_threadpool(answering.completion, service.able(body.model, "completions"), body)
    return await answering.respond(service, jobs, reply, body, request)


@router.post("/chat/completions", responses=or_events(ChatReply))
async def create_chat_completion(body: ChatRequest, request: Request, service: Serving) -> Response:
    """Answer in a conversation."""
    jobs, reply = await run_in_threadpool(answering.chat, service.able(body.model, "chat/completions"), body)
    return await answering.respond(service, jobs, reply, body, request)


@router.get("/models", responses=whole(ModelList))
async def list_models(service: Serving) -> JSONResponse:
    """The lines with a champion under their names, and every version in memory under its own."""
    names = {**{name: name for name in service.host.lines}, **service.host.aliases}
    lines = [(name, service.host.lines[line]) for name, line in names.items()]
    champions = [(name, line.champion) for name, line in lines if line.champion]
    versions = [(model.name, model) for model in service.host.models()]
    data = [listed(name, model) for name, model in (*champions, *versions)]
    return JSONResponse({"object": "list", "data": data})


@router.get("/models/{name}", responses=whole(ModelEntry))
async def retrieve_model(name: str, service: Serving) -> JSONResponse:
    """The served model by its name."""
    return JSONResponse(listed(name, service.named(name)))
