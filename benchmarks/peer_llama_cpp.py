"""llama.cpp's server for `benchmarks/serving.py`: built natively from the sources in llama-cpp-python's sdist, and
our checkpoint in its file format.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.peers import PEERS
from llm_core.models import load_pretrained
from llm_core.models.gguf import INNER, OUTER
from llm_core.tokenizer import Tokenizer
from llm_core.tokenizer.tokenizer import TOKENIZER

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
NORMAL, CONTROL = 1, 3  # kinds of tokens

Precision = Literal["F32", "BF16", "F16", "Q8_0"]


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
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    if precision == "Q8_0":
        full = place.with_suffix(".full")
        write_gguf(model, full, "F32")
        command = [str(program("llama-quantize")), str(full), str(place), precision]
        subprocess.run(command, check=True, capture_output=True)
        full.unlink()
        return
    network = load_pretrained(model)
    writer = GGUFWriter(place, "llama")
    _write_config(writer, network.config)
    _write_tokenizer(writer, model)
    for name, tensor in network.state_dict().items():
        theirs, values = _renamed(name, tensor.numpy(), network.config)
        kind = GGMLQuantizationType[precision if values.ndim > 1 else "F32"]
        writer.add_tensor(theirs, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: Any, config: Any) -> None:
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, model: Path) -> None:
    """Our vocabulary; how we cut text before merging has no name there, so prompts must come as ids."""
    tokenizer = Tokenizer.load(model)
    saved = json.loads((model / TOKENIZER).read_text(encoding="utf-8"))["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].__getitem__)
    controls = tokenizer.special_ids.values()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if place in controls else NORMAL for place in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in saved["merges"]])
    writer.add_bos_token_id(tokenizer.end_id)
    writer.add_eos_token_id(tokenizer.end_id)
    writer.add_add_bos_token(False)


def _renamed(name: str, values: np.ndarray[Any, Any], config: Any) -> tuple[str, np.ndarray[Any, Any]]:
    """Their name of a tensor, and its rows in their order."""
    stem, _, ending = name.rpartition(".")
    outer = {ours: theirs for theirs, ours in OUTER.items()}
    if stem in outer:
        return f"{outer[stem]}.{ending}", values
    _, _, layer, ours = stem.split(".", 3)
    theirs = {ours: theirs for theirs, ours in INNER.items()}[ours]
    if theirs in ("attn_q", "attn_k"):
        values = _pairs_together(values, config.num_heads if theirs == "attn_q" else config.num_kv_heads)
    return f"blk.{layer}.{theirs}.{ending}", values


def _pairs_together(values: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """Rows d and d + D/2 of each head turn together; llama.cpp holds them as neighbours, 2d and 2d + 1."""
    halves = values.reshape(num_heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
