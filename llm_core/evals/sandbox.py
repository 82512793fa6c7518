"""Runs a Python program that nobody has read: apart from the rest of the machine, within limits, to one verdict.

On Linux with user namespaces (x86-64, ARM64; root is not needed) the program has no network and cannot open a socket,
sees no other process, writes only into a small file system in memory that goes with it, and dies with everything that
it started. Everywhere: a new interpreter without site packages, an empty environment, no open files, and limits of
time, memory, size and number of files. Where the first part is not to be had, running is refused unless asked for.

What it does not do: files that the user may read can be read (they can go nowhere but into the verdict), and the
verdict is an answer from inside, so that a program made for this sandbox could forge it. Leaving early is no pass.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
START_SECONDS = 5.0
"""What an interpreter may take to start, beside the program's own time."""


class SandboxError(RuntimeError):
    """This machine cannot keep a program in."""


@dataclass(frozen=True)
class Limits:
    """What a program may use; the number of processes holds for users other than root, or from Linux 6.14."""

    seconds: float = 3.0
    memory_bytes: int = 512 * 2**20
    file_bytes: int = 16 * 2**20
    files: int = 64
    processes: int = 32


class Verdict(NamedTuple):
    passed: bool
    reason: str
    """`passed`, `failed`, or `timed out`."""


def run_program(source: str, limits: Limits | None = None, *, isolated: bool = True) -> Verdict:
    """Run a program; it passes when it comes to its end within its limits and without an exception."""
    if isolated and not can_isolate():
        raise SandboxError(
            "this machine has no user namespaces for programs to run in, so they would have network and files; allow "
            "them, run in a virtual machine, or pass isolated=False if you trust the programs"
        )
    return _run(source, limits or Limits(), isolated)


@cache
def can_isolate() -> bool:
    """Whether a program can be run without network, other processes and other people's files."""
    return sys.platform == "linux" and _run("pass", Limits(), True).passed


def _run(source: str, limits: Limits, isolated: bool) -> Verdict:
    word = secrets.token_hex(16)
    settings = " ".join(str(value) for value in asdict(limits).values())
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as answer:
        command = [sys.executable, "-I", "-S", "-B", str(LAUNCHER), folder, str(int(isolated)), *settings.split()]
        process = subprocess.Popen(
            command, cwd=folder, env={}, stdin=subprocess.PIPE, stdout=answer, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(f"{word}\n{source}".encode(errors="replace"), timeout=limits.seconds + START_SECONDS)
        except subprocess.TimeoutExpired:
            return Verdict(False, "timed out")
        finally:
            _stop(process)
        answer.seek(0)
        # A forked copy may come to the end too: the first process must have left well.
        passed = process.returncode == 0 and answer.read(len(word) + 1) == word.encode()
    timed_out = process.returncode == -signal.SIGALRM
    return Verdict(passed, "passed" if passed else "timed out" if timed_out else "failed")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process group; in a namespace everything dies with the first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
