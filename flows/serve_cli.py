"""`tidemill serve`: the model server in this terminal."""

from __future__ import annotations

import os
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.options import workspace

if TYPE_CHECKING:
    from llm_core.serving.hosting import Host
    from llm_core.serving.traces import Traces


def serve(
    line: Annotated[list[str], typer.Option(help="A line to serve; several times for several.")] = ["demo"],  # noqa: B006
    alias: Annotated[
        list[str], typer.Option(help="Another name of a line, as ALIAS=LINE; several times for several.")
    ] = [],  # noqa: B006
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    model: Annotated[Path | None, typer.Option(help="Serve this model folder instead of a champion.")] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"], typer.Option(help="Of weights; float32 is what was judged.")
    ] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads that write answers.", min=1)] = 1,
    max_running: Annotated[int, typer.Option(help="Answers that are written at the same time.", min=1)] = 32,
    max_waiting: Annotated[int, typer.Option(help="Answers that may wait; whoever comes later gets 503.", min=0)] = 16,
    request_seconds: Annotated[float, typer.Option(help="Most time that a request may take.", min=1)] = 600.0,
    poll_seconds: Annotated[float, typer.Option(help="How often the registry is asked.", min=0.05)] = 2.0,
    memory_mb: Annotated[
        int | None, typer.Option(help="Most memory for all models; the line asked longest ago is unloaded.", min=1)
    ] = None,
    cache_mb: Annotated[int, typer.Option(help="Most memory for a model's keys and values.", min=1)] = 1024,
    backend: Annotated[
        Literal["tidemill", "vllm", "llama.cpp"],
        typer.Option(help="The engine: ours, or another's program, started for each version."),
    ] = "tidemill",
    backend_args: Annotated[
        str, typer.Option(help="Further arguments of that program, as one text.", metavar="TEXT")
    ] = "",
    keys: Annotated[
        Path | None, typer.Option(help="Let in only who has a key of this file (tidemill keys).", metavar="FILE")
    ] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Be open to everyone on another --host too.")] = False,
    max_body_mb: Annotated[int, typer.Option(help="Largest request.", min=1)] = 1,
    sample: Annotated[
        float | None,
        typer.Option(help="Keep this share of requests that consent, and feedback (0: feedback only).", min=0, max=1),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEMILL_TRACES",
            help="Send OpenTelemetry traces of requests to MLflow (mlflow) or to an address that takes OTLP over HTTP.",
            metavar="mlflow|URL",
        ),
    ] = None,
    trace_share: Annotated[float, typer.Option(help="Share of the requests that are traced.", min=0, max=1)] = 1.0,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Write what is asked and answered into the log and the traces.")
    ] = False,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Let /v1/explain tell passages of training documents, where indexed here.")
    ] = False,
) -> None:
    """Serve the champion of a line over an OpenAI-compatible API, following every promotion."""
    from llm_core.serving.hosting import Host
    from llm_core.serving.registry import FolderRegistry, MlflowRegistry, RegisteredVersion
    from llm_core.serving.samples import Samples
    from llm_core.serving.server import serve as serve_forever
    from llm_core.serving.settings import RunnerSettings

    if keys is not None and no_keys:
        raise typer.BadParameter("--keys with --no-keys: these do not go together; leave one out")
    lines = Host(line, dict(_alias(each) for each in alias), memory_mb << 20 if memory_mb else None)
    further = tuple(shlex.split(backend_args))
    if further and backend == "tidemill":
        raise typer.BadParameter("--backend-args are for another engine's program; give --backend too")
    if traces not in (None, "mlflow") and not traces.startswith(("http://", "https://")):
        raise typer.BadParameter(f"--traces {traces}: give mlflow or an address that begins with http:// or https://")
    settings = RunnerSettings(precision, threads, max_running, cache_mb << 20, backend, further)
    serve_on = partial(
        serve_forever,
        lines,
        host=host,
        port=port,
        settings=settings,
        poll_seconds=poll_seconds,
        max_open=max_running + max_waiting,
        request_seconds=request_seconds,
        keys=keys,
        without_keys=no_keys,
        max_body_bytes=max_body_mb << 20,
        samples=Samples(workspace().home / "samples", sample) if sample is not None else None,
        traces=_traces(traces, trace_share) if traces else None,
        keeps_spoken=log_prompts,
        indexes=workspace().home / "nearest" if nearest else None,
    )
    if model is not None:
        serve_on(FolderRegistry(model), admit=lambda version: None)
        return

    from tasks import challenges, champions
    from tasks.ledger import Ledger
    from tasks.services import mlflow_store, prepare_mlflow, tracking_uri

    ws = workspace()
    if tracking_uri(ws.home) == mlflow_store(ws.home):  # one elsewhere is not ours to make
        prepare_mlflow(ws.home)
    ledger = Ledger(ws.home)
    _announce(lines, ws.home)

    def admit(version: RegisteredVersion) -> None:
        champions.admit(ledger, version)

    registry = MlflowRegistry(tracking_uri(ws.home), cache=ws.home / "served")
    serve_on(registry, admit=admit, admit_challenger=partial(challenges.admit, ledger))


def _alias(text: str) -> tuple[str, str]:
    alias, equals, line = text.partition("=")
    if not (alias and equals and line):
        raise ValueError(f"--alias {text}: write it as ALIAS=LINE, for example gpt-4=demo")
    return alias, line


def _traces(where: str, share: float) -> Traces:
    from llm_core.serving.traces import Traces
    from tasks.tracking import traces_endpoint

    endpoint, headers = traces_endpoint(workspace().home) if where == "mlflow" else (where, {})
    return Traces(endpoint, headers, share)


def _announce(lines: Host, home: Path) -> None:
    """Tell the Prefect server what happens, where one is known."""
    from flows.announce import Announcer
    from tasks.services import environment

    if api := os.environ.get("PREFECT_API_URL") or environment(home).get("PREFECT_API_URL"):
        announcer = Announcer(api)
        for line in lines.lines.values():
            line.observers.append(announcer)
