"""Whether the server is well, and what it serves."""

from __future__ import annotations

from http import HTTPStatus
from importlib.metadata import version as package_version

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from llm_core.serving.callers import require_admin
from llm_core.serving.errors import RETRY_SECONDS
from llm_core.serving.reply_schema import whole
from llm_core.serving.service import Serving
from llm_core.serving.state_schema import HealthReply, ReadyReply, VersionReply

router = APIRouter()


@router.get("/health", responses=whole(HealthReply))
async def health() -> JSONResponse:
    """Whether the process lives."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", responses={**whole(ReadyReply), 503: {"model": ReadyReply, "description": "Not yet, or no more"}})
async def ready(service: Serving) -> JSONResponse:
    """Whether requests are answered: 503 until a champion is loaded and while the server ends."""
    state = service.state()
    if state["status"] == "ready":
        return JSONResponse(state)
    return JSONResponse(state, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": str(RETRY_SECONDS)})


@router.get("/version", responses=whole(VersionReply))
async def version(service: Serving) -> JSONResponse:
    """Versions of the server and of the model."""
    return JSONResponse({"tidemill": package_version("tidemill"), **service.state()})


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(require_admin)])
async def metrics(service: Serving) -> Response:
    """Numbers for Prometheus."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
