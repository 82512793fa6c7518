from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llm_core.artifact import Artifact
from llm_core.serving.app import Service, create_app
from llm_core.serving.engine import Engine
from llm_core.serving.follower import Follower
from llm_core.serving.hosting import Host, Line
from llm_core.serving.registry import RegisteredVersion

Publish = Callable[[Path, int], Artifact]
Registered = Callable[[Artifact, str], RegisteredVersion]


def admit_all(version: RegisteredVersion) -> None:
    pass


@pytest.fixture
def versions(publish: Publish, registered: Registered, tmp_path: Path) -> list[tuple[RegisteredVersion, Path]]:
    """Two versions of the line with different weights."""
    made = [publish(tmp_path / f"model-{seed}", seed) for seed in (1, 2)]
    return [(registered(artifact, str(number)), artifact.path) for number, artifact in enumerate(made, start=1)]


@pytest.fixture
def host() -> Host:
    return Host(["tiny"])


@pytest.fixture
def line(host: Host) -> Line:
    return host.first


def served(line: Line) -> str | None:
    return line.champion.name if line.champion else None


def test_the_champion_serves_and_a_new_one_takes_over(line: Line, registry: Any, versions: Any) -> None:
    follower = Follower(line, registry, admit_all)
    follower.check()
    assert served(line) is None
    for version, folder in versions:
        registry.promote(version, folder)
        follower.check()
        assert served(line) == line.following.champion == version.name
    registry.promote(*versions[0])
    follower.check()
    assert served(line) == "tiny@1"


def test_a_swap_under_load_fails_no_request_and_each_answer_names_its_writer(
    host: Host, line: Line, registry: Any, versions: Any
) -> None:
    registry.promote(*versions[0])
    with Engine() as engine, TestClient(create_app(Service(host, engine))) as client:
        follower = Follower(line, registry, admit_all)
        follower.check()
        texts: dict[str, set[str]] = {"tiny@1": set(), "tiny@2": set()}
        statuses: Counter[int] = Counter()
        is_over = threading.Event()

        def ask_until_over() -> None:
            while not is_over.is_set():
                body = {"model": "tiny", "prompt": "The", "max_tokens": 12, "temperature": 0}
                response = client.post("/v1/completions", json=body)
                statuses[response.status_code] += 1
                texts[response.headers["x-tidemill-version"]].add(response.json()["choices"][0]["text"])

        askers = [threading.Thread(target=ask_until_over) for _ in range(4)]
        for asker in askers:
            asker.start()
        for place in (1, 0, 1):
            registry.promote(*versions[place])
            follower.check()
            is_over.wait(0.15)
        is_over.set()
        for asker in askers:
            asker.join()
    assert statuses.keys() == {200} and statuses[200] > 8
    # Greedy answers: one text a version, so no answer was begun by one and ended by the other.
    assert len(texts["tiny@1"]) == len(texts["tiny@2"]) == 1 and texts["tiny@1"] != texts["tiny@2"]


def tamper(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "admit_error", "reason"),
    [
        (tamper, None, "sha256 is not the manifest's"),
        (lambda folder: (folder / "model.safetensors").unlink(), None, "model.safetensors: is missing"),
        (lambda folder: None, ValueError("no ledger entry"), "no ledger entry"),
    ],
)
def test_a_bad_version_never_serves_and_the_reason_is_shown(
    host: Host,
    line: Line,
    registry: Any,
    versions: Any,
    spoil: Callable[[Path], None],
    admit_error: Exception | None,
    reason: str,
) -> None:
    def admit(version: RegisteredVersion) -> None:
        if admit_error is not None and version.version == "2":
            raise admit_error

    with Engine() as engine, TestClient(create_app(Service(host, engine))) as client:
        follower = Follower(line, registry, admit)
        registry.promote(*versions[0])
        follower.check()
        spoil(versions[1][1])
        registry.promote(*versions[1])
        follower.check()
        assert served(line) == "tiny@1"
        state = client.get("/ready").json()
        assert state["registry"]["refused"] == "tiny@2" and reason in state["registry"]["refused_because"]
        registry.promote(*versions[0])
        follower.check()
        assert line.following.refused is None


def test_a_folder_that_is_not_the_registered_artifact_is_refused(line: Line, registry: Any, versions: Any) -> None:
    follower = Follower(line, registry, admit_all)
    registry.promote(versions[0][0], versions[1][1])
    follower.check()
    assert served(line) is None
    assert "registered as tiny@1" in str(line.following.refused_because)


def test_a_refused_version_is_tried_again_and_serves_once_it_is_admitted(
    line: Line, registry: Any, versions: Any
) -> None:
    entries: set[str] = set()

    def admit(version: RegisteredVersion) -> None:
        if version.name not in entries:
            raise ValueError("no ledger entry")

    follower = Follower(line, registry, admit, poll_seconds=0.0)
    registry.promote(*versions[0])
    follower.check()
    assert served(line) is None
    entries.add("tiny@1")
    follower.check()
    assert served(line) == "tiny@1" and line.following.refused is None


def test_a_refused_version_is_not_loaded_again_at_every_poll(line: Line, registry: Any, versions: Any) -> None:
    asked: list[str] = []

    def admit(version: RegisteredVersion) -> None:
        asked.append(version.name)
        raise ValueError("no ledger entry")

    follower = Follower(line, registry, admit, poll_seconds=60.0)
    registry.promote(*versions[0])
    for _ in range(3):
        follower.check()
    assert asked == ["tiny@1"]


def test_a_registry_that_is_away_harms_nobody(host: Host, line: Line, registry: Any, versions: Any) -> None:
    with Engine() as engine, TestClient(create_app(Service(host, engine))) as client:
        follower = Follower(line, registry, admit_all)
        registry.promote(*versions[0])
        follower.check()
        registry.error = ConnectionError("connection refused")
        follower.check()
        assert client.get("/ready").status_code == 200
        assert "connection refused" in client.get("/version").json()["registry"]["registry_error"]
        registry.error = None
        registry.promote(*versions[1])
        follower.check()
        assert served(line) == "tiny@2" and line.following.registry_error is None


def test_a_champion_alias_that_vanishes_leaves_the_served_model_alone(line: Line, registry: Any, versions: Any) -> None:
    follower = Follower(line, registry, admit_all)
    registry.promote(*versions[0])
    follower.check()
    registry.current = None
    follower.check()
    assert served(line) == "tiny@1" and line.following.champion is None


def test_the_thread_follows_by_itself(line: Line, registry: Any, versions: Any) -> None:
    registry.promote(*versions[0])
    with Follower(line, registry, admit_all, poll_seconds=0.02):
        for number, version in enumerate(versions, start=1):
            registry.promote(*version)
            for _ in range(500):
                if served(line) == f"tiny@{number}":
                    break
                threading.Event().wait(0.01)
            assert served(line) == f"tiny@{number}"
