"""The lifecycle: from sources to a served model, one line a stage."""

from __future__ import annotations

from typing import Any

from prefect import flow

from llm_core.config import Recipe
from tasks import orchestrate
from tasks.orchestrate import Run, effect, open_run, pure

collect = pure("collect")
clean = pure("clean")
tokenizer = pure("tokenizer")
tokenize = pure("tokenize")
train = pure("train")
evaluate = pure("evaluate")
register = effect(orchestrate.register)
gate = effect(orchestrate.gate)
deploy = effect(orchestrate.deploy)


@flow(name="lifecycle", validate_parameters=True, persist_result=False)
def lifecycle(recipe: Recipe = Recipe()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Collect, clean, tokenize, train, evaluate, register, decide and serve, as the recipe says.

    What is unchanged since an earlier run is left, restored or found in the ledger. Gives back the run's summary.
    """
    with open_run(recipe) as run:
        return stages(run)


def stages(run: Run) -> dict[str, Any]:
    """The stages in order; every arrow is one artifact or one ledger entry."""
    documents = collect(run)
    cleaned = clean(run, documents)
    vocabulary = tokenizer(run, cleaned)
    tokens = tokenize(run, cleaned, vocabulary)
    model = train(run, tokens, vocabulary)
    report = evaluate(run, model, tokens, cleaned)

    version = register(run, model)
    decision = gate(run, version, report, cleaned)
    deploy(run, decision)
    return run.summary().plain()
