"""The application: routes, errors and what holds for every request."""

from __future__ import annotations

from importlib.metadata import version as package_version

from fastapi import FastAPI

from llm_core.serving.access import Access, Gate
from llm_core.serving.errors import ErrorReply, install_handlers
from llm_core.serving.middleware import MAX_BODY_BYTES, Admission, BodyLimit, CountResponses, VersionHeader
from llm_core.serving.request_log import RequestLog
from llm_core.serving.routes import card, embeddings, feedback, openai, page, status, tasks, tokens
from llm_core.serving.samples import Samples
from llm_core.serving.service import Service
from llm_core.serving.spoken import KeepSpoken
from llm_core.serving.traces import TraceRequests, Traces

__all__ = ["Service", "create_app"]


def create_app(
    service: Service,
    gate: Gate | None = None,
    samples: Samples | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    traces: Traces | None = None,
    keeps_spoken: bool = False,
) -> FastAPI:
    """The application; it starts no thread and asks no registry. Without a gate everything is open to everyone.

    With `keeps_spoken` the log and the traces say what was asked and answered.
    """
    app = FastAPI(
        title="Tidemill",
        version=package_version("tidemill"),
        # FastAPI's documentation pages load scripts from elsewhere; the schema itself stays at /openapi.json.
        docs_url=None,
        redoc_url=None,
        responses={
            "4XX": {"model": ErrorReply, "description": "The request is refused"},
            "5XX": {"model": ErrorReply, "description": "The server cannot answer"},
        },
        generate_unique_id_function=lambda route: f"{route.name}{route.path.replace('/', '_')}",
    )
    app.state.service, app.state.samples = service, samples
    for prefix in ("/v1", ""):
        for module in (openai, embeddings, tasks, card, feedback):
            app.include_router(module.router, prefix=prefix)
    for module in (tokens, status, page):
        app.include_router(module.router)
    install_handlers(app)
    # The last is the outermost: around the access check are only those who watch.
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    app.add_middleware(Admission, engine=service.engine)
    app.add_middleware(VersionHeader, served=lambda: getattr(service.host.first.champion, "name", None))
    if keeps_spoken:
        app.add_middleware(KeepSpoken)
    if traces is not None:
        app.add_middleware(TraceRequests, traces=traces)
    app.add_middleware(Access, gate=gate)
    app.add_middleware(CountResponses, metrics=service.metrics)
    app.add_middleware(RequestLog)
    return app
