"""``tidemill clean``: files in, clean text out, without a project, a recipe or a registry."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_core.artifact import MANIFEST, Artifact, Draft, Observer
from llm_core.config import Recipe, override
from llm_core.inventory import Inventory, take_inventory
from llm_core.sources import is_remote, resolve
from llm_core.text.document import CleanDocument
from llm_core.text.shards import read_documents
from tasks.clean import clean
from tasks.collect import collect
from tasks.data_report import data_report
from tasks.quarantine import fill_quarantine

ONE_FILE = (".txt", ".jsonl")


class OutputError(ValueError):
    """An output that cannot be written, or would destroy what is there; the message names it."""


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


def clean_files(recipe: Recipe, output: Path, observer: Observer, accounts_file: Path | None = None) -> Cleaned:
    """Clean the recipe's sources into `output`: a text or JSON Lines file by its name, else a folder.

    A folder gets the clean artifact (documents), the quarantine and the report; a file has them beside it. Those of an
    earlier cleaning are replaced. Raises OutputError before anything is written where something else would be.
    """
    is_file = output.suffix in ONE_FILE
    beside = output.parent if is_file else output
    prefix = f"{output.name}." if is_file else ""
    quarantine, report = beside / f"{prefix}quarantine", beside / f"{prefix}report.html"
    documents = output if is_file else output / "documents"
    _check_output(output, documents, quarantine, accounts_file)
    beside.mkdir(parents=True, exist_ok=True)
    with _folder_for_a_while(beside / f".{output.name}.cleaning") as working:
        inventory = take_inventory(recipe.collect, Path.cwd(), working)
        _check_inputs(inventory, [place for place in (documents, quarantine, report, accounts_file) if place])
        options: dict[str, Any] = {"memo": working / "memo", "workers": recipe.workers, "observer": observer}
        with Draft(working / "collect", "documents", "collect", **options) as out:
            collected = collect(recipe.collect, inventory, out, may_be_empty=True)
        target = working / "clean" if is_file else documents
        with Draft(target, "documents", "clean", recipe=recipe.slice(("clean",)), **options) as out:
            cleaned = clean(recipe.clean, collected, out, may_be_empty=True)
        quarantined = [
            place
            for artifact in (collected, cleaned)
            for place in fill_quarantine(working / "quarantine", artifact, inventory, recipe.collect.max_expansion)
        ]
        data_report(cleaned, quarantined, report)
        if quarantine.exists():
            quarantine.rename(working / "earlier-quarantine")
        (working / "quarantine").rename(quarantine)
        if is_file:
            _write_one_file(cleaned, working / output.name).replace(output)
    counts = accounts(collected, cleaned)
    if accounts_file is not None:
        accounts_file.parent.mkdir(parents=True, exist_ok=True)
        accounts_file.write_text(json.dumps(counts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Cleaned(counts, output, quarantine, report)


def accounts(collected: Artifact, cleaned: Artifact) -> dict[str, Any]:
    """The account of both stages together: records_in = kept + the rejected of every reason."""
    rejected = Counter(collected.stats["rejected"]) + Counter(cleaned.stats["rejected"])
    records_in, kept = collected.stats["records_in"], cleaned.stats["kept"]
    assert records_in == kept + rejected.total(), f"{records_in} records in, {kept} kept, {rejected}"
    return {"records_in": records_in, "kept": kept, "rejected": dict(sorted(rejected.items()))}


def _check_output(output: Path, documents: Path, quarantine: Path, accounts_file: Path | None) -> None:
    is_file = documents == output
    if is_file and output.is_dir():
        raise OutputError(f"{output}: is a folder, though its name is that of a file; give another output")
    if not is_file and output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; let the output end in {' or '.join(ONE_FILE)}, or give a folder")
    is_earlier = is_file or (documents / MANIFEST).exists()
    if not is_earlier and (taken := [place for place in (documents, quarantine) if place.exists()]):
        raise OutputError(f"{taken[0]}: would be replaced, and no earlier cleaning made it; give another output")
    if accounts_file is not None and (accounts_file.is_dir() or _real(accounts_file) == _real(output)):
        raise OutputError(f"{accounts_file}: is a folder or the output; give the accounts a file of their own")


def _check_inputs(inventory: Inventory, written: Sequence[Path]) -> None:
    """No input lies where the output will."""
    places = [_real(place) for place in written]
    for file in inventory.files:
        local = file.path.removeprefix("file://")
        if is_remote(local):
            continue
        path = _real(resolve(local, inventory.base))
        if any(path.is_relative_to(place) for place in places):
            raise OutputError(f"{file.path}: is an input and would be overwritten; give another output")


@contextmanager
def _folder_for_a_while(place: Path) -> Iterator[Path]:
    """An empty, private folder that is gone afterwards; what a killed cleaning left there goes first."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _real(path: Path) -> Path:
    """Without links; of links in a loop, which Path.resolve refuses, as far as there is one."""
    return Path(os.path.realpath(path))


def _write_one_file(cleaned: Artifact, place: Path) -> Path:
    """One document after the other: as text with a blank line between them, or as one JSON object a line."""
    with open(place, "w", encoding="utf-8", newline="\n") as file:
        for number, document in enumerate(read_documents(cleaned.path, CleanDocument)):
            if place.suffix == ".txt":
                file.write(("\n" if number else "") + document.text + "\n")
            else:
                names = ("text", "source", "start", "end", "sha256", "language", "license")
                entry = {name: getattr(document, name) for name in names}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return place
