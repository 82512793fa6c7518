"""Run a flow from the command line: against the Prefect server that is up, or one started for just this run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, NoReturn

from llm_core.artifact import Interrupted
from llm_core.config import Recipe
from tasks.processes import Running, Service, find, free_port, require_free, start, temporary
from tasks.services import environment, prefect_server, prepare_mlflow, server_of_line
from tasks.workspace import Workspace

DRAIN_SECONDS = 10


def run_lifecycle(ws: Workspace, recipe: Recipe, *, keep_serving: bool, verbose: bool) -> dict[str, Any]:
    """The lifecycle flow's summary; with `keep_serving` the model server stays up after it."""
    with _prefect(ws, recipe, verbose):
        if keep_serving:
            serve_on(ws, recipe)
        from flows.lifecycle import lifecycle

        state: Any = lifecycle(recipe, return_state=True)
        return state.result()


def serve_on(ws: Workspace, recipe: Recipe) -> None:
    """Leave the model server of the recipe's line running, started now unless it runs already."""
    running = start(_model_server(ws, recipe))
    print(f"the model server stays at {running.url}; tidemill down stops it", file=sys.stderr, flush=True)


def run_nightly(ws: Workspace, recipe: Recipe) -> dict[str, Any]:
    """The nightly flow's summary, or `skipped` with the reason."""
    with _prefect(ws, recipe, verbose=False):
        from flows.nightly import nightly

        state: Any = nightly(recipe, return_state=True)
        return {"skipped": state.message} if state.name == "Skipped" else state.result()


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
        stack.enter_context(_interruptible())
        if "PREFECT_API_URL" not in os.environ:
            server = stack.enter_context(_temporary_server(ws))
            os.environ["PREFECT_API_URL"] = f"{server.url}/api"
            stack.callback(os.environ.pop, "PREFECT_API_URL", None)
            stack.callback(_send_the_rest)
        yield


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the run as interrupted: servers of this run are stopped, its checkpoints stay.

    Prefect puts its own handler over this one while a flow runs, and gives the signal back when the flow has ended.
    """

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(f"{signal.Signals(number).name}; run it again to go on from there")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _temporary_server(ws: Workspace) -> Iterator[Running]:
    """A Prefect server for one run; on a fresh home MLflow's database is made in the meantime."""
    print("starting a Prefect server for this run ...", file=sys.stderr, flush=True)
    database = threading.Thread(target=prepare_mlflow, args=(ws.home,))
    database.start()
    with temporary(prefect_server(ws.home, free_port())) as server:
        database.join()  # a failure shows again, as an error, where the tracker opens it
        yield server


def _send_the_rest() -> None:
    """Log lines and events still on their way would be tried for a minute after the server's end."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=DRAIN_SECONDS)


def _model_server(ws: Workspace, recipe: Recipe) -> Service:
    service = server_of_line(ws.home, ws.root, recipe.register_.line, recipe.deploy.port)
    return replace(service, option="--set deploy.port=PORT")
