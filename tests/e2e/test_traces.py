"""Requests to the shipped server as traces in a real MLflow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks import processes
from tasks.services import mlflow_server
from tasks.tracking import SERVING_EXPERIMENT, MlflowClient
from tests.e2e.serving import LINE, Registered, server
from tests.flows.small_project import free_port

PROMPT = "The state of our union"

pytestmark = pytest.mark.e2e


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Registered]:
    """A champion, and MLflow's server on its registry."""
    registered = Registered(tmp_path / "project", num_versions=1)
    registered.promote(1)
    running = processes.start(mlflow_server(registered.ws.home, free_port()))
    yield registered
    processes.stop(registered.ws.home, running)


def found_traces(uri: str, count: int) -> list[Any]:
    """MLflow's traces of served requests, oldest first, once there are so many."""
    client = MlflowClient(uri)
    until = time.monotonic() + 30
    while True:
        experiment = client.get_experiment_by_name(SERVING_EXPERIMENT)
        assert experiment is not None
        traces = client.search_traces([experiment.experiment_id], order_by=["timestamp_ms ASC"])
        if len(traces) >= count:
            return list(traces)
        assert time.monotonic() < until, f"{len(traces)} traces of {count}"
        time.sleep(0.2)


def test_requests_are_traces_in_mlflow(registered: Registered) -> None:
    mlflow = processes.find(registered.ws.home, "mlflow")
    assert mlflow is not None and mlflow.url is not None
    ask = {"model": LINE, "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    with server(registered.ws, "--traces", "mlflow", "--log-prompts") as running:
        running.await_version(f"{LINE}@1")
        whole = httpx.post(f"{running.url}/v1/completions", json=ask, timeout=30).json()
        message = {"role": "user", "content": PROMPT}
        chat = {"model": LINE, "messages": [message], "max_tokens": 4, "stream": True}
        assert httpx.post(f"{running.url}/v1/chat/completions", json=chat, timeout=30).status_code == 200
        first, second = found_traces(mlflow.url, 2)
    assert json.loads(first.data.request) == ask
    assert json.loads(first.data.response)["choices"][0]["text"] == whole["choices"][0]["text"]
    assert first.info.token_usage["output_tokens"] == whole["usage"]["completion_tokens"]
    spans = {span.name: span for span in second.data.spans}
    answer = spans[f"chat {LINE}"]
    assert answer.attributes["gen_ai.response.model"] == f"{LINE}@1"
    assert answer.parent_id == spans["POST /v1/chat/completions"].span_id
    assert spans["prefill"].parent_id == spans["decode"].parent_id == answer.span_id
