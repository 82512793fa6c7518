"""The nightly: where new data came in, the lifecycle with its gate; where not, a skip that says so."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.lifecycle import stages
from llm_core.config import Recipe
from tasks.nights import note_night, reason_to_skip
from tasks.orchestrate import open_run


@flow(name="nightly", validate_parameters=True, persist_result=False)
def nightly(recipe: Recipe = Recipe()) -> dict[str, Any] | State[Any]:  # noqa: B008 - frozen
    """Retrain on what arrived since the last finished night and promote the result if it is better."""
    with open_run(recipe) as run:
        reason = reason_to_skip(run.ledger, recipe, run.inventory)
        if reason is not None:
            return Completed(name="Skipped", message=reason)
        summary = stages(run)
        note_night(run.ledger, recipe, run.inventory, summary)
        return summary
