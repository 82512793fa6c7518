"""The claims of `benchmarks/serving.py` follow from what was seen, and our server is measured as it is shipped."""

from __future__ import annotations

from collections import defaultdict

import pytest

from benchmarks.serving import CELLS, FULL, OVERLOADED, Cell, Measured, quantile, rows
from benchmarks.serving_load import Seen
from benchmarks.serving_sides import OURS, Files, Work, own_server


def a_seen(rate: float) -> Seen:
    times = [1 / rate, 2 / rate]
    return Seen(10 * rate, 10.0, 10 * rate, first_seconds=times, request_seconds=times, cpu_seconds=5.0)


@pytest.fixture
def measured() -> Measured:
    """Ours is twice as fast everywhere, in two rounds."""
    found: Measured = defaultdict(lambda: defaultdict(list))
    for cell in CELLS:
        found[cell] |= {OURS: [a_seen(20), a_seen(40)], "peer": [a_seen(10), a_seen(20)]}
    found[OVERLOADED][OURS] = [a_seen(10), a_seen(10)]
    return found


def test_better_is_above_one_for_rates_and_for_seconds(measured: Measured) -> None:
    beside = [row for row in rows(measured) if row["peer_name"] == "peer"]
    assert {row["unit"] for row in beside} == {"tokens per second", "tokens per CPU second", "seconds"}
    assert {row["ratio"] for row in beside} == {2.0}


def test_claims_begin_with_the_number_of_clients(measured: Measured) -> None:
    claims = [row["claim"] for row in rows(measured)]
    assert "32 clients, bf16: tokens/s" in claims
    assert "8 clients, int8 beside q8_0: time to first token, p95" in claims
    assert "1 client, fp32: latency, p50" in claims


def test_overload_is_beside_the_same_server_without(measured: Measured) -> None:
    (row,) = [row for row in rows(measured) if row["claim"].startswith("320 clients")]
    assert (row["peer_name"], row["ours"], row["ratio"]) == ("tidemill with 32 clients", 0.2, 0.375)


def test_an_overloaded_peer_is_a_row_of_its_own(measured: Measured) -> None:
    assert OVERLOADED.clients == 10 * FULL.clients


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.95, 4), (0.25, 1)])
def test_a_quantile_is_a_value_that_was_seen(share: float, expected: float) -> None:
    assert quantile([4, 1, 3, 2], share) == expected


@pytest.mark.e2e
def test_our_server_answers_the_load_in_its_whole_length(files: Files) -> None:
    with own_server(files, "bfloat16") as server:
        found = server.measure(Work(clients=3, new_tokens=16, first_prompt=0, seconds=0.5, requests=4))
    assert len(found.request_seconds) >= 4 and found.tokens > 0 and found.cpu_seconds > 0
    assert Cell("bfloat16", 1).claim == "1 client, bf16: "
