"""What the lifecycle costs when nothing changed, beside `dvc repro` on the same stages, in turn in one run.

    python benchmarks/lifecycle.py [--quick] [--json FILE]

Both ask whether six stages are up to date; `tidemill run` also lists the sources, asks the ledger about version,
decision and served answer, and prints the summary. A ratio above 1 means that ours is faster.
"""

from __future__ import annotations

# ruff: noqa: E402
import os
import sys

# The folder's tokenize.py must not stand in for the standard library's.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.rows import paired_row
from tests.conftest import make_project, project_environment

OURS = (sys.executable, "-m", "flows.cli", "run", "tiny", "--json")
PEER = (sys.executable, "-m", "dvc", "repro")


def main() -> None:
    """Measure, print and, with --json, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five pairs instead of twenty")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [_no_change(Path(folder) / "project", pairs=5 if options.quick else 20)]
    text = json.dumps(rows, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def _no_change(root: Path, pairs: int) -> dict[str, object]:
    ws = make_project(root)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = project_environment(ws, {"PATH": path})

    def seconds(command: tuple[str, ...]) -> float:
        began = time.monotonic()
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
        return time.monotonic() - began

    for command in (OURS, OURS, PEER):  # the first makes everything, the others warm up
        seconds(command)
    measured = [(seconds(OURS), seconds(PEER)) for _ in range(pairs)]
    return paired_row("no-change run", "dvc repro", "seconds", measured, less_is_better=True)


if __name__ == "__main__":
    main()
