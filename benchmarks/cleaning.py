"""Cleaning and near-duplicate removal beside datatrove 0.10, on the same real documents, in turn in one run.

    python benchmarks/cleaning.py [--quick] [--json FILE] [--verdicts]

`clean` is Gopher's quality and repetition rules, C4's, and the removal of near copies; `minhash` is the last alone.
Ours is the clean stage as `tidemill run` calls it, from the collected documents on disk to the published artifact, with
nothing remembered; the peer's filters get the documents in memory. Each side works in one process; its CPU seconds,
those of its children included, are counted without imports. `--verdicts` compares what each rule says of 1,000
documents instead. A ratio above 1 means that ours is faster.
"""

from __future__ import annotations

# ruff: noqa: E402
import os
import sys

# The folder's tokenize.py must not stand in for the standard library's.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import json
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import texts
from benchmarks.peers import DATATROVE
from benchmarks.rows import paired_row

PEER_SCRIPT = Path(__file__).with_name("peer_datatrove.py")
CHAIN = ("gopher_quality", "gopher_repetition", "c4")
MODES = {"clean": "clean: Gopher, C4 and near duplicates, end to end", "minhash": "minhash: near duplicates"}
VERDICT_DOCUMENTS = 1000
# One CPU thread each: both are measured in CPU seconds, and idle pools would only add noise.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
Verdicts = list[dict[str, str]]


@dataclass(frozen=True)
class Outcome:
    """What one side made of some documents, and the CPU seconds that it took."""

    seconds: float
    found: Any


def main() -> None:
    """Measure, print and, with --json, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds of 2 MB instead of five of 8 MB")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--verdicts", action="store_true", help="compare the rules' verdicts on 1,000 documents")
    parser.add_argument("--work", nargs=3, metavar=("MODE", "DOCUMENTS", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(*options.work)
        return
    if options.verdicts:
        compare_verdicts()
        return
    rounds, size = (3, 2_000_000) if options.quick else (5, 8_000_000)
    slices = sliced(texts.documents(rounds * size), size)
    text = json.dumps([row(mode, slices) for mode in MODES], indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def row(mode: str, slices: Sequence[Sequence[str]]) -> dict[str, object]:
    """Both sides on each slice of the documents, ours first and last in turn."""
    speeds: list[tuple[float, float]] = []
    agreed = total = 0
    for number, documents in enumerate(slices):
        sides: list[Callable[[str, Sequence[str]], Outcome]] = [ours, theirs]
        results = {side: side(mode, documents) for side in (sides if number % 2 else sides[::-1])}
        megabytes = sum(len(document.encode()) for document in documents) / 1e6
        speeds.append((megabytes / results[ours].seconds, megabytes / results[theirs].seconds))
        kept, kept_by_peer = (set(results[side].found) for side in sides)
        agreed += len(documents) - len(kept ^ kept_by_peer)
        total += len(documents)
    print(f"{mode}: same verdict on {agreed} of {total} documents", file=sys.stderr)
    return paired_row(MODES[mode], DATATROVE.title, "MB per CPU second", speeds, less_is_better=False)


def compare_verdicts() -> None:
    """Print how often each rule by itself agrees with the peer's, and the reasons of both where it does not."""
    documents = random.Random(texts.SEED).sample(
        [text for source in texts.SOURCES for text in texts.extracted(source)], VERDICT_DOCUMENTS
    )
    mine, peers = ours("verdicts", documents).found, theirs("verdicts", documents).found
    for rule in (*CHAIN, "fineweb"):
        pairs = [(one[rule], other[rule]) for one, other in zip(mine, peers, strict=True)]
        differing = Counter(
            f"{one or 'keeps'} / {other or 'keeps'}" for one, other in pairs if bool(one) != bool(other)
        )
        print(f"{rule}: {len(pairs) - differing.total()} of {len(pairs)} equal; ours / theirs: {dict(differing)}")


def sliced(documents: Sequence[str], size: int) -> list[list[str]]:
    """The documents in pieces of about `size` bytes each."""
    pieces: list[list[str]] = [[]]
    filled = 0
    for document in documents:
        if filled >= size:
            pieces.append([])
            filled = 0
        pieces[-1].append(document)
        filled += len(document.encode())
    return pieces


def ours(mode: str, documents: Sequence[str]) -> Outcome:
    """This project's side, in a process of its own."""
    return measured([sys.executable, __file__, "--work", mode], documents)


def theirs(mode: str, documents: Sequence[str]) -> Outcome:
    """The peer's side, in its own environment."""
    return measured([str(DATATROVE.python()), "-P", str(PEER_SCRIPT), mode], documents)


def measured(command: list[str], documents: Sequence[str]) -> Outcome:
    """Give the documents to a process and read back what it found and how long that took."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "documents.jsonl", Path(folder) / "result.json"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        subprocess.run(
            [*command, str(source), str(result)],
            check=True,
            env=os.environ | ONE_THREAD,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return Outcome(**json.loads(result.read_text(encoding="utf-8")))


def work(mode: str, source: str, result: str) -> None:
    """Our side of one comparison, run as a process of its own."""
    documents = [json.loads(line)["text"] for line in Path(source).read_text(encoding="utf-8").splitlines()]
    if mode == "verdicts":
        outcome = Outcome(0.0, verdicts(documents))
    else:
        rules = CHAIN if mode == "clean" else ()
        stage(["The state of the union is strong — to be sure. " * 20] * 2, rules)  # loads libraries and tables
        outcome = stage(documents, rules)
    Path(result).write_text(json.dumps(asdict(outcome)), encoding="utf-8")


def stage(documents: Sequence[str], rules: tuple[str, ...]) -> Outcome:
    """The clean stage on documents that were collected before: numbers of those that it keeps."""
    from llm_core.artifact import Draft
    from llm_core.config import Clean, Collect
    from llm_core.inventory import take_inventory
    from llm_core.text.document import CleanDocument, Document
    from llm_core.text.shards import read_documents
    from tasks.clean import clean
    from tasks.collect import collect

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
        (folder / "documents.jsonl").write_text("".join(lines), encoding="utf-8")
        cfg = Collect(sources=("documents.jsonl",))
        with Draft(folder / "collected", "documents", "collect") as out:
            collected = collect(cfg, take_inventory(cfg, folder), out)
        began = cpu_seconds()
        with Draft(folder / "cleaned", "documents", "clean") as out:
            cleaned = clean(Clean(rules=rules), collected, out, may_be_empty=True)
        seconds = cpu_seconds() - began
        starts = [document.start for document in read_documents(collected.path, Document)]
        kept = {document.start for document in read_documents(cleaned.path, CleanDocument)}
    return Outcome(seconds, [number for number, start in enumerate(starts) if start in kept])


def verdicts(documents: Sequence[str]) -> Verdicts:
    """What each rule by itself says of each document: a reason, or nothing."""
    from llm_core.config import Clean
    from llm_core.text.rules import RULES

    cfg = Clean()
    rules = {name: RULES[name] for name in (*CHAIN, "fineweb")}
    results = [{name: rule(as_document(text), cfg) for name, rule in rules.items()} for text in documents]
    return [{name: getattr(result, "reason", "") for name, result in said.items()} for said in results]


def as_document(text: str) -> Any:
    """The text as the record that the rules take; its language is said to be English, as the peer takes it to be."""
    from llm_core.text.document import Document

    return Document(source="", start=0, end=0, sha256="", license="", text=text, language="en")


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
