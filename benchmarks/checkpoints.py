"""How long a training stands still for a checkpoint: 29M parameters with AdamW's state, 346 MB in float32.

Ours beside what plain loops do (``torch.save``, fsync, rename; no checksum), in turn in one run. Ours is measured both
ways: the copy that a save in the background waits for, and a save that is waited for to the end. CPU seconds are those
of the training's thread: they leave out the wait for the disk, but other work on the machine does not change them.
"""

from __future__ import annotations

import sys
from pathlib import Path

# The script's own folder has a file that the standard library would import as `tokenize`.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.rows import paired_row  # noqa: E402
from llm_core.checkpoint import Checkpoints, Snapshot  # noqa: E402

WIDTH, LAYERS, VOCABULARY = 512, 6, 8192
ROUNDS, QUICK_ROUNDS = 15, 5


def state() -> dict[str, Tensor]:
    """The tensors of a decoder's weights and its optimizer's two moments."""
    shapes = {"embedding": (VOCABULARY, WIDTH), "head": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"{layer}.{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "o")}
        shapes |= {f"{layer}.gate": (3 * WIDTH, WIDTH), f"{layer}.up": (3 * WIDTH, WIDTH)}
        shapes |= {f"{layer}.down": (WIDTH, 3 * WIDTH)}
    parts = ("weights", "exp_avg", "exp_avg_sq")
    return {f"{part}/{name}": torch.randn(shape) for part in parts for name, shape in shapes.items()}


def plain_save(tensors: dict[str, Tensor], folder: Path) -> None:
    draft = folder / "draft.pt"
    with open(draft, "wb") as file:
        torch.save(tensors, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / "state.pt")


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """The time that `work` takes by the clock, and this thread's CPU time."""
    clock, cpu = time.perf_counter(), time.thread_time()
    work()
    return time.perf_counter() - clock, time.thread_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tensors = state()
    numbers: dict[str, list[tuple[float, float]]] = {"background": [], "waited": [], "plain": []}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder) / "ours", {}, keep=1) as checkpoints:
        for step in range((QUICK_ROUNDS if options.quick else ROUNDS) + 1):
            snapshot = Snapshot(step, tensors, {})
            numbers["background"].append(seconds(lambda: checkpoints.save(snapshot, wait=False)))  # noqa: B023
            checkpoints.wait()
            numbers["waited"].append(seconds(lambda: checkpoints.save(snapshot)))  # noqa: B023
            numbers["plain"].append(seconds(lambda: plain_save(tensors, Path(folder))))
    clock, cpu = numbers["background"][0]
    print(f"the first save, which makes the buffers: {clock:.3f} s, {cpu:.3f} s CPU", file=sys.stderr)
    rows = [
        paired_row(
            f"checkpoint {name}: training stands still",
            "torch.save, fsync, rename",
            unit,
            [(own[place], theirs[place]) for own, theirs in zip(numbers[name][1:], numbers["plain"][1:], strict=True)],
            less_is_better=True,
        )
        for name in ("background", "waited")
        for place, unit in enumerate(("seconds", "CPU seconds"))
    ]
    text = json.dumps(rows, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
