"""Numbers for Prometheus, under vLLM's names where vLLM has them, so that its dashboards and autoscalers work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from llm_core.serving.canary import Verdict
    from llm_core.serving.engine import Engine
    from llm_core.serving.hosting import Host
    from llm_core.serving.jobs import Answer
    from llm_core.serving.loaded import LoadedModel
    from llm_core.serving.workers import Workers

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000)
PER_TOKEN = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
WAITING = "num_requests_waiting"
QUEUE_METRIC = f"tidemill_{WAITING}"
"""What autoscalers look at: Kubernetes' names take no colon."""


class Metrics:
    """The numbers of one server; answers are counted under their line, whichever version wrote them."""

    def __init__(self, host: Host, engine: Engine, workers: Workers) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Moment(host, engine, workers))  # type: ignore[arg-type]  # any object with collect() will do
        self._prompt_tokens = self._counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._generation_tokens = self._counter("vllm:generation_tokens", "Tokens of answers.")
        self._cache_queries = self._counter("vllm:prefix_cache_queries", "Tokens looked up in the prefix cache.")
        self._cache_hits = self._counter("vllm:prefix_cache_hits", "Tokens found in the prefix cache.")
        self._preemptions = self._counter("vllm:num_preemptions", "Times an answer gave its blocks back.")
        self._success = self._counter("vllm:request_success", "Answers that ended, by reason.", "finished_reason")
        self._first = self._histogram("vllm:time_to_first_token_seconds", "From asking to the first token.", SECONDS)
        self._per_token = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time of a token behind the first.", PER_TOKEN
        )
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "From asking to the end.", SECONDS)
        self._queued = self._histogram("vllm:request_queue_time_seconds", "From asking to the begin.", SECONDS)
        self._prefill = self._histogram("vllm:request_prefill_time_seconds", "From begin to first token.", SECONDS)
        self._decode = self._histogram("vllm:request_decode_time_seconds", "From first token to the end.", SECONDS)
        self._prompts = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self._answers = self._histogram("vllm:request_generation_tokens", "Tokens of an answer.", TOKENS)
        self._responses = Counter(
            "tidemill:http_responses", "Responses by route and status.", ("route", "status"), registry=self._registry
        )
        self._refused = self._counter("tidemill:refused_versions", "Versions that should have served and may not.")
        self._swaps = self._counter("tidemill:swaps", "Times another version took over.")
        self._verdicts = self._counter("tidemill:verdicts", "Verdicts on challengers on trial.", "outcome")
        self._info = Gauge(
            "tidemill:serving", "1 for the version that serves.", ("model_name", "version"), registry=self._registry
        )

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)

    def answered(self, answer: Answer, reason: str) -> None:
        """Count an answer that ended; `reason` is stop, length, abort (its client left) or error."""
        line, times = answer.job.model.version.line, answer.times
        num_prompt = len(answer.job.ids)
        self._success.labels(line, reason).inc()
        for counter, count in (
            (self._prompt_tokens, num_prompt),
            (self._generation_tokens, answer.num_tokens),
            (self._cache_queries, num_prompt),
            (self._cache_hits, answer.num_cached),
            (self._preemptions, answer.num_preempted),
        ):
            counter.labels(line).inc(count)
        self._prompts.labels(line).observe(num_prompt)
        self._answers.labels(line).observe(answer.num_tokens)
        if not (times.begun and times.first_token and times.ended):
            return
        for histogram, seconds in (
            (self._first, times.first_token - times.asked),
            (self._whole, times.ended - times.asked),
            (self._queued, times.begun - times.asked),
            (self._prefill, times.first_token - times.begun),
            (self._decode, times.ended - times.first_token),
        ):
            histogram.labels(line).observe(seconds)
        if answer.num_tokens > 1:
            seconds = times.ended - times.first_token
            self._per_token.labels(line).observe(seconds / (answer.num_tokens - 1))

    def responded(self, route: str, status: int) -> None:
        """Count a response under its route's pattern, never under what was asked for."""
        self._responses.labels(route, str(status)).inc()

    def refused(self, line: str, version: str, reason: str) -> None:
        """Count a version that may not serve."""
        self._refused.labels(line).inc()

    def swapped(self, line: str, before: LoadedModel | None, after: LoadedModel) -> None:
        """Count a version that took over."""
        self._swaps.labels(line).inc()
        if before is not None:
            self._info.remove(line, before.version.version)
        self._info.labels(line, after.version.version).set(1)

    def challenged(self, line: str, challenger: LoadedModel) -> None:
        """Nothing to count: the trial itself is asked."""

    def judged(self, line: str, version: str, verdict: Verdict) -> None:
        """Count a verdict."""
        self._verdicts.labels(line, verdict.outcome).inc()

    def _counter(self, name: str, text: str, *more: str) -> Counter:
        return Counter(name, text, ("model_name", *more), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model_name",), buckets=buckets, registry=self._registry)


class _Moment:
    """What is true when it is asked for: queues and blocks in use."""

    def __init__(self, host: Host, engine: Engine, workers: Workers) -> None:
        self._host, self._engine, self._workers = host, engine, workers

    def collect(self) -> Iterator[Metric]:
        running = GaugeMetricFamily("vllm:num_requests_running", "Answers being written.", labels=["model_name"])
        waiting = GaugeMetricFamily(f"vllm:{WAITING}", "Answers that wait for their turn.", labels=["model_name"])
        usage = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc", "Key/value blocks in use, a share.", labels=["model_name"]
        )
        for line in self._host.lines.values():
            runners = [model.runner for model in line.models()]
            running.add_metric([line.name], sum(runner.num_running for runner in runners))
            waiting.add_metric([line.name], sum(runner.num_waiting for runner in runners))
            usage.add_metric([line.name], max((runner.cache_usage for runner in runners), default=0.0))
        yield from (running, waiting, usage, *self._trials())
        yield GaugeMetricFamily(QUEUE_METRIC, "Answers that wait, over all lines.", self._engine.num_waiting)
        yield GaugeMetricFamily("tidemill_num_requests_open", "Answers that wait or run.", self._engine.num_open)
        yield GaugeMetricFamily("tidemill_num_tasks_open", "Work beside the engine.", self._workers.num_open)

    def _trials(self) -> Iterator[Metric]:
        """The challengers' shares, and how often each side was seen."""
        labels = ["model_name", "version"]
        share = GaugeMetricFamily(
            "tidemill:trial_share", "Share of the askers that a challenger answers.", labels=labels
        )
        seen = CounterMetricFamily("tidemill:trial_answers", "Answers that a trial compares.", labels=[*labels, "side"])
        for line in self._host.lines.values():
            if (trial := line.trial) is not None:
                share.add_metric([line.name, trial.name], trial.share)
                for side, count in trial.counts().items():
                    seen.add_metric([line.name, trial.name, side], count)
        yield from (share, seen)
