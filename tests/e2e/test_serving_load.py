"""The server under load: swaps, vanished clients, an end. Long by `make soak`, as small samples in every run."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest

from tests.e2e.serving import LINE, PROMPTS, Crowd, Registered, Running, server
from tests.e2e.test_soak import SAMPLE, SOAK, keep

pytestmark = pytest.mark.timeout(3600)
NUM_VERSIONS = 3

# An engine that gives running answers the newest model, and one that ends them.
SWAPS_WHILE_WRITING = """
from llm_core.serving.hosting import Line
from llm_core.serving.paged import PagedRunner
install = Line.install
def broken(self, model):
    before = self.champion
    install(self, model)
    if before is not None and before.name != model.name:
        before.runner._decoder = model.runner._decoder
Line.install = broken
"""
ENDS_WHAT_RUNS = """
from llm_core.serving.hosting import Line
install = Line.install
def broken(self, model):
    before = self.champion
    install(self, model)
    if before is not None:
        before.runner.fail_all("swapped")
Line.install = broken
"""
KEEPS_OLD_MODELS = """
from llm_core.serving.hosting import Line
install, kept = Line.install, []
def broken(self, model):
    install(self, model)
    kept.append((model, bytearray(1 << 20)))
Line.install = broken
"""
FORGETS_TO_CANCEL = """
from llm_core.serving.engine import Engine
Engine.cancel = lambda self, answer: None
"""
# So that somebody is certainly in the middle of an answer.
SLOW = """
import time
from llm_core.serving.paged import PagedRunner
step = PagedRunner.step
PagedRunner.step = lambda self: (time.sleep(0.05), step(self))
"""
ENDS_AT_ONCE = """
from llm_core.serving.server import DrainingServer
def broken(self, sig, frame):
    self.should_exit = self.force_exit = True
DrainingServer.handle_exit = broken
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return Registered(tmp_path_factory.mktemp("serving") / "project", NUM_VERSIONS)


def swap_under_load(
    registered: Registered, running: Running, num_clients: int, num_swaps: int, seconds: float
) -> Crowd:
    """Clients stream while the champion changes at even moments."""
    crowd = Crowd(running.url, num_clients)
    clients = threading.Thread(target=lambda: asyncio.run(crowd.stay()))
    clients.start()
    began = time.monotonic()
    for swap in range(num_swaps):
        number = swap % NUM_VERSIONS + 1
        registered.promote(number)
        running.await_version(f"{LINE}@{number}")
        time.sleep(max(0.0, began + (swap + 1) * seconds / num_swaps - time.monotonic()))
    crowd.leave()
    clients.join()
    return crowd


def faults(registered: Registered, crowd: Crowd) -> Counter[str]:
    """What was wrong with the streams."""
    found: Counter[str] = Counter()
    for seen in crowd.streams:
        found["failed"] += seen.status != 200
        found["cut"] += seen.status == 200 and not seen.is_whole
        found["of two versions"] += len(seen.fingerprints) > 1 or seen.fingerprints != {seen.version}
        found["another text"] += seen.is_whole and seen.text != registered.greedy(seen.version, seen.prompt)
    return +found


@pytest.mark.parametrize(
    ("num_clients", "num_swaps", "seconds"),
    [pytest.param(12, 5, 3.0, marks=SAMPLE), pytest.param(32, 50, 60.0, marks=SOAK)],
)
def test_swaps_under_load_cut_no_stream(
    registered: Registered, num_clients: int, num_swaps: int, seconds: float
) -> None:
    registered.promote(NUM_VERSIONS)
    with server(registered.ws, "--max-running", "32") as running:
        running.await_version(f"{LINE}@{NUM_VERSIONS}")
        began = time.monotonic()
        crowd = swap_under_load(registered, running, num_clients, num_swaps, seconds)
        took = time.monotonic() - began
        assert running.number("tidemill:swaps_total") == num_swaps + 1
    assert faults(registered, crowd) == {}
    versions = Counter(seen.version for seen in crowd.streams)
    assert len(versions) == NUM_VERSIONS
    facts = {"clients": num_clients, "swaps": num_swaps, "seconds": round(took, 1), "streams": dict(versions)}
    keep("soak-serving-swaps", {**facts, "faults": {}}, kept=num_swaps >= 50)


@pytest.mark.soak
@pytest.mark.parametrize(("broken", "fault"), [(SWAPS_WHILE_WRITING, "another text"), (ENDS_WHAT_RUNS, "cut")])
def test_a_server_that_swaps_wrongly_would_be_noticed(registered: Registered, broken: str, fault: str) -> None:
    registered.promote(NUM_VERSIONS)
    with server(registered.ws, broken=broken) as running:
        running.await_version(f"{LINE}@{NUM_VERSIONS}")
        assert faults(registered, swap_under_load(registered, running, 8, 6, 4.0))[fault] > 0


@pytest.mark.soak
@pytest.mark.parametrize("broken", ["", KEEPS_OLD_MODELS], ids=["shipped", "broken"])
def test_memory_stays_over_200_swaps(registered: Registered, broken: str) -> None:
    memory: list[int] = []
    registered.promote(NUM_VERSIONS)
    with server(registered.ws, broken=broken) as running:
        running.await_version(f"{LINE}@{NUM_VERSIONS}")
        crowd = Crowd(running.url, 2)
        clients = threading.Thread(target=lambda: asyncio.run(crowd.stay()))
        clients.start()
        for swap in range(200):
            registered.promote(swap % NUM_VERSIONS + 1)
            running.await_version(f"{LINE}@{swap % NUM_VERSIONS + 1}")
            memory.append(running.memory())
        crowd.leave()
        clients.join()
    growth = max(memory[-20:]) / max(memory[10:20]) - 1
    if broken:
        assert growth > 0.05
        return
    assert faults(registered, crowd) == {} and growth < 0.05, f"{growth:.1%}: {memory[::10]}"
    megabytes = [round(value / 1e6, 1) for value in memory[::20]]
    keep("soak-serving-memory", {"swaps": 200, "growth_after_20": round(growth, 4), "megabytes": megabytes}, kept=True)


def vanish(url: str) -> socket.socket:
    """Ask for a long stream, and be gone once it has begun."""
    place = urlsplit(url)
    client = socket.create_connection((place.hostname, place.port or 80), timeout=30)
    ask = {"model": LINE, "prompt": PROMPTS[3], "max_tokens": 60, "stream": True, "ignore_eos": True}
    body = json.dumps(ask).encode()
    lines = ("POST /v1/completions HTTP/1.1", "host: x", "content-type: application/json")
    head = "\r\n".join((*lines, f"content-length: {len(body)}", "", ""))
    client.sendall(head.encode() + body)
    return client


def open_after(running: Running, num_clients: int) -> tuple[float, float]:
    """Answers and blocks still held a second after `num_clients` left at once, in waves of 24."""
    for wave in range(0, num_clients, 24):
        clients = [vanish(running.url) for _ in range(min(24, num_clients - wave))]
        for client in clients:
            client.recv(1)
        for client in clients:
            client.close()
    time.sleep(1.0)
    return running.number("tidemill_num_requests_open"), running.number("vllm:kv_cache_usage_perc{")


@pytest.mark.parametrize("num_clients", [pytest.param(24, marks=SAMPLE), pytest.param(200, marks=SOAK)])
def test_clients_that_vanish_give_all_blocks_back_within_a_second(registered: Registered, num_clients: int) -> None:
    registered.promote(1)
    with server(registered.ws) as running:
        running.await_version(f"{LINE}@1")
        assert open_after(running, num_clients) == (0, 0)
        assert running.number('vllm:request_success_total{finished_reason="abort"') > 0


@pytest.mark.soak
def test_a_server_that_forgets_to_cancel_would_be_noticed(registered: Registered) -> None:
    registered.promote(1)
    with server(registered.ws, broken=FORGETS_TO_CANCEL + SLOW) as running:
        running.await_version(f"{LINE}@1")
        assert open_after(running, 24) != (0, 0)


def end_under_load(registered: Registered, broken: str = "") -> tuple[int, Counter[str]]:
    """Exit code and faults where SIGTERM comes while clients stream."""
    with server(registered.ws, broken=broken) as running:
        running.await_version(f"{LINE}@1")
        crowd = Crowd(running.url, 8)
        clients = threading.Thread(target=lambda: asyncio.run(crowd.stay()))
        clients.start()
        time.sleep(0.7)
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(60)
        crowd.leave()
        clients.join()
    begun = [seen for seen in crowd.streams if seen.status == 200]
    assert begun and all(seen.status in (200, 503, 0) for seen in crowd.streams)
    return code, Counter(cut=sum(not seen.is_whole for seen in begun))


@pytest.mark.parametrize("times", [pytest.param(1, marks=SAMPLE), pytest.param(20, marks=SOAK)])
def test_an_end_under_load_cuts_nothing(registered: Registered, times: int) -> None:
    registered.promote(1)
    assert [end_under_load(registered) for _ in range(times)] == [(0, Counter(cut=0))] * times
    keep("soak-serving-end", {"times": times, "exit_codes": [0], "cut_streams": 0}, kept=times >= 20)


@pytest.mark.soak
def test_a_server_that_ends_at_once_would_be_noticed(registered: Registered) -> None:
    registered.promote(1)
    code, found = end_under_load(registered, ENDS_AT_ONCE + SLOW)
    assert found["cut"] > 0
