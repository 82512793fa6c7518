"""Training beside Hugging Face's Trainer and a plain loop, on the same tokens and threads, in turn in one run.

    python benchmarks/training.py [--quick] [--json FILE]
    python benchmarks/training.py --sweep

`throughput` is tokens per CPU second once compilers and caches have started up, and what share that is of the rate of
a large matrix product in bfloat16. `time to loss` is the time that the Trainer takes for its budget of tokens, over the
least time in which ours, with its recipe's defaults, ends with a validation loss as low: whole runs of several lengths,
start-up and validation aside. The peers have the settings that won in `--sweep`, which tries all of them and keeps what
it found in `results/training-sweep.json`; stopped, it goes on where it was. A ratio above 1 means that ours is better.
"""

from __future__ import annotations

# ruff: noqa: E402
import os
import sys
from pathlib import Path

# The folder's tokenize.py must not stand in for the standard library's.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from benchmarks.rows import paired_row
from benchmarks.training_plot import keep_runs
from benchmarks.training_runs import Corpus, Run, Side, train
from benchmarks.training_settings import (
    BATCH_TOKENS,
    ENVIRONMENT,
    MUON,
    OURS,
    OURS_COMPILED,
    OURS_SETTING,
    PEER_SETTINGS,
    SIZES,
    THREADS,
    TITLES,
    TRAINER,
    WARM_STEPS,
    Size,
)
from benchmarks.training_side import seconds
from benchmarks.training_sweep import best_rate, best_setting, sweep

GEMM_SIZE = 4096
# Lengths of our runs, as shares of the Trainer's; the first that ends as low counts.
SHARES = (0.2, 0.25, 0.33, 0.4, 0.5, 0.67, 1.0)


def main() -> None:
    """Measure, print and, with --json, write the rows; or sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds; time to loss at 10M for a short budget")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--sweep", action="store_true", help="find the peers' best settings instead")
    parser.add_argument("--size", choices=[size.name for size in SIZES], help="only this one")
    parser.add_argument("--only", choices=["throughput", "time"], help="only this claim, or what it needs of the sweep")
    options = parser.parse_args()
    os.environ |= ENVIRONMENT
    sizes = [size for size in SIZES if options.size in (None, size.name)]
    with tempfile.TemporaryDirectory() as name:
        corpus = Corpus(Path(name))
        if options.sweep:
            sweep(sizes, corpus, options.only)
            return
        rows = measure(sizes, corpus, options.quick, options.only)
    text = json.dumps(rows, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def measure(sizes: Sequence[Size], corpus: Corpus, quick: bool, only: str | None) -> list[dict[str, Any]]:
    """The rows of all claims; a whole run keeps and draws the curves too."""
    rows: list[dict[str, Any]] = []
    runs: list[Run] = []
    for size in sizes:
        if only != "time":
            launches, rounds, steps = (1, 3, 3) if quick else (3, 3, 8)
            rows += throughput(size, corpus, launches, rounds, steps)
        if only != "throughput" and not (quick and size is not SIZES[0]):
            budget = replace(size, budget_steps=size.budget_steps * 2 // 5) if quick else size
            found, tried = time_to_loss(budget, corpus, seeds=range(1 if quick else 3), marks=2 if quick else 8)
            rows += found
            runs += tried
    if runs and not quick:
        keep_runs(runs)
    return rows


def throughput(size: Size, corpus: Corpus, launches: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Tokens per second of all sides, `rounds` times `steps` steps in turn, in each of `launches` sets of processes."""
    settings = OURS_COMPILED | {peer: best_setting(peer, size) for peer in PEER_SETTINGS}
    parts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    matrix_rates = []
    for launch in range(launches):
        print(f"throughput {size.name}: launch {launch + 1} of {launches}", file=sys.stderr)
        with ExitStack() as stack:
            sides = []
            for name, setting in settings.items():
                todo = corpus.assignment(size, WARM_STEPS + rounds * steps, setting, rounds=rounds)
                sides.append(stack.enter_context(Side(name, todo)))
            counts = {side.next("model")["parameters"] for side in sides}
            assert len(counts) == 1, f"the models differ: {counts} parameters"
            for side in sides:
                side.next("ready")
            for _ in range(rounds):
                matrix_rates.append(matrix_rate())
                sides = sides[1:] + sides[:1] if len(matrix_rates) % 2 else sides[::-1]
                for side in sides:
                    parts[side.name].append(side.part())
    return list(_throughput_rows(size, parts, matrix_rates))


def _throughput_rows(
    size: Size, parts: dict[str, list[dict[str, Any]]], matrix_rates: Sequence[float]
) -> Iterator[dict[str, Any]]:
    def rates(name: str, clock: str) -> list[float]:
        return [part["steps"] * BATCH_TOKENS / part[clock] for part in parts[name]]

    def row(claim: str, peer: str, unit: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
        pairs = list(zip(ours, theirs, strict=True))
        return paired_row(f"throughput {size.name}{claim}", TITLES[peer], unit, pairs, less_is_better=False)

    for peer in PEER_SETTINGS:
        for clock, how, unit in (
            ("cpu_seconds", "", "tokens per CPU second"),
            ("wall_seconds", ", by the clock,", "tokens per second"),
        ):
            yield row(f"{how} beside the {peer}", peer, unit, rates(OURS, clock), rates(peer, clock))
    yield row(
        " with Muon beside the Trainer",
        TRAINER,
        "tokens per CPU second",
        rates(MUON, "cpu_seconds"),
        rates(TRAINER, "cpu_seconds"),
    )
    ours, theirs = (
        [
            rate * size.flops_per_token / most
            for rate, most in zip(rates(name, "cpu_seconds"), matrix_rates, strict=True)
        ]
        for name in (OURS, TRAINER)
    )
    unit = f"share of the rate of a {GEMM_SIZE} x {GEMM_SIZE} bfloat16 product"
    yield row(", of the machine's rate", TRAINER, unit, ours, theirs)


def matrix_rate() -> float:
    """Floating point operations per CPU second of a large product in bfloat16, on as many threads."""
    import torch

    torch.set_num_threads(THREADS)
    one, other = (torch.randn(GEMM_SIZE, GEMM_SIZE, dtype=torch.bfloat16) for _ in range(2))
    one @ other
    began, _ = seconds()
    for _ in range(4):
        one @ other
    return 4 * 2 * GEMM_SIZE**3 / (seconds()[0] - began)


def time_to_loss(
    size: Size, corpus: Corpus, seeds: Sequence[int], marks: int
) -> tuple[list[dict[str, Any]], list[Run]]:
    """The rows of this size, and every run: those of ours that did not get there too."""
    runs: list[Run] = []
    pairs = []
    for seed in seeds:
        setting = best_setting(TRAINER, size) | best_rate(size)
        peer = train(TRAINER, size, corpus, size.budget_steps, setting, seed, marks)
        runs.append(peer)
        for share in SHARES:
            own = train(OURS, size, corpus, round(share * size.budget_steps), OURS_SETTING, seed, marks)
            runs.append(own)
            if own.end["validation_loss"] <= peer.end["validation_loss"]:
                pairs.append((own, peer))
                break
    claim = f"time to loss {size.name}, the Trainer's after {size.budget_steps * BATCH_TOKENS:,} tokens"

    def row(rest: str, unit: str, times: Sequence[tuple[float, float]]) -> dict[str, Any]:
        if len(times) < len(seeds):
            print(f"{claim}: reached with {len(times)} of {len(seeds)} seeds, so there is no claim", file=sys.stderr)
            nothing = {"ours": None, "peer": None, "ratio": 0.0, "low": 0.0, "high": 0.0}
            return {"claim": claim + rest, "peer_name": TITLES[TRAINER], "unit": unit, **nothing}
        return paired_row(claim + rest, TITLES[TRAINER], unit, times, less_is_better=True)

    rows = [
        row("", "CPU seconds", [(own.end["cpu_seconds"], peer.end["cpu_seconds"]) for own, peer in pairs]),
        row(", by the clock", "seconds", [(own.end["wall_seconds"], peer.end["wall_seconds"]) for own, peer in pairs]),
        row(", start-up included", "CPU seconds", [(own.all_cpu_seconds, peer.all_cpu_seconds) for own, peer in pairs]),
    ]
    return rows, runs


if __name__ == "__main__":
    main()
