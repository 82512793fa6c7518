"""The playground in Debian's chromium, over a real server whose models say what a test wants, token by token."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, Page, ViewportSize, expect

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.server import open_listener
from tests.e2e.browser import HEIGHT, WIDTH, Watch, chromium
from tests.llm_core.serving.playground_site import (
    FAINT_TEXTS,
    KeyNeeded,
    Site,
    answered,
    ask,
    noted,
    refused,
    release,
    visit,
    written,
)

pytestmark = pytest.mark.e2e

Script = Callable[..., LoadedModel]
TEXT = "One two three"
MARKUP = "<img src=x onerror=alert(1)>"
PHONE = ViewportSize(width=360, height=740)
expect.set_options(timeout=20_000)


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
    asked = noted(page)
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
    told = [[message["content"] for message in body["messages"]] for body in asked]
    assert told == [["Hello"], ["Hello", TEXT, "Again"], ["Hello", TEXT, "Again"], ["Hello", TEXT, "Otherwise"]]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_of_several_answers_the_picked_one_is_gone_on_with(page: Page, site: Site) -> None:
    visit(page, site)
    page.locator("#more > summary").click()
    ask(page, "The", max_tokens="5", n="3")
    answered(page)
    expect(page.get_by_role("heading", name="Answer 3")).to_be_visible()
    page.get_by_role("tab", name="Chat").click()
    ask(page, "A", seed="3", n="2")
    answered(page)
    second = written(page, 1).inner_text()
    assert second and second != written(page, 0).inner_text()
    page.get_by_role("button", name="Go on with this one").nth(1).click()
    asked = noted(page)
    ask(page, "B", n="1")
    answered(page)
    assert [message["content"] for message in asked[0]["messages"]] == ["A", second, "B"]


def test_a_line_without_a_model_says_why(page: Page, site: Site, watch: Watch) -> None:
    site.host.first.champion = None
    page.goto(site.url)
    expect(page.locator("#state[data-status=waiting]")).to_contain_text("tiny: no model yet")
    expect(page.locator(".model")).to_have_value("tiny")
    ask(page, "The")
    expect(page.locator(".error[role=alert]")).to_contain_text("tiny: no champion is registered yet")
    page.keyboard.press("Escape")
    expect(page.locator(".figures")).to_be_empty()
    refused(watch, 503)


def test_two_versions_answer_one_prompt_side_by_side(page: Page, site: Site, script: Script) -> None:
    site.serve(script(TEXT, ends=True, version="2"), previous=script("and one", ends=True))
    visit(page, site)
    page.get_by_role("switch", name="Side by side").check()
    expect(page.locator(".model").nth(1)).to_have_value("tiny@1")
    asked = noted(page)
    ask(page, "The", seed="", max_tokens="20")
    expect(page.locator(".written")).to_have_text([TEXT, "and one"])
    answered(page)
    first, second = (page.locator(".figures").nth(place).inner_text() for place in range(2))
    assert first.startswith("tiny@2") and second.startswith("tiny@1")
    for words in ("tokens/s", "first after", f"seed {asked[0]['seed']}"):
        assert words in first and words in second
    assert [body["model"] for body in asked] == ["tiny", "tiny@1"]
    assert {**asked[0], "model": ""} == {**asked[1], "model": ""}, "the same prompt, settings and drawn seed"

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
    visit(page, site, "draining")
    ask(page, "The", max_tokens="4")
    alert = page.locator(".error[role=alert]")
    expect(alert).to_contain_text("shutting down")
    expect(alert.locator(".countdown")).to_have_text(re.compile(r"in \d s"))
    site.engine._is_draining = False
    answered(page)
    expect(alert).to_be_hidden()
    refused(watch, 503)


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
