from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from tasks import tracking
from tasks.tracking import MetricSpool


class Outage:
    """A tracking client that is away for its first calls."""

    def __init__(self, away_for: int = 0) -> None:
        self.away_for = away_for
        self.stored: dict[tuple[str, int], float] = {}
        self.calls = 0

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.calls += 1
        if self.calls <= self.away_for:
            raise ConnectionError("the tracker is away")
        assert len(metrics) <= 1000
        self.stored.update({(metric.key, metric.step): metric.value for metric in metrics})


def losses(client: Outage) -> list[float]:
    return [value for (key, _), value in sorted(client.stored.items()) if key == "loss"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SHIP_SECONDS", 0.02)


def test_every_metric_arrives_in_batches(tmp_path: Path) -> None:
    client = Outage()
    with MetricSpool(client, "run", tmp_path / "train.jsonl") as spool:  # type: ignore[arg-type]
        for step in range(3000):
            spool.metrics(step, {"loss": float(step)})
    assert losses(client) == [float(step) for step in range(3000)]
    assert client.calls < 100


def test_an_outage_delays_metrics_and_loses_none(tmp_path: Path) -> None:
    client = Outage(away_for=3)
    with MetricSpool(client, "run", tmp_path / "train.jsonl") as spool:  # type: ignore[arg-type]
        for step in range(50):
            spool.metrics(step, {"loss": float(step)})
            time.sleep(0.005)
    assert len(losses(client)) == 50


def test_what_was_not_shipped_goes_with_the_next_run_of_the_intent(tmp_path: Path) -> None:
    with MetricSpool(Outage(away_for=10**9), "run", tmp_path / "train.jsonl") as spool:  # type: ignore[arg-type]
        spool.metrics(1, {"loss": 1.0})
    client = Outage()
    with MetricSpool(client, "run", tmp_path / "train.jsonl") as spool:  # type: ignore[arg-type]
        spool.metrics(2, {"loss": 2.0})
    assert losses(client) == [1.0, 2.0]


def test_a_line_that_a_kill_cut_off_costs_itself_only(tmp_path: Path) -> None:
    place = tmp_path / "train.jsonl"
    with MetricSpool(Outage(away_for=10**9), "run", place) as spool:  # type: ignore[arg-type]
        spool.metrics(1, {"loss": 1.0})
    with open(place, "a") as file:
        file.write('{"step": 2, "time"')
    client = Outage()
    with MetricSpool(client, "run", place) as spool:  # type: ignore[arg-type]
        spool.metrics(3, {"loss": 3.0})
    assert losses(client) == [1.0, 3.0]


def test_the_training_thread_does_not_wait_for_a_slow_tracker(tmp_path: Path) -> None:
    class Slow(Outage):
        def log_batch(self, run_id: str, metrics: list[Any]) -> None:
            time.sleep(0.5)

    with MetricSpool(Slow(), "run", tmp_path / "train.jsonl") as spool:  # type: ignore[arg-type]
        time.sleep(0.1)  # the first shipment is on its way
        began = time.monotonic()
        for step in range(100):
            spool.metrics(step, {"loss": 1.0})
        assert time.monotonic() - began < 0.4


def test_a_value_that_is_not_finite_becomes_a_flag(tmp_path: Path) -> None:
    client = Outage()
    with MetricSpool(client, "run", tmp_path / "train.jsonl") as spool:  # type: ignore[arg-type]
        spool.metrics(7, {"loss": math.nan, "lr": 0.5})
    stored = {key: value for key, value in client.stored.items() if not key[0].startswith("system/")}
    assert stored == {("lr", 7): 0.5, ("nonfinite", 7): 1.0}
