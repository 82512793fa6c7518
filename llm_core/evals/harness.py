"""EleutherAI's lm-evaluation-harness (package lm-eval, extra `lm-eval`) on a model of ours, in process.

Its tasks become suites, and its evaluator sees our network as one of its models. Where a context begins with nothing in
front, as its own backend for transformers reads our exported folders, the numbers are equal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llm_core.evals.subject import NetworkSubject
from llm_core.evals.suite import Example, Metric, Subject, Suite

RANDOM_SEED = 1234


class HarnessError(ValueError):
    """A task that cannot be run; the message says why and what to do."""


def harness_suite(task: str, limit: int, *, name: str = "lm_eval", shots: int = 0) -> tuple[Suite, list[Example]]:
    """A task by its name, or by the path of its .yaml file, as a suite, and its first examples.

    Metrics have the harness' names and, where answers are read in several ways, the name of the way behind a comma.
    What the harness does not average (perplexity, BLEU) is put together by its own function of what the rows keep as
    JSON. Raises HarnessError where the harness is not installed or does not know the task.
    """
    loaded = _load(task)
    documents = _documents(loaded, limit)
    metrics = _metrics(loaded)

    def score(subject: Subject, examples: Sequence[Example]) -> pd.DataFrame:
        if not isinstance(subject, NetworkSubject):
            raise HarnessError(f"{task}: only a network of ours can be asked, not a {type(subject).__name__}")
        results = _evaluate(loaded, subject, len(examples), shots)
        (samples,) = results["samples"].values()
        return _rows(samples, metrics)

    return Suite(name, metrics, score), documents


def run_task(task: str, subject: NetworkSubject, *, limit: int | None = None, shots: int = 0) -> dict[str, float]:
    """The harness' own totals of a task, by its metrics' names."""
    results = _evaluate(_load(task), subject, limit, shots)["results"]
    (found,) = results.values()
    return {
        name.removesuffix(",none"): float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and "stderr" not in name and name != "sample_len"
    }


def harness_model(subject: NetworkSubject) -> Any:
    """The subject as one of the harness' models."""
    from lm_eval.api.model import LM

    class HarnessModel(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            found = subject.likelihoods([request.args for request in requests])
            return [(likelihood.logprob, likelihood.is_greedy) for likelihood in found]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [found.logprob for found in subject.rolling([text for (text,) in (each.args for each in requests)])]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [_written(subject, *request.args) for request in requests]

    return HarnessModel()


def _written(subject: NetworkSubject, prompt: str, settings: Mapping[str, Any]) -> str:
    if settings.get("do_sample") and settings.get("temperature", 1.0) > 0:
        raise HarnessError("this task samples; only tasks at temperature 0 are answered")
    until = settings.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    return subject.write([prompt], int(settings.get("max_gen_toks", 256)), stop)[0]


def _load(task: str) -> Any:
    """The task as the harness makes it; the file's folder is looked into for what it names."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise HarnessError(f"{task}: lm-eval is not installed; pip install 'tidemill[lm-eval]'") from None
    place = Path(task)
    is_file = place.suffix in (".yaml", ".yml")
    manager = TaskManager(include_path=str(place.parent.resolve()) if is_file else None)
    name = _named(place) if is_file else task
    try:
        found = manager.load([name])["tasks"]
    except (KeyError, ValueError, OSError) as problem:
        raise HarnessError(f"{task}: no task that can be run ({problem}); lm_eval ls tasks lists them") from None
    if len(found) != 1:
        raise HarnessError(f"{task}: is a group of {len(found)} tasks; name one of {', '.join(map(str, found))}")
    return next(iter(found.values()))


def _named(place: Path) -> str:
    import yaml

    try:
        content = yaml.safe_load(place.read_text(encoding="utf-8"))
        return str(content["task"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as problem:
        raise HarnessError(f"{place}: no task of lm-eval ({problem!r}); it is a .yaml file with task: NAME") from None


def _documents(task: Any, limit: int) -> list[Example]:
    documents = task.test_docs() if task.has_test_docs() else task.validation_docs()
    return [dict(document) for document, _ in zip(documents, range(limit), strict=False)]


def _metrics(task: Any) -> tuple[Metric, ...]:
    aggregations: Mapping[str, Callable[[list[Any]], Any]] = task.aggregation()
    better: Mapping[str, bool] = task.higher_is_better()
    ways = [way.name for way in task._filters]
    return tuple(
        _metric(name if way == "none" else f"{name},{way}", aggregate, better.get(name, True))
        for way in ways
        for name, aggregate in aggregations.items()
    )


def _metric(column: str, aggregate: Callable[[list[Any]], Any], is_better: bool) -> Metric:
    from lm_eval.api.metrics import mean

    if aggregate is mean:
        return Metric(column, column, higher_is_better=is_better)

    def of_all(rows: pd.DataFrame) -> float:
        return float(aggregate([json.loads(item) for item in rows[column]]))

    return Metric(column, column, higher_is_better=is_better, function=of_all)


def _rows(samples: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> pd.DataFrame:
    """A row a document; the harness has one for each way of reading an answer."""
    found: dict[int, dict[str, Any]] = {}
    for sample in samples:
        row = found.setdefault(int(sample["doc_id"]), {})
        way = "" if sample["filter"] == "none" else f",{sample['filter']}"
        row |= {f"{name}{way}": value for name, value in sample.items()}
    return pd.DataFrame(
        [{metric.column: _kept(found[place][metric.column], metric) for metric in metrics} for place in sorted(found)]
    )


def _kept(value: Any, metric: Metric) -> float | str:
    """A number that is averaged, or all of what the harness' function is to read."""
    return json.dumps(value, default=float) if metric.function else float(value)


def _evaluate(task: Any, subject: NetworkSubject, limit: int | None, shots: int) -> Mapping[str, Any]:
    from lm_eval.evaluator import simple_evaluate

    results: Mapping[str, Any] | None = simple_evaluate(
        model=harness_model(subject),
        tasks=[task],
        num_fewshot=shots or None,
        limit=limit,
        bootstrap_iters=0,
        random_seed=RANDOM_SEED,
    )
    if results is None:
        raise HarnessError("the harness gave no results: it is told to by rank 0 alone")
    return results
