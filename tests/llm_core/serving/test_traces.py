from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.hosting import Host
from llm_core.serving.traces import Traces

ASK = {
    "model": "tiny",
    "prompt": "Unspeakable secrets of the union",
    "max_tokens": 3,
    "ignore_eos": True,
    "temperature": 0,
}
COMPLETIONS = "/v1/completions"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


class Collector(ThreadingHTTPServer):
    """Takes spans over HTTP as OpenTelemetry's protocol has it."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.headers: list[str] = []
        super().__init__(("127.0.0.1", 0), Receiver)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        batch = ExportTraceServiceRequest()
        batch.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
        self.server.headers.append(self.headers.get("x-mlflow-experiment-id", ""))
        self.server.spans += [
            span for resource in batch.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on standard error."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def traced(engine: Engine, host: Host, traces: Traces, keeps_spoken: bool = False) -> Iterator[TestClient]:
    """A client whose spans have all been sent when its block is left."""
    app = create_app(Service(host, engine), traces=traces, keeps_spoken=keeps_spoken)
    try:
        with TestClient(app) as client:
            yield client
    finally:
        traces.close()


def told(span: Any) -> dict[str, Any]:
    """A span's attributes."""
    plain = {}
    for pair in span.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        plain[pair.key] = [each.string_value for each in value.values] if kind == "array_value" else value
    return plain


def test_a_request_and_its_answer_are_spans_of_one_trace(collector: Collector, engine: Engine, host: Host) -> None:
    began = time.time_ns()
    headers = {"x-mlflow-experiment-id": "7"}
    with traced(engine, host, Traces(collector.endpoint, headers)) as client:
        response = client.post(COMPLETIONS, json={**ASK, "seed": 5})
    ended = time.time_ns()
    whole, answer = collector.named(f"POST {COMPLETIONS}"), collector.named("text_completion tiny")
    assert set(collector.headers) == {"7"}
    assert {span.trace_id for span in collector.spans} == {whole.trace_id}
    assert answer.parent_span_id == whole.span_id and not whole.parent_span_id
    parts = [collector.named(name) for name in ("queue", "prefill", "decode")]
    assert {part.parent_span_id for part in parts} == {answer.span_id}
    moments = [moment for part in parts for moment in (part.start_time_unix_nano, part.end_time_unix_nano)]
    assert began <= whole.start_time_unix_nano <= moments[0] and moments[-1] <= whole.end_time_unix_nano <= ended
    assert moments == sorted(moments)
    facts = told(whole)
    assert (facts["http.response.status_code"], facts["tidemill.version"]) == (200, "tiny@1")
    assert facts["tidemill.request_id"] == response.headers["x-request-id"]
    facts, usage = told(answer), response.json()["usage"]
    assert (facts["gen_ai.request.model"], facts["gen_ai.response.model"]) == ("tiny", "tiny@1")
    assert facts["gen_ai.response.finish_reasons"] == ["length"]
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (usage["prompt_tokens"], 3)
    assert (facts["gen_ai.request.max_tokens"], facts["gen_ai.request.seed"]) == (3, 5)


def test_a_stream_that_was_left_and_a_refused_request_are_told(
    collector: Collector, engine: Engine, host: Host
) -> None:
    with traced(engine, host, Traces(collector.endpoint)) as client:
        client.post(COMPLETIONS, json={**ASK, "n": 2, "stream": True}).read()
        client.post(COMPLETIONS, json={**ASK, "max_tokens": -1})
        client.get("/v1/models")
    assert sum(span.name == "text_completion tiny" for span in collector.spans) == 2
    statuses = sorted(told(span).get("http.response.status_code", 0) for span in collector.spans)
    assert statuses[-2:] == [200, 400] and statuses[-3] == 0


def test_what_was_said_is_told_only_where_it_is_kept(collector: Collector, engine: Engine, host: Host) -> None:
    with traced(engine, host, Traces(collector.endpoint)) as client:
        client.post(COMPLETIONS, json=ASK)
    assert "secrets" not in str(collector.spans)
    collector.spans.clear()
    with traced(engine, host, Traces(collector.endpoint), keeps_spoken=True) as client:
        text = client.post(COMPLETIONS, json=ASK).json()["choices"][0]["text"]
        client.post(COMPLETIONS, json={**ASK, "stream": True}).read()
    whole, streamed = (told(span) for span in collector.spans if span.name.startswith("POST"))
    assert json.loads(whole["mlflow.spanInputs"]) == ASK
    assert json.loads(whole["mlflow.spanOutputs"])["choices"][0]["text"] == text
    assert json.loads(streamed["mlflow.spanOutputs"]) == [text]


def test_a_share_is_traced_whatever_the_caller_says_and_joins_the_callers_trace(
    collector: Collector, engine: Engine, host: Host
) -> None:
    with traced(engine, host, Traces(collector.endpoint, share=0.0)) as client:
        assert client.post(COMPLETIONS, json=ASK, headers={"traceparent": f"{PARENT[:-1]}1"}).status_code == 200
    assert not collector.spans
    with traced(engine, host, Traces(collector.endpoint)) as client:
        client.post(COMPLETIONS, json=ASK, headers={"traceparent": PARENT})
    whole = collector.named(f"POST {COMPLETIONS}")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (PARENT.split("-")[1], PARENT.split("-")[2])


def test_a_collector_that_is_away_holds_nobody_up(engine: Engine, host: Host) -> None:
    with Collector() as server:
        endpoint = server.endpoint  # nobody listens there any more
    began = time.monotonic()
    with traced(engine, host, Traces(endpoint)) as client:
        assert all(client.post(COMPLETIONS, json=ASK).status_code == 200 for _ in range(3))
    assert time.monotonic() - began < 15
