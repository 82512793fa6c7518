"""The suites that a recipe names, asked of a model: SUITE.parquet with a row an example, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_core.config import SuiteSpec
from llm_core.evals.catalog import Asked, Material, prepare
from llm_core.evals.suite import Subject

Progress = Callable[[int, int], None]


def ask(
    specs: Sequence[SuiteSpec], subject: Subject, material: Material, folder: Path, progress: Progress
) -> list[dict[str, Any]]:
    """Ask them one after another, each written into `folder` when it is done; what suites.json is to hold."""
    prepared = [prepare(spec, material) for spec in specs]  # before anything is asked: errors come at once
    told = []
    for number, (spec, asked) in enumerate(zip(specs, prepared, strict=True), start=1):
        told.append(_ask(spec, asked, subject, folder))
        progress(number, len(prepared))
    return told


def metrics(told: Sequence[dict[str, Any]]) -> dict[str, float]:
    """All defined numbers of all suites, under SUITE/METRIC."""
    return {name: value for suite in told for name, value in suite["metrics"].items() if value is not None}


def _ask(spec: SuiteSpec, asked: Asked, subject: Subject, folder: Path) -> dict[str, Any]:
    suite = asked.suite
    rows = suite.rows(subject, asked.examples)
    rows.to_parquet(folder / f"{suite.name}.parquet", index=False)
    # JSON knows no NaN: a number that is not defined is null.
    numbers = {name: None if math.isnan(value) else value for name, value in suite.totals(rows).items()}
    better = {f"{suite.name}/{metric.name}": metric.higher_is_better for metric in suite.metrics}
    return {
        "name": suite.name,
        "kind": spec.kind,
        "examples": len(rows),
        "contaminated": asked.contaminated,
        "metrics": numbers,
        "intervals": suite.intervals(rows),
        "higher_is_better": better,
    }
