"""The peer's side of `benchmarks/cleaning.py`, run by the interpreter of its own environment.

    python benchmarks/peer_datatrove.py verdicts|clean|minhash DOCUMENTS.jsonl RESULT.json

Writes the seconds of CPU time that the work took, imports and reading aside, and what became of each document.
"""

from __future__ import annotations

import importlib.metadata  # noqa: F401  datatrove 0.10 relies on it being imported
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)

WARM_UP = "The state of the union is strong. " * 20


def main() -> None:
    """Do one kind of work on the documents of a file."""
    mode, source, result = sys.argv[1:]
    texts = [json.loads(line)["text"] for line in Path(source).read_text(encoding="utf-8").splitlines()]
    work = {"verdicts": verdicts, "clean": clean, "minhash": minhash}[mode]
    work([WARM_UP, WARM_UP])  # loads the tokenizer
    began = cpu_seconds()
    found = work(texts)
    Path(result).write_text(json.dumps({"seconds": cpu_seconds() - began, "found": found}), encoding="utf-8")


def verdicts(texts: list[str]) -> list[dict[str, str]]:
    """What each filter by itself says of each document."""
    filters = {
        "gopher_quality": GopherQualityFilter(),
        "gopher_repetition": GopherRepetitionFilter(),
        "c4": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(),
    }
    return [{name: verdict(rule, text) for name, rule in filters.items()} for text in texts]


def verdict(rule: object, text: str) -> str:
    """The reason of a rejection, or nothing."""
    result = rule.filter(Document(text=text, id=""))
    return result[1] if isinstance(result, tuple) else ""


def clean(texts: list[str]) -> list[int]:
    """The chain of filters, then near-duplicate removal on what it keeps; numbers of the documents that are left."""
    kept = list(C4QualityFilter().run(GopherRepetitionFilter().run(GopherQualityFilter().run(stream(texts)))))
    return [int(kept[row].id) for row in minhash([document.text for document in kept])]


def minhash(texts: list[str]) -> list[int]:
    """The four stages of near-duplicate removal; numbers of the documents that are kept."""
    config = MinhashConfig()
    with tempfile.TemporaryDirectory() as folder:
        signatures, pairs, removed = (os.path.join(folder, name) for name in ("signatures", "pairs", "removed"))
        MinhashDedupSignature(signatures, config=config).run(stream(texts), 0, 1)
        for rank in range(config.num_buckets):
            MinhashDedupBuckets(signatures, pairs, config=config).run(None, rank, config.num_buckets)
        MinhashDedupCluster(pairs, removed, config=config).run(None, 0, 1)
        return [int(document.id) for document in MinhashDedupFilter(removed).run(stream(texts), 0, 1)]


def stream(texts: list[str]) -> Iterator[Document]:
    """The texts as the peer's documents, numbered."""
    return (Document(text=text, id=str(number)) for number, text in enumerate(texts))


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
