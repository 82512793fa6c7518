"""Make the README's pictures: python -m tests.e2e.screenshots [RECIPE] runs a recipe twice and photographs the pages.

The second run is started from the form with a quarter of the optimizer steps, so that there is something to compare.
With the demo recipe it takes some ten minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Page

from llm_core.artifact import Artifact
from llm_core.closure import ROOT
from llm_core.config import Recipe, load_recipe
from tasks.accounts import report_place
from tests.conftest import IDENTITY, in_project, make_project
from tests.e2e import browser
from tests.e2e.browser import Servers

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 200_000
SETTLING_SECONDS = 4.0
"""Graphs are painted and tooltips come up without a sign in the page that says so."""
# The button of MLflow's assistant floats over the page.
WITHOUT_ASSISTANT = "[data-assistant-ui] { visibility: hidden; }"
PROMPT = "My fellow citizens, the state of our union"
TOKEN = 5
"""Which token of the answer shows its probabilities."""


def photograph_all(page: Page, servers: Servers, recipe: Recipe, steps: int, folder: Path) -> None:
    """Start the second run from its form and photograph each page; the first run is there already."""
    name = browser.open_form(page, servers, recipe.name)
    browser.form_field(page, "Train", "Steps").get_by_role("spinbutton").fill(str(steps))
    browser.form_field(page, "Train").evaluate("field => field.scrollIntoView()")
    _photograph(page, folder / "prefect-form.png")

    run = browser.submit_form(page, name)
    ended = browser.await_end(servers, run, seconds=3600)
    assert ended == "COMPLETED", f"{servers.prefect}/runs/flow-run/{run}: {ended}"
    page.reload()  # the graph follows a running flow and stays where that was
    page.get_by_text("9 Task runs").wait_for()
    _photograph(page, folder / "prefect-run.png")

    rows = browser.open_deployments(page, servers)
    rows.filter(has_text="nightly").get_by_text("+1").last.hover()
    _photograph(page, folder / "prefect-deployments.png")

    browser.open_comparison(page, servers, num_runs=2)
    page.get_by_text("Visualizations", exact=True).click()
    page.get_by_text("Run details", exact=True).evaluate("heading => heading.scrollIntoView()")
    _photograph(page, folder / "mlflow-compare.png", WITHOUT_ASSISTANT)

    browser.open_registry(page, servers)
    page.get_by_role("columnheader", name="Registered at").click()  # the oldest, which is champion, first
    _photograph(page, folder / "mlflow-registry.png", WITHOUT_ASSISTANT)

    serve_both(servers, recipe.register_.line)
    photograph_playground(page, servers, folder)

    cleaned = Artifact.peek(servers.ws.out / "clean")
    page.goto(report_place(servers.ws, cleaned).as_uri())
    _photograph(page, folder / "data-report.png")


def serve_both(servers: Servers, line: str) -> None:
    """Have the model server keep both versions, as after any night that promoted: the first one as champion."""
    for command, champion in (("promote", f"{line}@2"), ("rollback", f"{line}@1")):
        done = in_project(servers.ws, "flows.cli", command, champion if command == "promote" else line)
        assert done.returncode == 0, done.stderr[-3000:]
        deadline = time.monotonic() + browser.PATIENCE_SECONDS
        while (httpx.get(f"{servers.model}/version", timeout=30).json()["model"] or {}).get("name") != champion:
            assert time.monotonic() < deadline, f"{champion} is not served"
            time.sleep(0.5)


def photograph_playground(page: Page, servers: Servers, folder: Path) -> None:
    """Champion and previous side by side, with the probabilities of a token."""
    browser.open_playground(page, servers)
    for name in ("Side by side", "Probability colours"):
        page.get_by_role("switch", name=name).check()
    page.locator(".model").nth(1).locator("option:checked", has_text="previous").wait_for(state="attached")
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("Seed").fill("1")
    page.get_by_label("Max tokens").fill("45")
    page.get_by_role("button", name="Generate").click()
    page.locator(".figures", has_text="limit").nth(1).wait_for()
    page.locator(".column").first.locator(".token").nth(TOKEN).hover()
    _photograph(page, folder / "playground.png")


def _photograph(page: Page, path: Path, style: str | None = None) -> None:
    page.wait_for_timeout(SETTLING_SECONDS * 1000)
    page.screenshot(path=path, style=style)
    size = path.stat().st_size
    assert size < MAX_BYTES, f"{path}: {size:,} bytes, at most {MAX_BYTES:,} are wanted in the repository"


def main() -> None:
    """Build a project, run the recipe in it beside all servers, and photograph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="demo", metavar="RECIPE")
    parser.add_argument("--folder", type=Path, default=IMAGES, help="where the pictures go (default: docs/images)")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, ROOT / "configs")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        ws = make_project(Path(place) / "project")
        subprocess.run(["git", "-C", str(ws.root), "rm", "-q", "configs/tiny.yaml"], check=True)
        subprocess.run(["git", "-C", str(ws.root), *IDENTITY, "commit", "-q", "-m", "No tests' recipe"], check=True)
        with (
            browser.servers_up(ws, recipe.register_.line, cron="0 2 * * *") as servers,
            browser.chromium() as (context, watch),
        ):
            first = in_project(ws, "flows.cli", "run", recipe.name, "--json")
            assert first.returncode == 0, first.stderr[-3000:]
            print(f"first run: {json.loads(first.stdout)['metrics']}")
            photograph_all(context.new_page(), servers, recipe, recipe.train.steps // 4, arguments.folder)
            assert not watch.foreign + watch.errors, f"not as it should be: {watch}"


if __name__ == "__main__":
    main()
