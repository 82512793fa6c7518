from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.states import Failed

from llm_core.artifact import ArtifactError
from llm_core.config import Model, Recipe, RecipeError
from tasks import orchestrate
from tasks.ledger import Ledger
from tasks.summary import effect_row


@pytest.mark.parametrize("problem", [ConnectionError("reset"), TimeoutError(), OSError(28, "No space left on device")])
def test_what_may_pass_by_itself_is_tried_again(problem: Exception) -> None:
    assert orchestrate._is_transient(None, None, Failed(data=problem))


@pytest.mark.parametrize(
    "problem",
    [RecipeError("bad"), ArtifactError("changed"), FileNotFoundError("gone"), PermissionError("no"), KeyError()],
)
def test_bad_input_and_failed_checks_are_not(problem: Exception) -> None:
    assert not orchestrate._is_transient(None, None, Failed(data=problem))


@pytest.mark.parametrize("stage", ["collect", "train", "evaluate"])
def test_stages_have_retries_a_timeout_and_no_cache_of_prefects(stage: str) -> None:
    task = orchestrate.pure(stage)
    assert (task.name, task.retries, task.persist_result) == (stage, 2, False)
    assert task.timeout_seconds == orchestrate.TIMEOUT_SECONDS.get(stage, orchestrate.DEFAULT_TIMEOUT_SECONDS)
    assert task.cache_policy is orchestrate.NO_CACHE


def test_a_champion_that_writes_no_text_is_promoted_and_not_served(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    decision = ledger.append("promoted", "bert", "key", {"version": 1, "reason": "better"})
    run = SimpleNamespace(ledger=ledger, recipe=Recipe(model=Model(family="bert")), ws=None)
    entry = orchestrate.deploy(run, decision)  # type: ignore[arg-type]
    assert entry == decision and [found.kind for found in ledger.entries("bert")] == ["promoted"]
    row = effect_row("deploy", entry, fresh=False, seconds=0.0)
    assert (row.state, row.because) == ("left", "the model writes no text")
