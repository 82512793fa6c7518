"""Access: who may ask anything of the model server. Everything is closed except two routes, for those with a key.

Open are ``/health`` and ``/ready``, compared byte for byte with what stood in the request line: no decoding, no case,
no slashes, no header can make another path equal to them. Where a server runs without keys, everything is open.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_core.serving.callers import Caller
from llm_core.serving.errors import RETRY_SECONDS, error_body
from llm_core.serving.keys import ApiKey, KeyFileError, Keys
from llm_core.serving.limits import Limited, Limiter
from llm_core.serving.middleware import end_unread

OPEN_PATHS = frozenset({b"/health", b"/ready"})
READING = ("GET", "HEAD")
UNCOUNTED_PATHS = frozenset({"/version"})
"""The playground asks for it all the time."""
LONGEST_CREDENTIALS = 512
CHALLENGES = (("www-authenticate", 'Bearer realm="tidemill"'), ("www-authenticate", 'Basic realm="tidemill"'))
"""Programs send the key as a bearer token. Browsers ask for a password, which is the key, and any name."""


class Gate:
    """The keys of a server and what they used."""

    def __init__(self, keys: Keys, limiter: Limiter) -> None:
        self._keys, self._limiter = keys, limiter
        self._known: Mapping[str, ApiKey] = {}

    def admit(self, scope: Scope) -> tuple[Caller, dict[str, str]]:
        """Who asks, and headers about what they have left; raises Refusal."""
        key = self._key(scope)
        if scope["path"] in UNCOUNTED_PATHS:
            return Caller(key, self._limiter), {}
        try:
            return Caller(key, self._limiter), self._limiter.admit(key)
        except Limited as limited:
            raise _too_many(limited) from None

    def _key(self, scope: Scope) -> ApiKey:
        given, is_browsers = _credentials(scope)
        try:
            key = self._keys.find(given)
            known = self._keys.current()
        except KeyFileError:
            message = "the server's key file cannot be read; its log says why"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, "keys_unavailable") from None
        if known is not self._known:
            self._known = known
            self._limiter.keep_only(known.keys())
        if key is None:
            said = "this API key is not known here" if given else "an API key is needed: Authorization: Bearer tm_..."
            raise Refusal(HTTPStatus.UNAUTHORIZED, said, "invalid_api_key")
        if (state := key.state(datetime.now(UTC))) != "valid":
            raise Refusal(HTTPStatus.UNAUTHORIZED, f"this API key is {state}", "invalid_api_key")
        if is_browsers and scope["type"] == "http" and _is_from_elsewhere(scope):
            message = "a page of another site made the browser send this; send the key as a bearer token"
            raise Refusal(HTTPStatus.FORBIDDEN, message, "cross_site_request")
        return key


class Access:
    """Lets requests with a key in, and answers all others itself, before anything of their body is read."""

    def __init__(self, app: ASGIApp, gate: Gate | None) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)  # lifespan: the server's own, nobody asks anything
            return
        state = scope.setdefault("state", {})
        if self._gate is None or _is_open(scope):
            state["caller"] = Caller()
            await self._app(scope, receive, send)
            return
        try:
            state["caller"], headers = self._gate.admit(scope)
        except Refusal as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        await self._app(scope, receive, _with_headers(send, headers) if headers else send)


class Refusal(Exception):  # noqa: N818 - in HTTP's own words
    """A request that is not let in."""

    def __init__(
        self, status: HTTPStatus, message: str, code: str, headers: Mapping[str, str] | None = None, kind: str = ""
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = error_body(status, message, code)
        if kind:
            self.body["error"]["type"] = kind
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers["retry-after"] = str(RETRY_SECONDS)


def _is_open(scope: Scope) -> bool:
    """Whether this is one of the open routes, by the bytes of the request line and by what the router goes by."""
    raw = scope.get("raw_path")
    return (
        scope["type"] == "http"
        and scope["method"] in READING
        and raw in OPEN_PATHS
        and scope["path"].encode() == raw
        and not scope.get("root_path")
    )


def _credentials(scope: Scope) -> tuple[str, bool]:
    """The key that was sent, empty where there is none or more than one; and whether as a browser sends passwords."""
    values = _header(scope, b"authorization")
    if len(values) != 1 or len(values[0]) > LONGEST_CREDENTIALS:
        return "", False
    scheme, _, value = values[0].decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip(" "), False
    return (_password(value.strip(" ")), True) if scheme.lower() == "basic" else ("", False)


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode("ascii").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _is_from_elsewhere(scope: Scope) -> bool:
    """Whether a browser says that another site's page wants something done: it adds the password there too."""
    sites = _header(scope, b"sec-fetch-site")
    return scope["method"] not in READING and any(site not in (b"same-origin", b"none") for site in sites)


def _header(scope: Scope, name: bytes) -> Sequence[bytes]:
    return [value for key, value in scope["headers"] if key.lower() == name]


def _too_many(limited: Limited) -> Refusal:
    headers = {**limited.headers, "retry-after": str(max(math.ceil(limited.wait_seconds), 1))}
    if limited.what == "tokens of the day":
        message = f"this API key's quota of {limited.limit} tokens a day is used up; it begins anew at midnight UTC"
        return Refusal(HTTPStatus.TOO_MANY_REQUESTS, message, "insufficient_quota", headers, "insufficient_quota")
    wait = headers["retry-after"]
    message = f"this API key gets {limited.limit} {limited.what} a minute; ask again in {wait} s"
    return Refusal(HTTPStatus.TOO_MANY_REQUESTS, message, "rate_limit_exceeded", headers, limited.what)


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before it is accepted: 403
        return
    response = JSONResponse(refusal.body, refusal.status, refusal.headers)
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        response.raw_headers += [(name.encode(), value.encode()) for name, value in CHALLENGES]
    end_unread(response, scope)
    await response(scope, receive, send)


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *encoded]
        await send(message)

    return told
