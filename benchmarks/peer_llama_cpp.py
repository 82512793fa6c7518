"""llama.cpp's server for `benchmarks/serving.py`, built natively from the sources in llama-cpp-python's sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from benchmarks.peers import PEERS
from llm_core.models import gguf_export, load_pretrained

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
TITLE = f"llama.cpp (of {PACKAGE} {VERSION})"
TARGETS = ("llama-server", "llama-quantize")
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_BUILD_RPATH_USE_ORIGIN": "ON",  # programs find their libraries wherever they are moved together
    "GGML_NATIVE": "ON",
    "GGML_OPENMP": "ON",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_UI": "OFF",
}

Precision = Literal["F32", "BF16", "Q8_0"]
KINDS: Mapping[Literal["F32", "BF16"], gguf_export.Format] = {"F32": "f32", "BF16": "bf16"}


def program(name: str) -> Path:
    """A program of llama.cpp's; all are built first where they are missing."""
    folder = PEERS / f"{PACKAGE}-{VERSION}"
    if not all((folder / "bin" / target).exists() for target in TARGETS):
        print(f"building {TITLE} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _build(folder)
    return folder / "bin" / name


def _build(folder: Path) -> None:
    """Download the sources and compile them for this very machine."""
    cmake = _cmake()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary"]
        wanted = [PACKAGE, f"{PACKAGE}=={VERSION}", "-d", str(scratch)]
        subprocess.run([*download, *wanted], check=True, stdout=sys.stderr)
        with tarfile.open(next(scratch.glob("*.tar.gz"))) as archive:
            archive.extractall(scratch, filter="data")
        sources = next(scratch.glob("*/vendor/llama.cpp"))
        options = [f"-D{option}={value}" for option, value in OPTIONS.items()]
        subprocess.run(
            [cmake, "-S", str(sources), "-B", str(scratch / "build"), *options], check=True, stdout=sys.stderr
        )
        make = [cmake, "--build", str(scratch / "build"), "-j", str(os.cpu_count()), "--target", *TARGETS]
        subprocess.run(make, check=True, stdout=sys.stderr)
        shutil.copytree(scratch / "build" / "bin", folder / "bin", symlinks=True)


def _cmake() -> str:
    """The machine's cmake, else one out of a package in an environment of its own."""
    if found := shutil.which("cmake"):
        return found
    folder = PEERS / "cmake"
    cmake = folder / "bin" / "cmake"
    if not cmake.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "cmake"], check=True)
    return str(cmake)


def write_gguf(model: Path, place: Path, precision: Precision) -> None:
    """The checkpoint in `model` as a GGUF file; Q8_0 is made by llama.cpp's own program."""
    if precision == "Q8_0":
        full = place.with_suffix(".full")
        write_gguf(model, full, "F32")
        command = [str(program("llama-quantize")), str(full), str(place), precision]
        subprocess.run(command, check=True, capture_output=True)
        full.unlink()
        return
    gguf_export.write_gguf(load_pretrained(model), model, place, KINDS[precision])
