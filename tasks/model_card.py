"""The model card of a version, in Hugging Face's format: YAML in front, Markdown behind, facts only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from tasks.decision import GRAMS_PER_WH, OUTCOMES, WATTS_PER_CORE, Decision, training_flops
from tasks.decision_text import plain
from tasks.references import Reference

# The hub's names of licences that a recipe may state word by word; any other text is a licence of its own name.
LICENSES = ("mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "odc-by", "gpl-3.0")
PIPELINES = {"bert": "fill-mask", "t5": "text2text-generation", "transformer": "text2text-generation"}
IN_TRANSFORMERS = ("llama", "gpt2", "bert", "t5")
"""Families that transformers has classes for."""
SAFETY = {
    "bias": "stereotypes",
    "toxicity": "toxic words",
    "leakage": "personal data that it writes",
    "extraction": "training text that it repeats",
    "refusal": "requests that it should refuse",
    "truthfulness": "common falsehoods",
}
"""Kinds of suites that tell of risks, and of which."""
DATASET = "held-out documents"


class _Plain(yaml.SafeDumper):
    """Says everything where it belongs: readers of cards do not expect YAML's references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def model_card(decision: Decision) -> str:
    """README.md of the version; equal decisions give equal cards."""
    front = yaml.dump(front_matter(decision), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{front}---\n\n" + "\n".join(_body(decision))


def front_matter(decision: Decision) -> dict[str, Any]:
    """What the hub reads; keys without a fact are left out.

    As base_model the hub takes names of its own models only; any other start is told in the text.
    """
    recipe = decision.recipe
    datasets = [each.removeprefix("hf://") for each in recipe.collect.sources if each.startswith("hf://")]
    facts = {
        **_license(recipe.collect.license),
        "language": list(decision.languages),
        "datasets": datasets,
        "base_model": decision.base_model,
        "library_name": "transformers" if recipe.model.family in IN_TRANSFORMERS else None,
        "pipeline_tag": PIPELINES.get(recipe.model.family, "text-generation"),
        "tags": ["tidemill", recipe.model.family],
        "metrics": ["bits_per_byte"],
        "model-index": [{"name": decision.name, "results": list(_results(decision))}],
    }
    return {name: fact for name, fact in facts.items() if fact}


def _license(stated: str) -> dict[str, str]:
    if stated == "unstated":
        return {"license": "unknown"}
    if stated.lower() in LICENSES:
        return {"license": stated.lower()}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", stated.lower()).strip("-")}


def _results(decision: Decision) -> Iterator[dict[str, Any]]:
    """Bits per byte, and each suite's defined numbers."""
    task = {"type": PIPELINES.get(decision.recipe.model.family, "text-generation")}
    value = decision.evidence["challenger_bits_per_byte"]
    data = {"name": DATASET, "type": "private", "split": "test", "revision": decision.evidence["heldout"]}
    yield {"task": task, "dataset": data, "metrics": [{"type": "bits_per_byte", "value": value}]}
    for suite in decision.told["suites"]:
        metrics = [
            {"type": name.removeprefix(f"{suite['name']}/"), "value": value}
            for name, value in suite["metrics"].items()
            if value is not None
        ]
        if metrics:
            yield {"task": task, "dataset": {"name": suite["name"], "type": "private"}, "metrics": metrics}


def _body(decision: Decision) -> Iterator[str]:
    for title, lines in {
        f"# {decision.name}": _summary(decision),
        "## Intended use": _use(decision),
        "## How to use": _how(decision),
        "## Training data": _data(decision),
        "## Training": _training(decision),
        "## Evaluation": _evaluation(decision),
        "## Limitations and biases": _limits(decision),
        "## Energy": _energy(decision),
        "## Where it came from": _origin(decision),
    }.items():
        yield from (title, "", *lines, "")


def _summary(decision: Decision) -> Iterator[str]:
    stats, body, recipe = decision.model.stats, decision.decided.body, decision.recipe
    yield f"A {recipe.model.family} model of {stats['parameters']:,} parameters, made by Tidemill from the recipe"
    yield f"`{recipe.name}`. **{OUTCOMES[body['outcome']]}**: {plain(body['reason'])}."


def _use(decision: Decision) -> Iterator[str]:
    does = "go on with" if decision.recipe.model.goes_on else "fill or rewrite"
    yield f"To {does} texts like those that it was trained on. What it states as a fact was not checked."


def _how(decision: Decision) -> Iterator[str]:
    name, line, prompt = decision.name, decision.version.line, decision.recipe.deploy.prompt
    reader = "transformers" if decision.recipe.model.family in IN_TRANSFORMERS else "Tidemill"
    yield from ("```sh", f"tidemill export {name} --output DIR   # a folder that {reader} reads, with this card")
    if not decision.recipe.model.writes_text:
        yield "```"
        return
    yield from (f"tidemill serve --line {line}   # the line's champion, at http://127.0.0.1:8000", "```", "")
    yield from ("The server speaks OpenAI's API:", "", "```python", "from openai import OpenAI", "")
    yield 'client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")'
    yield f"answer = client.completions.create(model={line!r}, prompt={prompt!r}, max_tokens=40)"
    yield from ("print(answer.choices[0].text)", "```")


def _data(decision: Decision) -> Iterator[str]:
    collect = decision.recipe.collect
    yield from _table(
        ("source", "licence as stated"), [(f"`{plain(each)}`", plain(collect.license)) for each in collect.sources]
    )
    yield ""
    languages = ", ".join(decision.languages) or "not measured"
    yield f"Languages: {languages}. `tidemill lineage {decision.name}` lists every file with its sha256."
    yield ""
    digests = {**decision.report.parents, **decision.model.parents, "train": decision.model.digest}
    rows = [(stage, f"`{digests[stage]}`") for stage in ("clean", "tokenizer", "tokenize", "train") if stage in digests]
    yield from _table(("artifact", "digest (sha256)"), rows)
    if decision.started_from:
        yield from ("", f"And, through the weights that it began with, the data of {plain(decision.started_from)}.")


def _training(decision: Decision) -> Iterator[str]:
    train, stats = decision.recipe.train, decision.model.stats
    flops, loss = training_flops(decision.recipe, stats["tokens_seen"]), stats.get("validation_loss")
    facts = {
        "weights began as": plain(decision.started_from or "random numbers"),
        "steps": f"{stats['steps']:,}",
        "tokens": f"{stats['tokens_seen']:,}",
        "tokens of a batch": f"{train.batch_tokens:,}",
        "learning rate": f"{train.lr:g}",
        "context": f"{decision.recipe.model.context:,} tokens",
        "validation loss": "not measured" if loss is None else f"{loss:.4f} nats per token",
        "floating-point operations": f"{flops:.2e}, counted from its matrices",
        "seed": str(decision.recipe.seed),
    }
    yield from _table(("", ""), list(facts.items()))


def _evaluation(decision: Decision) -> Iterator[str]:
    evidence = decision.evidence
    yield f"Bits per byte of {evidence['documents']:,} {DATASET} (less is better), beside what any model must beat:"
    yield ""
    references = decision.references()
    rows = [(_noted(each), each.bits_per_byte) for each in references if each.bits_per_byte is not None]
    rows.append((f"**{decision.name}**", evidence["challenger_bits_per_byte"]))
    ordered = [(name, f"{value:.4f}") for name, value in sorted(rows, key=lambda row: row[1])]
    ordered += [(_noted(each), "not measured") for each in references if each.bits_per_byte is None]
    yield from _table(("model", "bits per byte"), ordered)
    yield ""
    ends = f"{evidence['low']:+.4f} to {evidence['high']:+.4f}"
    yield f"Gain over {evidence['opponent']}: {evidence['gain']:+.4f} ({ends}),"
    yield f"p {evidence['p_value']:.3g} where less than {evidence['level']:.2g} is wanted."
    numbers = list(decision.numbers())
    if numbers:
        yield ""
        rows_of_suites = [(f"{each.suite}/{each.name}", _number(each.value), _ends(each.ends)) for each in numbers]
        yield from _table(("suite", "value", "interval of 95 %"), rows_of_suites)


def _limits(decision: Decision) -> Iterator[str]:
    """A row for each risk, measured or not."""
    kinds: dict[str, list[str]] = {}
    for suite in decision.told["suites"]:
        found = [f"{name} {value:.4g}" for name, value in suite["metrics"].items() if value is not None]
        kinds.setdefault(suite["kind"], []).extend(found)
    rows = [(risk, ", ".join(kinds.get(kind, ())) or "not measured") for kind, risk in SAFETY.items()]
    yield from _table(("risk", "measured"), rows)
    lost = [each["slice"] for each in decision.evidence["slices"] if each["verdict"] == "lost"]
    if lost:
        yield from ("", f"It is worse than {decision.evidence['opponent']} on: {', '.join(map(plain, lost))}.")
    ngram = decision.told["metrics"].get("ngram_bits_per_byte")
    if ngram is not None and ngram < decision.evidence["challenger_bits_per_byte"]:
        yield from ("", f"A 5-gram model of the same tokens predicts the held-out text better ({ngram:.4f}).")


def _energy(decision: Decision) -> Iterator[str]:
    found = [(each.stage, each.watt_hours) for each in decision.costs if each.watt_hours is not None]
    if not found:
        yield "Not measured."
        return
    total, stages = sum(watt_hours for _, watt_hours in found), ", ".join(stage for stage, _ in found)
    yield f"Estimated, not measured: {total:.3g} Wh and {total * GRAMS_PER_WH:.3g} g of CO2 for {stages},"
    yield f"from CPU seconds. Assumed: {WATTS_PER_CORE:g} W for a busy core, {GRAMS_PER_WH:g} g for a Wh."


def _origin(decision: Decision) -> Iterator[str]:
    named = {"git.commit": "commit", "git.dirty": "uncommitted changes", "config.sha256": "recipe, sha256"}
    rows = [(says, f"`{decision.facts[name]}`") for name, says in named.items() if name in decision.facts]
    rows += [("MLflow run", f"`{decision.version.body['run']}`"), ("ledger entry", f"`{decision.decided.hash}`")]
    yield from _table(("", ""), rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _noted(reference: Reference) -> str:
    return f"{reference.name} ({plain(reference.note)})" if reference.note else reference.name


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _ends(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}" if ends else ""
