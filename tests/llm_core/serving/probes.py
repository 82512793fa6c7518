"""Requests without a valid key that try to look like one of the two open routes, or like somebody who has a key."""

from __future__ import annotations

import base64
from collections.abc import Iterator

from tests.llm_core.serving.wire import Answer, request, speak

CLOSED = (
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/feedback",
    "/models",
    "/version",
    "/metrics",
    "/",
)
OPEN = ("/health", "/ready")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "get")
# Each takes an open route and a closed one.
TRICKS = (
    "{open}/..{closed}",
    "{open}/../..{closed}",
    "{open}/%2e%2e{closed}",
    "{open}%2f..{closed}",
    "{open}%2f%2e%2e%2f{closed}",
    "{open}\\..{closed}",
    "{open};{closed}",
    "{open};x=1/..{closed}",
    "{open}%3f{closed}",
    "{open}%23{closed}",
    "{open}#{closed}",
    "{open}%00{closed}",
    "{open}%0d%0a{closed}",
    "{open}{closed}",
    "{closed}{open}",
    "{closed}?{open}",
    "{closed}#{open}",
    "{closed};{open}",
    "{closed}/..{open}",
    "{closed}/.%2e{open}",
    "/.{closed}",
    "/.{open}/..{closed}",
    "//{open}/..{closed}",
    "/{closed}",
    "http://127.0.0.1{closed}",
    "http://127.0.0.1{open}/..{closed}",
    "http://x{open}@127.0.0.1{closed}",
)
# Texts that are nearly an open route, and are not one.
NEARLY = (
    "{open}/", "/{open}", "/.{open}", "{open}/.", "{open}.", "{open}%20", "{open}%00", "{open}%0a", "{open};",
    "{open}%3f", "{open}%2f", "%2f{name}", "/{upper}", "/{title}", "/%{hex}{rest}", "{open}.json", "{open}z",
    "{open}/x", "{open}\\", "http://127.0.0.1{open}", "https://127.0.0.1{open}", "x:{open}", "{open}#",
    "//127.0.0.1{open}",
)  # fmt: skip
HEADERS = (
    "host: {open}",
    "host: health",
    "host: localhost{open}",
    "x-original-url: {open}",
    "x-rewrite-url: {open}",
    "x-original-uri: {open}",
    "x-forwarded-uri: {open}",
    "x-forwarded-path: {open}",
    "x-forwarded-prefix: {open}",
    "x-forwarded-host: {open}",
    "x-forwarded-for: 127.0.0.1",
    "x-real-ip: 127.0.0.1",
    "forwarded: for=127.0.0.1;host=localhost",
    "x-http-method-override: GET",
    "x-script-name: {open}",
    "referer: http://127.0.0.1{open}",
    "origin: http://127.0.0.1",
    "access-control-request-method: GET",
    "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: dGhlIHNhbXBsZQ==\r\nsec-websocket-version: 13",
    "upgrade: h2c\r\nconnection: upgrade",
)


def not_open() -> list[bytes]:
    """Requests without any key that must be refused."""
    return list(dict.fromkeys(_not_open()))


def _not_open() -> Iterator[bytes]:
    for path in CLOSED:
        for method in METHODS:
            yield request(method, path)
        for trick in TRICKS:
            yield from (request("GET", trick.format(open=route, closed=path)) for route in OPEN)
        yield from (request("GET", path, header.format(open="/health")) for header in HEADERS)
        yield request("GET", path, version="1.0")
    for route in OPEN:
        yield from (request(method, route) for method in METHODS if method not in ("GET", "HEAD"))
        yield from (request("GET", nearly(form, route)) for form in NEARLY)
    yield from (request("OPTIONS", "*"), request("CONNECT", "127.0.0.1:80"), request("GET", "health"))


def nearly(form: str, route: str) -> str:
    name = route[1:]
    words = {"name": name, "upper": name.upper(), "title": name.title(), "hex": f"{ord(name[0]):x}", "rest": name[1:]}
    return form.format(open=route, **words)


def with_a_wrong_key(key: str, other: str) -> Iterator[bytes]:
    """Requests with something in place of `key`, which is valid; `other` has the form of one and is not."""
    prefix, key_id, secret = key.split("_")
    stranger = other.split("_")[2]
    texts = (
        "", "null", "none", "undefined", "tm_", "tm__", "*", "%", secret, key_id, other, f"tm_{key_id}_{stranger}",
        f"tm_{key_id}_", f"tm_{key_id}_{secret[:-1]}", f"tm_{key_id}_{secret}0", f"tm_{key_id}_{secret.upper()}f",
        f"{key},{key}", f"{key} {key}", f"{key};", f"'{key}'", f'"{key}"', f"tm_{key_id}_{'0' * 64}",
        f"tm_{'0' * 12}_{'0' * 64}", f"TM_{key_id}_{secret}", "x" * 5000, "tm_%s_%s", key[::-1],
    )  # fmt: skip
    values = [f"{scheme} {text}" for scheme in ("Bearer", "Basic") for text in texts]
    values += [f"Basic {basic(text)}" for text in texts if text.isascii()]
    values += [key, f"Token {key}", f"Digest {key}", f"Bearer{key}", f"Bearer:{key}", f"Basic {key}", "Negotiate x"]
    values += [f"Basic {base64.b64encode(key.encode()).decode()}", f"Basic {basic(key)}=", "Basic =", "Basic ////"]
    for path in ("/v1/models", "/"):
        yield from (request("GET", path, f"authorization: {value}") for value in values)
    elsewhere = (f"x-api-key: {key}", f"api-key: {key}", f"cookie: authorization=Bearer {key}", f"authorisation: {key}",
                 f"proxy-authorization: Bearer {key}", f"x-authorization: Bearer {key}")  # fmt: skip
    yield from (request("GET", "/v1/models", header) for header in elsewhere)
    yield from (request("GET", f"/v1/models?{name}={key}") for name in ("key", "api_key", "access_token"))
    right, wrong = f"authorization: Bearer {key}", f"authorization: Bearer {other}"
    yield from (request("GET", "/v1/models", *pair) for pair in ((right, wrong), (wrong, right), (right, right)))


def basic(password: str) -> str:
    """A password as a browser sends it."""
    return base64.b64encode(f"me:{password}".encode()).decode()


def let_in(port: int, probes: list[bytes]) -> list[bytes]:
    """Those that got further than the door: not refused with 401 by the access check or with 400 by the HTTP parser."""
    return [probe for probe in probes if not is_refused(speak(port, probe))]


def is_refused(answer: Answer) -> bool:
    if answer.status == 400:
        return answer.body == b"Invalid HTTP request received."
    told = b'"code":"invalid_api_key"' in answer.body or not answer.body  # HEAD has none
    return answer.status == 401 and told and "www-authenticate" in answer.headers
