"""What a person sees and does in the browser: Prefect's form and schedule, MLflow's pages, the playground."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from llm_core.artifact import Artifact
from tasks.ledger import Ledger
from tests.conftest import in_project, make_project
from tests.e2e.browser import (
    PATIENCE_SECONDS,
    Servers,
    Watch,
    await_end,
    chromium,
    form_field,
    open_comparison,
    open_deployments,
    open_form,
    open_playground,
    open_registry,
    servers_up,
    submit_form,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CRON, CRON_IN_WORDS = "30 3 * * *", "At 03:30 AM every day"
STEPS, TYPED_STEPS = 50, 20
expect.set_options(timeout=PATIENCE_SECONDS * 1000)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Iterator[Servers]:
    """The tiny project with all servers up."""
    ws = make_project(tmp_path_factory.mktemp("browser") / "project")
    shutil.copytree(stores, ws.home)
    with servers_up(ws, line="tiny", cron=CRON) as up:
        yield up


@pytest.fixture(scope="module")
def summary(servers: Servers) -> dict[str, Any]:
    """The first run, from the command line, beside the servers: its version is champion."""
    done = in_project(servers.ws, "flows.cli", "run", "tiny", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    summary: dict[str, Any] = json.loads(done.stdout)
    assert summary["champion"] == "tiny@1"
    return summary


@pytest.fixture(scope="module")
def browser() -> Iterator[tuple[BrowserContext, Watch]]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: tuple[BrowserContext, Watch]) -> Iterator[Page]:
    """A page for each test; in the end nothing may have gone wrong in any page, nor have left this machine."""
    context, watch = browser
    opened = context.new_page()
    yield opened
    opened.close()
    assert watch.foreign == []
    assert watch.errors == []


@pytest.fixture(scope="module")
def typed_run(servers: Servers, summary: dict[str, Any], browser: tuple[BrowserContext, Watch]) -> str:
    """The second run, started from the form of its deployment with another number of steps; its id."""
    page = browser[0].new_page()
    name = open_form(page, servers, "tiny")
    steps = form_field(page, "Train", "Steps").get_by_role("spinbutton")
    expect(steps).to_have_value(str(STEPS))
    steps.fill(str(TYPED_STEPS))
    run = submit_form(page, name)
    page.close()
    assert await_end(servers, run, seconds=400) == "COMPLETED"
    return run


def test_the_deployments_page_shows_every_recipe_and_when_the_nightly_runs(servers: Servers, page: Page) -> None:
    rows = open_deployments(page, servers)
    expect(rows).to_have_count(5)
    flows = {"demo": "lifecycle", "small": "lifecycle", "tiny": "lifecycle", "nightly": "nightly", "label": "label"}
    shown = [row.get_by_role("link").first.inner_text() for row in rows.all()]
    assert sorted(shown) == sorted(flows)
    for row, deployment in zip(rows.all(), shown, strict=True):
        expect(row.get_by_role("link").nth(1)).to_have_text(flows[deployment])  # the page asks for it later
    rows.filter(has_text="nightly").get_by_text("+1").last.hover()
    expect(page.get_by_role("tooltip", name=CRON_IN_WORDS)).to_be_visible()


def test_the_nightly_has_coming_runs_at_its_hour(servers: Servers, page: Page) -> None:
    open_deployments(page, servers).get_by_role("link", name="nightly").first.click()
    page.get_by_text("Upcoming", exact=True).click()
    nights = page.locator(".state-list-item").filter(has_text="Scheduled for")
    expect(nights).not_to_have_count(0)
    for night in nights.all():
        expect(night).to_contain_text("03:30:00 AM")


def test_a_run_from_the_form_completes_with_the_value_that_was_typed(
    servers: Servers, typed_run: str, page: Page
) -> None:
    page.goto(f"{servers.prefect}/runs/flow-run/{typed_run}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    expect(page.get_by_text("9 Task runs")).to_be_visible()
    page.get_by_text("Parameters", exact=True).click()
    expect(page.get_by_text(f'"steps": {TYPED_STEPS}')).to_be_visible()

    assert servers.flow_run(typed_run)["parameters"]["recipe"]["train"]["steps"] == TYPED_STEPS
    params = {param["key"]: param["value"] for param in servers.mlflow_run(typed_run)["data"]["params"]}
    assert params["train.steps"] == str(TYPED_STEPS)
    trained = Artifact.open(servers.ws.home / "workspaces" / "worker" / "out" / "train", "model")
    assert trained.recipe["train"]["steps"] == TYPED_STEPS
    registered = [entry.body for entry in Ledger(servers.ws.home).entries("tiny") if entry.kind == "registered"]
    assert [version["version"] for version in registered] == [1, 2]
    assert registered[1]["artifact"] == trained.digest
    assert Artifact.peek(servers.ws.out / "train").recipe["train"]["steps"] == STEPS, "the checkout is the person's"


def test_mlflow_compares_both_runs_and_shows_what_differs(servers: Servers, typed_run: str, page: Page) -> None:
    open_comparison(page, servers, num_runs=2)
    expect(page.get_by_role("link", name=servers.mlflow_run(typed_run)["info"]["run_id"])).to_be_visible()
    differing = page.get_by_role("row").filter(has_text="train.steps")
    expect(differing).to_have_count(1)
    assert set(differing.inner_text().split()[1:]) == {str(STEPS), str(TYPED_STEPS)}
    expect(page.get_by_role("row").filter(has_text="train.batch_tokens")).to_have_count(0)
    expect(page.get_by_role("link", name="evaluate/bits_per_byte")).to_be_visible()


def test_the_registry_page_shows_the_ledgers_champion(servers: Servers, typed_run: str, page: Page) -> None:
    versions = open_registry(page, servers)
    expect(versions).to_have_count(2)
    champion = Ledger(servers.ws.home).champion("tiny")
    assert champion is not None
    crowned = versions.filter(has_text="champion")
    expect(crowned).to_have_count(1)
    expect(crowned.get_by_role("link", name=f"Version {champion.body['version']}")).to_be_visible()


def test_the_playground_streams_an_answer_and_names_its_version(
    servers: Servers, summary: dict[str, Any], page: Page
) -> None:
    open_playground(page, servers)
    page.evaluate(
        """() => {
            window.lengths = [];
            const answer = document.querySelector(".answers");
            const note = () => window.lengths.push(answer.textContent.length);
            new MutationObserver(note).observe(answer, {childList: true, subtree: true, characterData: true});
        }"""
    )
    # Greedy: a sampled answer may come to an early end by chance.
    page.locator("#temperature").fill("0")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator(".figures")).to_contain_text("cut at the limit")
    lengths = page.evaluate("window.lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 10, "the answer came in one piece"
    champion = Ledger(servers.ws.home).champion("tiny")
    assert champion is not None
    expect(page.locator(".figures")).to_contain_text(f"tiny@{champion.body['version']}")
    expect(page.get_by_role("alert")).to_be_hidden()
