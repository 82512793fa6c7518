"""Nights for `benchmarks/gate.py`: drawn from a real pair of models, decided by the gate itself."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from llm_core.artifact import Artifact
from llm_core.config import Gate
from llm_core.evals.stats.power import standard_error
from llm_core.evals.stats.spending import Budget
from tasks.evidence import Evidence, Opponent, compare
from tasks.gate import decide, no_rows
from tasks.ledger import Entry

PAIR = Path(__file__).resolve().parent / "results" / "gate-pair.json"

Case = Literal["signs", "drawn", "mirrored"]
SIGNS: Case = "signs"
"""Each document's difference gets a random sign."""
DRAWN: Case = "drawn"
"""Documents are drawn with replacement."""
MIRRORED: Case = "mirrored"
"""The same, and every difference has the other sign."""

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """What two equal trainings need for the same documents; `losses` has no difference left on the whole."""

    sizes: Floats
    champion: Floats
    losses: Floats

    @classmethod
    def read(cls, place: Path = PAIR) -> Pair:
        """The pair as it was recorded."""
        kept = json.loads(place.read_text(encoding="utf-8"))
        sizes, bits, champion = (np.array(kept[name], dtype=float) for name in ("num_bytes", "bits", "other_bits"))
        losses = bits - champion
        return cls(sizes, champion, losses - losses.sum() / sizes.sum() * sizes)

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.sizes)

    @cached_property
    def error(self) -> float:
        """Standard error of their difference in bits per byte."""
        return standard_error(self.champion + self.losses, self.champion, self.sizes.astype(np.int64))

    def scores(self, levels: Floats) -> Floats:
        """Gains in standard errors that random signs exceed with these probabilities, from 2 million patterns."""
        rng, total = np.random.default_rng(0), np.sqrt((self.losses**2).sum())
        sums = [rng.choice((-1.0, 1.0), (10_000, self.documents)) @ self.losses for _ in range(200)]
        return np.quantile(np.concatenate(sums) / total, 1 - levels)

    def year(self, rng: np.random.Generator, nights: int, case: Case) -> tuple[Numbers, Numbers]:
        """Numbers of each night's documents, and what their losses are multiplied by."""
        shape = nights, self.documents
        if case != SIGNS:
            return rng.integers(self.documents, size=shape), np.full(shape, 1 if case == DRAWN else -1)
        return np.tile(np.arange(self.documents), (nights, 1)), rng.choice((-1, 1), shape)


@dataclass(frozen=True)
class Night:
    """The gate, asked about a challenger that loses so many bits on these documents against a champion."""

    pair: Pair
    folder: Path

    def outcome(
        self, cfg: Gate, budget: Budget, losses: Floats, documents: Numbers, sources: Sequence[str] | None = None
    ) -> str:
        """promote, keep or needs_person."""
        return self.decided(cfg, self.evidence(cfg, budget, losses, documents, sources))

    def evidence(
        self, cfg: Gate, budget: Budget, losses: Floats, documents: Numbers, sources: Sequence[str] | None = None
    ) -> Evidence:
        """What the gate compares."""
        names = [f"{number:064x}" for number in range(len(documents))]
        folders = sources if sources is not None else ["texts"] * len(documents)
        champion = self.pair.champion[documents]
        columns: dict[str, Any] = {
            "sha256": names,
            "source": [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)],
            "num_bytes": self.pair.sizes[documents].astype(np.int64),
            "bits": champion + losses,
        }
        pd.DataFrame(columns).to_parquet(self.folder / "documents.parquet")
        report = Artifact(self.folder, "report", "evaluate", "", "", {"heldout_digest": ""}, {}, {}, "", {})
        opponent = Opponent(_entry("promoted"), lambda _: pd.Series(champion, index=names), no_rows)
        own_seed = zlib.crc32(losses.tobytes())  # as each night of the gate has its own
        return compare(cfg, own_seed, _entry("registered"), report, opponent, budget)

    def decided(self, cfg: Gate, evidence: Evidence) -> str:
        """By the shipped rule."""
        return decide(cfg, evidence)[0]


def _entry(kind: str) -> Entry:
    return Entry(1, "", kind, "line", "", {"version": 1, "artifact": ""}, "", "", "")
