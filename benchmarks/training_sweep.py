"""The search for the peers' best settings; every one that was tried is kept, and a stopped search goes on."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from datetime import date
from typing import Any

from benchmarks.training_runs import FOLDER, Corpus, Side, train
from benchmarks.training_settings import (
    BATCH_TOKENS,
    PEER_SETTINGS,
    SIZES,
    TRAINER,
    TRAINER_BASE,
    WARM_STEPS,
    Setting,
    Size,
)

SWEEP = FOLDER / "results" / "training-sweep.json"
RATES = (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 8e-3, 1.2e-2)
FIRST_RATE = 2e-3


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
