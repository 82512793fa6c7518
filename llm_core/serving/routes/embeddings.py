"""OpenAI's route for texts as vectors."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from llm_core.serving.callers import Calling
from llm_core.serving.reading import embeddings
from llm_core.serving.reply_schema import EmbeddingReply, whole
from llm_core.serving.routes.tasks import reply_of
from llm_core.serving.schema import EmbeddingRequest
from llm_core.serving.service import Serving

router = APIRouter()


@router.post("/embeddings", responses=whole(EmbeddingReply))
async def create_embeddings(body: EmbeddingRequest, request: Request, service: Serving, caller: Calling) -> Response:
    """Vectors of texts, of unit length."""
    model = service.able(body.model, "embeddings", caller)
    return await reply_of(service, model, embeddings(model, body), request)
