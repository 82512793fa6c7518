"""The playground in Debian's chromium, over a real server whose models say what a test wants, token by token."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.errors import error_body
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.server import open_listener
from tests.e2e.browser import HEIGHT, WIDTH, Watch, chromium

pytestmark = pytest.mark.e2e

Script = Callable[..., LoadedModel]
TEXT = "One two three"
MARKUP = "<img src=x onerror=alert(1)>"
PHONE = {"width": 360, "height": 740}
expect.set_options(timeout=20_000)
# Contrast as WCAG 2 defines it, of every text that is shown, against the colours that lie behind it.
FAINT_TEXTS = """() => {
  const channels = (text) => { const c = new OffscreenCanvas(1, 1).getContext("2d");
    c.fillStyle = text; c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => { for (let e = element; e; e = e.parentElement) {
    const c = channels(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255]; };
  const texts = [...document.querySelectorAll("body *")].filter((e) => e.checkVisibility() && !e.disabled
    && !e.closest(".spoken") && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return texts.map((e) => { const [one, two] = [light(channels(getComputedStyle(e).color)), light(behind(e))];
    return [(Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05), e.className || e.tagName, e.textContent.slice(0, 20)]; })
    .filter(([ratio]) => ratio < 4.5);
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


@pytest.fixture
def site(host: Host) -> Iterator[Site]:
    with Engine() as engine, open_listener("127.0.0.1", 0) as listener:
        keys = KeyNeeded(create_app(Service(host, engine)))
        server = uvicorn.Server(uvicorn.Config(keys, lifespan="off", log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", host, engine, keys)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    with chromium() as (context, _):
        yield context


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page(browser: BrowserContext, watch: Watch, site: Site) -> Iterator[Page]:
    """A page of a fresh profile; in the end nothing may have gone wrong in it, nor have left this machine."""
    assert browser.browser is not None
    context = browser.browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce")
    watch.attach(context)
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    yield opened
    context.close()
    assert watch.foreign == []
    assert watch.errors == []


def visit(page: Page, site: Site) -> None:
    page.goto(site.url)
    expect(page.locator("#state[data-status=ready]")).to_be_visible()
    expect(page.locator(".model option").first).to_be_attached()


def ask(page: Page, prompt: str, **settings: str) -> None:
    for name, value in settings.items():
        page.locator(f"#{name}").fill(value)
    page.get_by_role("textbox", name=re.compile("Prompt|Message", re.I)).first.fill(prompt)
    page.keyboard.press("Control+Enter")


def answered(page: Page) -> None:
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    expect(page.locator(".figures").first).to_contain_text("first after")


def written(page: Page, place: int = -1) -> Locator:
    return page.locator(".written").nth(place)


def refused(watch: Watch, status: int) -> None:
    """Chromium notes each refusal in its console; the page tells it in words, which the test looks at."""
    assert watch.errors and all(f"status of {status}" in error for error in watch.errors)
    watch.errors.clear()


def release(gate: threading.Semaphore, count: int) -> None:
    for _ in range(count):
        gate.release()


def test_a_completion_streams_token_by_token_and_escape_stops_it(page: Page, site: Site, script: Script) -> None:
    gate = threading.Semaphore(0)
    site.serve(script(TEXT, gate=gate))
    visit(page, site)
    ask(page, "The", max_tokens="60")
    for count in (1, 3):
        release(gate, count)
        expect(page.locator(".token")).to_have_count(1 if count == 1 else 4)
    expect(page.locator(".answers")).to_have_attribute("aria-busy", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".figures")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    for _ in range(50):  # the engine sees the hang-up before one of its next tokens, long before the sixtieth
        release(gate, 1)
        time.sleep(0.02)
        if not site.engine.num_open:
            break
    assert not site.engine.num_open, "the server still writes for nobody"
    expect(page.locator(".token")).to_have_count(4)


def test_a_chat_keeps_its_turns_and_goes_on_from_what_is_edited(page: Page, site: Site, script: Script) -> None:
    site.serve(script(TEXT, ends=True))
    visit(page, site)
    asked: list[list[str]] = []

    def note(route: Route) -> None:
        asked.append([message["content"] for message in route.request.post_data_json["messages"]])
        route.continue_()

    page.route("**/v1/chat/completions", note)
    page.get_by_role("tab", name="Chat").click()
    for message in ("Hello", "Again"):
        ask(page, message)
        answered(page)
    expect(page.locator(".turn .text")).to_have_text(["Hello", TEXT, "Again", TEXT])
    page.get_by_role("button", name="Retry").click()
    answered(page)
    page.locator(".turn.user").nth(1).get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Again")
    ask(page, "Otherwise")
    answered(page)
    expect(page.locator(".turn .text")).to_have_text(["Hello", TEXT, "Otherwise", TEXT])
    assert asked == [["Hello"], ["Hello", TEXT, "Again"], ["Hello", TEXT, "Again"], ["Hello", TEXT, "Otherwise"]]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_two_versions_answer_one_prompt_side_by_side(page: Page, site: Site, model: LoadedModel) -> None:
    newer = replace(model, version=replace(model.version, version="2"))
    site.serve(newer, previous=model)
    visit(page, site)
    page.get_by_role("switch", name="Side by side").check()
    models = page.locator(".model")
    expect(models.nth(1)).to_have_value("tiny@1")
    models.nth(0).select_option("tiny@2")
    ask(page, "The", max_tokens="20")
    expect(page.locator(".figures")).to_contain_text(["tiny@2", "tiny@1"])
    answered(page)
    first, second = (page.locator(".figures").nth(place).inner_text() for place in range(2))
    assert "tokens/s" in first and "first after" in second
    seeds = {re.search(r"seed \d+", figures)[0] for figures in (first, second)}  # type: ignore[index]
    assert len(seeds) == 1, "both begin with the same seed"
    assert written(page, 0).inner_text() == written(page, 1).inner_text(), "equal weights and seeds, equal answers"

    page.reload()
    expect(page.locator(".column")).to_have_count(2)
    expect(page.get_by_label("Max tokens")).to_have_value("20")


def test_probabilities_show_on_hover_and_by_the_arrow_keys(page: Page, site: Site) -> None:
    visit(page, site)
    ask(page, "The", max_tokens="12", seed="3")
    answered(page)
    tip, tokens = page.get_by_role("tooltip"), page.locator(".token")
    tokens.nth(2).hover()
    expect(tip).to_contain_text("%")
    assert tip.locator("li").count() in (5, 6), "five alternatives, and the token where it is none of them"
    expect(tip.locator("li.chosen")).to_have_count(1)
    expect(tokens.nth(2)).to_have_attribute("aria-describedby", "tip")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()

    tokens.first.focus()
    expect(tip).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(tokens.last).to_have_attribute("aria-describedby", "tip")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.get_by_role("switch", name="Probability colours").check()
    expect(page.get_by_label("How likely the model found each token")).to_be_visible()


def test_the_keyboard_alone_is_enough(page: Page, site: Site, script: Script) -> None:
    site.serve(script(TEXT, ends=True))
    visit(page, site)
    press = page.keyboard.press
    page.get_by_role("tab", name="Completion").focus()
    press("ArrowRight")
    expect(page.get_by_role("tab", name="Chat")).to_be_focused()
    for _ in range(20):
        press("Tab")
        if page.evaluate("document.activeElement.id") == "prompt":
            break
    page.keyboard.type("Hello")
    press("Control+Enter")
    answered(page)
    for _ in range(20):
        press("Shift+Tab")
        if page.evaluate("document.activeElement.className").startswith("token"):
            break
    expect(page.get_by_role("tooltip")).to_be_visible()
    page.get_by_role("button", name="Shortcuts").focus()
    press("Enter")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Shortcuts")).to_be_focused()


def test_markup_in_prompts_and_answers_stays_text(page: Page, site: Site, script: Script) -> None:
    site.serve(script(MARKUP, ends=True))
    visit(page, site)
    page.on("dialog", lambda dialog: pytest.fail(f"it ran: {dialog.message}"))
    ask(page, MARKUP, max_tokens="60")
    answered(page)
    expect(written(page)).to_have_text(MARKUP)
    page.get_by_role("tab", name="Chat").click()
    ask(page, MARKUP)
    answered(page)
    expect(page.locator(".turn .text")).to_have_text([MARKUP, MARKUP])
    page.locator(".token").first.hover()
    expect(page.get_by_role("tooltip")).to_be_visible()
    assert page.locator("main img, #tip img").count() == 0


def test_a_refusal_says_what_to_do(page: Page, site: Site, watch: Watch) -> None:
    visit(page, site)
    ask(page, "word " * 200)
    alert = page.locator(".error[role=alert]")
    expect(alert).to_contain_text("context is 96 tokens")
    expect(alert).to_contain_text("Shorten the prompt")
    expect(alert.get_by_role("button", name="Try again")).to_be_visible()
    refused(watch, 400)
    ask(page, "The", max_tokens="4")
    answered(page)
    expect(alert).to_be_hidden()


def test_a_busy_server_is_asked_again_after_a_countdown(page: Page, site: Site, watch: Watch) -> None:
    site.engine._is_draining = True  # its own drain is for good
    visit_of(page, site, "draining")
    ask(page, "The", max_tokens="4")
    alert = page.locator(".error[role=alert]")
    expect(alert).to_contain_text("shutting down")
    expect(alert.locator(".countdown")).to_have_text(re.compile(r"in \d s"))
    site.engine._is_draining = False
    answered(page)
    expect(alert).to_be_hidden()
    refused(watch, 503)


def visit_of(page: Page, site: Site, status: str) -> None:
    page.goto(site.url)
    expect(page.locator(f"#state[data-status={status}]")).to_be_visible()
    expect(page.locator(".model option").first).to_be_attached()


def test_a_key_is_asked_for_and_kept_in_the_tab_only(page: Page, site: Site, watch: Watch) -> None:
    site.keys.key = "right"
    page.goto(site.url)
    dialog = page.get_by_role("dialog", name="asks for a key")
    for key in ("wrong", "right"):
        expect(dialog).to_contain_text("This server needs an API key")
        dialog.get_by_label("API key").fill(key)
        dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_be_hidden()
    expect(page.locator(".model option").first).to_be_attached()
    ask(page, "The", max_tokens="4")
    answered(page)
    assert page.evaluate("[Object.values(sessionStorage), JSON.stringify(localStorage).includes('right')]") == [
        ["right"],
        False,
    ]
    page.get_by_role("button", name="Forget the key").click()
    assert page.evaluate("Object.values(sessionStorage)") == []
    refused(watch, 401)


def test_the_card_of_what_answered_leads_to_its_origin(page: Page, site: Site, model: LoadedModel) -> None:
    tags = {"git.commit": "c0ffee11", "data.license": "public domain"}
    site.serve(replace(model, version=replace(model.version, version="7", tags=tags, run_id="0a1b2c3d4e5f")))
    visit(page, site)
    ask(page, "The", max_tokens="4")
    answered(page)
    page.get_by_role("button", name="Model card").click()
    card = page.get_by_role("dialog", name="tiny@7")
    for text in ("tidemill lineage tiny@7", "c0ffee11", "public domain", "0a1b2c3d4e5f", "LlamaForCausalLM"):
        expect(card).to_contain_text(text)
    page.keyboard.press("Escape")
    expect(card).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_texts_have_contrast_and_fit_a_phone(page: Page, site: Site, model: LoadedModel, scheme: str) -> None:
    site.serve(replace(model, version=replace(model.version, version="2")), previous=model)
    page.set_viewport_size(PHONE)
    visit(page, site)
    page.get_by_label("Colours of the page").select_option(scheme)
    for name in ("Side by side", "Probability colours"):
        page.get_by_role("switch", name=name).check()
    for details in ("#settings > summary", "#more > summary"):
        page.locator(details).click()
    ask(page, "The", max_tokens="40")
    answered(page)
    page.locator(".token").nth(3).hover()
    assert page.evaluate(FAINT_TEXTS) == []
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.get_by_role("tab", name="Chat").click()
    ask(page, "Hello " * 9)
    answered(page)
    assert page.evaluate(FAINT_TEXTS) == []
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
