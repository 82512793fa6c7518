"""``tidemill clean``: files in, clean text out, without a project, a recipe or a registry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llm_core.artifact import Artifact, Draft, Observer
from llm_core.config import Recipe, override
from llm_core.inventory import take_inventory
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks.clean import clean
from tasks.collect import collect
from tasks.data_report import data_report
from tasks.quarantine import fill_quarantine

ONE_FILE = (".txt", ".jsonl")


@dataclass(frozen=True)
class Cleaned:
    """What came of the files."""

    accounts: Mapping[str, Any]
    """records_in, kept, and rejected by reason."""
    output: Path
    quarantine: Path
    report: Path


def recipe_of(inputs: Sequence[str], base: Recipe | None, overrides: Sequence[str] | None) -> Recipe:
    """The recipe that cleans these inputs: all files of folders, nothing held out, else the sections of `base`.

    Without `base`, `overrides` change single values of the default sections.
    """
    start = base or override(Recipe(), tuple(overrides or ()))
    collect = {"sources": tuple(inputs), "suffixes": ("",) if base is None else start.collect.suffixes}
    clean = {"test_share": 0.0, "validation_share": 0.0}
    return start.model_copy(
        update={
            "collect": start.collect.model_copy(update=collect),
            "clean": start.clean.model_copy(update=clean),
        }
    )


def clean_files(recipe: Recipe, output: Path, observer: Observer) -> Cleaned:
    """Clean the recipe's sources into `output`: a text or JSON Lines file by its name, else a folder.

    A folder gets the clean artifact (documents), the quarantine and the report; a file has them beside it.
    """
    is_file = output.suffix in ONE_FILE
    beside = output.parent if is_file else output
    prefix = f"{output.name}." if is_file else ""
    beside.mkdir(parents=True, exist_ok=True)
    quarantine, report = beside / f"{prefix}quarantine", beside / f"{prefix}report.html"
    with TemporaryDirectory(dir=beside, prefix=".cleaning-") as working:
        inventory = take_inventory(recipe.collect, Path.cwd(), Path(working))
        options: dict[str, Any] = {"memo": Path(working) / "memo", "workers": recipe.workers, "observer": observer}
        with Draft(Path(working) / "collect", "documents", "collect", **options) as out:
            collected = collect(recipe.collect, inventory, out, may_be_empty=True)
        target = Path(working) / "clean" if is_file else output / "documents"
        with Draft(target, "documents", "clean", recipe=recipe.slice(("clean",)), **options) as out:
            cleaned = clean(recipe.clean, collected, out, may_be_empty=True)
        quarantined = [
            place
            for artifact in (collected, cleaned)
            for place in fill_quarantine(quarantine, artifact, inventory, recipe.collect.max_expansion)
        ]
        data_report(cleaned, quarantined, report)
        if is_file:
            _write_one_file(cleaned, output)
    return Cleaned(accounts(collected, cleaned), output, quarantine, report)


def accounts(collected: Artifact, cleaned: Artifact) -> dict[str, Any]:
    """The account of both stages together: records_in = kept + the rejected of every reason."""
    rejected = Counter(collected.stats["rejected"]) + Counter(cleaned.stats["rejected"])
    kept = cleaned.stats["kept"]
    return {"records_in": collected.stats["records_in"], "kept": kept, "rejected": dict(sorted(rejected.items()))}


def _write_one_file(cleaned: Artifact, output: Path) -> None:
    """One document after the other: as text with a blank line between them, or as one JSON object a line."""
    part = output.with_name(f".{output.name}.part")
    with open(part, "w", encoding="utf-8", newline="\n") as file:
        for number, document in enumerate(read_documents(cleaned.path, CleanDocument)):
            if output.suffix == ".txt":
                file.write(("\n" if number else "") + document.text + "\n")
            else:
                names = ("text", "source", "start", "end", "sha256", "language", "license")
                entry = {name: getattr(document, name) for name in names}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    part.replace(output)
