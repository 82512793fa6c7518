"""A person at a browser: Debian's chromium on the pages of Prefect, MLflow and the model server, over real servers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, WebSocket, sync_playwright

from tasks.processes import HOST, free_port
from tasks.workspace import Workspace
from tests.conftest import in_project

OPTIONS = (
    "--no-sandbox",  # chromium refuses to run as root with it
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",  # what a page asks elsewhere is noted and never leaves
)
WIDTH, HEIGHT = 1280, 800
PATIENCE_SECONDS = 90.0
"""Longest wait for anything on a page; machines that run this do other things, too."""
# MLflow opens on its pages for agents, with a panel of its assistant over the right side.
CHOICES = """
if (location.protocol === "http:") {
  localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
  localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
  localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
}
"""
MISSED_BY_THEMSELVES = ("/favicon.ico", "/ico/undefined.svg", "/ajax-api/2.0/mlflow/users/current")
"""What the pages of Prefect and MLflow ask of their own servers in vain."""
HARMLESS = "ResizeObserver loop"
"""Chromium's word, as an error, for a layout that took two frames."""
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Servers:
    """A project with everything running that `tidemill up` starts."""

    ws: Workspace
    line: str
    prefect: str
    mlflow: str
    model: str
    """Addresses, without a slash at the end."""

    def flow_run(self, run: str) -> Any:
        """A flow run as the Prefect server describes it."""
        return httpx.get(f"{self.prefect}/api/flow_runs/{run}", timeout=30, trust_env=False).raise_for_status().json()

    def mlflow_run(self, flow_run: str) -> Any:
        """The MLflow run that a flow run wrote."""
        experiment = {"experiment_name": self.line}
        found = self._mlflow("GET", "experiments/get-by-name", params=experiment)["experiment"]["experiment_id"]
        search = {"experiment_ids": [found], "filter": f"tags.`prefect.flow_run_id` = '{flow_run}'"}
        (run,) = self._mlflow("POST", "runs/search", json=search)["runs"]
        return run

    def _mlflow(self, method: str, path: str, **arguments: Any) -> Any:
        url = f"{self.mlflow}/api/2.0/mlflow/{path}"
        return httpx.request(method, url, timeout=30, trust_env=False, **arguments).raise_for_status().json()


@contextmanager
def servers_up(ws: Workspace, line: str, cron: str) -> Iterator[Servers]:
    """`tidemill up` on free ports, and `tidemill down` whatever happens."""
    ports = {name: free_port() for name in ("prefect", "mlflow", "model")}
    options = [text for name, port in ports.items() for text in (f"--{name}-port", str(port))]
    try:
        started = in_project(ws, "flows.cli", "up", *options, "--line", line, "--cron", cron)
        assert started.returncode == 0, started.stderr[-3000:]
        yield Servers(ws, line, **{name: f"http://{HOST}:{port}" for name, port in ports.items()})
    finally:
        stopped = in_project(ws, "flows.cli", "down")
        assert stopped.returncode == 0, stopped.stderr[-3000:]


@dataclass
class Watch:
    """What pages did that they should not: errors in the console, and requests to anything but this machine."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def attach(self, context: BrowserContext) -> None:
        """Watch all pages of a browser context."""
        context.on("request", lambda request: self._ask(request.url))
        context.on("page", lambda page: page.on("websocket", self._open))
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("console", self._write)

    def _ask(self, url: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("data", "blob", "file") and address.hostname != HOST:
            self.foreign.append(url)

    def _open(self, socket: WebSocket) -> None:
        self._ask(socket.url)

    def _write(self, message: ConsoleMessage) -> None:
        place = message.location.get("url", "")
        known = place.endswith(MISSED_BY_THEMSELVES) or HARMLESS in message.text
        if message.type == "error" and not known:
            self.errors.append(f"{message.text} ({place})")


@contextmanager
def chromium() -> Iterator[tuple[BrowserContext, Watch]]:
    """A fresh browser whose pages are in English, in UTC and 1280x800 pixels, and who watches them."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(OPTIONS))
        context = browser.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, locale="en-US", timezone_id="UTC", reduced_motion="reduce"
        )
        context.set_default_timeout(PATIENCE_SECONDS * 1000)
        context.add_init_script(CHOICES)
        watch = Watch()
        watch.attach(context)
        yield context, watch
        browser.close()


def open_deployments(page: Page, servers: Servers) -> Locator:
    """Prefect's table of deployments; gives its rows, without the head."""
    page.goto(f"{servers.prefect}/deployments")
    page.get_by_role("link", name="demo", exact=True).wait_for()
    return page.get_by_role("row").filter(has=page.get_by_role("link"))


def open_form(page: Page, servers: Servers, deployment: str) -> str:
    """The form of a custom run, reached as a person would; gives the run's name."""
    open_deployments(page, servers)
    page.get_by_role("link", name=deployment, exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    form_field(page, "Seed").get_by_role("spinbutton").wait_for()
    return page.locator(".p-label").filter(has_text="Run Name").get_by_role("textbox").input_value()


def form_field(page: Page, *path: str) -> Locator:
    """A field of the recipe in the form, by the titles that lead to it, as in ("Train", "Steps")."""
    found = page.locator("main, body").first
    for title in ("recipe", *path):
        label = page.locator(".schema-form-property__label").get_by_text(f"{title} (Optional)", exact=True)
        found = found.locator(".schema-form-property").filter(has=label).first
    return found


def submit_form(page: Page, name: str) -> str:
    """Start the run and open its page; gives its id."""
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("link", name=name).first.click()
    page.wait_for_url("**/runs/flow-run/*")
    return urlsplit(page.url).path.rsplit("/", 1)[-1]


def await_end(servers: Servers, run: str, seconds: float) -> str:
    """The type of the state in which a flow run ended."""
    deadline = time.monotonic() + seconds
    while (state := servers.flow_run(run)["state"])["type"] not in ENDS:
        assert time.monotonic() < deadline, f"flow run {run} is still {state['name']} after {seconds:.0f} s"
        time.sleep(1)
    return str(state["type"])


def open_comparison(page: Page, servers: Servers, num_runs: int) -> None:
    """MLflow's comparison of all runs of the line, of what differs only."""
    page.goto(f"{servers.mlflow}/#/experiments")
    page.get_by_role("link", name=servers.line, exact=True).click()
    rows = page.get_by_role("checkbox", name="toggle row selection")
    rows.nth(num_runs - 1).wait_for()
    for index in range(num_runs):
        rows.nth(index).click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text(f"Comparing {num_runs} Runs from 1 Experiment").wait_for()
    for table in ("Parameters", "Metrics"):
        page.get_by_role("switch", name=f"{table} - Show diff only").click()


def open_registry(page: Page, servers: Servers) -> Locator:
    """MLflow's page of the line; gives the rows of its versions."""
    page.goto(f"{servers.mlflow}/#/models/{servers.line}")
    versions = page.get_by_role("row").filter(has=page.get_by_role("link", name="Version"))
    versions.first.wait_for()
    return versions


def open_playground(page: Page, servers: Servers) -> None:
    """The model server's page, once it knows the model."""
    page.goto(f"{servers.model}/")
    page.get_by_role("status").get_by_text(f"{servers.line}@").wait_for()
