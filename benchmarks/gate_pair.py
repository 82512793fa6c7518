"""Two trainings of the demo that differ in their seed alone, scored on its held-out documents: results/gate-pair.json.

    python benchmarks/gate_pair.py [--steps N]

What they differ by, document by document, is what chance does between two nights; `benchmarks/gate.py` draws from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import pandas as pd  # noqa: E402

from llm_core.artifact import Artifact, Draft  # noqa: E402
from llm_core.config import Recipe, load_recipe  # noqa: E402
from llm_core.inventory import take_inventory  # noqa: E402
from tasks.clean import clean  # noqa: E402
from tasks.collect import collect  # noqa: E402
from tasks.evaluate import evaluate  # noqa: E402
from tasks.tokenize import tokenize  # noqa: E402
from tasks.tokenizer import tokenizer  # noqa: E402
from tasks.train import train  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "benchmarks" / "results" / "gate-pair.json"
SEEDS = (1337, 1338)


def main() -> None:
    """Make the pair and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="training steps of each model")
    overrides = (f"train.steps={parser.parse_args().steps}", "train.validate_every=100")
    recipe = load_recipe("demo", ROOT / "configs", overrides)
    with tempfile.TemporaryDirectory() as folder:
        one, other = (each for _, each in reseeded(recipe, SEEDS, Path(folder)))
    scores = one.merge(other[["sha256", "bits"]].rename(columns={"bits": "other_bits"}), on="sha256")
    PLACE.write_text(
        json.dumps({"steps": recipe.train.steps, "seeds": SEEDS, **scores.to_dict("list")}) + "\n", encoding="utf-8"
    )


def reseeded(recipe: Recipe, seeds: Iterable[int], base: Path) -> Iterator[tuple[int, pd.DataFrame]]:
    """Each seed and the bits that its model needs for each held-out document; all else is made once."""
    with Draft(base / "collect", "documents", "collect") as out:
        collected = collect(recipe.collect, take_inventory(recipe.collect, ROOT), out)
    with Draft(base / "clean", "documents", "clean") as out:
        cleaned = clean(recipe.clean, collected, out)
    with Draft(base / "tokenizer", "tokenizer", "tokenizer") as out:
        vocabulary = tokenizer(recipe.tokenizer, cleaned, out)
    with Draft(base / "tokenize", "tokens", "tokenize") as out:
        tokens = tokenize(recipe.tokenize, cleaned, vocabulary, out)
    for seed in seeds:
        report = _scored(recipe, seed, cleaned, vocabulary, tokens, base / str(seed))
        yield seed, pd.read_parquet(report.path / "documents.parquet")[["sha256", "source", "num_bytes", "bits"]]


def _scored(
    recipe: Recipe, seed: int, documents: Artifact, vocabulary: Artifact, tokens: Artifact, base: Path
) -> Artifact:
    with Draft(base / "train", "model", "train") as out:
        model = train(recipe.train, recipe.model, seed, tokens, vocabulary, out)
    with Draft(base / "evaluate", "report", "evaluate") as out:
        return evaluate(recipe.evaluate, seed, model, tokens, documents, out)


if __name__ == "__main__":
    main()
