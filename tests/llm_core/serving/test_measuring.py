"""What a version takes is measured as it is served."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from llm_core.serving.loaded import LoadedModel
from llm_core.serving.measuring import ANSWERS, measure
from llm_core.serving.registry import FolderRegistry
from tests.tasks.tiny_model import publish


def loaded(folder: Path, **made: str) -> LoadedModel:
    artifact = publish(folder, **made)  # type: ignore[arg-type]
    version = FolderRegistry(artifact.path).champion("tiny")
    assert version is not None
    return LoadedModel.load(version, artifact.path)


@pytest.mark.parametrize("family", ["llama", "lstm", "t5"])
def test_a_slow_step_shows_in_the_time_of_a_token(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(tmp_path / "model", family=family)
    found = measure(model)
    assert found["memory_bytes"] == model.num_bytes > 0
    step, steps = model.runner.step, []

    def slow() -> None:
        steps.append(time.sleep(0.02))
        step()

    monkeypatch.setattr(model.runner, "step", slow)
    assert measure(model)["milliseconds_per_token"] > max(20, found["milliseconds_per_token"])
    assert len(steps) > ANSWERS and model.runner.num_running == 0


def test_a_model_that_only_reads_has_no_time_of_a_token(tmp_path: Path) -> None:
    model = loaded(tmp_path / "model", family="bert")
    assert measure(model) == {"memory_bytes": model.num_bytes}
