"""Run a flow from the command line: against the Prefect server that is up, or one started for just this run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from llm_core.config import Recipe
from tasks.processes import Service, find, free_port, require_free, start, temporary
from tasks.services import environment, prefect_server, server_of_line
from tasks.workspace import Workspace


def run_lifecycle(ws: Workspace, recipe: Recipe, *, keep_serving: bool, verbose: bool) -> dict[str, Any]:
    """The lifecycle flow's summary; with `keep_serving` the model server stays up after it."""
    with _prefect(ws, recipe, verbose):
        if keep_serving:
            start(_model_server(ws, recipe))
        from flows.lifecycle import lifecycle

        summary: Any = lifecycle(recipe)
        return summary


def run_nightly(ws: Workspace, recipe: Recipe) -> dict[str, Any]:
    """The nightly flow's summary, or `skipped` with the reason."""
    with _prefect(ws, recipe, verbose=False):
        from flows.nightly import nightly

        state = nightly(recipe, return_state=True)
        if state.name == "Skipped":
            return {"skipped": state.message}
        summary: dict[str, Any] = state.result()
        return summary


@contextmanager
def _prefect(ws: Workspace, recipe: Recipe, verbose: bool) -> Iterator[None]:
    """Settings and a server for Prefect, in place before it is imported; a taken model port is found out first."""
    service = _model_server(ws, recipe)
    if find(ws.home, service.name) is None:
        require_free(service)
    os.environ.update(environment(ws.home))
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with ExitStack() as stack:
        if "PREFECT_API_URL" not in os.environ:
            server = stack.enter_context(temporary(prefect_server(ws.home, free_port())))
            os.environ["PREFECT_API_URL"] = f"{server.url}/api"
            stack.callback(os.environ.pop, "PREFECT_API_URL", None)
        yield


def _model_server(ws: Workspace, recipe: Recipe) -> Service:
    return server_of_line(ws.home, ws.root, recipe.register_.line, recipe.deploy.port)
