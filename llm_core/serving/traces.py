"""OpenTelemetry traces: a span for each request, below it one for each answer with its waiting, reading and writing.

Spans go out as OTLP over HTTP, in batches and in a thread of their own. Where nobody takes them they are lost, and
answers are not held up. Attributes have the names of OpenTelemetry's conventions for generative models, which MLflow
understands as well (https://opentelemetry.io/docs/specs/semconv/gen-ai/).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version as package_version
from itertools import pairwise

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_core.serving.jobs import Answer
from llm_core.serving.middleware import VERSION_HEADER, pattern_of
from llm_core.serving.spoken import Spoken

SEND_SECONDS = 10.0
"""How long a batch may take, also the last one when the server ends."""
BATCH_MILLISECONDS = 1000
OPERATIONS = {"chat/completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}


class Traces:
    """Where spans are made and sent from; close it in the end."""

    def __init__(self, endpoint: str, headers: Mapping[str, str] | None = None, share: float = 1.0) -> None:
        """`endpoint` takes OTLP over HTTP (``http://HOST/v1/traces``); `share` of all requests are traced."""
        resource = Resource.create({"service.name": "tidemill", "service.version": package_version("tidemill")})
        self._provider = TracerProvider(resource=resource, sampler=TraceIdRatioBased(share), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers or {}), timeout=SEND_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=BATCH_MILLISECONDS))
        self._tracer = self._provider.get_tracer("tidemill.serving")

    def begin(self, scope: Scope) -> Trace:
        """The trace of a request, part of the caller's own where its headers name one (W3C's ``traceparent``)."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        parent = TraceContextTextMapPropagator().extract(headers)
        span = self._tracer.start_span(scope["method"], parent, SpanKind.SERVER)
        return Trace(span, self._tracer, time.time_ns() - time.monotonic_ns())

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


@dataclass(frozen=True)
class Trace:
    """One request's."""

    span: Span
    tracer: Tracer
    offset: int
    """Nanoseconds from the monotonic clock to the one since 1970; one for a trace, or its moments would overlap."""

    def answered(self, answer: Answer, reason: str, path: str) -> None:
        """Note an answer that ended, with the times that it spent."""
        if not self.span.is_recording():
            return
        operation = OPERATIONS.get(path.removeprefix("/v1").strip("/"), path.rsplit("/", 1)[-1])
        model, times = answer.job.model, answer.times
        ended = times.ended or time.monotonic()
        name = f"{operation} {model.version.line}"
        span = self._child(self.span, name, times.asked, _attributes(answer, reason, operation))
        if reason == "error":
            span.set_status(StatusCode.ERROR)
        moments = (times.asked, times.begun or ended, times.first_token or ended, ended)
        for part, (begin, end) in zip(("queue", "prefill", "decode"), pairwise(moments), strict=True):
            if end > begin:
                self._child(span, part, begin, {}).end(self._wall(end))
        span.end(self._wall(ended))

    def end(self, scope: Scope, status: int, version: str | None) -> None:
        """Close the request's span."""
        route = pattern_of(scope)
        state = scope["state"]
        self.span.update_name(f"{scope['method']} {route}")
        self.span.set_attributes(
            {"http.request.method": scope["method"], "http.route": route, "http.response.status_code": status}
        )
        told = {"tidemill.request_id": state.get("request_id"), "tidemill.version": version}
        told["tidemill.key"] = getattr(state.get("caller"), "key_id", None)
        self.span.set_attributes({name: value for name, value in told.items() if value})
        if spoken := state.get("spoken"):
            self.span.set_attributes(_words(spoken))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.span.set_status(StatusCode.ERROR)
        self.span.end()

    def _child(self, parent: Span, name: str, begin: float, attributes: Mapping[str, AttributeValue]) -> Span:
        context = set_span_in_context(parent)
        return self.tracer.start_span(name, context, attributes=attributes, start_time=self._wall(begin))

    def _wall(self, moment: float) -> int:
        return int(moment * 1e9) + self.offset


class TraceRequests:
    """Traces each POST request; what it is to be known by further in is ``trace`` of its state."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app, self._traces = app, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        trace = scope.setdefault("state", {})["trace"] = self._traces.begin(scope)
        status, version = int(HTTPStatus.INTERNAL_SERVER_ERROR), None  # of an app that breaks before it answers

        async def noted(message: Message) -> None:
            nonlocal status, version
            if message["type"] == "http.response.start":
                status = message["status"]
                found = [value for name, value in message.get("headers", ()) if name == VERSION_HEADER.encode()]
                version = found[0].decode("latin-1") if found else None
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            trace.end(scope, status, version)


def _attributes(answer: Answer, reason: str, operation: str) -> dict[str, AttributeValue]:
    job, version = answer.job, answer.job.model.version
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "tidemill",
        "gen_ai.request.model": version.line,
        "gen_ai.response.model": job.model.name,
        "gen_ai.request.max_tokens": answer.limit,
        "gen_ai.request.temperature": job.sampling.temperature,
        "gen_ai.request.top_p": job.sampling.top_p,
        "gen_ai.request.seed": job.sampling.seed,
        "gen_ai.response.finish_reasons": [reason],
        "gen_ai.usage.input_tokens": len(job.ids),
        "gen_ai.usage.output_tokens": answer.num_tokens,
        "gen_ai.usage.cache_read.input_tokens": answer.num_cached,
        "tidemill.preemptions": answer.num_preempted,
    }


def _words(spoken: Spoken) -> dict[str, AttributeValue]:
    """What was said, under the names that MLflow shows as a trace's input and output."""
    return {"mlflow.spanInputs": json.dumps(spoken.asked), "mlflow.spanOutputs": json.dumps(spoken.answered)}
