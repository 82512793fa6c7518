"""All that is known of a decision of the gate, gathered for the page and the card that people read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_core.artifact import MANIFEST, Artifact
from llm_core.config import Recipe
from llm_core.text.profile import read_profiles, total
from tasks.ledger import Entry, Ledger
from tasks.references import Reference

if TYPE_CHECKING:
    import pandas as pd

    from tasks.lineage import Records

WATTS_PER_CORE = 10.0
"""Of a busy core of a server, its share of the machine's memory and power supply included: assumed, not measured."""
GRAMS_PER_WH = 0.48
"""CO2 of the electricity, about the world's mean of 2023: assumed; the grid's own may be a tenth or twice as much."""
OUTCOMES = {"promote": "Promoted", "keep": "Champion kept", "needs_person": "A person has to decide"}
BASELINES = {
    "xz primed with the training text": "xz_primed_bits_per_byte",
    "xz alone": "xz_bits_per_byte",
    "token 5-gram (Kneser-Ney)": "ngram_bits_per_byte",
    "token unigram": "unigram_bits_per_byte",
    "any token as likely": "uniform_bits_per_byte",
}


@dataclass(frozen=True)
class Cost:
    """What making an artifact took."""

    stage: str
    seconds: float
    """By the clock."""
    cpu_seconds: float | None
    """Of all cores; None where nothing noted it."""

    @property
    def watt_hours(self) -> float | None:
        """An estimate from WATTS_PER_CORE."""
        return None if self.cpu_seconds is None else self.cpu_seconds * WATTS_PER_CORE / 3600


@dataclass(frozen=True)
class Number:
    """A suite's number of both sides; None where it is not known or not defined."""

    suite: str
    name: str
    higher_is_better: bool
    value: float | None
    ends: Sequence[float] | None
    """Of its interval of 95 %."""
    theirs: float | None
    their_ends: Sequence[float] | None

    @property
    def better(self) -> bool | None:
        """Whether the challenger has the better number, by chance or not; None where they are alike or unknown."""
        if self.value is None or self.theirs is None or self.value == self.theirs:
            return None
        return (self.value > self.theirs) == self.higher_is_better


@dataclass(frozen=True)
class Decision:
    """A `decided` entry, and what it was made from."""

    version: Entry
    """Its registration."""
    decided: Entry
    report: Artifact
    model: Artifact
    champion: Entry | None
    """The one that the version met; None for a line's first."""
    scores: pd.DataFrame
    """Held-out documents by sha256: source, num_bytes, bits, theirs and gain, in bits per byte."""
    told: Mapping[str, Any]
    """The report's metrics, samples, suites and reliability."""
    theirs: Mapping[str, Any]
    """The champion's, as far as they are remembered."""
    costs: Sequence[Cost]
    recipe: Recipe
    facts: Mapping[str, str]
    """Of the run that registered the version: commit, flow run, licence."""
    others: Sequence[Reference]
    """Models that the recipe names as references."""
    base_model: str | None
    """The hub's name of what the training began with, where it was imported from there."""
    languages: Sequence[str]
    """Of the training documents, as ISO 639-1 codes, commonest first; empty where nothing asked for them."""

    @property
    def name(self) -> str:
        """LINE@VERSION."""
        return f"{self.version.line}@{self.version.body['version']}"

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What the signed entry holds."""
        found: Mapping[str, Any] = self.decided.body["evidence"]
        return found

    @property
    def started_from(self) -> str | None:
        """LINE@VERSION or the folder whose weights the training began with; None where it began with none."""
        found: str | None = self.model.stats.get("started_from")
        return found

    def references(self) -> list[Reference]:
        """What any model must beat, the champion, the recipe's references; best first, then what has no score."""
        metrics = self.told["metrics"]
        found = [Reference(name, metrics[key]) for name, key in BASELINES.items() if key in metrics]
        if self.champion is not None:
            found.append(
                Reference(self.evidence["opponent"], self.evidence["opponent_bits_per_byte"], "champion at that time")
            )
        known = {each.name for each in found}
        found += [each for each in self.others if each.name not in known]
        told = [self._with_start(each) for each in found]
        return sorted(told, key=lambda each: math.inf if each.bits_per_byte is None else each.bits_per_byte)

    def _with_start(self, row: Reference) -> Reference:
        """What the training began with is said to be so."""
        if row.name != self.started_from:
            return row
        return replace(row, note=", ".join(filter(None, (row.note, "where the training began"))))

    def numbers(self) -> Iterator[Number]:
        """Every suite's numbers beside the champion's."""
        other = {suite["name"]: suite for suite in self.theirs.get("suites", ())}
        for suite in self.told["suites"]:
            their = other.get(suite["name"], {"metrics": {}})
            for name, value in suite["metrics"].items():
                yield Number(
                    suite["name"],
                    name.removeprefix(f"{suite['name']}/"),
                    suite["higher_is_better"][name],
                    value,
                    suite.get("intervals", {}).get(name),
                    their["metrics"].get(name),
                    their.get("intervals", {}).get(name),
                )


def decision_of(ledger: Ledger, entry: Entry, report: Artifact) -> Entry | None:
    """The decision that an entry of the gate is or follows from; None where a person made it or it had other scores."""
    hash_ = entry.body.get("decision", entry.hash)
    found = [each for each in ledger.entries(entry.line) if each.kind == "decided" and each.hash == hash_]
    return found[0] if found and found[0].body["evidence"]["inputs"]["report"] == report.digest else None


def champion_of(ledger: Ledger, decided: Entry) -> Entry | None:
    """The champion that the version of a decision met."""
    hash_ = decided.body["evidence"]["inputs"]["champion"]
    return next((each for each in ledger.entries(decided.line) if each.hash == hash_), None)


def told(report: Artifact, names: Sequence[str]) -> dict[str, Any]:
    """The JSON files of a report, by name."""
    return {name: json.loads((report.path / f"{name}.json").read_text(encoding="utf-8")) for name in names}


def paired(report: Artifact, theirs: pd.Series[float] | None) -> pd.DataFrame:
    """The report's documents with the bits of a champion, or without one of the unigram baseline, and each one's gain.

    They are in the order of their gains, the greatest loss first.
    """
    import pandas as pd

    scores = pd.read_parquet(report.path / "documents.parquet").set_index("sha256")
    other = scores["unigram_bits"] if theirs is None else theirs.reindex(scores.index)
    gain = (other - scores["bits"]) / scores["num_bytes"]
    table = scores[["source", "num_bytes", "bits"]].assign(theirs=other, gain=gain)
    return table.sort_values("gain", kind="stable")


def costs(records: Records, model: Artifact, report: Artifact) -> list[Cost]:
    """Of the last time that each of the two, and what they were made from, was really made."""
    digests = {**report.parents, **model.parents, "train": model.digest, "evaluate": report.digest}
    order = ("clean", "tokenizer", "tokenize", "train", "evaluate")
    made = [
        [each for each in records.of(digests[stage]) if each["state"] == "made"] for stage in order if stage in digests
    ]
    return [Cost(each[-1]["stage"], each[-1]["seconds"], each[-1].get("cpu_seconds")) for each in made if each]


def base_model(start: Path) -> str | None:
    """The hub's name of the imported model in this folder; an import from elsewhere has no commit."""
    if not (start / MANIFEST).is_file() or (artifact := Artifact.peek(start, "model")).stage != "import":
        return None
    name: str = artifact.recipe["source"]
    return name if artifact.recipe["revision"] else None


def languages(documents: Artifact) -> list[str]:
    """Those of at least one in a hundred documents."""
    counts = total(read_profiles(documents.path)).language_documents
    return [code for code, count in counts.most_common() if code and count >= counts.total() / 100]


def training_flops(recipe: Recipe, tokens_seen: int) -> float:
    """Floating-point operations of the training, counted from the network's matrices."""
    from llm_core.operations import operations_of, sequences_of
    from llm_core.plan import on_meta

    work = operations_of(on_meta(recipe), recipe.model, sequences_of(recipe.model, recipe.train))
    return work.training / recipe.model.context * tokens_seen
