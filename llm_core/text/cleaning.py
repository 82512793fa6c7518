"""Cleaning: a shard of collected documents goes through the rules, and each survivor is sketched for what compares
documents with each other. Nothing here looks beyond the shard, so shards are cleaned in any order, by any worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_core.config import Clean
from llm_core.parts import key_of
from llm_core.text.contamination import Suites
from llm_core.text.dedup import Hashes, Sketches, exact_hash, signature
from llm_core.text.document import CleanDocument, Document, Rejection
from llm_core.text.measures import shingle_hashes
from llm_core.text.rules import apply_rules
from llm_core.text.shards import DOCUMENTS, REJECTED, Rejected, ShardWriter, read_shard
from llm_core.text.split import split_of

PASSAGES = "passages.npz"
# Shorter lines and paragraphs are ordinary phrases, which anybody may use again.
MIN_PASSAGE_CHARACTERS = 60


@dataclass(frozen=True)
class Cleaning:
    """The part of a clean stage that needs one shard of documents only."""

    cfg: Clean
    code: str
    """Digest of the stage's code."""
    shard: Path
    sha256: str
    """The shard's."""
    suites: Path | None = None
    """Folder of the evaluation suites' runs of words."""
    suites_key: str = ""

    @property
    def key(self) -> str:
        rules = self.cfg.model_dump(mode="json", exclude={"contract", "near_duplicate_similarity"})
        facts = {"cfg": rules, "code": self.code, "shard": self.sha256, "suites": self.suites_key}
        return key_of("cleaning", facts)

    def make(self, folder: Path) -> None:
        """Write ``documents-*`` and ``rejected-*.parquet``, and the sketches of the documents, row by row."""
        signatures, exact, passages = [], [], []
        with (
            ShardWriter(folder, CleanDocument, DOCUMENTS) as kept,
            ShardWriter(folder, Rejected, REJECTED) as rejected,
        ):
            for document in read_shard(self.shard, Document):
                cleaned = self._clean(document)
                if isinstance(cleaned, Rejected):
                    rejected.add(cleaned)
                    continue
                kept.add(cleaned, cleaned.num_bytes)
                signatures.append(signature(shingle_hashes(cleaned.measures), self.cfg.minhash_permutations))
                exact.append(exact_hash(cleaned.text))
                passages.append(passage_hashes(cleaned.text, self.cfg))
        shape = (-1, self.cfg.minhash_permutations)
        Sketches(
            np.array(signatures, dtype=np.uint32).reshape(shape), np.array(exact, dtype=np.uint64).reshape(-1, 2)
        ).write(folder)
        np.savez(folder / PASSAGES, hashes=np.concatenate([*passages, _NONE]), counts=[len(row) for row in passages])

    def _clean(self, document: Document) -> CleanDocument | Rejected:
        result = apply_rules(document, self.cfg)
        if isinstance(result, Rejection):
            return reject(document, result)
        if self.suites is not None and (hit := Suites.read(self.suites).check(result)) is not None:
            return reject(document, *hit)
        return as_clean(result, self.cfg)


def as_clean(document: Document, cfg: Clean) -> CleanDocument:
    """The document in its split; its measures go with it."""
    cleaned = CleanDocument(
        source=document.source,
        start=document.start,
        end=document.end,
        sha256=document.sha256,
        license=document.license,
        unit=document.unit,
        text=document.text,
        language=document.language,
        redactions=document.redactions,
        split=split_of(document.sha256, cfg.test_share, cfg.validation_share),
        num_bytes=len(document.text.encode()),
    )
    vars(cleaned)["measures"] = document.measures
    return cleaned


def reject(document: Document, rejection: Rejection, suite: str = "") -> Rejected:
    """The account of a document that is not kept."""
    return Rejected(
        document.source,
        document.start,
        document.end,
        document.sha256,
        document.license,
        rejection.reason,
        rejection.detail,
        suite,
        unit=document.unit,
    )


def passages(text: str, cfg: Clean) -> list[str]:
    """The lines or paragraphs that a text consists of, as the recipe looks for repeats among; they join to the text."""
    separator = "\n" if cfg.repeated_text == "drop_lines" else "\n\n"
    return text.split(separator) if cfg.repeated_text != "keep" else []


def without_passages(text: str, repeated: Iterator[bool], cfg: Clean) -> str:
    """The text without those of its passages that are marked as repeated."""
    separator = "\n" if cfg.repeated_text == "drop_lines" else "\n\n"
    kept = [piece for piece, again in zip(passages(text, cfg), repeated, strict=True) if not again]
    return separator.join(kept).strip()


def passage_hashes(text: str, cfg: Clean) -> Hashes:
    """A 64-bit hash of each passage; 0 where it is too short to count as repeated."""
    return np.array([_passage_hash(piece) for piece in passages(text, cfg)], dtype=np.uint64)


def _passage_hash(piece: str) -> int:
    words = " ".join(piece.casefold().split())
    if len(words) < MIN_PASSAGE_CHARACTERS:
        return 0
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


_NONE = np.zeros(0, dtype=np.uint64)
