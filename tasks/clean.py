"""Clean: documents become clean text without copies, each in its split; every record that goes missing has a reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean
from llm_core.parts import Memo, link, make_parts, open_memo
from llm_core.text.cleaning import Cleaning
from llm_core.text.contamination import SuiteGrams, Suites
from llm_core.text.contract import ContractError, check_contract
from llm_core.text.profile import Profile, total, write_profiles
from llm_core.text.selection import PROFILE, Selection, count
from llm_core.text.shards import DOCUMENTS, REJECTED, Rejected, read_shard, shards
from llm_core.text.split import SPLITS
from llm_core.workers import open_pool

NEEDED_SPLITS = ("train", "test")
SUITES = "suites"


class SplitError(ValueError):
    """A split without documents; the message says which share or rule to change."""


def clean(cfg: Clean, documents: Artifact, out: Draft, may_be_empty: bool = False) -> Artifact:
    """Clean, decontaminate, deduplicate and split the documents; records_in = kept + the rejected of every reason.

    Shards keep the names of those they came from. Beside them lie the sketches that copies are recognised by, which are
    the index of later batches, and profile.json, the account of each batch.
    Unless the result `may_be_empty`: raises ContractError when the data are not what the recipe's contract expects, and
    SplitError when no document is left to train on or to test with.
    """
    with open_memo(out.memo) as memo:
        selected = list(_select(cfg, documents, memo, out))
    result = total(selected)
    if not result.kept and not may_be_empty:
        listed = ", ".join(f"{number} {reason}" for reason, number in sorted(result.rejected.items()))
        raise SplitError(
            f"no document of {documents.stats['kept']} passed ({listed}); relax the rules of the clean section"
        )
    batches = _batches(documents.path, selected)
    counts = _split_counts(result)
    write_profiles(batches, out.path)
    _write_tables(out.path, result)
    rejected = dict(sorted(result.rejected.items()))
    stats = {"records_in": documents.stats["kept"], "kept": result.kept, "rejected": rejected, **counts}
    if not may_be_empty:
        _check(cfg, batches, stats, out)
    return out.publish(stats)


def _check(cfg: Clean, batches: Sequence[Profile], stats: Mapping[str, Any], out: Draft) -> None:
    """What breaks its contract is set aside for people to look at; what cannot be split is not even that."""
    try:
        check_contract(cfg.contract, batches)
    except ContractError:
        out.set_aside(stats)
        raise
    _require_splits(cfg, stats)


def _select(cfg: Clean, documents: Artifact, memo: Memo, out: Draft) -> Iterator[Profile]:
    """Clean every shard, select from each in turn, and yield the profile of what came of it."""
    paths = shards(documents.path, DOCUMENTS)
    grams = _suite_grams(cfg, documents, out.code)
    folder = memo.make(grams) if grams else None
    hashes = [documents.files[path.name]["sha256"] for path in paths]
    parts = [
        Cleaning(cfg, out.code, path, sha256, folder, grams.key if grams else "")
        for path, sha256 in zip(paths, hashes, strict=True)
    ]
    selection = Selection(cfg, out.code, memo)
    names = Suites.read(folder).names if folder else ()
    with open_pool(out.workers, len(parts)) as pool:
        cleaned = make_parts(parts, memo, pool, lambda done, all_: out.observer.progress(done, all_, "shards"))
        for part, path, place in zip(parts, paths, cleaned, strict=True):
            name = path.stem.removeprefix(f"{DOCUMENTS}-")
            blank = Profile(_batch_of(path))
            blank.contaminated.update(dict.fromkeys(names, 0))
            selected = selection.take(place, part.key, blank)
            _link_shard(name, place, selected, out.path)
            yield Profile.from_json((selected / PROFILE).read_text(encoding="utf-8"), where=str(selected))


def _suite_grams(cfg: Clean, documents: Artifact, code: str) -> SuiteGrams | None:
    listed = documents.path / f"{SUITES}.json"
    if not listed.exists():
        return None
    files = {name: str(facts["sha256"]) for name, facts in documents.files.items() if name.startswith(f"{SUITES}/")}
    names = tuple(json.loads(listed.read_text(encoding="utf-8")))
    return SuiteGrams(documents.path / SUITES, names, files, cfg.contamination_words, code)


def _link_shard(name: str, cleaned: Path, selected: Path, out: Path) -> None:
    """Put what is left of a shard into the artifact; rejected records of the rules and copies are two files."""
    for folder, stem in ((cleaned, f"{REJECTED}-{name}-rules"), (selected, f"{REJECTED}-{name}-copies")):
        for path in shards(folder, REJECTED):
            link(path, out / path.name.replace(REJECTED, stem))
    for path in shards(selected, DOCUMENTS):
        link(path, out / path.name.replace(DOCUMENTS, f"{DOCUMENTS}-{name}"))
    for path in selected.glob("*.npy"):
        link(path, out / f"{path.stem}-{name}.npy")


def _batches(documents: Path, selected: Sequence[Profile]) -> list[Profile]:
    """A profile of every batch, oldest first: what became of its documents, and the records that never were any."""
    batches: dict[str, Profile] = {}
    for profile in selected:
        batches.setdefault(profile.batch, Profile(profile.batch)).merge(profile)
    for path in shards(documents, REJECTED):
        batch = batches.setdefault(_batch_of(path), Profile(_batch_of(path)))
        for entry in read_shard(path, Rejected):
            count(batch, entry)
    return [batches[name] for name in sorted(batches, key=int)]


def _batch_of(shard: Path) -> str:
    """The number of a shard's batch, from its name STEM-BATCH-..."""
    return str(int(shard.stem.split("-")[1]))


def _split_counts(result: Profile) -> dict[str, int]:
    counts = {f"{split}_documents": result.split_documents[split] for split in SPLITS}
    return counts | {f"{split}_bytes": result.split_bytes[split] for split in SPLITS}


def _require_splits(cfg: Clean, stats: Mapping[str, Any]) -> None:
    for split in NEEDED_SPLITS:
        if not stats[f"{split}_documents"]:
            change = f"raise clean.test_share (now {cfg.test_share})" if split == "test" else "lower clean.test_share"
            raise SplitError(
                f"no document of the {stats['kept']} kept is in the {split} split; {change}, or add documents"
            )


def _write_tables(folder: Path, result: Profile) -> None:
    """The two tables of the stage's report: documents and bytes of each split, and of each reason."""
    splits = [(split, result.split_documents[split], result.split_bytes[split]) for split in SPLITS]
    reasons = [(reason, number, result.rejected_bytes[reason]) for reason, number in sorted(result.rejected.items())]
    for name, rows in (("split", splits), ("reason", reasons)):
        table = pd.DataFrame(rows, columns=[name, "documents", "bytes"])
        table["share"] = (table["documents"] / max(table["documents"].sum(), 1)).round(6)
        table.to_csv(folder / f"{'splits' if name == 'split' else 'rejections'}.csv", index=False)
