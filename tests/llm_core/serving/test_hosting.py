from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from llm_core.serving.app import Service, create_app
from llm_core.serving.canary import Canary, Trial
from llm_core.serving.engine import Engine
from llm_core.serving.follower import Follower
from llm_core.serving.hosting import Host
from llm_core.serving.loaded import LoadedModel
from llm_core.serving.registry import RegisteredVersion


def test_each_line_answers_with_its_own_champion_and_an_alias_with_its_lines(engine: Engine, script: Any) -> None:
    host = Host(["one", "two"], aliases={"gpt-4": "two"})
    for number, (name, line) in enumerate(host.lines.items(), start=1):
        said: LoadedModel = script(name, ends=True)
        line.install(replace(said, version=replace(said.version, line=name, version=str(number))))
    with TestClient(create_app(Service(host, engine))) as client:
        for asked, name in (("one", "one@1"), ("two", "two@2"), ("gpt-4", "two@2"), ("two@2", "two@2")):
            response = client.post("/v1/completions", json={"model": asked, "prompt": "The", "temperature": 0})
            assert response.headers["x-tidemill-version"] == response.json()["model"] == name
            assert response.json()["choices"][0]["text"] == name.partition("@")[0]
        listed = [entry["id"] for entry in client.get("/models").json()["data"]]
        assert listed == ["one", "two", "gpt-4", "one@1", "two@2"]
        assert client.post("/completions", json={"model": "one@9", "prompt": "The"}).status_code == 404


def test_an_alias_of_a_line_that_is_not_served_is_refused() -> None:
    with pytest.raises(ValueError, match="alias gpt-4=other: other is not served here, only one"):
        Host(["one"], {"gpt-4": "other"})


def test_the_version_before_stays_in_memory_and_comes_back_without_loading(script: Any) -> None:
    line = Host(["tiny"]).first
    first, second = script("a", version="1"), script("b", version="2")
    line.install(first)
    line.install(second)
    assert line.previous is first and line.loaded(first.version) is first
    line.install(first)
    assert line.champion is first and line.previous is second


def test_the_line_asked_longest_ago_gives_way_and_comes_back_when_asked(
    engine: Engine, publish: Any, tmp_path: Path
) -> None:
    artifacts = [publish(tmp_path / str(seed), seed) for seed in range(1, 4)]
    found = [RegisteredVersion(f"line{n}", "1", each.digest, each.key) for n, each in enumerate(artifacts)]
    registry = SeveralLines({v.line: v for v in found}, {v.name: a.path for v, a in zip(found, artifacts, strict=True)})
    one = LoadedModel.load(found[0], artifacts[0].path)
    host = Host([version.line for version in found], most_bytes=2 * one.num_bytes)
    followers = [Follower(line, registry, lambda version: None) for line in host.lines.values()]
    for follower in followers[:2]:
        follower.check()
    with TestClient(create_app(Service(host, engine))) as client:

        def ask(line: str) -> int:
            return int(client.post("/v1/completions", json={"model": line, "prompt": "The"}).status_code)

        assert [ask("line1"), ask("line0")] == [200, 200]
        followers[2].check()  # a third line: the second was asked longest ago
        assert sorted(model.name for model in host.models()) == ["line0@1", "line2@1"]
        followers[1].check()
        assert host.lines["line1"].champion is None
        refused = client.post("/v1/completions", json={"model": "line1", "prompt": "The"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        followers[1].check()
        assert ask("line1") == 200 and sum(1 for _ in host.models()) == 2


def test_a_challenger_takes_the_place_of_the_version_before(script: Any) -> None:
    first, second, third = (script("a", version=number) for number in "123")
    host = Host(["tiny"], most_bytes=2 * first.num_bytes)
    for model in (first, second):
        host.first.install(model)
    host.first.begin(Trial(third, Canary()))
    assert list(host.models()) == [second, third] and host.first.previous is None


@dataclass
class SeveralLines:
    """A registry of a version for each line."""

    versions: Mapping[str, RegisteredVersion]
    folders: Mapping[str, Path]

    def champion(self, line: str) -> RegisteredVersion | None:
        return self.versions[line]

    def challenger(self, line: str) -> RegisteredVersion | None:
        return None

    def fetch(self, version: RegisteredVersion) -> Path:
        return self.folders[version.name]
