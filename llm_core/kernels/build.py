"""Compiles the C++ beside this file for the machine that it runs on, once, and keeps the result."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from filelock import FileLock

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
# Not -ffast-math: sums keep their order, and what is not a number stays noticed.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
QUIET = ("-Wno-psabi",)  # about vectors wider than the machine's: they never leave the file


class NoCompiler(RuntimeError):
    """The kernels cannot be compiled here; the message says why and what to install."""


@cache
def library(name: str, flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL:
    """The compiled ``NAME.cpp``; the first time takes some seconds. Raises NoCompiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise NoCompiler("no C++ compiler is installed; install one (g++) or set CXX to it")
    built = _place() / f"{name}-{_key(compiler, flags)[:20]}.so"
    if not built.exists():
        _compile(compiler, FOLDER / f"{name}.cpp", built, flags)
    return ctypes.CDLL(str(built))


def _place() -> Path:
    """Where compiled files are kept: the user's cache, or a folder of this process where that cannot be written."""
    base = os.environ.get("TIDEMILL_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    place = Path(base).expanduser() / "tidemill" / "kernels"
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="tidemill-kernels-"))
    return place


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    """Everything that the machine code follows from: sources, flags, compiler, and the processor's features."""
    told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    seen = hashlib.sha256("\0".join((*flags, told, platform.machine(), _features())).encode())
    for source in sorted((*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp"))):
        seen.update(source.read_bytes())
    return seen.hexdigest()


def _features() -> str:
    """What the processor can do, as Linux tells it; nothing elsewhere, where a home folder rarely changes machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(compiler: str, source: Path, built: Path, flags: tuple[str, ...]) -> None:
    with FileLock(f"{built}.lock"):
        if built.exists():
            return
        logger.info("compiling %s (once) ...", source.name)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            draft = Path(folder) / built.name
            command = [compiler, *flags, *QUIET, str(source), "-o", str(draft)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NoCompiler(f"{compiler} cannot compile {source.name}:\n{done.stderr[-2000:]}")
            draft.replace(built)
