"""OpenAI's routes: completions, chats and models. They answer under /v1 and without it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from llm_core.serving import answering, routing
from llm_core.serving.callers import Calling
from llm_core.serving.reply_schema import ChatReply, CompletionReply, or_events, whole
from llm_core.serving.schema import ChatRequest, CompletionRequest
from llm_core.serving.service import Serving, listed
from llm_core.serving.state_schema import ModelEntry, ModelList

router = APIRouter()


@router.post("/completions", responses=or_events(CompletionReply))
async def create_completion(body: CompletionRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Continue a text."""
    champion = service.able(body.model, "completions", caller)
    return await routing.answer(service, champion, answering.completion, caller.within_limits(body), request)


@router.post("/chat/completions", responses=or_events(ChatReply))
async def create_chat_completion(body: ChatRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Answer in a conversation."""
    champion = service.able(body.model, "chat/completions", caller)
    return await routing.answer(service, champion, answering.chat, caller.within_limits(body), request)


@router.get("/models", responses=whole(ModelList))
async def list_models(service: Serving, caller: Calling) -> JSONResponse:
    """The lines with a champion under their names, and every version in memory under its own."""
    names = {**{name: name for name in service.host.lines}, **service.host.aliases}
    lines = [(name, service.host.lines[line]) for name, line in names.items()]
    champions = [(name, line.champion) for name, line in lines if line.champion]
    versions = [(model.name, model) for model in service.host.answering()]
    allowed = [(name, model) for name, model in (*champions, *versions) if caller.may_ask(model.version.line)]
    return JSONResponse({"object": "list", "data": [listed(name, model) for name, model in allowed]})


@router.get("/models/{name}", responses=whole(ModelEntry))
async def retrieve_model(name: str, service: Serving, caller: Calling) -> JSONResponse:
    """The served model by its name."""
    return JSONResponse(listed(name, service.named(name, caller)))
