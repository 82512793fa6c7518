"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from llm_core.serving.engine import Draining, EngineUnavailable

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2
MAX_PROBLEMS = 20
LONGEST_MESSAGE, LONGEST_PARAM = 4000, 200
"""Errors quote names from the request, which may be as long as the request."""


class ApiError(Exception):
    """A refusal with its status and the fields of OpenAI's error object."""

    def __init__(self, status: HTTPStatus, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def body(self) -> dict[str, Any]:
        """The error object."""
        return error_body(self.status, self.message, self.code, self.param)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorDetail


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; clients tell kinds apart by its type and code."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    told, named = message[:LONGEST_MESSAGE], param and param[:LONGEST_PARAM]
    return {"error": {"message": told, "type": kind, "param": named, "code": code}}


def install_handlers(app: FastAPI) -> None:
    """Answer every error of the app in this shape."""
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(EngineUnavailable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _crashed)


def unavailable(error: EngineUnavailable) -> JSONResponse:
    """The answer while the engine takes nothing."""
    code = "shutting_down" if isinstance(error, Draining) else "overloaded"
    return _told(ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), code))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _told(error)


def _told(error: ApiError) -> JSONResponse:
    is_temporary = error.status == HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(error.body, error.status, {"retry-after": str(RETRY_SECONDS)} if is_temporary else None)


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EngineUnavailable)
    return unavailable(error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """400 as at OpenAI, naming the problems; the first one's parameter and code are the error's.

    Who names a model that is not here is told that instead: with another one other values are right.
    """
    assert isinstance(error, RequestValidationError)
    name = error.body.get("model") if isinstance(error.body, Mapping) else None
    if isinstance(name, str):
        try:
            request.app.state.service.named(name, request.state.caller)
        except ApiError as unknown:
            return await _refused(request, unknown)
    problems = error.errors()
    first = problems[0]
    code = first["type"] if first["type"] == "unsupported_parameter" else "invalid_value"
    if first["type"] == "extra_forbidden":
        code = "unknown_parameter"
    told = [_problem_text(problem) for problem in problems[:MAX_PROBLEMS]]
    more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
    message = "; ".join([*told, *more])
    return _json(HTTPStatus.BAD_REQUEST, message, code, _param(first))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    what = f"{request.method} {request.url.path}: {status.phrase}"
    code = {404: "unknown_url", 405: "method_not_allowed", 408: "request_timeout", 413: "request_too_large"}.get(
        status, "http_error"
    )
    detail = error.detail if error.detail != status.phrase else ""
    return _json(status, f"{what} {detail}".rstrip(), code, headers=error.headers)


async def _crashed(request: Request, error: Exception) -> JSONResponse:
    # The server's own log has the trace: starlette raises the error again behind this answer.
    return _json(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why", "internal_error")


def _json(
    status: HTTPStatus, message: str, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(error_body(status, message, code, param), status, headers)


def _param(problem: Mapping[str, Any]) -> str | None:
    if problem["type"] == "json_invalid":
        return None  # its place is one in the text
    given = (problem.get("ctx") or {}).get("param")
    return given or _key(problem["loc"]) or None


def _problem_text(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']}"
    if problem["type"] == "extra_forbidden":
        return f"{_key(problem['loc'])}: unknown parameter; leave it out"
    if problem["type"] in ("unsupported_parameter", "invalid_value"):
        return str(problem["msg"])
    return f"{_key(problem['loc']) or 'body'}: {problem['msg']}"


def _key(loc: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in loc if part != "body")
