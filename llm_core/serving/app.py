"""The routes of the model server; what they do is in the modules beside this one."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from llm_core.serving import answering
from llm_core.serving.engine import Engine
from llm_core.serving.errors import RETRY_SECONDS, ApiError, ErrorReply, install_handlers
from llm_core.serving.hosting import Host, Line
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.middleware import BodyLimit, VersionHeader
from llm_core.serving.schema import ChatRequest, CompletionRequest

PLAYGROUND = Path(__file__).with_name("playground.html")

router = APIRouter(
    responses={
        "4XX": {"model": ErrorReply, "description": "The request is refused"},
        "5XX": {"model": ErrorReply, "description": "The server cannot answer"},
    }
)


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    host: Host
    engine: Engine

    def named(self, name: str) -> LoadedModel:
        """The model that goes by this name; raises ApiError (404, or 503 where its line has none yet)."""
        line = self.host.line_of(name)
        if line is None:
            raise self._unknown(name)
        if line.champion is None:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, f"{line.name}: {_reason(line)}", "model_not_ready")
        if name == line.name:
            return line.champion
        for model in line.models():
            if name == model.name:
                return model
        raise self._unknown(name)

    def state(self) -> dict[str, Any]:
        """Whether requests are answered, by which versions, and what the registry says."""
        lines = {name: _line_state(line) for name, line in self.host.lines.items()}
        is_served = any(line.champion for line in self.host.lines.values())
        status = "draining" if self.engine.is_draining else "ready" if is_served else "waiting"
        return {"status": status, "line": self.host.first.name, **lines[self.host.first.name], "lines": lines}

    def _unknown(self, name: str) -> ApiError:
        names = [*self.host.lines, *(model.name for model in self.host.models())]
        message = f"the model {name!r} is not served here; there are {', '.join(map(repr, names))}"
        return ApiError(HTTPStatus.NOT_FOUND, message, "model_not_found", "model")


def _line_state(line: Line) -> dict[str, Any]:
    described = _describe(line.champion) if line.champion else None
    previous = line.previous.name if line.previous else None
    return {"model": described, "previous": previous, "registry": asdict(line.following)}


def _reason(line: Line) -> str:
    """Why nothing is served."""
    following = line.following
    if following.refused:
        return f"the champion {following.refused} is refused ({following.refused_because})"
    if following.registry_error:
        return f"the registry cannot be asked ({following.registry_error})"
    if following.champion:
        return f"the champion {following.champion} is being loaded"
    return "no champion is registered yet; tidemill run makes one"


def create_app(service: Service) -> FastAPI:
    """The application; it starts no thread and asks no registry."""
    # FastAPI's documentation pages load scripts from elsewhere; the schema itself stays at /openapi.json.
    app = FastAPI(title="Tidemill", version=package_version("tidemill"), docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(router)
    install_handlers(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(VersionHeader, served=lambda: getattr(service.host.first.champion, "name", None))
    return app


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


@router.post("/v1/completions")
async def create_completion(body: CompletionRequest, request: Request, service: Serving) -> Response:
    """Continue a text."""
    jobs, reply = await run_in_threadpool(answering.completion, service.named(body.model), body)
    return await answering.respond(service.engine, jobs, reply, body, request)


@router.post("/v1/chat/completions")
async def create_chat_completion(body: ChatRequest, request: Request, service: Serving) -> Response:
    """Answer in a conversation."""
    jobs, reply = await run_in_threadpool(answering.chat, service.named(body.model), body)
    return await answering.respond(service.engine, jobs, reply, body, request)


@router.get("/v1/models")
async def list_models(service: Serving) -> dict[str, Any]:
    """The lines with a champion under their names, and every version in memory under its own."""
    champions = [(line.name, line.champion) for line in service.host.lines.values() if line.champion]
    versions = [(model.name, model) for model in service.host.models()]
    return {"object": "list", "data": [_listed(name, model) for name, model in (*champions, *versions)]}


@router.get("/v1/models/{name}")
async def retrieve_model(name: str, service: Serving) -> dict[str, Any]:
    """The served model by its name."""
    return _listed(name, service.named(name))


@router.get("/health")
async def health() -> dict[str, str]:
    """Whether the process lives."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(service: Serving) -> JSONResponse:
    """Whether requests are answered: 503 until a champion is loaded and while the server ends."""
    state = service.state()
    if state["status"] == "ready":
        return JSONResponse(state)
    return JSONResponse(state, HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": str(RETRY_SECONDS)})


@router.get("/version")
async def version(service: Serving) -> dict[str, Any]:
    """Versions of the server and of the model."""
    return {"tidemill": package_version("tidemill"), **service.state()}


@router.get("/", include_in_schema=False)
async def playground() -> HTMLResponse:
    """The page to try the model on."""
    page = PLAYGROUND.read_text(encoding="utf-8")
    headers = {
        "content-security-policy": _content_security_policy(page),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
    return HTMLResponse(page, headers=headers)


def _content_security_policy(page: str) -> str:
    """Allow this page's own script and style by their hashes, requests to this server, and nothing else."""
    script, style = (_source_hash(page, element) for element in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _source_hash(page: str, element: str) -> str:
    found = re.search(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    assert found is not None, f"{PLAYGROUND} has no <{element}>"
    return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"


def _describe(model: LoadedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version.version,
        "artifact": model.version.artifact,
        "key": model.version.key,
        "context": model.context,
        "vocab_size": model.tokenizer.vocab_size,
        "num_parameters": model.num_parameters,
        "has_chat_template": model.chat is not None,
    }


def _listed(name: str, model: LoadedModel) -> dict[str, Any]:
    # The age of a version is the registry's to know; clients only need the field.
    return {"id": name, "object": "model", "created": 0, "owned_by": "tidemill", "tidemill": _describe(model)}
