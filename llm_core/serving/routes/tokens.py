"""vLLM's routes for tokens: text to ids and back, and what the vocabulary is like."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from llm_core.serving import reading
from llm_core.serving.answering import conversation_ids, prompt_ids
from llm_core.serving.callers import Calling
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.middleware import VERSION_HEADER
from llm_core.serving.reply_schema import DetokenizeReply, TokenizeReply, TokenizerInfo, whole
from llm_core.serving.schema import DetokenizeRequest, TokenizeRequest
from llm_core.serving.service import Serving

router = APIRouter()


@router.post("/tokenize", responses=whole(TokenizeReply))
async def tokenize(body: TokenizeRequest, service: Serving, caller: Calling) -> Response:
    """The tokens of a text, or of a conversation in the model's template."""
    model = service.able(body.model, "tokenize", caller)
    ids = await run_in_threadpool(_ids, model, body)
    spelled = [model.codec.rust.id_to_token(token_id) or "" for token_id in ids] if body.return_token_strs else None
    reply = TokenizeReply(count=len(ids), max_model_len=model.context, tokens=ids, token_strs=spelled, model=model.name)
    return _told(model, reply)


@router.post("/detokenize", responses=whole(DetokenizeReply))
async def detokenize(body: DetokenizeRequest, service: Serving, caller: Calling) -> Response:
    """The text of tokens, special ones included."""
    model = service.able(body.model, "detokenize", caller)
    size = model.codec.vocab_size
    if body.tokens and max(body.tokens) >= size:
        raise reading.invalid(f"tokens: {max(body.tokens)} is no token id; {model.name} has {size}", "tokens")
    text = await run_in_threadpool(model.codec.decode, body.tokens, False)
    return _told(model, DetokenizeReply(prompt=text, model=model.name))


@router.get("/tokenizer_info", responses=whole(TokenizerInfo))
async def tokenizer_info(
    service: Serving,
    caller: Calling,
    model: Annotated[str | None, Query(description="Which; without it the first line's.")] = None,
) -> Response:
    """What a model's vocabulary is like."""
    found = service.named(service.host.first.name if model is None else model, caller)
    codec = found.codec
    reply = TokenizerInfo(
        model=found.name,
        vocab_size=codec.vocab_size,
        max_model_len=found.context,
        special_tokens=codec.specials,
        roles=dict(codec.roles),
        chat_template=codec.chat_template,
    )
    return _told(found, reply)


def _ids(model: LoadedModel, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        return list(conversation_ids(model, body.messages))
    text = body.prompt or ""
    if not body.add_special_tokens:
        return reading.plain(model, text, "prompt").ids
    return list(prompt_ids(model, text))


def _told(model: LoadedModel, reply: BaseModel) -> JSONResponse:
    return JSONResponse(reply.model_dump(), headers={VERSION_HEADER: model.name})
