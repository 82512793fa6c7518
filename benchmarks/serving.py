"""Our server beside llama.cpp's and transformers' generate: a Llama of 30.9M weights, in turn in one run.

    python benchmarks/serving.py [--quick] [--json FILE]

1, 8 and 32 clients each send a prompt of 128 tokens, another one each time, read the 128 tokens of the greedy answer as
they are streamed and ask again. Ours is `tidemill serve` with its defaults; llama.cpp's server has a slot for each
client and the settings that are fastest on this machine; generate has no server around it and gets batches of as many
prompts, at once. Each side has one compute thread and one core, the clients have the other core. Weights are equal bit
by bit in bf16 and fp32; int8 is ours beside q8_0. A first round is not counted (with --quick it is): servers find
their memory when they first use it. Before anything is timed, llama.cpp in fp32 must write our tokens.
Overload is ten times as many clients as ours writes answers for at once. A ratio above 1 means that ours is better.
"""

from __future__ import annotations

# ruff: noqa: E402
import sys
from pathlib import Path

if __name__ == "__main__":  # the folder's tokenize.py must not stand in for the standard library's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.rows import paired_row
from benchmarks.serving_load import Seen
from benchmarks.serving_model import PROMPT_TOKENS
from benchmarks.serving_sides import (
    OURS,
    Files,
    Generate,
    Precision,
    Side,
    Work,
    check_answers,
    llama_cpp_server,
    own_server,
)

NEW_TOKENS = 128
CONTEXT = PROMPT_TOKENS + NEW_TOKENS
RUNNING = 32  # answers that ours writes at once by default
CLIENTS = (32, 8, 1)
OVERLOAD = 10 * RUNNING
FIRST_MEASURED = 5000  # prompts before it are for the round that does not count
LABELS: Mapping[Precision, str] = {"bfloat16": "bf16", "int8": "int8 beside q8_0", "float32": "fp32"}
QUICK_SECONDS = 480.0  # after which no further round begins
MIN_REQUESTS = 6
SHARES = {0.5: "p50", 0.95: "p95"}


@dataclass(frozen=True)
class Cell:
    """So many clients, at one precision."""

    precision: Precision
    clients: int

    @property
    def claim(self) -> str:
        """How its claims begin."""
        return f"{self.clients} client{'s' * (self.clients > 1)}, {LABELS[self.precision]}: "

    def work(self, first_prompt: int, seconds: float) -> Work:
        """What is asked for in one round."""
        requests = max(MIN_REQUESTS, min(self.clients, RUNNING) // 2)
        return Work(self.clients, NEW_TOKENS, first_prompt, seconds, requests)


CELLS = [Cell(precision, clients) for precision in LABELS for clients in CLIENTS]
OVERLOADED, FULL = Cell("bfloat16", OVERLOAD), Cell("bfloat16", RUNNING)
Measured = dict[Cell, dict[str, list[Seen]]]


def main() -> None:
    """Measure, print and, with --json, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to three short rounds")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        files = Files(Path(name))
        files.write(list(LABELS))
        began = time.monotonic()
        print(f"fp32: {check_answers(files):.0%} of llama.cpp's tokens are ours", file=sys.stderr)
        sides = start_sides(files, stack)
        if options.quick:
            measured = measure(sides, rounds=3, seconds=3.0, until=began + QUICK_SECONDS)
        else:
            measure(sides, rounds=1, seconds=8.0, until=math.inf)  # memory is found when it is first used
            measured = measure(sides, rounds=3, seconds=8.0, until=math.inf, first_prompt=FIRST_MEASURED)
    text = json.dumps(list(rows(measured)), indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def start_sides(files: Files, stack: ExitStack) -> dict[Cell, list[Side]]:
    """The sides of every cell, ready; those that do not work in the meantime sleep."""
    sides: dict[Cell, list[Side]] = defaultdict(list)
    for precision in LABELS:
        own = stack.enter_context(own_server(files, precision))
        for clients in CLIENTS:
            theirs = stack.enter_context(llama_cpp_server(files, precision, clients, CONTEXT))
            sides[Cell(precision, clients)] += [own, theirs]
    plain = stack.enter_context(Generate(files, "bfloat16"))
    for clients in CLIENTS:
        sides[Cell("bfloat16", clients)].append(plain)
    sides[OVERLOADED] = sides[FULL][:1]  # peers queue without end: a round of theirs would take minutes
    return sides


def measure(
    sides: Mapping[Cell, Sequence[Side]], rounds: int, seconds: float, until: float, first_prompt: int = 0
) -> Measured:
    """What every side does in each cell, in changing order, round after round; the first round is always whole.

    All sides of a cell get the same prompts, and no prompt comes twice.
    """
    measured: Measured = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for cell, at_work in sides.items():
            if number and time.monotonic() > until:
                return measured
            turn = number % len(at_work)
            used = 0
            for side in (*at_work[turn:], *at_work[:turn]):
                found = side.measure(cell.work(first_prompt, seconds))
                measured[cell][side.title].append(found)
                used = max(used, found.num_prompts)
                print(f"{cell.claim}{side.title}: {described(found)}", file=sys.stderr)
            first_prompt += used
    return measured


def described(seen: Seen) -> str:
    """One measurement in a line."""
    first, p95 = quantile(seen.first_seconds, 0.5), quantile(seen.request_seconds, 0.95)
    refused = f", {seen.refused} refused" if seen.refused else ""
    rates = f"{seen.tokens / seen.seconds:.0f} tokens/s, {seen.all_tokens / seen.cpu_seconds:.0f} a CPU second"
    return f"{rates}, first after {first:.3f} s, p95 {p95:.2f} s{refused}; load average {os.getloadavg()[0]:.1f}"


def rows(measured: Measured) -> Iterator[dict[str, Any]]:
    """The rows of all claims."""
    for cell in CELLS:
        own, *peers = measured[cell]
        for peer in peers:
            yield from _beside(cell, peer, list(zip(measured[cell][own], measured[cell][peer], strict=True)))
    yield from _overload(measured)


def _beside(cell: Cell, peer: str, pairs: Sequence[tuple[Seen, Seen]]) -> Iterator[dict[str, Any]]:
    def row(claim: str, unit: str, values: Sequence[tuple[float, float]], less_is_better: bool) -> dict[str, Any]:
        return paired_row(cell.claim + claim, peer, unit, values, less_is_better=less_is_better)

    def each(what: Callable[[Seen], float]) -> list[tuple[float, float]]:
        return [(what(ours), what(theirs)) for ours, theirs in pairs]

    yield row("tokens/s", "tokens per second", each(lambda seen: seen.tokens / seen.seconds), False)
    costs = each(lambda seen: seen.all_tokens / seen.cpu_seconds)
    yield row("tokens per CPU second", "tokens per CPU second", costs, False)
    for share, name in SHARES.items():
        firsts = each(lambda seen: quantile(seen.first_seconds, share))  # noqa: B023
        yield row(f"time to first token, {name}", "seconds", firsts, True)
        wholes = each(lambda seen: quantile(seen.request_seconds, share))  # noqa: B023
        yield row(f"latency, {name}", "seconds", wholes, True)


def _overload(measured: Measured) -> Iterator[dict[str, Any]]:
    """Latency of those who were admitted, beside no overload."""

    def p95(cell: Cell) -> list[float]:
        return [quantile(seen.request_seconds, 0.95) for seen in measured[cell][OURS]]

    claim, beside = f"{OVERLOADED.claim}latency of the admitted, p95", f"{OURS} with {RUNNING} clients"
    values = list(zip(p95(OVERLOADED), p95(FULL), strict=False))
    yield paired_row(claim, beside, "seconds", values, less_is_better=True)


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of all is not above."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


if __name__ == "__main__":
    main()
