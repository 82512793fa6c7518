"""Challengers on the shipped server: a worse one leaves by itself, a good one passes, a shadow is never seen."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from flows.cli import app
from llm_core.serving.canary import Canary
from tasks.workspace import HOME_VARIABLE
from tests.conftest import project_environment
from tests.e2e.serving import LINE, WORDS, Registered, Running, server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TRAINED, RANDOM, BETTER, SLOW = 1, 2, 3, 4
STEPS = {TRAINED: 40, BETTER: 60, SLOW: 60}
# A server on which one version takes its time.
SLOW_VERSION = f"""
import time
from llm_core.serving.paged import PagedRunner
from llm_core.serving import loaded
load = loaded.LoadedModel.load.__func__
def slow(cls, version, *rest):
    model = load(cls, version, *rest)
    if version.version == "{SLOW}":
        step = model.runner.step
        model.runner.step = lambda: (time.sleep(0.02), step())
    return model
loaded.LoadedModel.load = classmethod(slow)
"""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    return Registered(tmp_path_factory.mktemp("canary") / "project", num_versions=4, steps=STEPS)


@pytest.fixture(scope="module")
def running(registered: Registered) -> Iterator[Running]:
    registered.promote(TRAINED)
    with server(registered.ws, broken=SLOW_VERSION) as running:
        running.await_version(f"{LINE}@{TRAINED}")
        yield running


@dataclass
class Users:
    """Users who each ask again and again, and what they got."""

    url: str
    statuses: list[int] = field(default_factory=list)
    versions: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    is_over: bool = False

    async def ask_until_over(self, number: int, pause: float) -> None:
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False) as client:
            while not self.is_over:
                user = f"user {rng.randrange(200)}"
                body = {"model": LINE, "prompt": " ".join(rng.choices(WORDS, k=12)), "max_tokens": 6, "user": user}
                response = await client.post("/v1/completions", json=body)
                self.statuses.append(response.status_code)
                self.versions[user].add(response.headers["x-tidemill-version"])
                await asyncio.sleep(pause)


def trial(running: Running) -> dict[str, Any]:
    return httpx.get(f"{running.url}/version", timeout=10, trust_env=False).json()["trial"] or {}


def try_out(
    registered: Registered, running: Running, number: int, canary: Canary, num_users: int = 4, pause: float = 0.0
) -> tuple[dict[str, Any], Users]:
    """Challenge, have users ask until there is a verdict, and give both."""
    entry = registered.challenge(number, canary)
    until = time.monotonic() + 60
    while trial(running).get("challenge") != entry.hash:
        assert time.monotonic() < until, "the challenger is not tried"
        time.sleep(0.02)
    users = Users(running.url)

    async def ask_until_judged() -> None:
        asking = [asyncio.ensure_future(users.ask_until_over(place, pause)) for place in range(num_users)]
        while (await asyncio.to_thread(trial, running))["verdict"] == "running" and time.monotonic() < until:
            await asyncio.sleep(0.1)
        users.is_over = True
        await asyncio.gather(*asking)

    asyncio.run(ask_until_judged())
    return trial(running), users


@pytest.mark.parametrize(("number", "reason"), [(RANDOM, "bits per byte"), (SLOW, "each token")])
def test_a_worse_challenger_leaves_by_itself_and_no_request_fails(
    registered: Registered, running: Running, number: int, reason: str
) -> None:
    before = running.number('tidemill:verdicts_total{model_name="tiny",outcome="reverted"}')
    said, users = try_out(registered, running, number, Canary(percent=40, min_requests=30))
    assert said["verdict"] == "reverted" and reason in said["reason"], said
    assert set(users.statuses) == {200}
    assert set().union(*users.versions.values()) == {f"{LINE}@{TRAINED}", f"{LINE}@{number}"}
    assert running.number('tidemill:verdicts_total{model_name="tiny",outcome="reverted"}') == before + 1
    assert running.number("tidemill:trial_share") == 0 and running.served() == f"{LINE}@{TRAINED}"
    asked = [httpx.post(f"{running.url}/v1/completions", json={"model": LINE, "prompt": "The"}) for _ in range(20)]
    assert {response.headers["x-tidemill-version"] for response in asked} == {f"{LINE}@{TRAINED}"}


def test_a_good_challenger_passes_and_each_user_always_gets_the_same_version(
    registered: Registered, running: Running
) -> None:
    said, users = try_out(registered, running, BETTER, Canary(percent=40, min_requests=20, looks=2))
    assert said["verdict"] == "passed" and "bits per byte" in said["reason"], said
    assert set(users.statuses) == {200}
    assert all(len(seen) == 1 for seen in users.versions.values())
    taken = sum(f"{LINE}@{BETTER}" in seen for seen in users.versions.values())
    assert 0.25 < taken / len(users.versions) < 0.55


def test_a_shadow_is_judged_and_never_seen(registered: Registered, running: Running) -> None:
    canary = Canary(percent=50, shadow=True, min_requests=20)
    said, users = try_out(registered, running, RANDOM, canary, num_users=1, pause=0.03)
    assert said["verdict"] == "reverted" and "bits per byte" in said["reason"], said
    assert said["answers"]["champion"] == said["answers"]["challenger"] >= 20
    assert set(users.statuses) == {200} and set().union(*users.versions.values()) == {f"{LINE}@{TRAINED}"}


def test_a_person_challenges_looks_and_stops_from_the_command_line(
    registered: Registered, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registered.ws.root)
    monkeypatch.setenv(HOME_VARIABLE, project_environment(registered.ws)[HOME_VARIABLE])

    def tidemill(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["challenge", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    assert f"{LINE}@{BETTER} answers 25 % of the askers" in tidemill(f"{LINE}@{BETTER}", "--percent", "25")
    until = time.monotonic() + 30
    while trial(running).get("challenger") != f"{LINE}@{BETTER}":
        assert time.monotonic() < until
        time.sleep(0.02)
    shown = json.loads(tidemill(LINE, "--status", "--json", "--url", running.url))
    assert (shown["challenger"], shown["percent"], shown["verdict"]) == (f"{LINE}@{BETTER}", 25, "running")
    assert f"{LINE}@{BETTER} is stopped" in tidemill(LINE, "--stop", "--url", running.url, "--reason", "seen enough")
    while trial(running):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert registered.ledger.entries()[-1].body["reason"] == "seen enough"
