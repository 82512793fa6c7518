"""A server for the playground that tests can change, and what a person does on its page."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from playwright.sync_api import Locator, Page, Request, expect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_core.serving.engine import Engine
from llm_core.serving.errors import error_body
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from tests.e2e.browser import Watch

# Contrast as WCAG 2 defines it, of every text that is shown, against the colour that lies behind it.
FAINT_TEXTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    const colour = channels(getComputedStyle(element).backgroundColor);
    return colour[3] === 255 || !element.parentElement ? colour : behind(element.parentElement);
  };
  const contrast = (element) => {
    const both = [light(channels(getComputedStyle(element).color)), light(behind(element))];
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
  };
  const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && hasText(element) && !element.matches(":disabled, .spoken *"))
    .filter((element) => contrast(element) < 4.5)
    .map((element) => [contrast(element), element.className || element.tagName, element.textContent.slice(0, 20)]);
}"""


class KeyNeeded:
    """Answers 401 under /v1 to who has not the right key; None lets everyone in."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.key: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope.get("headers", ())).get(b"authorization")
        is_right = self.key is None or given == f"Bearer {self.key}".encode()
        if scope["type"] != "http" or not scope["path"].startswith("/v1") or is_right:
            await self.app(scope, receive, send)
            return
        body = error_body(HTTPStatus.UNAUTHORIZED, "this server needs an API key", "invalid_api_key")
        await JSONResponse(body, HTTPStatus.UNAUTHORIZED)(scope, receive, send)


@dataclass
class Site:
    """A server, and what tests change of it."""

    url: str
    host: Host
    engine: Engine
    keys: KeyNeeded

    def serve(self, champion: LoadedModel, previous: LoadedModel | None = None) -> None:
        line = self.host.first
        line.champion, line.previous = champion, previous


def visit(page: Page, site: Site, status: str = "ready") -> None:
    """Open the page and wait until it knows the server and its models."""
    page.goto(site.url)
    expect(page.locator(f"#state[data-status={status}]")).to_be_visible()
    expect(page.locator(".model option").first).to_be_attached()


def ask(page: Page, prompt: str, **settings: str) -> None:
    """Send a prompt; random models write the same each time, by the seed."""
    for name, value in {"seed": "3", **settings}.items():
        page.locator(f"#{name}").fill(value)
    page.get_by_role("textbox", name=re.compile("Prompt|Message", re.I)).first.fill(prompt)
    page.keyboard.press("Control+Enter")


def answered(page: Page) -> None:
    """Wait until no answer is being written any more."""
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    expect(page.locator(".figures").first).to_contain_text("seed")


def written(page: Page, place: int = -1) -> Locator:
    """An answer's text, the last one by default."""
    return page.locator(".written").nth(place)


def refused(watch: Watch, status: int) -> None:
    """Chromium notes each refusal in its console; the page tells it in words, which the test looks at."""
    assert watch.errors and all(f"status of {status}" in error for error in watch.errors)
    watch.errors.clear()


def noted(page: Page) -> list[dict[str, Any]]:
    """What the page asks the server to write, from now on."""
    bodies: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            bodies.append(cast("dict[str, Any]", request.post_data_json))

    page.on("request", note)
    return bodies


def release(gate: threading.Semaphore, count: int) -> None:
    """Let a scripted model write so many tokens."""
    for _ in range(count):
        gate.release()
