"""Collect: the source files of the inventory become documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from llm_core.artifact import Artifact, Draft
from llm_core.config import Collect
from llm_core.inventory import Inventory, SourceError, SourceFile, resolve
from llm_core.text.document import Document, Origin, Rejection
from llm_core.text.readers import read_plain_text
from llm_core.text.shards import RejectionList, write_documents


def collect(cfg: Collect, inventory: Inventory, out: Draft) -> Artifact:
    """Read every file of the inventory, one document a file, into Parquet shards and a list of what was rejected.

    Raises SourceError when a file is not the inventory's any more, or when no document is left.
    """
    with RejectionList(out.path) as rejected:
        kept = write_documents(_documents(cfg, inventory, rejected, out), Document, out.path)
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.reasons.items()))
        raise SourceError(f"{', '.join(cfg.sources)}: no document to keep ({reasons}); name sources of UTF-8 text")
    return out.publish(
        {
            "records_in": len(inventory.files),
            "kept": kept,
            "rejected": dict(sorted(rejected.reasons.items())),
            "bytes": inventory.bytes,
        }
    )


def _documents(cfg: Collect, inventory: Inventory, rejected: RejectionList, out: Draft) -> Iterator[Document]:
    result: Document | Rejection
    for done, file in enumerate(inventory.files, start=1):
        origin = Origin(source=file.path, start=0, end=file.bytes, sha256=file.sha256, license=cfg.license)
        if file.bytes > cfg.max_document_bytes:
            result = Rejection("too_large", f"{file.bytes} bytes, {cfg.max_document_bytes} allowed")
        else:
            result = read_plain_text(_read_unchanged(file, inventory), origin)
        if isinstance(result, Rejection):
            rejected.add(origin, result)
        else:
            yield result
        out.observer.progress(done, len(inventory.files), "files")


def _read_unchanged(file: SourceFile, inventory: Inventory) -> bytes:
    try:
        raw = resolve(file.path, inventory.base).read_bytes()
    except OSError as problem:
        raise SourceError(f"{file.path}: cannot be read any more ({problem.strerror}); run again") from None
    if hashlib.sha256(raw).hexdigest() != file.sha256:
        raise SourceError(f"{file.path}: changed after the inventory was taken; run again")
    return raw
