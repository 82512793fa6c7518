"""The playground: a page of small files, without anything from elsewhere."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parents[1] / "playground"
INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Script, style and pictures are files of ours, requests go to this server, and no text can become markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a newer server has a newer page; the tag makes asking again cheap
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def playground(request: Request) -> Response:
    """The page to try models on."""
    return _file(INDEX, request)


@router.get("/playground/{name}")
async def playground_file(name: str, request: Request) -> Response:
    """Its style, scripts and icon."""
    return _file(name, request)


def _file(name: str, request: Request) -> Response:
    """A file of the page, or 304 for who has it already."""
    path = next((path for path in FOLDER.iterdir() if path.name == name and path.suffix in MEDIA_TYPES), None)
    if path is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    content = path.read_bytes()
    headers = {**HEADERS, "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[path.suffix])
