"""Collect: the source files of the inventory become documents."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from llm_core.artifact import Artifact, Draft
from llm_core.config import Collect
from llm_core.inventory import Inventory
from llm_core.parts import link, make_parts, open_memo
from llm_core.sources import SourceError
from llm_core.text.gather import Gathering, cut
from llm_core.text.shards import DOCUMENTS, REJECTED, shards
from llm_core.workers import open_pool

SUITES = "suites"


def collect(cfg: Collect, inventory: Inventory, out: Draft, may_be_empty: bool = False) -> Artifact:
    """Read every file of the inventory into Parquet shards of documents, rejected records and the sources' structure.

    A shard's name is STEM-BATCH-PART-NUMBER; those of evaluation suites lie in suites/NUMBER, listed in suites.json.
    Parts are counted for each suite anew, so that more data leave its shards' names alone.
    Raises SourceError when a file is not the inventory's any more, or, unless it `may_be_empty`, without a document.
    """
    parts = cut(cfg, out.code, inventory)
    with open_memo(out.memo) as memo, open_pool(out.workers, len(parts)) as pool:
        progress = lambda done, total: out.observer.progress(done, total, "parts")  # noqa: E731
        numbers: Counter[str] = Counter()
        for part, folder in zip(parts, make_parts(parts, memo, pool, progress), strict=True):
            _link_part(part, numbers[part.suite], folder, cfg, out.path)
            numbers[part.suite] += 1
    if cfg.suites:
        (out.path / f"{SUITES}.json").write_text(json.dumps(cfg.suites, indent=1, ensure_ascii=False) + "\n")
    kept = _count_rows(out.path, DOCUMENTS)
    rejected = _reasons(out.path)
    if not kept and not may_be_empty:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
        raise SourceError(f"{', '.join(cfg.sources)}: no document to keep ({reasons}); look at the sources")
    return out.publish(
        {
            "files": len(inventory.files),
            "batches": 1 + max(file.batch for file in inventory.files),
            "records_in": kept + sum(rejected.values()),
            "kept": kept,
            "rejected": rejected,
            "bytes": inventory.bytes,
        }
    )


def _link_part(part: Gathering, number: int, folder: Path, cfg: Collect, out: Path) -> None:
    if part.suite:
        out = out / SUITES / f"{cfg.suites.index(part.suite):03d}"
        out.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.parquet"):
        stem, _, shard = path.name.partition("-")
        link(path, out / f"{stem}-{part.batch:05d}-{number:05d}-{shard}")


def _count_rows(folder: Path, stem: str) -> int:
    return sum(pq.read_metadata(path).num_rows for path in shards(folder, stem))


def _reasons(folder: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path in shards(folder, REJECTED):
        counts.update(pq.read_table(path, columns=["reason"])["reason"].to_pylist())
    return dict(sorted(counts.items()))
