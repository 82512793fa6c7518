"""Clean: documents become clean text without copies, each in its split; every record that goes missing has a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from llm_core.artifact import Artifact, Draft
from llm_core.config import Clean
from llm_core.text.dedup import Deduplicator
from llm_core.text.document import CleanDocument, Document, Rejection
from llm_core.text.filters import clean_text
from llm_core.text.shards import RejectionList, read_documents, write_documents
from llm_core.text.split import SPLITS, split_of

NEEDED_SPLITS = ("train", "test")


class SplitError(ValueError):
    """A split without documents; the message says which share or rule to change."""


def clean(cfg: Clean, documents: Artifact, out: Draft) -> Artifact:
    """Clean, deduplicate and split the documents in their order; records_in = kept + the rejected of every reason.

    Raises SplitError when no document is left to train on or to test with.
    """
    counts: Counter[str] = Counter({f"{split}_{unit}": 0 for split in SPLITS for unit in ("documents", "bytes")})
    with RejectionList(out.path) as rejected:
        kept = write_documents(_clean_documents(cfg, documents, counts, rejected, out), CleanDocument, out.path)
    reasons = dict(sorted(rejected.reasons.items()))
    if not kept:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise SplitError(
            f"no document of {documents.stats['kept']} passed ({listed}); relax the rules of the clean section"
        )
    _require_splits(cfg, counts, kept)
    _write_tables(out.path, counts, rejected)
    return out.publish({"records_in": documents.stats["kept"], "kept": kept, "rejected": reasons, **counts})


def _clean_documents(
    cfg: Clean, documents: Artifact, counts: Counter[str], rejected: RejectionList, out: Draft
) -> Iterator[CleanDocument]:
    copies = Deduplicator(cfg.near_duplicate_similarity, cfg.minhash_permutations)
    for done, document in enumerate(read_documents(documents.path, Document), start=1):
        result = _clean_document(cfg, document, copies)
        if isinstance(result, Rejection):
            rejected.add(document, result)
        else:
            counts[f"{result.split}_documents"] += 1
            counts[f"{result.split}_bytes"] += result.num_bytes
            yield result
        out.observer.progress(done, documents.stats["kept"], "documents")


def _clean_document(cfg: Clean, document: Document, copies: Deduplicator) -> CleanDocument | Rejection:
    text = clean_text(document.text, cfg)
    if isinstance(text, Rejection):
        return text
    split = split_of(document.sha256, cfg.test_share, cfg.validation_share)
    values: dict[str, Any] = vars(document) | {"text": text, "split": split, "num_bytes": len(text.encode())}
    cleaned = CleanDocument(**values)
    return copies.check(cleaned) or cleaned


def _require_splits(cfg: Clean, counts: Mapping[str, int], kept: int) -> None:
    for split in NEEDED_SPLITS:
        if not counts[f"{split}_documents"]:
            change = f"raise clean.test_share (now {cfg.test_share})" if split == "test" else "lower clean.test_share"
            raise SplitError(f"no document of the {kept} kept is in the {split} split; {change}, or add documents")


def _write_tables(folder: Path, counts: Mapping[str, int], rejected: RejectionList) -> None:
    """The two tables of the stage's report: documents and bytes of each split, and of each reason."""
    splits = [(split, counts[f"{split}_documents"], counts[f"{split}_bytes"]) for split in SPLITS]
    reasons = [(reason, count, rejected.bytes[reason]) for reason, count in sorted(rejected.reasons.items())]
    for name, rows in (("split", splits), ("reason", reasons)):
        table = pd.DataFrame(rows, columns=[name, "documents", "bytes"])
        table["share"] = (table["documents"] / max(table["documents"].sum(), 1)).round(6)
        table.to_csv(folder / f"{'splits' if name == 'split' else 'rejections'}.csv", index=False)
