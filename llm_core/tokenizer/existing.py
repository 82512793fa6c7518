"""Tokenizers of existing models: what a folder holds, and its digest."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer as RustTokenizer

from llm_core.tokenizer.byte_level import GPT2_PRE_TOKENS, GPT4_PRE_TOKENS, NUM_BYTES, from_ranks
from llm_core.tokenizer.errors import TokenizerError
from llm_core.tokenizer.spm import read_sentencepiece
from llm_core.tokenizer.tokenizer import TOKENIZER, TOKENIZER_CONFIG, Tokenizer, end_token, read_rust

# Files of ranks don't say how text is cut before merging. OpenAI's of up to 50,257 tokens belong to GPT-2's way, those
# of 100,256 to GPT-4's; larger ones (o200k) have a cut of their own, which nothing here needs yet.
CUTS = {60_000: GPT2_PRE_TOKENS, 150_000: GPT4_PRE_TOKENS}


def read_existing(path: Path) -> Tokenizer:
    """Read a Hugging Face folder (or its ``tokenizer.json``), a SentencePiece ``.model`` or ``.tiktoken`` ranks.

    Control tokens that it lacks follow its last id. Raises TokenizerError for anything else, and for damaged files.
    """
    file = _definition(path)[0]
    return Tokenizer.adopt(*READERS[file.suffix](file))


def tokenizer_digest(path: Path) -> str:
    """sha256 over the names and bytes of the files that define an existing tokenizer."""
    digest = hashlib.sha256()
    for file in _definition(path):
        digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _definition(path: Path) -> list[Path]:
    """The files that define a tokenizer, the vocabulary first."""
    if path.is_dir():
        known = [path / TOKENIZER] if (path / TOKENIZER).is_file() else []
        found = known or sorted(file for suffix in (".model", ".tiktoken") for file in path.glob(f"*{suffix}"))
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or f"no {TOKENIZER}, .model or .tiktoken file"
            raise TokenizerError(f"{path}: one tokenizer is needed, here is {names}; name the file itself")
        return _definition(found[0])
    if path.suffix not in READERS:
        raise TokenizerError(f"{path}: tokenizers are folders, .json, .model or .tiktoken files")
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file or folder; give the place of an existing tokenizer")
    config = path.parent / TOKENIZER_CONFIG
    return [path, config] if path.suffix == ".json" and config.is_file() else [path]


def _read_folder(file: Path) -> tuple[RustTokenizer, str | None]:
    return read_rust(file), end_token(file.parent)


def _read_ranks(file: Path) -> tuple[RustTokenizer, str | None]:
    ranks = dict(_rank(line, f"{file}: line {number}") for number, line in enumerate(_lines(file), start=1))
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < NUM_BYTES:
        raise TokenizerError(f"{file}: ranks must be 0, 1, 2 and so on, each once; fetch the file again")
    pattern = next((cut for size, cut in CUTS.items() if len(ranks) <= size), None)
    if pattern is None:
        raise TokenizerError(
            f"{file}: {len(ranks)} ranks, of which no way of cutting text is known; give a tokenizer.json"
        )
    try:
        return from_ranks(ranks, pattern), None
    except TokenizerError as problem:
        raise TokenizerError(f"{file}: {problem}") from None


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines()


def _rank(line: bytes, place: str) -> tuple[bytes, int]:
    try:
        token, rank = line.split()
        return base64.b64decode(token, validate=True), int(rank)
    except (ValueError, binascii.Error) as problem:
        raise TokenizerError(f"{place}: not a token in base64 and its rank ({problem}); fetch the file again") from None


READERS: dict[str, Callable[[Path], tuple[RustTokenizer, str | None]]] = {
    ".json": _read_folder,
    ".model": read_sentencepiece,
    ".tiktoken": _read_ranks,
}
