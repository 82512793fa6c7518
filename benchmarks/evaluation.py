"""Likelihoods of choices behind contexts, beside lm-evaluation-harness's backend for transformers, in turn in one run.

    python benchmarks/evaluation.py [--quick] [--json FILE]

Both sides load one exported model of the demo's size with random weights and are asked the same requests, one thread
each: four short choices behind each context, contexts with five solved examples in front, and single continuations.
Ours is `NetworkSubject`, which suites and `tidemill run` use; the peer is `HFLM` with its best batch size of 1 to 64,
which is looked for first. Figures are requests per CPU second; a ratio above 1 means ours answers more of them. The
likelihoods of both are compared first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)
os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch  # noqa: E402

from benchmarks.peers import LM_EVAL  # noqa: E402
from benchmarks.rows import paired_row  # noqa: E402
from benchmarks.serving_model import write_model  # noqa: E402
from benchmarks.texts import extracted, speeches  # noqa: E402
from llm_core.config import Model  # noqa: E402
from llm_core.evals.perplexity import Scoring  # noqa: E402
from llm_core.evals.subject import NetworkSubject  # noqa: E402
from llm_core.models import load_pretrained  # noqa: E402
from llm_core.tokenizer import Tokenizer  # noqa: E402

SHAPE = Model(context=512)
VOCAB_SIZE = 4096
CHOICES, SHOTS = 4, 5
BATCH_SIZES = (1, 8, 64)
MOST_DIFFERENCE = 1e-3
"""Between two likelihoods, in nats; float32 sums of some dozen tokens differ in their last digits."""

Pairs = list[tuple[str, str]]


def main() -> None:
    """Measure, print and, with --json, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds of a quarter of the requests")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    rounds, contexts = (3, 50) if options.quick else (7, 200)
    torch.set_num_threads(1)
    texts = extracted(speeches)[:40]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        write_model(model, texts, SHAPE, VOCAB_SIZE)
        tokenizer = Tokenizer.load(model)
        ours = NetworkSubject(load_pretrained(model), tokenizer, Scoring(256, 8), begins_with_end=False)
        with Peer(model) as peer:
            rows = [_row(name, pairs, ours, peer, rounds) for name, pairs in _loads(texts, contexts)]
    text = json.dumps(rows, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


class Peer:
    """The harness' own backend in its own interpreter; a line in asks, a line out answers."""

    def __init__(self, model: Path) -> None:
        command = [str(LM_EVAL.python()), "-P", str(Path(__file__).with_name("peer_lm_eval.py")), str(model)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(timeout=60)

    def ask(self, pairs: Pairs, batch_size: int) -> tuple[list[float], float]:
        """The log-probabilities and the CPU seconds that they took."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps({"pairs": pairs, "batch_size": batch_size}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        return answer["logprobs"], answer["seconds"]


def _row(name: str, pairs: Pairs, ours: NetworkSubject, peer: Peer, rounds: int) -> dict[str, Any]:
    mine, theirs = [found.logprob for found in ours.likelihoods(pairs)], peer.ask(pairs, BATCH_SIZES[0])[0]
    difference = max(abs(one - other) for one, other in zip(mine, theirs, strict=True))
    if difference > MOST_DIFFERENCE:
        raise SystemExit(f"{name}: the likelihoods differ by {difference:.3g} nats, so their speeds are not compared")
    best = min(BATCH_SIZES, key=lambda size: peer.ask(pairs, size)[1])
    measured = []
    for _ in range(rounds):
        began = time.process_time()
        ours.likelihoods(pairs)
        seconds = time.process_time() - began
        measured.append((len(pairs) / seconds, len(pairs) / peer.ask(pairs, best)[1]))
    unit = f"requests a CPU second (largest difference {difference:.1e} nats, its batch size {best})"
    row = paired_row(f"loglikelihood, {name}", LM_EVAL.title, unit, measured, less_is_better=False)
    print(f"{row['claim']}: {row['ratio']} times {row['peer']}", file=sys.stderr)
    return row


def _loads(texts: list[str], contexts: int) -> Iterator[tuple[str, Pairs]]:
    """Contexts of 12 to 40 words of real text, and choices of 1 to 8 words from anywhere in it."""
    rng, words = random.Random(1), [word for text in texts for word in text.split()]

    def some(least: int, most: int) -> str:
        start = rng.randrange(len(words) - most)
        return " ".join(words[start : start + rng.randint(least, most)])

    def choices(context: str) -> Pairs:
        return [(context, f" {some(1, 8)}") for _ in range(CHOICES)]

    solved = "".join(f"{some(12, 40)} {some(1, 8)}\n\n" for _ in range(SHOTS))
    beginnings = [some(12, 40) for _ in range(contexts)]
    yield "four choices", [pair for context in beginnings for pair in choices(context)]
    yield "four choices behind five shots", [pair for context in beginnings for pair in choices(solved + context)]
    yield "one continuation", [(context, f" {some(20, 40)}") for context in beginnings]


if __name__ == "__main__":
    main()
