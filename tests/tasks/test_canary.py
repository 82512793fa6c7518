"""What the model server says of a challenger decides whether it is promoted; here a server that says what it should."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_core.config import Deploy, Gate, Recipe, Register
from tasks import canary, challenges, champions, orchestrate
from tasks.gate import answer, gate
from tasks.ledger import Entry, Ledger, LedgerError
from tasks.summary import effect_row
from tests.tasks.test_challenges import Aliases
from tests.tasks.test_gate import CFG, report, scores_of

DEPLOY = Deploy(canary_percent=20, canary_min_requests=5, canary_minutes=0.1)


@dataclass
class Server:
    """What asks for /version gets."""

    url: str = ""
    state: dict[str, Any] = field(default_factory=dict)

    def says(self, challenge: Entry, **facts: Any) -> None:
        self.state = {"trial": {"challenge": challenge.hash, "answers": {"challenger": 7}, **facts}}


@pytest.fixture
def server() -> Iterator[Server]:
    said = Server()

    class Version(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"line": "demo", "lines": {"demo": said.state}}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Version) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        said.url = f"http://127.0.0.1:{running.server_port}"
        yield said
        running.shutdown()


@dataclass
class Night:
    """A run of the gate and of what comes behind it."""

    ledger: Ledger
    decision: Entry
    version: Entry
    report: Any


@pytest.fixture
def night(tmp_path: Path) -> Night:
    """A champion, and a better version that the gate would promote."""
    ledger = Ledger(tmp_path / "home")
    versions = [
        ledger.append(
            "registered", "demo", f"demo:{number}", {"version": number, "artifact": f"digest{number}", "run": "r"}
        )
        for number in (1, 2)
    ]
    old, new = report(tmp_path / "old", 1.5), report(tmp_path / "new", 1.4)
    first = gate(CFG, 1, versions[0], old, lambda champion: pytest.fail("nothing to score"), ledger, is_tried=True)
    assert first.kind == "promoted", "there is nobody to compare a first champion with"
    decision = gate(CFG, 1, versions[1], new, scores_of(old), ledger, is_tried=True)
    assert (decision.kind, decision.body["outcome"]) == ("decided", "promote")
    return Night(ledger, decision, versions[1], new)


def champion(ledger: Ledger) -> int:
    found = ledger.champion("demo")
    assert found is not None
    return int(found.body["version"])


def run_of(night: Night, monkeypatch: pytest.MonkeyPatch, url: str | None, deploy: Deploy = DEPLOY) -> Any:
    """What orchestrate.deploy works on, without Prefect and MLflow; the model writes no text, so nothing is served."""
    from types import SimpleNamespace

    found = SimpleNamespace(url=url) if url else None
    monkeypatch.setattr(orchestrate, "running_server_of_line", lambda home, line: found)
    recipe = Recipe(deploy=deploy, model={"family": "bert"}, gate=Gate(), register=Register(line="demo"))
    return SimpleNamespace(ledger=night.ledger, recipe=recipe, tracker=Aliases(), ws=SimpleNamespace(home=None))


def test_what_passes_in_service_is_promoted_with_the_evidence(
    night: Night, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge = canary.begin(DEPLOY, night.decision, night.ledger)
    assert challenge.body["canary"]["percent"] == 20 and champion(night.ledger) == 1
    server.says(challenge, verdict="passed", reason="nothing is worse")
    run = run_of(night, monkeypatch, server.url)
    moved = orchestrate.deploy(run, night.decision)
    assert (moved.kind, champion(night.ledger), run.tracker.aliases["champion"]) == ("promoted", 2, 2)
    ended = challenges.ended(night.ledger, challenge)
    assert ended is not None and moved.body["challenge"] == ended.hash and "challenger" not in run.tracker.aliases
    assert ended.body["evidence"]["answers"] == {"challenger": 7}
    before = len(night.ledger.entries())
    assert orchestrate.deploy(run, night.decision) == moved and len(night.ledger.entries()) == before


def test_what_is_worse_in_service_leaves_the_champion_and_is_not_tried_again(
    night: Night, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge = canary.begin(DEPLOY, night.decision, night.ledger)
    server.says(challenge, verdict="reverted", reason="worse: failures")
    run = run_of(night, monkeypatch, server.url)
    ended = orchestrate.deploy(run, night.decision)
    assert (ended.kind, ended.body["outcome"], champion(night.ledger)) == ("challenge_ended", "reverted", 1)
    row = effect_row("deploy", ended, fresh=True, seconds=0.0)
    assert (row.state, row.because) == ("reverted", "worse: failures")
    assert answer(CFG, night.version, night.report, night.ledger) == night.decision, "a rerun has nothing to do"
    untried = run_of(night, monkeypatch, None, Deploy())
    again = gate(CFG, 1, night.version, night.report, lambda champion: pytest.fail("scored again"), night.ledger)
    assert orchestrate.deploy(untried, again) == ended and champion(night.ledger) == 1


@pytest.mark.parametrize("is_up", [True, False])
def test_with_too_little_traffic_the_gates_word_counts_and_the_reason_says_so(
    night: Night, server: Server, monkeypatch: pytest.MonkeyPatch, is_up: bool
) -> None:
    short = DEPLOY.model_copy(update={"canary_minutes": 0.005})
    challenge = canary.begin(short, night.decision, night.ledger)
    server.says(challenge, verdict="running", reason="")
    moved = orchestrate.deploy(run_of(night, monkeypatch, server.url if is_up else None, short), night.decision)
    assert moved.kind == "promoted" and champion(night.ledger) == 2
    why = "too little traffic, 7 answers in 0.005 minutes" if is_up else "no server of the line runs here"
    assert moved.body["reason"].startswith(f"on the gate's word alone: {why}")


def test_a_challenger_that_the_server_refuses_is_not_promoted(
    night: Night, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.state = {"registry": {"challenger": "demo@2", "challenger_refused_because": "sha256 is not the manifest's"}}
    ended = orchestrate.deploy(run_of(night, monkeypatch, server.url), night.decision)
    assert ended.body["outcome"] == "reverted" and "sha256" in ended.body["reason"] and champion(night.ledger) == 1


def test_a_verdict_on_another_challenge_is_not_taken(night: Night, server: Server) -> None:
    challenge = canary.begin(DEPLOY, night.decision, night.ledger)
    server.state = {"trial": {"challenge": "another", "verdict": "reverted", "reason": "worse"}}
    begun = datetime.now(UTC)
    ended = canary.conclude(DEPLOY.model_copy(update={"canary_minutes": 0.02}), challenge, server.url, night.ledger)
    assert ended.body["outcome"] == "passed"
    assert datetime.now(UTC) - begun < timedelta(seconds=10)


def test_a_person_who_stops_it_or_rolls_back_meanwhile_has_the_last_word(
    night: Night, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge = canary.begin(DEPLOY, night.decision, night.ledger)
    stopped = challenges.end(night.ledger, challenge, "stopped", "not today", {})
    assert orchestrate.deploy(run_of(night, monkeypatch, server.url), night.decision) == stopped
    assert champion(night.ledger) == 1


def test_a_champion_that_changed_since_the_decision_stops_it(night: Night) -> None:
    night.ledger.append("registered", "demo", "demo:3", {"version": 3, "artifact": "digest3", "run": "r"})
    champions.promote(night.ledger, "demo", 3, "")
    with pytest.raises(LedgerError, match="the champion changed since this decision; run the gate again"):
        canary.begin(DEPLOY, night.decision, night.ledger)


def test_a_champion_that_changes_while_it_is_tried_stops_it(night: Night, server: Server) -> None:
    challenge = canary.begin(DEPLOY, night.decision, night.ledger)
    night.ledger.append("registered", "demo", "demo:3", {"version": 3, "artifact": "digest3", "run": "r"})
    champions.promote(night.ledger, "demo", 3, "")
    ended = canary.conclude(DEPLOY, challenge, server.url, night.ledger)
    assert (ended.body["outcome"], ended.body["reason"]) == ("stopped", "another champion or challenger took its place")


def test_the_recipes_settings_are_the_canarys() -> None:
    cfg = Deploy(canary_percent=3, canary_shadow=True, canary_alpha=0.01, canary_max_slowdown=2, canary_max_loss=0.5)
    found = canary.settings(cfg)
    assert (found.percent, found.shadow, found.alpha, found.max_slowdown, found.max_loss) == (3, True, 0.01, 2, 0.5)
    assert not canary.is_tried(Deploy(), Entry(1, "", "decided", "demo", "", {"outcome": "promote"}, "", "", ""))
