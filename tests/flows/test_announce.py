from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flows.announce import Announcer
from llm_core.serving.canary import Verdict
from llm_core.serving.hosting import Line


@pytest.fixture
def received() -> Iterator[tuple[str, list[Any]]]:
    """A server that takes events as Prefect's does: its address, and what it got."""
    got: list[Any] = []

    class Events(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            got.append((self.path, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Events) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", got
        server.shutdown()


def test_a_refused_version_becomes_an_event_of_its_line(received: tuple[str, list[Any]]) -> None:
    api, got = received
    line = Line("tiny", observers=[Announcer(api)])
    line.refuse("tiny@4", "sha256 is not the manifest's")
    for _ in range(500):
        if got:
            break
        threading.Event().wait(0.01)
    ((path, (event,)),) = got
    assert path == "/api/events" and event["event"] == "tidemill.model.refused"
    assert event["resource"]["prefect.resource.id"] == "tidemill.line.tiny"
    assert event["payload"] == {"version": "tiny@4", "reason": "sha256 is not the manifest's"}


def test_a_prefect_that_is_away_costs_a_warning_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    announcer = Announcer("http://127.0.0.1:1/api")
    for number in range(3):
        announcer.refused("tiny", f"tiny@{number}", "why")
    for _ in range(500):
        if announcer._waiting.empty() and caplog.records:
            break
        threading.Event().wait(0.01)
    assert [record.message for record in caplog.records if "cannot be told" in record.message][1:] == []
    assert caplog.records


def test_a_reverted_challenger_becomes_an_event_of_its_line(received: tuple[str, list[Any]]) -> None:
    api, got = received
    announcer = Announcer(api)
    announcer.judged("tiny", "tiny@2", Verdict("reverted", "worse: failures"))
    for _ in range(500):
        if got:
            break
        threading.Event().wait(0.01)
    (event,) = got[0][1]
    assert event["event"] == "tidemill.model.reverted"
    assert event["payload"] == {"version": "tiny@2", "reason": "worse: failures"}
