"""Trainings of the demo that differ in their seed alone, on the same held-out documents: results/gate-reseeded.json.

    python benchmarks/gate_reseeded.py [--models N] [--steps N]

The file is written anew after each model, so a run that is stopped goes on where it was, if its recipe is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.gate_pair import ROOT, SEEDS, reseeded  # noqa: E402
from llm_core.config import load_recipe  # noqa: E402

PLACE = ROOT / "benchmarks" / "results" / "gate-reseeded.json"


def main() -> None:
    """Train one after another and keep each one's bits per document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="training steps of each model")
    options = parser.parse_args()
    overrides = (f"train.steps={options.steps}", "train.validate_every=100", "evaluate.suites=[]")
    recipe = load_recipe("demo", ROOT / "configs", overrides)
    made_by = {"steps": options.steps, "recipe": hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()}
    bits = _kept(made_by)
    seeds = [seed for seed in range(SEEDS[0], SEEDS[0] + options.models) if str(seed) not in bits]
    with tempfile.TemporaryDirectory() as folder:
        for seed, scores in reseeded(recipe, seeds, Path(folder)):
            bits[str(seed)] = [round(value, 4) for value in scores["bits"]]
            kept = {**made_by, "num_bytes": scores["num_bytes"].tolist(), "bits": bits}
            PLACE.write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")
            print(f"{len(bits)} of {options.models} models", file=sys.stderr, flush=True)


def _kept(made_by: dict[str, Any]) -> dict[str, list[float]]:
    """By seed, what an earlier run of the same recipe has left."""
    kept = json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.exists() else {}
    return dict(kept["bits"]) if made_by.items() <= kept.items() else {}


if __name__ == "__main__":
    main()
