"""A challenger that the registry names is loaded, tried and dropped; a bad one is never tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_core.artifact import Artifact
from llm_core.serving.canary import Canary
from llm_core.serving.follower import Follower
from llm_core.serving.hosting import Host, Line
from llm_core.serving.registry import RegisteredVersion

Versions = list[tuple[RegisteredVersion, Path]]


@pytest.fixture
def versions(publish: Callable[[Path, int], Artifact], registered: Any, tmp_path: Path) -> Versions:
    made = [publish(tmp_path / f"model-{seed}", seed) for seed in (1, 2, 3)]
    return [(registered(artifact, str(number)), artifact.path) for number, artifact in enumerate(made, start=1)]


@pytest.fixture
def line(registry: Any, versions: Versions) -> Line:
    registry.promote(*versions[0])
    return Host(["tiny"]).first


def follow(line: Line, registry: Any, admit_challenger: Any, poll_seconds: float = 0.0) -> Follower:
    follower = Follower(
        line, registry, lambda version: None, poll_seconds=poll_seconds, admit_challenger=admit_challenger
    )
    follower.check()
    return follower


def tried(line: Line) -> str | None:
    return line.trial.name if line.trial else None


def test_the_challenger_is_tried_until_the_registry_names_none(line: Line, registry: Any, versions: Versions) -> None:
    settings = Canary(percent=20, challenge="entry")
    follower = follow(line, registry, lambda version: settings)
    assert line.trial is None
    registry.challenge(*versions[1])
    follower.check()
    assert line.trial is not None and line.trial.canary == settings
    assert (tried(line), line.following.challenger) == ("tiny@2", "tiny@2")
    assert [model.name for model in line.models()] == ["tiny@1", "tiny@2"] and line.champion is not None
    before = line.trial
    follower.check()
    assert line.trial is before, "what was seen would be lost"
    registry.tried = None
    follower.check()
    assert (tried(line), line.champion.name) == (None, "tiny@1")


def test_a_challenge_that_is_over_or_another_one_ends_the_trial(line: Line, registry: Any, versions: Versions) -> None:
    answers: list[Canary | None] = [Canary(challenge="first")]
    registry.challenge(*versions[1])
    follower = follow(line, registry, lambda version: answers[-1])
    first = line.trial
    answers.append(Canary(challenge="second"))
    follower.check()
    assert line.trial is not first and tried(line) == "tiny@2"
    answers.append(None)
    follower.check()
    assert line.trial is None and line.following.challenger_refused_because is None


def test_a_challenger_that_becomes_champion_is_not_loaded_again(line: Line, registry: Any, versions: Versions) -> None:
    registry.challenge(*versions[1])
    follower = follow(line, registry, lambda version: Canary())
    assert line.trial is not None
    model = line.trial.model
    registry.promote(*versions[1])
    registry.tried = None
    follower.check()
    assert line.champion is model and line.trial is None


def tamper(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def refuse(version: RegisteredVersion) -> Canary:
    raise ValueError("the registry's alias was moved by hand")


@pytest.mark.parametrize(
    ("spoil", "admit", "reason"),
    [
        (tamper, lambda version: Canary(), "sha256 is not the manifest's"),
        (lambda folder: None, refuse, "moved by hand"),
    ],
)
def test_a_bad_challenger_is_never_tried_and_the_reason_is_shown(
    line: Line, registry: Any, versions: Versions, spoil: Callable[[Path], None], admit: Any, reason: str
) -> None:
    told: list[str] = []
    line.observers.append(Told(told))
    spoil(versions[1][1])
    registry.challenge(*versions[1])
    follower = follow(line, registry, admit, poll_seconds=60.0)
    follower.check()
    assert line.trial is None and line.champion is not None
    assert reason in str(line.following.challenger_refused_because)
    assert len(told) == 1, "it is not tried again at every poll"
    registry.challenge(*versions[2])
    follower.check()
    assert (line.following.challenger, reason in str(line.following.challenger_refused_because)) == (
        "tiny@3",
        admit is refuse,
    )


class Told:
    """An observer that remembers refusals."""

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def refused(self, line: str, version: str, reason: str) -> None:
        self._told.append(version)

    def swapped(self, *_: object) -> None: ...

    def challenged(self, *_: object) -> None: ...

    def judged(self, *_: object) -> None: ...


def test_a_server_without_a_ledger_tries_nothing(line: Line, registry: Any, versions: Versions) -> None:
    registry.challenge(*versions[1])
    Follower(line, registry, lambda version: None).check()
    assert line.trial is None and "tries no challengers" in str(line.following.challenger_refused_because)


def test_a_registry_that_is_away_does_not_end_a_trial(line: Line, registry: Any, versions: Versions) -> None:
    registry.challenge(*versions[1])
    follower = follow(line, registry, lambda version: Canary())
    registry.error = ConnectionError("refused")
    follower.check()
    assert tried(line) == "tiny@2"
