"""What a version takes where it is loaded: the gate's limits are compared with it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from llm_core.generate import Sampling
from llm_core.serving import golden
from llm_core.serving.jobs import Answer, Event, Job
from llm_core.serving.loaded import LoadedModel

ANSWERS, ANSWER_TOKENS = 4, 40


def measure(model: LoadedModel) -> dict[str, Any]:
    """`memory_bytes` at most, and of a model that writes `milliseconds_per_token`, the 95th percentile of its steps.

    Nobody else may ask the model meanwhile; times are this machine's and of one answer at a time.
    """
    found: dict[str, Any] = {"memory_bytes": model.num_bytes}
    if model.writes:
        times = [seconds for _ in range(ANSWERS) for seconds in _step_seconds(model)]
        if times:
            found["milliseconds_per_token"] = round(1000 * float(np.quantile(times, 0.95)), 3)
    return found


def _step_seconds(model: LoadedModel) -> list[float]:
    """Of each step behind the first, which reads the prompt."""
    ids = model.encode_prompt(golden.TEXT)[: model.context // 2]
    news = threading.Event()
    events: list[Event] = []
    answer = Answer(Job(model, ids, ANSWER_TOKENS, Sampling(temperature=0.0)), events.append, news.set)
    model.runner.add(answer)
    times = []
    while model.runner.num_running + model.runner.num_waiting:
        if model.runner.is_idle:
            news.wait()
        news.clear()
        began = time.perf_counter()
        model.runner.step()
        times.append(time.perf_counter() - began)
    return times[1:]
